"""Volumes and masks on disk, and whether two of them share one geometry."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunetv2_airway.io.errors import UserError
from nnunetv2_airway.io.files import atomic_path, main_line
from nnunetv2_airway.io.headers import check_axes, check_header, require_finite
from nnunetv2_airway.io.whole_images import is_whole

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".hdr")
"""Formats of volumes; the voxels of .nhdr, .mhd and .hdr are in another file."""
VOXELS_OF = (".raw", ".zraw", ".raw.gz", ".img", ".img.gz")
"""Files beside headers, and what nnU-Net writes beside images, which nobody misses in a list."""
BESIDE = (*VOXELS_OF, ".json", ".npz", ".pkl")
BODY = (5.0, 5000.0)
"""Between these lies the longest side of every CT, in mm."""
ROUNDING = 1e-3
"""By which a label may miss a whole number."""
TOLERANCE = 0.1
"""How far apart the voxels of two images with one geometry may lie, in units of the shortest side of a voxel."""


@dataclass(frozen=True)
class Grid:
    """Where the voxels of an image lie: spacing, origin and direction in ITK's order (x, y, z), in mm."""

    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    @classmethod
    def of(cls, image: sitk.Image) -> "Grid":
        """Take the grid of an image."""
        return cls(image.GetSpacing(), image.GetOrigin(), image.GetDirection())

    @classmethod
    def upright(cls, spacing: Sequence[float]) -> "Grid":
        """Make the grid of an array without a place, upright as LPS, spacing (z, y, x) in mm."""
        return cls(tuple(float(side) for side in spacing[::-1]), (0.0,) * 3, tuple(np.eye(3).ravel()))

    def image(self, array: np.ndarray) -> sitk.Image:
        """Make an image of an array (Z, Y, X)."""
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(self.spacing)
        image.SetOrigin(self.origin)
        image.SetDirection(self.direction)
        return image

    def positions(self, voxels: np.ndarray) -> np.ndarray:
        """Find where voxels (N, 3), as (plane, row, column), lie: (N, 3) as (x, y, z) in mm, LPS as in ITK."""
        direction = np.array(self.direction).reshape(3, 3)
        return np.asarray(voxels, float)[:, ::-1] * self.spacing @ direction.T + self.origin


def ending_of(file: Path) -> str | None:
    """Return the ending of an image file, in small letters, None for what is no image."""
    if file.name.startswith("."):
        return None
    return next((ending for ending in ENDINGS if file.name.lower().endswith(ending)), None)


def one_file_name(file: Path) -> str:
    """Return the name of an image that is written as one file, where its source may be two."""
    ending = ending_of(file) or file.suffix
    single = {".mhd": ".mha", ".nhdr": ".nrrd", ".hdr": ".nii.gz"}.get(ending, ending)
    return file.name[: -len(ending)] + single


def list_images(folder: Path) -> dict[str, Path]:
    """Return the image files of a folder by name without ending, sorted; what is left out is printed.

    Raises:
        UserError: there is no such folder, no image in it, or two of one name.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    images: dict[str, Path] = {}
    left_out = []
    for file in sorted(folder.iterdir()):
        ending = ending_of(file)
        if ending is None or not file.is_file():
            if not file.name.startswith(".") and not file.name.lower().endswith(BESIDE):
                left_out.append(file.name)
            continue
        case = file.name[: -len(ending)]
        if case in images:
            raise UserError(f"{folder} holds {images[case].name} and {file.name}: one file a case is needed")
        images[case] = file
    if not images:
        raise UserError(f"no images ({', '.join(ENDINGS)}) found in {folder}")
    if left_out:
        print(f"{folder}: left out, since they are no images: {', '.join(left_out)}")
    return images


def read_volume(file: Path) -> sitk.Image:
    """Read an image with three axes and one value a voxel: all commands read through here.

    Raises:
        UserError: it cannot be read, is something else, its header contradicts itself, its axes are not perpendicular,
            it is not of the size of a body, or has voxels that are no numbers; the file is named.
    """
    if file.name.endswith(".nii.gz") and (other := file.with_suffix("")).is_file():
        raise UserError(f"cannot read {file}: ITK would take the voxels of {other}; move one of them away")
    if not is_whole(file):  # first: ITK takes memory for whatever a damaged header asks for
        raise UserError(f"cannot read {file}: it ends early or is damaged; copy or make it again")
    if file.is_file():
        check_header(file)
    try:
        # ITK knows MetaImages by endings in small letters only
        image = sitk.ReadImage(str(file), imageIO="MetaImageIO" if file.suffix.lower() in (".mha", ".mhd") else "")
    except RuntimeError as error:
        raise UserError(f"cannot read {file}: {main_line(error)}") from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise UserError(
            f"{file} must be one 3-D volume, got {image.GetDimension()} dimensions and "
            f"{image.GetNumberOfComponentsPerPixel()} values a voxel"
        )
    check_axes(image.GetDirection(), file)
    longest = max(side * step for side, step in zip(image.GetSize(), image.GetSpacing(), strict=True))
    if not BODY[0] < longest < BODY[1]:
        raise UserError(f"{file} is {longest:.4g} mm long: its spacing is not in mm, or wrong; mend its header")
    array = sitk.GetArrayViewFromImage(image)
    if array.dtype.kind == "f":
        require_finite(array, file)
    return image


def read_mask(file: Path, airway: Collection[int] | None = None, threshold: float | None = None) -> sitk.Image:
    """Read an airway mask.

    Args:
        file: the mask.
        airway: the values that are airway; by default the only one besides 0.
        threshold: of a probability map: what lies above is airway.

    Returns:
        Image of 8-bit values, 1 inside airways and 0 elsewhere.

    Raises:
        UserError: it cannot be read, holds several values and nothing says which are airway, or values but none of
            these; the file is named.
    """
    image = read_volume(file)
    array = whole_numbers(sitk.GetArrayViewFromImage(image))
    if threshold is not None:
        if array.min() < 0 or array.max() <= threshold:
            raise UserError(
                f"{file} must be a map of probabilities, from 0 to above {threshold:g}, got {array.min():g} to "
                f"{array.max():g}"
            )
        mask = array > threshold
    elif airway is None:
        values = foreground_values(array)
        if len(values) > 1:
            if (values != np.round(values)).any():
                advice = "Is it a probability map? Threshold it first; nnUNetv2_airway_measure has --threshold"
            elif values[0] < 0:
                advice = "Is it a CT? Look whether this is the right folder"
            else:
                advice = "Say with -l which labels are airway"
            raise UserError(
                f"{file} must be a mask with one value besides 0, got {', '.join(f'{v:g}' for v in values)}. {advice}"
            )
        mask = array != 0
    else:
        mask = np.isin(array, list(airway))
        if not mask.any() and array.any():
            values = ", ".join(f"{value:g}" for value in foreground_values(array))
            raise UserError(f"{file} holds none of the labels {sorted(airway)}, but {values}")
    return Grid.of(image).image(mask.astype(np.uint8))


def whole_numbers(array: np.ndarray) -> np.ndarray:
    """Give labels their values back: those that a header scales are rounded, and 255 stored with a sign is no -1.

    Others stay as they are.
    """
    if array.dtype.kind in "if" and array.min() == -1 and array.max() <= 0 and np.isin(array, (-1, 0)).all():
        return np.where(array == -1, np.uint8(255), np.uint8(0))
    if array.dtype.kind != "f":
        return array
    rounded = np.rint(array)
    return rounded if np.allclose(array, rounded, rtol=ROUNDING, atol=ROUNDING) else array


def foreground_values(array: np.ndarray, *, max_values: int = 5) -> np.ndarray:
    """Find values other than 0: the only one, or where there are several, some of them, at most ``max_values``.

    It looks at each voxel twice and sorts few, so that a probability map or a CT is recognised as fast as a mask.
    """
    values = array[array != 0]
    if not len(values) or (values == values[0]).all():
        return values[:1]
    other = values[np.argmax(values != values[0])]
    sample = values[:: max(1, len(values) // 10_000)]
    return np.sort(np.unique(np.concatenate((values[:1], [other], sample)))[:max_values])


def write_image(image: sitk.Image, target: Path) -> None:
    """Write an image, compressed, whole or not at all.

    Raises:
        OSError: it could not be written; the file is named.
    """
    with atomic_path(target) as temporary:
        sitk.WriteImage(image, str(temporary), useCompression=True)
        if not is_whole(temporary):  # ITK does not notice where the disk is full
            raise OSError("it was not written to its end")


def require_same_geometry(image: sitk.Image, reference: sitk.Image, *, name: str = "reference") -> float:
    """Check that voxels of the same index lie at the same place.

    Args:
        image: any image.
        reference: the image to compare with.
        name: what the reference is, for the error.

    Returns:
        How far a voxel lies from its place in the reference at most, in units of the shortest side of a voxel.

    Raises:
        UserError: the sizes differ, or a voxel lies farther from its place in the reference than a tenth of the
            shortest side of a voxel; both geometries are named, and by how much they differ.
    """
    both = f"{_describe(image)}; the {name} has {_describe(reference)}"
    advice = f"bring the image to the grid of its {name}, or look whether it belongs to another CT"
    if image.GetSize() != reference.GetSize():
        raise UserError(f"the geometry differs from the {name}: {both}; {advice}")
    corners = product(*((0, side - 1) for side in image.GetSize()))
    apart = max(
        np.linalg.norm(
            np.subtract(image.TransformIndexToPhysicalPoint(corner), reference.TransformIndexToPhysicalPoint(corner))
        )
        for corner in corners
    )
    tolerated = TOLERANCE * min(reference.GetSpacing())
    if not apart <= tolerated:
        raise UserError(
            f"the geometry differs from the {name}, voxels lie up to {apart:.3g} mm from their place (tolerated: "
            f"{tolerated:.2g}): {both}; {advice}"
        )
    return apart / min(reference.GetSpacing())


def orientation(image: sitk.Image) -> str:
    """Name where an image's axes point to, such as LPS: columns to the left, rows to the back, planes to the head."""
    return sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())


def axis_between(image: sitk.Image, letters: str) -> tuple[int, str]:
    """Find the axis (0 to 2 of z, y, x) of an image between two sides, such as "SI", and to which of them it points."""
    return next((2 - k, letter) for k, letter in enumerate(orientation(image)) if letter in letters)


def upright(letters: str) -> bool:
    """Whether an orientation has columns from side to side, rows from front to back and planes from feet to head.

    >>> upright("LPS"), upright("RAI"), upright("PSR")
    (True, True, False)
    """
    return all(letter in pair for letter, pair in zip(letters, ("LR", "AP", "SI"), strict=True))


def _describe(image: sitk.Image) -> str:
    def listed(values: tuple[float, ...]) -> str:
        return f"({', '.join(f'{value:.6g}' for value in values)})"

    return (
        f"size {listed(image.GetSize())}, spacing {listed(image.GetSpacing())}, origin {listed(image.GetOrigin())}, "
        f"direction {listed(image.GetDirection())} (x, y, z)"
    )
