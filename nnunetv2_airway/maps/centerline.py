"""The centerline of an airway mask."""

import numpy as np
from skimage.morphology import skeletonize


def centerline(mask: np.ndarray) -> np.ndarray:
    """Thin an airway mask to its centerline.

    Args:
        mask: (Z, Y, X), airway where > 0.

    Returns:
        (Z, Y, X) bool: the medial axis, one voxel wide (Lee et al., 1994, as in scikit-image); all False for an empty
        mask.
    """
    mask = np.asarray(mask) > 0
    line = np.zeros(mask.shape, bool)
    if not mask.any():
        return line
    # only the airway's box, with a rim of background: thinning costs by volume
    low, high = zip(*((hits[0], hits[-1] + 1) for hits in _extents(mask)), strict=True)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    line[box] = skeletonize(np.pad(mask[box], 1))[1:-1, 1:-1, 1:-1] > 0
    return line


def _extents(mask: np.ndarray) -> list[np.ndarray]:
    axes = range(mask.ndim)
    return [np.flatnonzero(mask.any(axis=tuple(other for other in axes if other != axis))) for axis in axes]
