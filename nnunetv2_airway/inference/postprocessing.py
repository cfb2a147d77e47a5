"""What Tang 2022 (section 2.1) does to a prediction: largest connected component, holes filled; or a tuned choice."""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunetv2_airway.inference.operating_point import OperatingPoint
from nnunetv2_airway.inference.probabilities import read_probability
from nnunetv2_airway.io.errors import UserError
from nnunetv2_airway.io.files import atomic_path
from nnunetv2_airway.io.images import Grid, foreground_values, list_images, one_file_name, read_volume, write_image
from nnunetv2_airway.io.parallel import results_and_failures
from nnunetv2_airway.tree.components import largest_component


def keep_airway_tree(segmentation: np.ndarray, spacing: Sequence[float] = (1, 1, 1)) -> np.ndarray:
    """Keep the largest connected component and fill its holes.

    Args:
        segmentation: (Z, Y, X), 0 is background, one other value is the airway.
        spacing: (z, y, x) in mm, by which ``tree.components.largest_of`` tells what is largest; nnU-Net's own command
            knows none.

    Returns:
        Array of the same shape, dtype and airway value. Components are 26-connected, so that thin oblique airways hold
        together; a hole is background that no face-connected path leads out of. An empty segmentation stays empty.

    Raises:
        UserError: more than one foreground value, or not three axes.

    Source: Tang 2022, section 2.1. Its signature is the one that ``nnUNetv2_apply_postprocessing`` calls.
    """
    if segmentation.ndim != 3:
        raise UserError(f"a segmentation with three axes is needed, got shape {segmentation.shape}")
    values = foreground_values(segmentation)
    if len(values) > 1:
        raise UserError(f"one foreground value is needed, got {values.tolist()}: post-process binary airway masks")
    result = np.zeros_like(segmentation)
    if len(values):
        result[largest_component(segmentation, connectivity=26, spacing=spacing)] = values[0]
    return result


def write_postprocessing_pkl(file: Path) -> None:
    """Write the step as a ``postprocessing.pkl`` for nnU-Net's own ``nnUNetv2_apply_postprocessing``."""
    with atomic_path(file) as temporary:
        temporary.write_bytes(pickle.dumps(([keep_airway_tree], [{}])))


@dataclass(frozen=True)
class Outcome:
    """What became of one file: the tree's volume in ml, voxels kept, removed and filled, or the error."""

    name: str
    volume: float = 0.0
    kept: int = 0
    removed: int = 0
    filled: int = 0
    error: str = ""


def postprocess_folder(
    source: Path, target: Path, *, point: OperatingPoint | None = None, processes: int = 2
) -> list[Outcome]:
    """Post-process every segmentation of a folder; geometry, data type and file names stay.

    Where header and voxels are two files, the result is one: .mha of .mhd, .nrrd of .nhdr, .nii.gz of .hdr.

    Args:
        source: folder of segmentations, of any of ``io.images.ENDINGS``.
        target: another folder; created where it does not exist, files of the same names are replaced.
        point: make the masks anew of the probabilities that nnU-Net kept beside them.
        processes: files worked on at once.

    Returns:
        One outcome per file; a file that cannot be processed does not stop the others.

    Raises:
        UserError: the folder has no images or two of one name, or both folders are the same.
    """
    files = list_images(source)
    if source.resolve() == target.resolve():
        raise UserError(f"-i and -o are the same folder {source}; choose another -o, so that the prediction is kept")
    target.mkdir(parents=True, exist_ok=True)
    cases = {file.name: (file, target, point) for file in files.values()}
    done, failed = results_and_failures(_postprocess_file, cases, processes=processes, description="post-processing")
    return [done.get(name) or Outcome(name, error=failed[name]) for name in cases]


def _postprocess_file(file: Path, target: Path, point: OperatingPoint | None) -> Outcome:
    if point is None:
        image = read_volume(file)
        before = sitk.GetArrayFromImage(image)
    else:
        probability, image = read_probability(file)
        values = foreground_values(sitk.GetArrayViewFromImage(image))
        found = point.mask(probability, image.GetSpacing()[::-1])
        before = found.astype(np.uint8) * np.uint8(values[0] if len(values) else 1)
    after = keep_airway_tree(before, image.GetSpacing()[::-1])
    write_image(Grid.of(image).image(after), target / one_file_name(file))
    was, is_now = before != 0, after != 0
    volume = float(np.count_nonzero(is_now) * np.prod(image.GetSpacing()) / 1000)
    counts = (np.count_nonzero(voxels) for voxels in (was & is_now, was & ~is_now, is_now & ~was))
    return Outcome(file.name, volume, *map(int, counts))
