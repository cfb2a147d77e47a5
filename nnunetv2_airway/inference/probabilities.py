"""The probabilities that nnU-Net keeps beside its masks (``--npz``, ``--save_probabilities``)."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunetv2_airway.io.errors import UserError
from nnunetv2_airway.io.files import main_line
from nnunetv2_airway.io.images import ending_of, read_volume

ROUNDING = 1e-3
"""Share of the airway voxels in which nnU-Net's mask and its rounded probabilities may differ."""


def probabilities_of(mask: Path) -> Path:
    """Name the file that nnU-Net writes beside a mask."""
    return mask.with_name(f"{mask.name[: -len(ending_of(mask))]}.npz")


def read_probability(mask: Path) -> tuple[np.ndarray, sitk.Image]:
    """Read the probability of airway beside a mask that nnU-Net has written.

    Args:
        mask: file of the segmentation.

    Returns:
        (Z, Y, X) float32, and the mask's image, whose grid it has.

    Raises:
        UserError: there is none, it cannot be read, or it is not that of the mask.
    """
    file = probabilities_of(mask)
    if not file.is_file():
        raise UserError(
            f"there is no {file}: predict with nnUNetv2_predict --save_probabilities, or validate with nnUNetv2_train "
            f"... --val --npz"
        )
    image = read_volume(mask)
    found = sitk.GetArrayViewFromImage(image) > 0
    try:
        with np.load(file) as content:
            channels = content["probabilities"]
    except Exception as error:  # zipfile, zlib and numpy have several
        raise UserError(f"{file} cannot be read: predict again ({main_line(error)})") from error
    if channels.ndim != 4 or len(channels) > 2:
        raise UserError(f"{file} must hold one structure, (1 or 2, Z, Y, X); got {channels.shape}")
    probability = channels[-1].astype(np.float32, copy=False)
    same = probability.shape == found.shape
    if not same or np.count_nonzero((probability > 0.5) != found) > ROUNDING * max(np.count_nonzero(found), 1000):
        raise UserError(
            f"{file} is not that of {mask.name}: p > 0.5 gives another mask. Predict again into an empty folder; masks "
            f"that were post-processed, and readers of nnU-Net that reorient images, cannot be used"
        )
    return probability, image
