"""Maps of what a network missed, made where its prediction is mined for hard regions.

Source: the winning entry to AIIB23 (MedibotTeam, in Nan et al., Medical Image Analysis 2024). Deviations: the earlier
prediction is that of the mining, with its threshold; maps are stored in 255 steps.
"""

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

from nnunetv2_airway.tree.components import connected_components, voxels_of, with_neighbours

FEWEST = 50
"""Voxels that a component has more of, to count as a piece."""
REACH = 5.0
"""Distance in voxels to the second nearest piece at which the breakage attention is one half."""
FARTHEST = 12
"""Voxels beyond which it is below 0.001, and set to 0."""


def missed_closeness(
    mask: np.ndarray, line: np.ndarray, missed: np.ndarray, spacing: tuple[float, float, float]
) -> np.ndarray:
    """Compute 255 (1 - d / d_max) where the nearest centerline voxel was missed, which w_b is the square of.

    Args:
        mask: of the airways, (Z, Y, X) bool.
        line: voxels of its centerline, (N, 3) int.
        missed: which of them were missed, (N,) bool.
        spacing: (z, y, x) in mm.

    Returns:
        (Z, Y, X) uint8, 0 elsewhere; d is the distance to the nearest centerline voxel in mm, d_max its maximum over
        the airway voxels whose nearest one was missed. It goes on for a voxel around the mask, so that it can be
        interpolated.
    """
    closeness = np.zeros(mask.shape, np.uint8)
    if not missed.any():
        return closeness
    around = voxels_of(with_neighbours(mask))
    distance, nearest = KDTree(line * spacing).query(around * spacing)
    around, distance = around[missed[nearest]], distance[missed[nearest]]
    farthest = distance[mask[tuple(around.T)]].max(initial=0) or 1
    closeness[tuple(around.T)] = np.round(255 * np.clip(1 - distance / farthest, 0, 1))
    return closeness


def breakage_attention(prediction: np.ndarray) -> np.ndarray:
    """Compute 255 sigmoid(5 - d), d the distance in voxels to the second nearest piece of a prediction.

    Args:
        prediction: (Z, Y, X) bool; its pieces are its 26-connected components of more than 50 voxels.

    Returns:
        (Z, Y, X) uint8, inside and outside the pieces; 0 where there are fewer than two, or d is above 12.
    """
    pieces = connected_components(prediction, connectivity=26)
    nearest = np.full(prediction.shape, np.inf, np.float32)
    second = nearest.copy()
    sizes = np.bincount(pieces.ravel())
    places = ndimage.find_objects(pieces)
    large = np.flatnonzero(sizes[1:] > FEWEST) + 1
    for number in large if len(large) > 1 else ():
        box = tuple(slice(max(side.start - FARTHEST, 0), side.stop + FARTHEST) for side in places[number - 1])
        distance = ndimage.distance_transform_edt(pieces[box] != number).astype(np.float32)
        second[box] = np.minimum(second[box], np.maximum(nearest[box], distance))
        nearest[box] = np.minimum(nearest[box], distance)
    attention = np.zeros(prediction.shape, np.uint8)
    close = second <= FARTHEST
    attention[close] = np.round(255 / (1 + np.exp(second[close] - REACH)))
    return attention
