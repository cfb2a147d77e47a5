"""Numbers for the pieces of a mask that inverse weighting lets count alike: connected components, or airway branches.

Papers: Shirokikh 2020 (components); the branches are those of ATM'22's official evaluation (see ``tree.parse``).
The numbers go on for one voxel around the mask: augmentation carries them as labels, by the nearest voxel, while the
mask's own rim follows the majority of the voxels around a point. So every voxel that is foreground after augmentation
has a number.
"""

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

from nnunetv2_airway.io.errors import UserError
from nnunetv2_airway.tree.components import bounding_box, connected_components
from nnunetv2_airway.tree.parse import parse_tree

MAX_NUMBER = np.iinfo(np.int16).max
"""nnU-Net's loader makes labels, and the maps with them, int16."""


def component_numbers(mask: np.ndarray) -> np.ndarray:
    """Number the 26-connected components of a mask.

    Args:
        mask: (Z, Y, X), foreground where not 0.

    Returns:
        (Z, Y, X) int16, from 1 on, 0 farther than one voxel from the mask.

    Raises:
        UserError: there are more pieces than int16 can number.
    """
    mask = np.asarray(mask) != 0
    return _grown(mask, lambda part: connected_components(part, connectivity=26))


def branch_numbers(mask: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """Number the branches of an airway mask.

    Args:
        mask: (Z, Y, X), airway where not 0.
        spacing: (z, y, x) in mm.

    Returns:
        (Z, Y, X) int16, from 1 on, 0 farther than one voxel from the mask. The tree is parsed from the mask's largest
        component; each other piece is a branch of its own if it is as large as the tree's smallest branch, else part of
        the nearest branch.

    Raises:
        UserError: there are more pieces than int16 can number.
    """
    mask = np.asarray(mask) != 0
    return _grown(mask, lambda part: _branches(part, spacing))


def _branches(mask: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    tree = parse_tree(mask)
    numbers = np.where(mask, tree.labels, 0).astype(np.int32)
    sizes = np.bincount(numbers[numbers > 0])
    pieces = connected_components(mask & (numbers == 0), connectivity=26)
    large = np.bincount(pieces.ravel()) >= sizes[sizes > 0].min(initial=mask.size)
    large[0] = False  # no piece
    new = np.zeros(len(large), np.int32)
    new[large] = tree.num_branches + 1 + np.arange(large.sum())
    numbers += new[pieces]
    stray = mask & (numbers == 0)
    if stray.any():
        owned = np.argwhere(numbers)
        nearest = KDTree(owned * np.asarray(spacing)).query(np.argwhere(stray) * np.asarray(spacing))[1]
        numbers[stray] = numbers[tuple(owned[nearest].T)]
    return numbers


def _grown(mask: np.ndarray, number) -> np.ndarray:
    """Number the pieces of a mask inside its box, and let the numbers go on for one voxel."""
    numbers = np.zeros(mask.shape, np.int16)
    box = bounding_box(mask)
    if box is None:
        return numbers
    box = tuple(slice(max(axis.start - 1, 0), axis.stop + 1) for axis in box)
    inside = number(np.ascontiguousarray(mask[box]))
    if inside.max() > MAX_NUMBER:
        raise UserError(
            f"the mask has {inside.max()} pieces; up to {MAX_NUMBER} can be numbered: is it full of specks?"
        )
    # where two pieces meet around the mask, either will do: it only counts where augmentation moves the rim
    numbers[box] = np.where(mask[box], inside, ndimage.maximum_filter(inside, 3))
    return numbers
