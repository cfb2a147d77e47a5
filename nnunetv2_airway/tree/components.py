"""Box, connected components and neighbours of a mask."""

from collections.abc import Sequence

import cc3d
import numpy as np
from scipy import ndimage


def bounding_box(mask: np.ndarray) -> tuple[slice, ...] | None:
    """Find the smallest box that holds a mask (Z, Y, X) bool, None for an empty one."""
    box = ()
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        planes = np.flatnonzero(mask[box].any(others))
        if not len(planes):
            return None
        box += (slice(int(planes[0]), int(planes[-1]) + 1),)
    return box


def voxels_of(mask: np.ndarray) -> np.ndarray:
    """List the voxels of a mask (Z, Y, X) bool as (plane, row, column), (N, 3) in the order of memory."""
    box = bounding_box(mask)
    return np.zeros((0, 3), int) if box is None else np.argwhere(mask[box]) + [side.start for side in box]


def connected_components(mask: np.ndarray, *, connectivity: int) -> np.ndarray:
    """Number the connected components of a mask (Z, Y, X) bool from 1 on, 0 outside; 6- or 26-connected."""
    # cc3d 4.1 reserves too few labels for some volumes that are thin along two axes, and stops with an error
    rim = min(mask.shape) < 3
    # numbers follow the order in memory, by which equals are told apart
    numbers = cc3d.connected_components(
        np.ascontiguousarray(np.pad(mask, 1) if rim else mask), connectivity=connectivity
    )
    return numbers[1:-1, 1:-1, 1:-1] if rim else numbers


def largest_component(mask: np.ndarray, *, connectivity: int, spacing: Sequence[float] | None = None) -> np.ndarray:
    """Keep the largest connected component of a mask and fill its holes.

    Args:
        mask: (Z, Y, X), foreground where not 0.
        connectivity: 6 (voxels that share a face hold together) or 26 (a face, an edge or a corner).
        spacing: see ``largest_of``.

    Returns:
        (Z, Y, X) bool; a hole is background that no face-connected path leads out of. All False for an empty mask.

    >>> largest_component(np.array([[[1, 1, 0, 1]]]), connectivity=26).astype(int)
    array([[[1, 1, 0, 0]]])
    """
    mask = mask != 0
    kept = np.zeros_like(mask)
    box = bounding_box(mask)
    if box is None:
        return kept
    largest = largest_piece(mask[box], connectivity=connectivity, spacing=spacing)
    # background that is not connected with a rim around the box is a hole
    background = connected_components(~np.pad(largest, 1), connectivity=6)
    kept[box] = (background != background[0, 0, 0])[1:-1, 1:-1, 1:-1]
    return kept


def largest_piece(mask: np.ndarray, *, connectivity: int, spacing: Sequence[float] | None = None) -> np.ndarray:
    """Keep the largest connected component of a mask (Z, Y, X) bool, with the holes that it has; see ``largest_of``."""
    kept = np.zeros_like(mask)
    box = bounding_box(mask)
    if box is not None:
        components = connected_components(mask[box], connectivity=connectivity)
        kept[box] = components == largest_of(components, spacing)
    return kept


def largest_of(components: np.ndarray, spacing: Sequence[float] | None = None) -> int:
    """Tell which of the components that are numbered from 1 on is the largest.

    Args:
        components: (Z, Y, X), their numbers, 0 outside.
        spacing: (z, y, x) in mm; with it the largest is that of the greatest volume times the product of the two
            longest sides of its box: an airway tree reaches far along two axes, from the neck to the base of the lungs
            and from one lung to the other. Gas in stomach or bowel, and lung that a network takes for airway, may have
            more voxels, but are compact, and what leaks along an edge is long, but narrow. Without it voxels are
            counted, as the challenges do.
    """
    size = np.bincount(components[components > 0]).astype(float)
    if spacing is not None:
        boxes = [[axis.stop - axis.start for axis in box] for box in ndimage.find_objects(components)]
        size[1:] *= np.sort(np.multiply(boxes, spacing))[:, 1:].prod(1)
    return int(size.argmax())


def count_components(mask: np.ndarray) -> int:
    """Count the 26-connected components of a mask (Z, Y, X), foreground where not 0."""
    mask = mask != 0
    box = bounding_box(mask)
    return int(connected_components(mask[box], connectivity=26).max()) if box else 0


def with_neighbours(mask: np.ndarray) -> np.ndarray:
    """Dilate a mask (Z, Y, X) bool by one voxel in all 26 directions."""
    for axis in range(mask.ndim):
        along, grown = np.moveaxis(mask, axis, 0), mask.copy()
        view = np.moveaxis(grown, axis, 0)
        view[1:] |= along[:-1]
        view[:-1] |= along[1:]
        mask = grown
    return mask
