"""Rows of whole volumes: weights, maps, evaluation, post-processing."""

from collections.abc import Iterator

import numpy as np
import torch
from measure import Row, seconds
from scipy import ndimage
from skimage.measure import label
from skimage.morphology import skeletonize

from nnunetv2_airway.evaluation.metrics import evaluate_case
from nnunetv2_airway.inference.postprocessing import keep_airway_tree
from nnunetv2_airway.losses.functional import local_imbalance_weight
from nnunetv2_airway.phantom.model import PhantomOptions, synthesize
from nnunetv2_airway.training.maps.kinds import MAPS

PREDICTION = (600, 512, 512)


def phantom_mask() -> tuple[np.ndarray, tuple[float, float, float], str]:
    """Make the airway tree that is measured where no real one is given: mask (Z, Y, X), spacing in mm, its name."""
    options = PhantomOptions(shape=(288, 256, 320))
    return synthesize(options)[1], options.spacing, "a phantom"


def rows(mask: np.ndarray, spacing: tuple[float, float, float], name: str) -> Iterator[Row]:
    """List the rows.

    Args:
        mask: an airway mask (Z, Y, X).
        spacing: (z, y, x) in mm.
        name: what it is.
    """
    mask = mask > 0
    size = " x ".join(map(str, mask.shape))
    patch = local_patch(mask)
    tensor = torch.from_numpy(patch)[None, None]
    weight = lambda: seconds(lambda: local_imbalance_weight(tensor, exponent=2.5))  # noqa: E731
    box = patch.astype(np.float32)
    kernel = np.ones((7, 7, 7), np.float32) / 343
    yield Row(
        f"local-imbalance weight of {patch.shape[0]}^3", "scipy's uniform_filter alone", ">= 1.5", weight,
        lambda: seconds(lambda: ndimage.uniform_filter(box, 7)), repeats=15,
    )  # fmt: skip
    yield Row(
        f"local-imbalance weight of {patch.shape[0]}^3", "scipy's convolve alone", ">= 20", weight,
        lambda: seconds(lambda: ndimage.convolve(box, kernel)), repeats=3,
    )  # fmt: skip
    yield Row(
        f"centerline maps of {name}, {size}", "skeletonize, two distance transforms", ">= 8",
        lambda: seconds(lambda: MAPS["centerline"].compute(mask, spacing)),
        lambda: seconds(lambda: plain_maps(mask, spacing)), repeats=3,
    )  # fmt: skip
    prediction, background = a_prediction_of(mask), ~mask
    yield Row(
        f"evaluation of {name}, {size}", "one distance transform with indices", "<= 0.25",
        lambda: seconds(lambda: evaluate_case(prediction, mask, spacing)),
        lambda: seconds(lambda: ndimage.distance_transform_edt(background, spacing, return_indices=True)), repeats=3,
    )  # fmt: skip
    volume = with_islands(mask)
    yield Row(
        f"post-processing, {' x '.join(map(str, PREDICTION))}", "skimage's label, scipy's fill_holes", ">= 6",
        lambda: seconds(lambda: keep_airway_tree(volume)),
        lambda: seconds(lambda: plain_postprocessing(volume)), repeats=3,
    )  # fmt: skip


def local_patch(mask: np.ndarray, size: int = 128) -> np.ndarray:
    """Cut the patch (size)^3 around the middle of an airway tree; uint8."""
    centre = np.argwhere(mask).mean(0).astype(int)
    padded = np.pad(mask, size)
    return padded[tuple(slice(at + size // 2, at + size // 2 + size) for at in centre)].astype(np.uint8)


def plain_maps(mask: np.ndarray, spacing: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Compute eq. 4 of Tang 2022 and the small airways of its section 1.3 with whole-volume transforms.

    Returns:
        Closeness (Z, Y, X) in [0, 1], and which voxels are centerline of small airways (Z, Y, X) bool.
    """
    line = skeletonize(mask) > 0
    distance = ndimage.distance_transform_edt(~line, sampling=spacing)
    radius = ndimage.distance_transform_edt(mask)
    return np.where(mask, 1 - distance / distance[mask].max(), 0), line & (radius < 2)


def a_prediction_of(mask: np.ndarray) -> np.ndarray:
    """Imitate a prediction: the reference moved by a voxel, its lowest fifth missed, an island beside it."""
    prediction = np.roll(mask, 1, axis=2)
    airway = np.nonzero(mask.any((1, 2)))[0]
    prediction[airway[0] : airway[len(airway) // 5]] = False
    prediction[-6:-2, -6:-2, -6:-2] = True
    return prediction


def with_islands(mask: np.ndarray) -> np.ndarray:
    """Put an airway tree into a volume of ``PREDICTION`` with 200 islands, as networks predict them; uint8."""
    volume = np.zeros(PREDICTION, np.uint8)
    box = tuple(slice(0, min(side, full)) for side, full in zip(mask.shape, PREDICTION, strict=True))
    volume[box] = mask[box]
    for corner in np.random.default_rng(0).integers(0, np.array(PREDICTION) - 4, (200, 3)):
        volume[tuple(slice(at, at + 4) for at in corner)] = 1
    return volume


def plain_postprocessing(segmentation: np.ndarray) -> np.ndarray:
    """Keep the largest component and fill its holes, on the whole volume."""
    components = label(segmentation, connectivity=3)
    largest = components == np.bincount(components.ravel())[1:].argmax() + 1
    return ndimage.binary_fill_holes(largest).astype(segmentation.dtype)
