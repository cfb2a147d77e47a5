"""DICOM series as volumes: slices by their position, never by their file's name.

Headers are read with pydicom, which knows every kind of DICOM object, voxels with SimpleITK's GDCM, which knows the
compressed ones and applies each slice's slope and intercept.
"""

import warnings
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.misc import is_dicom

from nnunetv2_airway.conversion.layout import walk
from nnunetv2_airway.files import last_line
from nnunetv2_airway.images import Grid

SHORTEST = 11
"""Slices of the shortest series that can be a chest CT; LIDC-IDRI's radiographs have fewer."""
ROUNDING = 0.1
"""Positions are often written with one decimal, in mm."""
SAME = {"ImageOrientationPatient": 1e-3, "PixelSpacing": 1e-4, "Rows": 0, "Columns": 0}
"""Tags in which all slices of a volume agree, with tolerances."""
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
            except ValueError:  # named when the folder is converted
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
        ValueError: there is no CT series, or there are several and not exactly one of them is wanted; they are listed.
    """
    found: dict[str, list[Slice]] = {}
    for _, files in walk([folder]):
        for file in files:
            if _is_dicom(file):
                header = _header(file)
                found.setdefault(str(header.SeriesInstanceUID), []).append(header)
            elif _is_called_like_a_slice(file):
                raise ValueError(f"{file} is no DICOM file, it may be damaged: copy it again or take it away")
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
        raise ValueError(f"{folder}: the series that is asked for cannot be used: {'; '.join(skipped)}")
    if len(good) == 1 and not chosen:
        chosen = good
    if not good:
        there = "; ".join(skipped) or "it holds no DICOM file"
        raise ValueError(f"{folder} holds no CT series of at least {SHORTEST} slices: {there}")
    if len(chosen) != 1:
        raise ValueError(
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
            raise ValueError(f"cannot read the DICOM header of {file}: {last_line(error)}") from error
    if "SeriesInstanceUID" not in header:
        raise ValueError(f"{file} has no SeriesInstanceUID, it may be damaged: copy it again or take it away")
    return Slice(file, header)


def read_series(series: Series) -> tuple[np.ndarray, Grid, list[str]]:
    """Read a series as a volume.

    Returns:
        (Z, Y, X) float32, slope and intercept applied, planes ascending along the normal of the slices; where the
        voxels lie; and what was done about the files.

    Raises:
        ValueError: slices differ in size, spacing or orientation, stand at one place, are missing, unevenly spaced or
            sheared by a tilted gantry, or cannot be read; the files are named.
    """
    first = series.slices[0]
    for header in series.slices:
        _require_alike(header, first)
    row, column = np.reshape(np.array(first.ImageOrientationPatient, float), (2, 3))
    normal = np.cross(row, column)
    slices = sorted(series.slices, key=lambda header: _position(header) @ normal)
    slices, notes = _without_copies(slices, normal)
    notes += _numbering(slices)
    step = _even_step(slices, normal)

    volume = np.empty((len(slices), int(first.Rows), int(first.Columns)), np.float32)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetOutputPixelType(sitk.sitkFloat32)
    for plane, header in zip(volume, slices, strict=True):
        reader.SetFileName(str(header.file))
        try:
            image = reader.Execute()
        except RuntimeError as error:
            raise ValueError(f"cannot read {header.file}: {last_line(error)}") from error
        plane[...] = sitk.GetArrayViewFromImage(image).reshape(plane.shape)
    between_rows, between_columns = map(float, first.PixelSpacing)
    direction = np.stack((row, column, normal), axis=1).ravel()
    grid = Grid((between_columns, between_rows, step), tuple(_position(slices[0])), tuple(direction))
    return volume, grid, notes


def _position(header: Slice) -> np.ndarray:
    return np.array(header.ImagePositionPatient, float)


def _require_alike(header: Slice, first: Slice) -> None:
    for tag in ("ImagePositionPatient", *SAME):
        if getattr(header, tag) is None:
            raise ValueError(f"{header.file} has no {tag}: where its voxels lie cannot be known")
    for tag in ("FrameOfReferenceUID", "RescaleSlope", "RescaleIntercept"):
        here, there = getattr(header, tag), getattr(first, tag)
        if (here is None) != (there is None) or (tag == "FrameOfReferenceUID" and here != there):
            raise ValueError(
                f"slices of one series differ in {tag}: {header.file} has {here}, {first.file} has {there}"
            )
    for tag, tolerance in SAME.items():
        here, there = getattr(header, tag), getattr(first, tag)
        if not np.allclose(np.array(here, float), np.array(there, float), rtol=0, atol=tolerance):
            raise ValueError(
                f"slices of one series differ in {tag}: {header.file} has {here}, {first.file} has {there}. Take the "
                f"files that do not belong to the volume out of the folder"
            )


def _without_copies(slices: list[Slice], normal: np.ndarray) -> tuple[list[Slice], list[str]]:
    """Drop second copies of a slice; two different slices at one place are an error."""
    kept = slices[:1]
    for header in slices[1:]:
        if (_position(header) - _position(kept[-1])) @ normal > 1e-3:
            kept.append(header)
        elif header.SOPInstanceUID != kept[-1].SOPInstanceUID:
            raise ValueError(
                f"two slices stand at one place, {_position(header).tolist()} mm: {kept[-1].file} and {header.file}. "
                f"The series holds several scans; keep the files of one"
            )
    copies = len(slices) - len(kept)
    return kept, [f"{copies} second copies of slices were passed over"] if copies else []


def _numbering(slices: list[Slice]) -> list[str]:
    """Say so where the slices' numbers do not go with their positions; some scanners number in other ways."""
    numbers = [int(header.InstanceNumber) for header in slices if header.InstanceNumber is not None]
    if len(set(numbers)) < len(slices):  # not numbered
        return []
    steps = np.diff(numbers)
    if set(steps) in ({1}, {-1}):
        return []
    return [
        f"WARNING: InstanceNumber changes by {steps.min()} to {steps.max()} from slice to slice instead of by 1: slices "
        f"may be missing, or two scans mixed"
    ]


def _even_step(slices: list[Slice], normal: np.ndarray) -> float:
    """Distance of the slices in mm; raises where it is not the same everywhere."""
    places = np.stack([_position(header) for header in slices])
    if len(places) < SHORTEST:
        raise ValueError(f"only {len(places)} different slices in {slices[0].file.parent}; {SHORTEST} are needed")
    along = places @ normal
    gaps = np.diff(along)
    usual = float(np.median(gaps))
    worst = int(np.argmax(np.abs(gaps - usual)))
    if abs(gaps[worst] - usual) > ROUNDING + 0.01 * usual:
        raise ValueError(
            f"irregular slice spacing: a gap of {gaps[worst]:.2f} mm between {slices[worst].file.name} (at "
            f"{along[worst]:.2f} mm) and {slices[worst + 1].file.name} (at {along[worst + 1]:.2f} mm), {usual:.2f} mm "
            f"elsewhere. "
            + ("Slices are missing: copy the series again" if gaps[worst] > usual else "Two scans may be mixed")
        )
    aside = np.linalg.norm(places - places[0] - np.outer(along - along[0], normal), axis=1).max()
    if aside > max(ROUNDING, 0.5 * min(map(float, slices[0].PixelSpacing))):
        raise ValueError(
            f"the slices in {slices[0].file.parent} are shifted sideways by up to {aside:.1f} mm, as a tilted gantry "
            f"does: they make no box of voxels. Resample them first (dcm2niix does)"
        )
    return float(along[-1] - along[0]) / (len(along) - 1)
