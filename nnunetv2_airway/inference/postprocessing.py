"""What Tang 2022 (section 2.1) does to a prediction: largest connected component, holes filled."""

import pickle
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cc3d
import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from nnunetv2_airway.files import atomic_path, last_line, write_image
from nnunetv2_airway.progress import progress_bar

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")


def keep_airway_tree(segmentation: np.ndarray) -> np.ndarray:
    """Keep the largest connected component and fill its holes.

    Args:
        segmentation: (Z, Y, X), 0 is background, one other value is the airway.

    Returns:
        Array of the same shape, dtype and airway value. Components are 26-connected, so that thin oblique airways hold
        together; a hole is background that no face-connected path leads out of. An empty segmentation stays empty.

    Raises:
        ValueError: more than one foreground value, or not three axes.

    Source: Tang 2022, section 2.1. Its signature is the one that ``nnUNetv2_apply_postprocessing`` calls.
    """
    if segmentation.ndim != 3:
        raise ValueError(f"a segmentation with three axes is needed, got shape {segmentation.shape}")
    box = ndimage.find_objects((segmentation != 0).astype(np.uint8))
    if not box:
        return segmentation.copy()
    part = segmentation[box[0]]
    values = np.unique(part[part != 0])
    if len(values) > 1:
        raise ValueError(f"one foreground value is needed, got {values.tolist()}: post-process binary airway masks")
    tree = cc3d.largest_k(part != 0, k=1, connectivity=26) > 0
    result = np.zeros_like(segmentation)
    result[box[0]][ndimage.binary_fill_holes(tree)] = values[0]
    return result


def write_postprocessing_pkl(file: Path) -> None:
    """Write the step as a ``postprocessing.pkl`` for nnU-Net's own ``nnUNetv2_apply_postprocessing``."""
    with atomic_path(file) as temporary:
        temporary.write_bytes(pickle.dumps(([keep_airway_tree], [{}])))


@dataclass(frozen=True)
class Outcome:
    """What became of one file: the tree's volume in ml, voxels removed and filled, or the error."""

    name: str
    volume: float = 0.0
    removed: int = 0
    filled: int = 0
    error: str = ""


def postprocess_folder(source: Path, target: Path, *, processes: int = 2) -> list[Outcome]:
    """Post-process every segmentation of a folder; geometry, data type and file names stay.

    Args:
        source: folder of segmentations (.nii.gz, .nii, .nrrd, .mha, .mhd).
        target: another folder; created where it does not exist, files of the same names are replaced.
        processes: files worked on at once.

    Returns:
        One outcome per file; a file that cannot be processed does not stop the others.

    Raises:
        ValueError: the folder has no segmentations, or both folders are the same.
    """
    files = sorted(file for file in source.glob("*") if file.name.endswith(ENDINGS)) if source.is_dir() else []
    if not files:
        raise ValueError(f"no segmentations ({', '.join(ENDINGS)}) found in {source}")
    if source.resolve() == target.resolve():
        raise ValueError(f"-i and -o are the same folder {source}; choose another -o, so that the prediction is kept")
    target.mkdir(parents=True, exist_ok=True)
    with get_context("spawn").Pool(max(1, min(processes, len(files)))) as pool:
        work = pool.imap(partial(_postprocess_file, target=target), files)
        return list(progress_bar(work, description="post-processing", unit="case", total=len(files)))


def _postprocess_file(file: Path, target: Path) -> Outcome:
    try:
        image = sitk.ReadImage(str(file))
        before = sitk.GetArrayFromImage(image)
        after = keep_airway_tree(before)
        result = sitk.GetImageFromArray(after)
        result.CopyInformation(image)
        write_image(result, target / file.name)
    except (RuntimeError, ValueError, OSError) as error:
        return Outcome(file.name, error=last_line(error))
    was, is_now = before != 0, after != 0
    volume = float(np.count_nonzero(is_now) * np.prod(image.GetSpacing()) / 1000)
    return Outcome(file.name, volume, int(np.count_nonzero(was & ~is_now)), int(np.count_nonzero(is_now & ~was)))
