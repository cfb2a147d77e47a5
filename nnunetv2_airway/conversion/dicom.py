"""Which DICOM series a folder holds, and which one is the CT."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunetv2_airway.conversion.dicom_files import (
    Slice,
    header_of,
    is_called_like_a_slice,
    is_compressed_dicom,
    is_dicom_file,
)
from nnunetv2_airway.conversion.layout import walk
from nnunetv2_airway.io.errors import UserError, some

SHORTEST = 11
"""Slices of the shortest series that can be a chest CT; LIDC-IDRI's radiographs have fewer."""
OF_ONE_SERIES = ("PatientID", "SeriesNumber", "SeriesDescription", "Rows", "Columns")
"""What slices have in common, beside their orientation, that are one series although they have UIDs of their own."""


@dataclass(frozen=True)
class Series:
    """Slices of one series, unsorted."""

    uid: str
    slices: tuple[Slice, ...]

    def __str__(self) -> str:
        words = str(self.slices[0].SeriesDescription or "no description")
        return f"{self.uid} ({words}, {len(self.slices)} {'slice' if len(self.slices) == 1 else 'slices'})"

    @property
    def is_joined(self) -> bool:
        """Whether slices have UIDs of their own, see ``_with_one_uid``."""
        return any(header.SeriesInstanceUID != self.uid for header in self.slices)

    @property
    def patient(self) -> str:
        """The patient's id, empty where there is none."""
        return str(self.slices[0].PatientID or "").strip()


def series_folders(sources: Iterable[Path]) -> dict[str, list[Path]]:
    """Find folders with DICOM files by the UID of the series of one of their files; one header a folder is read."""
    folders: dict[str, list[Path]] = {}
    for folder, files in walk(sources):
        for file in filter(is_dicom_file, files):
            try:
                uid = str(header_of(file).SeriesInstanceUID)
            except UserError:  # named when the folder is converted
                continue
            folders.setdefault(uid, []).append(folder)
            break
    return folders


def choose_series(folder: Path, wanted: Collection[str] = ()) -> tuple[Series, list[str], list[str]]:
    """Find the CT series of a case.

    Args:
        folder: searched with all folders below; files that are no DICOM are passed over with a line.
        wanted: UIDs that the user has chosen; needed where there are several series.

    Returns:
        The series, the UIDs of the others that could have been chosen, and a line for each that could not.

    Raises:
        UserError: there is no CT series, or there are several and not exactly one of them is wanted; they are listed.
            Or a file is compressed or damaged.
    """
    found, notes = _slices_by_series(folder)
    good, skipped = [], []
    for uid, slices in sorted(found.items()):
        why = _unusable(slices)
        if why:
            skipped.append(f"skipped series {Series(uid, tuple(slices))}: {why}")
            continue
        overviews = [header for header in slices if header.is_localizer]
        if overviews:
            skipped.append(f"skipped {len(overviews)} localizers of series {uid}")
        good.append(Series(uid, tuple(header for header in slices if not header.is_localizer)))
    chosen = [series for series in good if series.uid in wanted]
    unusable = set(wanted) & found.keys() - {series.uid for series in good}
    if unusable:
        raise UserError(f"{folder}: the series that is asked for cannot be used: {_listed(skipped)}")
    if len(good) == 1 and not chosen:
        chosen = good
    if not good:
        there = _listed(skipped) or "it holds no DICOM file"
        raise UserError(f"{folder} holds no CT series of at least {SHORTEST} slices: {there}")
    if len(chosen) != 1:
        patients = {series.patient for series in good}
        if len(patients) > 1:
            raise UserError(
                f"{folder} holds CT series of {len(patients)} patients ({', '.join(sorted(patients))}): make a folder "
                f"for each"
            )
        raise UserError(
            f"{folder} holds {len(good)} CT series, {len(chosen) or 'none'} of them chosen; choose one with --series "
            f"UID, a thin-slice one with a sharp kernel: {'; '.join(map(str, good))}"
        )
    return (
        chosen[0],
        [series.uid for series in good if series is not chosen[0]],
        notes + ([_listed(skipped)] if len(skipped) > 5 else skipped),
    )


def _slices_by_series(folder: Path) -> tuple[dict[str, list[Slice]], list[str]]:
    """Read the headers below a folder, by the UID of their series, and say which files were passed over."""
    found: dict[str, list[Slice]] = defaultdict(list)
    other, compressed = [], []
    for _, files in walk([folder]):
        for file in files:
            if is_dicom_file(file):
                header = header_of(file)
                found[str(header.SeriesInstanceUID)].append(header)
            elif is_compressed_dicom(file):
                compressed.append(file.name)
            elif is_called_like_a_slice(file):
                raise UserError(f"{file} is no DICOM file, it may be damaged: copy it again or take it away")
            elif file.name.upper() != "DICOMDIR":
                other.append(file.name)
    if compressed:
        rest = sum(map(len, found.values()))
        raise UserError(
            f"{folder} holds compressed DICOM files, {some(compressed)}, beside {rest} that are not: unpack them first "
            f"(gunzip -r {folder})"
        )
    notes = [f"passed over, no DICOM files: {some(other)}"] if other else []
    return _with_one_uid(found, notes), notes


def _with_one_uid(found: Mapping[str, list[Slice]], notes: list[str]) -> dict[str, list[Slice]]:
    """Join short series that have all but their UIDs in common, to each other or to a long one, and say so."""
    joined = dict(found)
    alike: dict[tuple, list[str]] = defaultdict(list)
    for uid, slices in sorted(found.items()):
        if not _unusable(slices, shortest=1):
            alike[_kind(slices[0])].append(uid)
    for kind, uids in alike.items():
        whole = [uid for uid in uids if len(found[uid]) >= SHORTEST]
        short = [uid for uid in uids if uid not in whole]
        numbered = kind[OF_ONE_SERIES.index("SeriesNumber")] is not None
        slices = [header for uid in short for header in found[uid]]
        if not short or len(whole) > 1 or (whole and not numbered) or (not whole and len(slices) < SHORTEST):
            continue
        first = whole[0] if whole else short[0]
        for uid in short:
            del joined[uid]
        joined[first] = (found[first] if whole else []) + slices
        notes.append(
            f"WARNING: {len(slices)} slices with a SeriesInstanceUID of their own, as some anonymisers leave them, but "
            f"the same SeriesNumber and description, are taken as {'part of' if whole else 'one'} series {first}"
        )
    return joined


def _kind(header: Slice) -> tuple:
    """What slices of one series have in common."""
    try:
        cosines = tuple((np.round(header.numbers("ImageOrientationPatient", 6), 2) + 0.0).tolist())
    except UserError:  # named when the series is read
        cosines = ()
    return (*(getattr(header, tag) for tag in OF_ONE_SERIES), cosines)


def _listed(skipped: list[str]) -> str:
    return "; ".join(skipped[:3]) + (f"; and {len(skipped) - 3} more" if len(skipped) > 3 else "")


def _unusable(slices: list[Slice], shortest: int = SHORTEST) -> str:
    modality = slices[0].Modality
    if modality != "CT":
        return f"its modality is {modality or 'not given'}, not CT"
    images = [header for header in slices if not header.is_localizer]
    if not images:
        return "localizer"
    if images[0].NumberOfFrames and images[0].numbers("NumberOfFrames")[0] > 1:
        return "multi-frame DICOM, which is not read here; convert it to NIfTI with dcm2niix"
    if len(images) < shortest:
        return f"too short for a chest CT, at least {shortest} slices are needed"
    return ""
