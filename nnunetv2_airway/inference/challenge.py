"""The interface of ATM'26's containers, track 1: CTs in a folder, and for each a mask on its grid.

Source: the organisers' baseline and templates (Airway-Tree-Modeling-26). On Grand Challenge a container sees one CT and
writes ``output.mha``; on the organisers' own platform it sees all of them and writes one mask a case.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunetv2_airway.conversion.datasets.atm26 import LAYOUT
from nnunetv2_airway.conversion.layout import stem
from nnunetv2_airway.inference.predictor import AirwayPredictor
from nnunetv2_airway.inference.segment import segment_image
from nnunetv2_airway.io.errors import UserError, reason
from nnunetv2_airway.io.images import Grid, read_volume, write_image

SOCKET = "lung-ct"
CTS, TREES = Path("images", SOCKET), Path("images", "binary-airway-segmentation")
"""In the input and in the output."""
LARGEST = 2**31
"""Voxels of a CT; a header that says more is damaged."""


def find_cts(source: Path) -> list[Path]:
    """List the CTs of a container's input.

    Raises:
        UserError: there is none, or ``inputs.json`` asks for something else.
    """
    description = source / "inputs.json"
    if description.is_file():
        try:
            sockets = [entry["socket"]["slug"] for entry in json.loads(description.read_text(encoding="utf-8"))]
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{description} is no list of inputs as ATM'26 gives it, each with its socket") from error
        if SOCKET not in sockets:
            raise UserError(f"{description} must offer the socket {SOCKET}, got {', '.join(sockets) or 'none'}")
    cts = sorted((source / CTS).glob("*.mha"))
    if not cts:
        raise UserError(f"there is no CT (.mha) in {source / CTS}")
    return cts


@dataclass(frozen=True)
class Outcome:
    """What has come of a CT.

    Args:
        name: of its file.
        mask: (Z, Y, X) uint8; without voxels where none could be written.
        failure: what went wrong, empty where nothing did.
        doubts: what should be looked at.
    """

    name: str
    mask: np.ndarray
    failure: str
    doubts: tuple[str, ...] = ()


def segment_input(source: Path, output: Path, predictor: AirwayPredictor) -> Iterator[Outcome]:
    """Segment the CTs of a container's input, one after the other, and write their masks.

    Args:
        source: its input.
        output: its output; nothing is written elsewhere. A CT that cannot be segmented has an empty mask there.
        predictor: the model.

    Raises:
        UserError: see ``find_cts``.
        OSError: a mask cannot be written.
    """
    cts = find_cts(source)
    trees = output / TREES
    trees.mkdir(parents=True, exist_ok=True)
    for file in cts:
        try:
            ct = read_volume(file)
            tree = segment_image(ct, predictor, accept=True, lost_scale=LAYOUT.lost_scale)
            grid = Grid.of(ct)
            outcome = Outcome(file.name, tree.mask, "", (*filter(None, [tree.problem]), *tree.doubts))
        except Exception as error:  # whatever it is, the other cases go on
            grid, mask = _empty(file)
            outcome = Outcome(file.name, mask, reason(error))
        if outcome.mask.size:
            name = "output.mha" if len(cts) == 1 else f"{stem(file)}.mha"
            write_image(grid.image(outcome.mask), trees / name)
        yield outcome


def _empty(file: Path) -> tuple[Grid | None, np.ndarray]:
    """Make an empty mask on the grid that a file's header tells; without voxels where it tells none."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO("MetaImageIO")
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return None, np.zeros((0, 0, 0), np.uint8)
    size = reader.GetSize()
    if len(size) != 3 or np.prod(size, dtype=float) > LARGEST:
        return None, np.zeros((0, 0, 0), np.uint8)
    return Grid.of(reader), np.zeros(size[::-1], np.uint8)
