"""The interface of ATM'26's containers, track 1: CTs in a folder, and for each a mask on its grid.

Source: the organisers' baseline and templates (Airway-Tree-Modeling-26). On Grand Challenge a container sees one CT and
writes ``output.mha``; on the organisers' own platform it sees all of them and writes one mask a case.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunetv2_airway.conversion.datasets.atm26 import LAYOUT
from nnunetv2_airway.conversion.layout import stem
from nnunetv2_airway.inference.predictor import AirwayPredictor
from nnunetv2_airway.inference.segment import segment_image
from nnunetv2_airway.io.errors import UserError, reason, some
from nnunetv2_airway.io.images import Grid, read_volume, write_image

SOCKET = "lung-ct"
CTS, TREES = Path("images", SOCKET), Path("images", "binary-airway-segmentation")
"""In the input and in the output."""
LARGEST = 2**31
"""Voxels of a CT; a header that says more is damaged."""


def find_cts(source: Path) -> list[Path]:
    """List the CTs of a container's input.

    Raises:
        UserError: there is none, or ``inputs.json`` cannot be read or asks for something else.
    """
    if not source.is_dir():
        raise UserError(f"there is no folder {source}")
    description = source / "inputs.json"
    if description.is_file():
        try:
            entries = json.loads(description.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{description} is not JSON: {error}") from error
        try:
            sockets = [entry["socket"]["slug"] for entry in entries]
        except (TypeError, KeyError) as error:
            example = json.dumps([{"socket": {"slug": SOCKET}}])
            raise UserError(f"{description} must be a list of inputs such as {example}") from error
        if SOCKET not in sockets:
            raise UserError(f"{description} must offer the socket {SOCKET}, got {', '.join(sockets) or 'none'}")
    folder = source / CTS
    cts = sorted(folder.glob("*.mha"))
    if not cts:
        others = some(sorted(file.name for file in folder.glob("*"))) or "nothing"
        raise UserError(f"there is no CT (.mha) in {folder}, but {others}")
    return cts


@dataclass(frozen=True)
class Outcome:
    """What has come of a CT.

    Args:
        name: of its file.
        voxels: of airway in its mask, None where no mask could be written.
        failure: what went wrong, empty where nothing did.
        doubts: what should be looked at.
    """

    name: str
    voxels: int | None
    failure: str
    doubts: tuple[str, ...] = ()


def segment_cts(cts: Sequence[Path], output: Path, predictor: AirwayPredictor) -> Iterator[Outcome]:
    """Segment the CTs of a container's input, one after the other, and write their masks.

    Args:
        cts: as ``find_cts`` lists them.
        output: the container's; nothing is written elsewhere. A CT that cannot be segmented has an empty mask there.
        predictor: the model.

    Raises:
        OSError: a mask cannot be written.
    """
    trees = output / TREES
    trees.mkdir(parents=True, exist_ok=True)
    for file in cts:
        mask, failure, doubts = None, "", ()
        try:
            ct = read_volume(file)
            tree = segment_image(ct, predictor, accept=True, lost_scale=LAYOUT.lost_scale)
            mask, doubts = Grid.of(ct).image(tree.mask), (*filter(None, [tree.problem]), *tree.doubts)
        except Exception as error:  # whatever it is, the other cases go on
            mask, failure = _empty(file), reason(error)
        voxels = None
        if mask is not None:
            write_image(mask, trees / mask_name(file, cts))
            voxels = int(np.count_nonzero(sitk.GetArrayViewFromImage(mask)))
        yield Outcome(file.name, voxels, failure, doubts)


def mask_name(ct: Path, cts: Sequence[Path]) -> str:
    """Name the file of a CT's mask, which depends on whether it is the only one."""
    return "output.mha" if len(cts) == 1 else f"{stem(ct)}.mha"


def _empty(file: Path) -> sitk.Image | None:
    """Make an empty mask on the grid that a file's header tells, None where it tells none."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO("MetaImageIO")
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
        size = reader.GetSize()
        if len(size) != 3 or np.prod(size, dtype=float) > LARGEST:
            return None
        return Grid.of(reader).image(np.zeros(size[::-1], np.uint8))
    except RuntimeError:  # of ITK, which takes no such grid
        return None
