"""What a tree of airways measures, without a reference: length, diameter, taper, angle and course of each branch.

Each branch has a smooth axis, see ``axes``, and each voxel of the airway belongs to the nearest point of an axis. The
area of a cross-section is then volume over length, of any slant and on any grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from nnunetv2_airway.tree.axes import BLUR, Axis, branch_axes, direction, voxels_of_axes
from nnunetv2_airway.tree.parse import AirwayTree

NEVER = float("nan")


@dataclass(frozen=True)
class BranchMeasures:
    """One branch, measured; what cannot be said of it is nan.

    Args:
        number: from 1, its label in ``AirwayTree.labels``.
        generation: 0 for the trachea.
        parent: number of the branch it comes from, 0 for the trachea.
        children: numbers of those that come from it.
        length_mm: of its axis, from that of its parent to those of its children or to the end of the lumen.
        diameter_mm: of the circle whose area is the mean cross-section of the mask. This, the next ones and the taper
            leave out where the branch widens into others and where it ends.
        diameter_min_mm: the least along the axis.
        diameter_max_mm: the largest.
        diameter_corrected_mm: ``diameter_mm`` and one side of a voxel, for masks that hold only what is air throughout.
        taper_percent_per_mm: by how much the diameter falls along the axis, of its mean; a line is fitted. Negative
            where the branch widens.
        area_mm2: mean cross-section.
        volume_mm3: of the voxels that belong to it.
        angle_deg: between the axis of the branch it comes from and its own, behind the fork.
        tortuosity: length of the axis over the distance of its ends, at least 1.
        start_mm: where it begins, (x, y, z).
        end_mm: where it ends.
    """

    number: int
    generation: int
    parent: int
    children: tuple[int, ...]
    length_mm: float
    diameter_mm: float
    diameter_min_mm: float
    diameter_max_mm: float
    diameter_corrected_mm: float
    taper_percent_per_mm: float
    area_mm2: float
    volume_mm3: float
    angle_deg: float
    tortuosity: float
    start_mm: tuple[float, float, float]
    end_mm: tuple[float, float, float]


def branch_measures(tree: AirwayTree, spacing: Sequence[float]) -> list[BranchMeasures]:
    """Measure every branch of a tree.

    Args:
        tree: as ``parse_tree`` returns it.
        spacing: (z, y, x) in mm.

    Returns:
        One entry for each branch, by number; ``start_mm`` and ``end_mm`` are (z, y, x) from the first voxel.
    """
    if not tree.num_branches:
        return []
    spacing = np.asarray(spacing, float)
    axes = branch_axes(tree, spacing)
    counts, _ = voxels_of_axes(tree, spacing, axes)
    return [_measure(tree, spacing, number, axes, counts[number] * spacing.prod()) for number in axes]


def _measure(
    tree: AirwayTree, spacing: np.ndarray, number: int, axes: dict[int, Axis], volumes: np.ndarray
) -> BranchMeasures:
    axis = axes[number]
    step = axis.length / (len(axis.along) - 1)
    inside = axis.inside() & (step > 0)
    area, profile = NEVER, np.zeros(0)
    if volumes[inside].any():
        sigma = BLUR * max(spacing.max(), 1.0) / step
        profile = 2 * np.sqrt(gaussian_filter1d(volumes, sigma, mode="reflect") / step / np.pi)
        inside &= profile >= spacing.min()  # less than a voxel: the lumen there belongs to an axis beside this one
        profile = profile[inside]
    if len(profile):
        area = np.pi / 4 * np.mean(profile**2)
    diameter = 2 * np.sqrt(area / np.pi)
    taper = NEVER
    if len(profile) > 2 and len(profile) * step >= diameter:
        taper = -100 * float(np.polyfit(axis.along[inside], profile, 1)[0]) / float(profile.mean())
    chord = float(np.linalg.norm(axis.points[-1] - axis.points[0]))
    return BranchMeasures(
        number=number,
        generation=int(tree.generations[number - 1]),
        parent=int(tree.parents[number - 1]),
        children=tuple((np.flatnonzero(tree.parents == number) + 1).tolist()),
        length_mm=axis.length,
        diameter_mm=float(diameter),
        diameter_min_mm=float(profile.min()) if len(profile) else NEVER,
        diameter_max_mm=float(profile.max()) if len(profile) else NEVER,
        diameter_corrected_mm=float(diameter + np.cbrt(spacing.prod())),
        taper_percent_per_mm=taper,
        area_mm2=float(area),
        volume_mm3=float(np.count_nonzero(tree.voxel_branch == number) * spacing.prod()),
        angle_deg=_angle(axis, axes.get(int(tree.parents[number - 1])), spacing),
        tortuosity=max(1.0, axis.length / chord) if chord else NEVER,
        start_mm=tuple(axis.points[0].tolist()),
        end_mm=tuple(axis.points[-1].tolist()),
    )


def _angle(axis: Axis, origin: Axis | None, spacing: np.ndarray) -> float:
    """Angle in degrees between an axis, behind the fork, and the one it comes from, before it."""
    if origin is None:
        return NEVER
    span = max(2 * axis.radius, 4 * spacing.max(), 5.0)
    first = int(np.searchsorted(axis.along, min(2 * max(axis.start, axis.radius), axis.length / 2)))
    last = int(np.searchsorted(axis.along, min(axis.along[first] + span, axis.length), side="right")) - 1
    own = direction(axis.points[first:], max(last - first, 0), np.inf)
    fork = int(np.linalg.norm(origin.points - axis.points[0], axis=1).argmin())
    back = int(np.searchsorted(origin.along, max(origin.along[fork] - 2 * origin.radius, origin.along[fork] / 2)))
    before = direction(origin.points, back, max(2 * origin.radius, span))
    if own is None or before is None:
        return NEVER
    return float(np.degrees(np.arccos(np.clip(own @ before, -1, 1))))
