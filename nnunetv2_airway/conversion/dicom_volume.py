"""A DICOM series as a volume: slices by their position, never by their file's name.

Voxels are read with SimpleITK's GDCM, which knows the compressed ones and applies each slice's slope and intercept.
"""

import numpy as np
import SimpleITK as sitk

from nnunetv2_airway.conversion.dicom import SHORTEST, Series
from nnunetv2_airway.conversion.dicom_files import Slice
from nnunetv2_airway.io.errors import UserError
from nnunetv2_airway.io.files import main_line
from nnunetv2_airway.io.headers import check_axes
from nnunetv2_airway.io.images import Grid

ROUNDING = 0.1
"""Positions are often written with one decimal, in mm."""
SAME = {"ImageOrientationPatient": (6, 1e-3), "PixelSpacing": (2, 1e-4), "Rows": (1, 0), "Columns": (1, 0)}
"""Tags in which all slices of a volume agree, with how many numbers they hold and tolerances."""


def read_series(series: Series) -> tuple[np.ndarray, Grid, list[str]]:
    """Read a series as a volume.

    Returns:
        (Z, Y, X) float32, slope and intercept applied, planes ascending along the normal of the slices; where the
        voxels lie; and what was done about the files.

    Raises:
        UserError: slices differ in size, spacing or orientation, stand at one place, are missing, unevenly spaced or
            sheared by a tilted gantry, or cannot be read; the files are named.
    """
    slices, direction, step, notes = ordered_slices(series)
    first = slices[0]
    volume = np.empty((len(slices), int(first.Rows), int(first.Columns)), np.float32)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetOutputPixelType(sitk.sitkFloat32)
    for plane, header in zip(volume, slices, strict=True):
        reader.SetFileName(str(header.file))
        try:
            image = reader.Execute()
        except RuntimeError as error:
            raise UserError(
                f"cannot read {header.file}, it may be damaged, copy it again: {main_line(error)}"
            ) from error
        plane[...] = sitk.GetArrayViewFromImage(image).reshape(plane.shape)
    between_rows, between_columns = first.numbers("PixelSpacing", 2)
    grid = Grid((between_columns, between_rows, step), tuple(_position(first)), direction)
    return volume, grid, notes


def ordered_slices(series: Series) -> tuple[list[Slice], tuple[float, ...], float, list[str]]:
    """Order the slices of a series along their normal.

    Returns:
        One slice for each plane of the volume; its direction, as ITK has it; the distance of its planes in mm; and what
        was done about the files.

    Raises:
        UserError: as ``read_series``, for what the headers tell.
    """
    first = series.slices[0]
    joined = series.is_joined
    for header in series.slices:
        _require_alike(header, first, joined=joined)
    row, column = first.numbers("ImageOrientationPatient", 6).reshape(2, 3)
    normal = np.cross(row, column)
    direction = tuple(np.stack((row, column, normal), axis=1).ravel())
    check_axes(direction, first.file)
    slices = sorted(series.slices, key=lambda header: _position(header) @ normal)
    slices, notes = _without_copies(slices, normal)
    notes += _numbering(slices)
    return slices, direction, _even_step(slices, normal), notes


def _position(header: Slice) -> np.ndarray:
    return header.numbers("ImagePositionPatient", 3)


def _require_alike(header: Slice, first: Slice, *, joined: bool) -> None:
    header.numbers("ImagePositionPatient", 3)
    if (header.numbers("PixelSpacing", 2) <= 0).any():
        raise UserError(f"{header.file}: PixelSpacing must be positive, it is {header.PixelSpacing}: mend it")
    for tag in ("RescaleSlope", "RescaleIntercept"):
        if getattr(header, tag) is not None:
            header.numbers(tag)
    for tag in ("FrameOfReferenceUID", "RescaleSlope", "RescaleIntercept"):
        here, there = getattr(header, tag), getattr(first, tag)
        if (here is None) != (there is None) or (tag == "FrameOfReferenceUID" and here != there and not joined):
            raise UserError(f"slices of one series differ in {tag}: {header.file} has {here}, {first.file} has {there}")
    for tag, (count, tolerance) in SAME.items():
        if not np.allclose(header.numbers(tag, count), first.numbers(tag, count), rtol=0, atol=tolerance):
            raise UserError(
                f"slices of one series differ in {tag}: {header.file} has {getattr(header, tag)}, {first.file} has "
                f"{getattr(first, tag)}. Take the files that do not belong to the volume out of the folder"
            )


def _without_copies(slices: list[Slice], normal: np.ndarray) -> tuple[list[Slice], list[str]]:
    """Drop second copies of a slice; two different slices at one place are an error."""
    kept = slices[:1]
    for header in slices[1:]:
        if (_position(header) - _position(kept[-1])) @ normal > 1e-3:
            kept.append(header)
        elif header.SOPInstanceUID != kept[-1].SOPInstanceUID:
            raise UserError(
                f"two slices stand at one place, {_position(header).tolist()} mm: {kept[-1].file} and {header.file}. "
                f"The series holds several scans; keep the files of one"
            )
    copies = len(slices) - len(kept)
    return kept, [f"{copies} second copies of slices were passed over"] if copies else []


def _numbering(slices: list[Slice]) -> list[str]:
    """Say so where the slices' numbers do not go with their positions; some scanners number in other ways."""
    try:
        numbers = [int(header.numbers("InstanceNumber")[0]) for header in slices]
    except UserError:  # not numbered, or in some other way
        return []
    if len(set(numbers)) < len(slices):  # not numbered
        return []
    steps = np.diff(numbers)
    if set(steps) in ({1}, {-1}):
        return []
    return [
        f"WARNING: InstanceNumber changes by {steps.min()} to {steps.max()} from slice to slice instead of by 1: "
        f"slices may be missing, or two scans mixed"
    ]


def _even_step(slices: list[Slice], normal: np.ndarray) -> float:
    """Distance of the slices in mm; raises where it is not the same everywhere."""
    places = np.stack([_position(header) for header in slices])
    if len(places) < SHORTEST:
        raise UserError(f"only {len(places)} different slices in {slices[0].file.parent}; {SHORTEST} are needed")
    along = places @ normal
    gaps = np.diff(along)
    usual = float(np.median(gaps))
    worst = int(np.argmax(np.abs(gaps - usual)))
    if abs(gaps[worst] - usual) > ROUNDING + 0.01 * usual:
        raise UserError(
            f"irregular slice spacing: a gap of {gaps[worst]:.2f} mm between {slices[worst].file.name} (at "
            f"{along[worst]:.2f} mm) and {slices[worst + 1].file.name} (at {along[worst + 1]:.2f} mm), {usual:.2f} mm "
            f"elsewhere. "
            + ("Slices are missing: copy the series again" if gaps[worst] > usual else "Two scans may be mixed")
        )
    aside = np.linalg.norm(places - places[0] - np.outer(along - along[0], normal), axis=1).max()
    if aside > max(ROUNDING, 0.5 * slices[0].numbers("PixelSpacing", 2).min()):
        raise UserError(
            f"the slices in {slices[0].file.parent} are shifted sideways by up to {aside:.1f} mm, as a tilted gantry "
            f"does: they make no box of voxels. Resample them first (dcm2niix does)"
        )
    return float(along[-1] - along[0]) / (len(along) - 1)
