"""The centerline of an airway mask."""

from itertools import product

import cc3d
import numpy as np
from scipy import ndimage
from skimage.morphology import skeletonize


def centerline(mask: np.ndarray) -> np.ndarray:
    """Thin an airway mask to its centerline.

    Args:
        mask: (Z, Y, X), airway where > 0.

    Returns:
        (Z, Y, X) bool: the medial axis, one voxel wide (Lee et al., 1994, as in scikit-image); every 26-connected
        piece keeps at least one voxel; all False for an empty mask.
    """
    mask = np.asarray(mask) > 0
    line = np.zeros(mask.shape, bool)
    box = ndimage.find_objects(mask.astype(np.uint8))
    if not box:
        return line
    # only the airway's box, with a rim of background: thinning costs by volume
    airway = np.pad(mask[box[0]], 1)
    thin = skeletonize(airway) > 0
    # scikit-image erases a lone piece that is symmetric about a plane between voxels, such as a tube 2 x 2 voxels wide
    pieces = cc3d.connected_components(airway, connectivity=26)
    kept = set(pieces[thin].tolist())
    for number, place in enumerate(ndimage.find_objects(pieces), start=1):
        if number not in kept:
            thin[place] |= _thin_symmetric_piece(pieces[place] == number)
    line[box[0]] = thin[1:-1, 1:-1, 1:-1]
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
