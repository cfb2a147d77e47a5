"""Headers that ITK repairs in silence: spacing, units and axes that contradict themselves, voxels that are no numbers.

ITK takes the spacing of a NIfTI file from one of three places, straightens axes, makes 0 of voxels that are no numbers,
and turns an axis whose spacing is negative. Nobody knows then which of two spacings the figures in mm come from.
"""

import gzip
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from typing import IO

import nibabel
import numpy as np
from nibabel.spatialimages import HeaderDataError

from nnunetv2_airway.io.errors import UserError
from nnunetv2_airway.io.whole_images import GZIP, nifti_header

SAME_SPACING = 0.01
"""Two spacings differ by more than rounding where one exceeds the other by this share."""
SAME_PLACE = 0.1
"""Two geometries differ where a voxel lies farther apart than this, in units of the shortest side of a voxel."""
SAME_AXES = 0.02
"""By which the direction cosines of one axis may differ: about one degree."""
PERPENDICULAR = 0.1
"""Degrees by which axes may miss a right angle, from rounding."""
VOXELS = re.compile(rb"^(?:ElementDataFile *=|data ?file:) *(.+?) *\r?$", re.MULTILINE | re.IGNORECASE)
"""In a header: the file with the voxels."""
SPACING = re.compile(rb"^(?:ElementSpacing *=|spacings:)(.*)$", re.MULTILINE | re.IGNORECASE)
DIRECTIONS = re.compile(rb"^(?:ElementSize *=|space directions:)", re.MULTILINE | re.IGNORECASE)
"""What gives a spacing, too."""
UNITS = re.compile(rb"^space units:(.*)$", re.MULTILINE | re.IGNORECASE)
ORIGIN = re.compile(rb"^(?:Offset *=|Position *=|Origin *=|space origin:)(.*)$", re.MULTILINE | re.IGNORECASE)
BLOCK = 2**22


def check_header(file: Path) -> None:
    """Check what a file says of its geometry, before ITK has read it.

    A header that is not understood here is left to ITK, which says so.

    Raises:
        UserError: a spacing is not a positive number, two spacings contradict each other, axes are not perpendicular,
            or voxels are no numbers.
    """
    with file.open("rb") as content:
        head = content.read(2**14)
    if nifti := _nifti(file):
        with suppress(HeaderDataError, KeyError):  # a type of voxels that is not known
            _check_nifti(file, nifti)
    elif head.startswith((b"NRRD", b"ObjectType", b"NDims", b"Comment")):
        if found := SPACING.search(head):
            _require_spacing(file, found[0].decode(errors="replace").strip(), _numbers(found[1]))
        elif (VOXELS.search(head) or b"\n\n" in head) and not DIRECTIONS.search(head):
            raise UserError(f"{file} has no spacing in its header, and ITK would take 1 mm: write it there")
        if (found := UNITS.search(head)) and not set(re.findall(rb'"(.*?)"', found[1])) <= {b"mm", b""}:
            raise UserError(f"{file} must be in mm, its header says {found[0].decode(errors='replace').strip()}")
        if (found := ORIGIN.search(head)) and not np.isfinite(_numbers(re.sub(rb"[(),]", b" ", found[1]))).all():
            raise UserError(f"{file} has an origin that is no place: {found[0].decode(errors='replace').strip()}")
        if found := VOXELS.search(head):
            _require_voxels(file, os.fsdecode(found[1]))


def check_axes(direction: Sequence[float], file: Path) -> None:
    """Check that the axes of an image, a matrix of direction cosines row by row, are perpendicular.

    Raises:
        UserError: two are not, or one has no direction.
    """
    axes = np.array(direction).reshape(3, 3)
    if (np.linalg.norm(axes, axis=0) < 0.5).any():
        raise UserError(f"{file} has an axis without a direction: {_listed(axes.ravel())}. Mend its header")
    _require_perpendicular(file, axes)


def require_finite(values: np.ndarray, file: Path) -> None:
    """Check that voxels are numbers.

    Raises:
        UserError: one is not.
    """
    if not np.isfinite(values).all():
        raise UserError(f"{file} has voxels that are no numbers: replace them, in a CT by -1024, and try again")


def _nifti(file: Path) -> nibabel.Nifti1Header | None:
    with _opened(file) as content:
        try:
            header = nifti_header(content.read(540))
            return header if header["magic"].item()[:2] in (b"n+", b"ni") else None
        except (HeaderDataError, ValueError, EOFError, OSError):
            return None


def _check_nifti(file: Path, header: nibabel.Nifti1Header) -> None:
    if len(header.get_data_shape()) < 3:
        return  # no volume, as its reader says
    spacing = header["pixdim"][1:4].astype(float)
    _require_spacing(file, f"pixdim {_listed(spacing)}", spacing)
    forms = {}
    for name in ("sform", "qform"):
        with suppress(HeaderDataError, ValueError):  # ITK makes do with less than a quaternion
            if header[f"{name}_code"] > 0:
                forms[name] = getattr(header, f"get_{name}")()
    for name, form in forms.items():
        own = np.linalg.norm(form[:3, :3], axis=0)
        if not np.allclose(own, spacing, rtol=SAME_SPACING):
            raise UserError(
                f"{file} contradicts itself: its {name} has voxels of {_listed(own)} mm, pixdim {_listed(spacing)}. "
                f"Find out which is right and write it into both, with nibabel: image.header.set_zooms(...) or "
                f"image.set_{name}(...)"
            )
        _require_perpendicular(file, form[:3, :3] / own)
        if not np.isfinite(form).all():
            raise UserError(f"{file} has a {name} with an origin that is no place: {_listed(form[:3, 3])}")
    if header["magic"].item()[:2] == b"n+" and header["vox_offset"] < header.single_vox_offset:
        raise UserError(
            f"{file} says that its voxels begin at byte {int(header['vox_offset'])}, inside its header: write "
            f"{header.single_vox_offset} there if they follow it, or convert again"
        )
    if len(forms) == 2:
        corners = np.array(np.meshgrid(*([0, side - 1] for side in header.get_data_shape()[:3]))).reshape(3, -1)
        first, second = (form[:3, :3] @ corners + form[:3, 3:] for form in forms.values())
        apart = np.linalg.norm(first - second, axis=0).max()
        axes = [form[:3, :3] / np.linalg.norm(form[:3, :3], axis=0) for form in forms.values()]
        if not np.allclose(*axes, atol=SAME_AXES):
            raise UserError(
                f"{file} contradicts itself: its sform and qform have other axes, voxels lie up to {apart:.3g} mm "
                f"apart. Find out which is right and write it into both, with nibabel: image.set_sform(...), "
                f"image.set_qform(...)"
            )
        if apart > SAME_PLACE * spacing.min():
            print(
                f"{file}: WARNING: sform and qform lie up to {apart:.3g} mm apart; tools that read the one or the "
                f"other will not agree where the voxels are",
                flush=True,
            )
    if header.get_data_dtype().kind == "f":
        _require_numbers(file, header)


def _require_numbers(file: Path, header: nibabel.Nifti1Header) -> None:
    """Look at the voxels themselves, since ITK reads 0 where there is no number."""
    pair = file.with_suffix(".img") if header["magic"].item()[:2] == b"ni" else file
    if not pair.is_file():
        return  # ITK knows other names of it
    kind = header.get_data_dtype()
    with _opened(pair) as content:
        content.read(0 if pair != file else header.get_data_offset())
        while block := content.read(BLOCK):
            values = np.frombuffer(block[: len(block) // kind.itemsize * kind.itemsize], kind)
            require_finite(values, file)


def _require_voxels(file: Path, name: str) -> None:
    several = name.split()[0] in ("LIST", "LOCAL") or "%" in name
    if not several and not (voxels := Path(file.parent, name)).is_file():
        raise UserError(
            f"cannot read {file}: its voxels should be in {voxels}, which is not there. Copy it there too; if it was "
            f"renamed, write its new name into {file.name}"
        )


def _require_spacing(file: Path, words: str, spacing: np.ndarray) -> None:
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise UserError(f"{file} needs a positive spacing along each axis, its header says {words}: mend it")


def _require_perpendicular(file: Path, axes: np.ndarray) -> None:
    for one, other in combinations(range(3), 2):
        angle = np.degrees(np.arccos(np.clip(axes[:, one] @ axes[:, other], -1, 1)))
        if abs(angle - 90) > PERPENDICULAR:
            names = "xyz"
            raise UserError(
                f"{file} has axes that are not perpendicular: {names[one]} and {names[other]} meet at {angle:.2f} "
                f"degrees. Resample it to a grid of right angles, or convert the original images again"
            )


def _opened(file: Path) -> IO[bytes]:
    content = file.open("rb")
    packed = content.read(2) == GZIP  # ITK goes by this, not by the name
    content.seek(0)
    return gzip.open(content) if packed else content


def _numbers(text: bytes) -> np.ndarray:
    try:
        return np.array([float(number) for number in text.split()])
    except ValueError:
        return np.array([np.nan])


def _listed(values: np.ndarray) -> str:
    return " x ".join(f"{value:.6g}" for value in values)
