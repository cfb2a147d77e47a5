"""The centerline of an airway mask, the distance to it, and which of it runs through small airways.

Paper: Tang 2022, eq. 4 and section 1.3. Training reads ``centerline_closeness`` and ``near_background`` through the map
store; ``centerline_distance_weight`` and ``small_airway_points`` are the same for one mask in memory. Everything is
computed inside the airway's box, and distances only at airway voxels, by a k-d tree over the centerline: exact, and far
less work than a distance transform of the whole case.
"""

from collections.abc import Sequence
from itertools import product

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree
from skimage.morphology import skeletonize

from nnunetv2_airway.tree.components import bounding_box, connected_components, with_neighbours

ON_LINE = 255
"""Value of the centerline in ``centerline_closeness``, and of no other voxel."""


def centerline(mask: np.ndarray) -> np.ndarray:
    """Thin an airway mask to its centerline.

    Args:
        mask: (Z, Y, X), airway where > 0.

    Returns:
        (Z, Y, X) bool: the medial axis, one voxel wide (Lee et al., 1994, as in scikit-image); every 26-connected
        piece keeps at least one voxel; all False for an empty mask.

    >>> tube = np.zeros((9, 5, 5), bool)
    >>> tube[:, 1:4, 1:4] = True
    >>> [voxel.tolist() for voxel in np.argwhere(centerline(tube))[[0, -1]]]
    [[0, 2, 2], [8, 2, 2]]
    """
    mask = np.asarray(mask) > 0
    box = bounding_box(mask)
    if box is None:
        return np.zeros(mask.shape, bool)
    line = thinned(mask)
    airway, thin = mask[box], line[box]
    # scikit-image erases a lone piece that is symmetric about a plane between voxels, such as a tube 2 x 2 voxels wide
    pieces = connected_components(airway, connectivity=26)
    kept = set(pieces[thin].tolist())
    for number, place in enumerate(ndimage.find_objects(pieces), start=1):
        if number not in kept:
            thin[place] |= _thin_symmetric_piece(pieces[place] == number)
    return line


def thinned(mask: np.ndarray) -> np.ndarray:
    """Thin a mask (Z, Y, X) bool as scikit-image does, which erases pieces that ``centerline`` keeps."""
    line = np.zeros(mask.shape, bool)
    box = bounding_box(mask)
    if box is not None:
        line[box] = skeletonize(mask[box]) > 0  # only the airway's box: thinning costs by volume
    return line


def _thin_symmetric_piece(piece: np.ndarray) -> np.ndarray:
    """Thin a piece that is an even number of voxels wide, by making it one voxel wider along some axes."""
    for shifts in list(product((0, 1), repeat=3))[1:]:
        grown = np.pad(piece, 2)
        for axis, shift in enumerate(shifts):
            grown |= np.roll(grown, shift, axis)
        thin = (skeletonize(grown) > 0)[2:-2, 2:-2, 2:-2] & piece
        if thin.any():
            return thin
    deepest = np.zeros_like(piece)
    deepest[
        np.unravel_index(ndimage.distance_transform_edt(np.pad(piece, 1))[1:-1, 1:-1, 1:-1].argmax(), piece.shape)
    ] = 1
    return deepest


def small_airway_points(mask: np.ndarray, radius: float = 2.0) -> np.ndarray:
    """Find the centerline voxels of small airways: those nearer than ``radius`` to the background.

    Args:
        mask: (Z, Y, X), airway where > 0.
        radius: in voxels, between voxel centres.

    Returns:
        (Z, Y, X) bool, part of ``centerline(mask)``. The outside of the volume is not background: a trachea that the
        field of view cuts is not small.

    Source: Tang 2022, section 1.3.
    """
    mask = np.asarray(mask) > 0
    small = np.zeros(mask.shape, bool)
    points = np.argwhere(centerline(mask))
    small[tuple(points[near_background(mask, points, radius)].T)] = True
    return small


def near_background(mask: np.ndarray, points: np.ndarray, radius: float) -> np.ndarray:
    """Tell which points lie nearer than ``radius`` to the background.

    Args:
        mask: (Z, Y, X) bool.
        points: (N, 3) int, voxels of the mask.
        radius: in voxels.

    Returns:
        (N,) bool.
    """
    reach = int(np.ceil(radius))
    offsets = np.array(list(product(range(-reach, reach + 1), repeat=3)))
    found = np.zeros(len(points), bool)
    for offset in offsets[(offsets**2).sum(1) < radius**2]:
        there = points + offset
        inside = ((there >= 0) & (there < mask.shape)).all(1)
        found[inside] |= ~mask[tuple(there[inside].T)]
    return found


def centerline_distance_weight(mask: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """Compute w_d = (1 - d / d_max)^2 on the airways, 0 on the background.

    Args:
        mask: (Z, Y, X), airway where > 0.
        spacing: (z, y, x) in mm.

    Returns:
        (Z, Y, X) float32; d is the distance to the nearest centerline voxel in mm, d_max its maximum over all airway
        voxels. 1 everywhere on airways that are nothing but centerline.

    Raises:
        ValueError: the spacing is not three positive numbers.

    Source: Tang 2022, eq. 4.
    """
    mask = np.asarray(mask) > 0
    weight = np.zeros(mask.shape, np.float32)
    line, voxels = np.argwhere(centerline(mask)), np.argwhere(mask)
    distance = _distance(voxels, line, spacing)
    weight[mask] = (1 - distance / (distance.max(initial=0) or 1)) ** 2
    return weight


def centerline_closeness(mask: np.ndarray, spacing: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Compute what ``centerline_distance_weight`` is made of, in one byte a voxel and fit for interpolation.

    Args:
        mask: (Z, Y, X), airway where > 0.
        spacing: (z, y, x) in mm.

    Returns:
        Closeness 1 - d / d_max, (Z, Y, X) uint8 from 0 to 255 (``ON_LINE``, on the centerline only), and the
        centerline's voxels, (N, 3) int. The closeness goes on for one voxel around the airways, so that linear
        interpolation at their rim does not fall towards a 0 that is not there; the label decides where it counts.

    Raises:
        ValueError: the spacing is not three positive numbers.
    """
    mask = np.asarray(mask) > 0
    closeness = np.zeros(mask.shape, np.uint8)
    box = bounding_box(mask)
    if box is None:
        return closeness, np.zeros((0, 3), int)
    box = tuple(slice(max(axis.start - 1, 0), axis.stop + 1) for axis in box)
    airway = mask[box]
    line, around = np.argwhere(centerline(airway)), with_neighbours(airway)
    distance = _distance(np.argwhere(around), line, spacing)
    farthest = distance[airway[around]].max() or 1
    values = np.clip(1 - distance / farthest, 0, 1) * 255
    closeness[box][around] = np.minimum(np.round(values), ON_LINE - 1)
    line += [axis.start for axis in box]
    closeness[tuple(line.T)] = ON_LINE
    return closeness, line


def checked_spacing(spacing: Sequence[float]) -> np.ndarray:
    """Return a spacing (z, y, x) in mm as an array.

    Raises:
        ValueError: it is not three positive numbers.
    """
    spacing = np.asarray(spacing, float)
    if spacing.shape != (3,) or not (np.isfinite(spacing) & (spacing > 0)).all():
        raise ValueError(f"a spacing of three positive numbers in mm (z, y, x) is needed, got {spacing.tolist()}")
    return spacing


def _distance(voxels: np.ndarray, line: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """Distance in mm from each voxel to the nearest one of the line; both (N, 3) int."""
    spacing = checked_spacing(spacing)
    if not len(line):
        return np.zeros(len(voxels))
    return KDTree(line * spacing).query(voxels * spacing)[0]
