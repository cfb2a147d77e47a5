"""The maps that training can carry beside the label, by name.

Most are computed from the label once. "line" is the centerline alone, read from the "centerline" map; "missed" and
"breakage" are mined with the hard regions, and 0 before that and in validation.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np

from nnunetv2_airway.training.maps.numbers import branch_numbers, component_numbers
from nnunetv2_airway.tree.centerline import centerline_closeness, near_background
from nnunetv2_airway.tree.parse import VERSION as TREE_VERSION

SMALL_RADIUS = 2.0
"""Tang 2022, section 1.3, in voxels."""

Spacing = tuple[float, float, float]
Points = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class MapKind:
    """A map of a case.

    Args:
        title: in words.
        folder: ending of the folder's name.
        version: part of each file's fingerprint: another one has every map of the kind computed again.
        compute: from a mask (Z, Y, X) bool and its spacing (z, y, x) in mm to the map (Z, Y, X) and, by kind of patch,
            voxels (N, 3) int to place patches around.
    """

    title: str
    folder: str
    version: str
    compute: Callable[[np.ndarray, Spacing], tuple[np.ndarray, Points]]


def _centerline(mask: np.ndarray, spacing: Spacing) -> tuple[np.ndarray, Points]:
    closeness, line = centerline_closeness(mask, spacing)
    return closeness, {"centerline": line, "small": line[near_background(mask, line, SMALL_RADIUS)]}


def _components(mask: np.ndarray, spacing: Spacing) -> tuple[np.ndarray, Points]:
    return component_numbers(mask), {}


def _branches(mask: np.ndarray, spacing: Spacing) -> tuple[np.ndarray, Points]:
    return branch_numbers(mask, spacing), {}


MAPS = {
    "centerline": MapKind("airway maps", "airway_maps", f"2 {SMALL_RADIUS}", _centerline),
    "components": MapKind("component maps", "component_maps", "2", _components),
    "branches": MapKind("branch maps", "branch_maps", f"2 {TREE_VERSION}", _branches),
}
"""Those that are computed from the label."""
LINE = "line"
MISSED, BREAKAGE = MINED = ("missed", "breakage")
NAMES = (*MAPS, LINE, *MINED)
NUMBERS = ("components", "branches", LINE)
"""Carried by the nearest voxel; the values of others are interpolated."""
EVERYWHERE = (BREAKAGE,)
"""Not only on the label's foreground."""


def known_maps(names: Collection[str]) -> tuple[str, ...]:
    """Return names of maps in the order of ``NAMES``.

    Raises:
        ValueError: one is not known.
    """
    if unknown := set(names) - set(NAMES):
        raise ValueError(f"the schedule's losses and weights need maps called {unknown}, known are {', '.join(NAMES)}")
    return tuple(name for name in NAMES if name in names)
