"""The maps of every preprocessed case on disk, in a folder for each kind of map beside the preprocessed cases.

One file a case: the map as a compressed array that is read by patches, and with it the voxels to place patches around
and what the file was made from. A file is whole or not there, so that several trainings may prepare the same folder at
once; at worst a case is computed twice.
"""

import hashlib
import os
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import blosc2
import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset

from nnunetv2_airway.io.errors import UserError
from nnunetv2_airway.io.files import atomic_path
from nnunetv2_airway.io.parallel import finished_cases
from nnunetv2_airway.training.maps.kinds import MAPS, MapKind, Points
from nnunetv2_airway.tree.centerline import ON_LINE

ENTRY = "nnunetv2_airway"


@dataclass(frozen=True)
class Stored:
    """An array on disk, sliced like one in memory.

    Args:
        array: on disk.
        damaged: what to say where it cannot be unpacked: what it is, and what to do.
    """

    array: blosc2.NDArray
    damaged: str

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's."""
        return self.array.shape

    def __getitem__(self, box: tuple[slice, ...]) -> np.ndarray:
        try:
            return self.array[box]
        except RuntimeError as error:
            raise RuntimeError(self.damaged) from error


@dataclass(frozen=True)
class OnLine:
    """The centerline, 1 there and 0 elsewhere, of a map of closeness (Z, Y, X)."""

    closeness: Stored

    def __getitem__(self, box: tuple[slice, ...]) -> np.ndarray:
        return self.closeness[box] == ON_LINE


@dataclass(frozen=True)
class CaseMap:
    """A map of one case.

    Args:
        values: (Z, Y, X), read from disk when sliced.
        points: voxels (plane, row, column) to place patches around, (N, 3) int, by kind of patch.
    """

    values: Stored | OnLine
    points: Mapping[str, np.ndarray]


class MapReader(Protocol):
    """What has maps of cases."""

    def read(self, case: str) -> CaseMap:
        """Open the map of a case."""


@dataclass(frozen=True)
class LineMaps:
    """The maps called "line", read from those called "centerline"."""

    maps: "MapStore"

    def read(self, case: str) -> CaseMap:
        """Open the map of a case; errors are those of ``MapStore.read``."""
        return CaseMap(OnLine(self.maps.read(case).values), {})


@dataclass(frozen=True)
class MapStore:
    """One kind of map of a preprocessed data set.

    Args:
        preprocessed: folder of the preprocessed cases.
        spacing: of the preprocessed grid, (z, y, x) in mm.
        foreground: the label's values that are the structure.
        name: of the kind, one of ``MAPS``.
        beside: folder in which the maps' folder lies; None is that of ``preprocessed``.
    """

    preprocessed: Path
    spacing: tuple[float, float, float]
    foreground: tuple[int, ...]
    name: str
    beside: Path | None = None

    @property
    def kind(self) -> MapKind:
        """What is computed."""
        return MAPS[self.name]

    @property
    def folder(self) -> Path:
        """Where the maps lie: nnU-Net would take them for cases if they lay among these."""
        return Path(self.beside or self.preprocessed.parent, f"{self.preprocessed.name}_{self.kind.folder}")

    def is_writable(self) -> bool:
        """Whether maps can be written into the folder."""
        return os.access(self.folder if self.folder.exists() else self.folder.parent, os.W_OK)

    def fingerprint(self, case: str) -> str:
        """Digest of all that a case's maps depend on.

        Raises:
            FileNotFoundError: the case is not in the preprocessed data.
        """
        files = [self.preprocessed / name for name in (f"{case}_seg.b2nd", f"{case}.npz")]
        label = next((file for file in files if file.exists()), None)
        if label is None:
            raise FileNotFoundError(
                f"case {case} has no preprocessed label in {self.preprocessed}: run nnUNetv2_preprocess again"
            )
        made_by = (self.name, self.kind.version, self.spacing, self.foreground)
        digest = hashlib.blake2b(repr(made_by).encode(), digest_size=16)
        digest.update(label.read_bytes())
        return digest.hexdigest()

    def missing(self, cases: Sequence[str]) -> list[str]:
        """List the cases whose maps are not there, cannot be read, or belong to an earlier preprocessing."""
        return [case for case in cases if fingerprint_on_disk(self._file(case)) != self.fingerprint(case)]

    def prepare(
        self,
        dataset: nnUNetBaseDataset,
        cases: Sequence[str],
        *,
        declared: Collection[int] = (),
        processes: int,
        progress: bool = True,
    ):
        """Compute the maps of some cases and write them.

        Args:
            dataset: reads the preprocessed cases.
            cases: their names.
            declared: the values that labels may have; empty takes any.
            processes: cases worked on at once; each takes up to 1 GB for a large CT.
            progress: show a progress bar.

        Raises:
            RuntimeError: a case could not be computed; it is named.
        """
        if not cases:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        # in another order in each training, so that folds started together share the work
        cases = random.sample(cases, len(cases))
        arguments = {case: (dataset, case, tuple(declared)) for case in cases}
        for case, _, error in finished_cases(
            self._prepare_case, arguments, processes=processes, description=self.kind.title, show=progress
        ):
            if error is not None:
                raise RuntimeError(f"the {self.kind.title} of case {case} could not be computed: {error}") from error

    def read(self, case: str) -> CaseMap:
        """Open the map of a case.

        Raises:
            RuntimeError: it is not there or cannot be read; the file is named.
        """
        return read_map(self._file(case))

    def _prepare_case(self, dataset: nnUNetBaseDataset, case: str, declared: tuple[int, ...]) -> None:
        fingerprint = self.fingerprint(case)
        if fingerprint_on_disk(self._file(case)) == fingerprint:
            return  # another training was faster
        label = dataset.load_case(case)[1]
        array = label[0]
        if declared and not (known := np.isin(array, declared)).all():
            raise UserError(
                f"its label holds the value {array[~known].max():g}, which dataset.json does not declare. Mend the "
                f"label in the raw data set and run nnUNetv2_plan_and_preprocess again"
            )
        values, points = self.kind.compute(np.isin(array, self.foreground), self.spacing)
        write_map(self._file(case), values, points, fingerprint, like=label)

    def _file(self, case: str) -> Path:
        return self.folder / f"{case}.b2nd"


def write_map(file: Path, values: np.ndarray, points: Points, fingerprint: str, *, like: blosc2.NDArray) -> None:
    """Write a map (Z, Y, X) with its points, in the chunks of a label (C, Z, Y, X), as both are read together."""
    with atomic_path(file) as temporary:
        shapes = {name: getattr(like, name)[1:] for name in ("chunks", "blocks") if hasattr(like, name)}
        # one thread: several write blocks in the order in which they end, and no two files would be alike
        # no filter: what blosc2 shuffles takes four times as long to read
        cparams = {"codec": blosc2.Codec.ZSTD, "filters": [blosc2.Filter.NOFILTER], "nthreads": 1}
        array = blosc2.asarray(values, urlpath=str(temporary), cparams=cparams, **shapes)
        stored = {name: voxels.astype(np.int32).tobytes() for name, voxels in points.items()}
        array.schunk.vlmeta[ENTRY] = {
            "fingerprint": fingerprint,
            "points": stored,
            "digest": _digest(array, stored),
        }


def read_map(file: Path) -> CaseMap:
    """Open a map.

    Raises:
        RuntimeError: it is not there or cannot be read; the file is named.
    """
    try:
        values, entry = _open(file)
        points = {name: np.frombuffer(voxels, np.int32).reshape(-1, 3) for name, voxels in entry["points"].items()}
    except Exception as error:
        raise RuntimeError(
            f"cannot read the map {file}; start the training again with --c: it computes what is missing"
        ) from error
    damaged = (
        f"the map {file} is damaged: delete this file and start the training again with --c; it computes what is "
        f"missing"
    )
    return CaseMap(Stored(values, damaged), points)


def fingerprint_on_disk(file: Path) -> str | None:
    """Read what a map was made from; None where it is not there or not whole."""
    if not file.exists():
        return None
    try:
        array, entry = _open(file)
        return entry["fingerprint"] if entry["digest"] == _digest(array, entry["points"]) else None
    except Exception:  # not whole, or not ours: what is read from it may be anything
        return None


def _open(file: Path) -> tuple[blosc2.NDArray, dict]:
    array = blosc2.open(str(file), mode="r", dparams={"nthreads": 1})
    return array, array.schunk.vlmeta[ENTRY]


def _digest(array: blosc2.NDArray, points: Mapping[str, bytes]) -> str:
    """Digest of the compressed map and the voxels: blosc2 itself has no checksums."""
    digest = hashlib.blake2b(digest_size=16)
    for number in range(array.schunk.nchunks):
        digest.update(array.schunk.get_chunk(number))
    for name in sorted(points):
        digest.update(name.encode() + points[name])
    return digest.hexdigest()
