"""Which DICOM series a folder holds, and which one is the CT.

Headers are read with pydicom, which knows every kind of DICOM object, without the voxels behind them.
"""

import warnings
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.misc import is_dicom

from nnunetv2_airway.conversion.layout import walk
from nnunetv2_airway.io.errors import UserError
from nnunetv2_airway.io.files import main_line

SHORTEST = 11
"""Slices of the shortest series that can be a chest CT; LIDC-IDRI's radiographs have fewer."""
TAGS = (
    "SOPInstanceUID", "SeriesInstanceUID", "SeriesDescription", "Modality", "ImageType", "PatientID",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "NumberOfFrames",
    "RescaleSlope", "RescaleIntercept", "FrameOfReferenceUID", "InstanceNumber",
)  # fmt: skip


@dataclass(frozen=True)
class Slice:
    """Header of one file; what it lacks is None."""

    file: Path
    header: pydicom.Dataset

    def __getattr__(self, tag: str):
        if tag not in TAGS:
            raise AttributeError(tag)
        return self.header.get(tag)

    @property
    def is_localizer(self) -> bool:
        """Whether it is an overview that the scan was planned on."""
        return "LOCALIZER" in [str(word).upper() for word in self.header.get("ImageType") or ()]


@dataclass(frozen=True)
class Series:
    """Slices of one series, unsorted."""

    uid: str
    slices: tuple[Slice, ...]

    def __str__(self) -> str:
        words = str(self.slices[0].SeriesDescription or "no description")
        return f"{self.uid} ({words}, {len(self.slices)} {'slice' if len(self.slices) == 1 else 'slices'})"

    @property
    def patient(self) -> str:
        """The patient's id, empty where there is none."""
        return str(self.slices[0].PatientID or "").strip()


def holds_dicom(files: Iterable[Path]) -> bool:
    """Whether there is a DICOM file among files and folders."""
    return any(_is_dicom(file) for file in files)


def series_folders(sources: Iterable[Path]) -> dict[str, list[Path]]:
    """Find folders with DICOM files by the UID of the series of one of their files; one header a folder is read."""
    folders: dict[str, list[Path]] = {}
    for folder, files in walk(sources):
        for file in filter(_is_dicom, files):
            try:
                uid = str(_header(file).SeriesInstanceUID)
            except UserError:  # named when the folder is converted
                continue
            folders.setdefault(uid, []).append(folder)
            break
    return folders


def _is_dicom(file: Path) -> bool:
    try:
        return file.name.upper() != "DICOMDIR" and file.is_file() and (is_dicom(file) or _lacks_preamble(file))
    except OSError:
        return False


def _lacks_preamble(file: Path) -> bool:
    """Whether a file that is called like a slice is DICOM without the 128 bytes and the word before it."""
    if not _is_called_like_a_slice(file):
        return False
    try:
        return "SeriesInstanceUID" in pydicom.dcmread(file, stop_before_pixels=True, force=True)
    except Exception:  # pydicom promises nothing about files that are no DICOM
        return False


def _is_called_like_a_slice(file: Path) -> bool:
    suffix = file.suffix.lower()
    return suffix in (".dcm", ".dicom", ".ima") or (
        (not suffix or suffix[1:].isdigit()) and any(letter.isdigit() for letter in file.name)
    )


def choose_series(folder: Path, wanted: Collection[str] = ()) -> tuple[Series, list[str], list[str]]:
    """Find the CT series of a case.

    Args:
        folder: searched with all folders below; files that are no DICOM are passed over.
        wanted: UIDs that the user has chosen; needed where there are several series.

    Returns:
        The series, the UIDs of the others that could have been chosen, and a line for each that could not.

    Raises:
        UserError: there is no CT series, or there are several and not exactly one of them is wanted; they are listed.
    """
    found: dict[str, list[Slice]] = {}
    for _, files in walk([folder]):
        for file in files:
            if _is_dicom(file):
                header = _header(file)
                found.setdefault(str(header.SeriesInstanceUID), []).append(header)
            elif _is_called_like_a_slice(file):
                raise UserError(f"{file} is no DICOM file, it may be damaged: copy it again or take it away")
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
        raise UserError(f"{folder}: the series that is asked for cannot be used: {'; '.join(skipped)}")
    if len(good) == 1 and not chosen:
        chosen = good
    if not good:
        there = "; ".join(skipped) or "it holds no DICOM file"
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
    return chosen[0], [series.uid for series in good if series is not chosen[0]], skipped


def _unusable(slices: list[Slice]) -> str:
    modality = slices[0].Modality
    if modality != "CT":
        return f"its modality is {modality or 'not given'}, not CT"
    images = [header for header in slices if not header.is_localizer]
    if not images:
        return "localizer"
    if int(images[0].NumberOfFrames or 1) > 1:
        return "multi-frame DICOM, which is not read here; convert it to NIfTI with dcm2niix"
    if len(images) < SHORTEST:
        return f"too short for a chest CT, at least {SHORTEST} slices are needed"
    return ""


def _header(file: Path) -> Slice:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd values in tags; those that matter are checked
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(TAGS), force=True)
        except (OSError, ValueError, EOFError, KeyError, NotImplementedError) as error:
            raise UserError(f"cannot read the DICOM header of {file}: {main_line(error)}") from error
    if "SeriesInstanceUID" not in header:
        raise UserError(f"{file} has no SeriesInstanceUID, it may be damaged: copy it again or take it away")
    return Slice(file, header)
