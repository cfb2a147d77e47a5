"""What a tree of airways measures, without a reference: length, diameter, taper, angle and course of each branch.

The centerline of thinning runs from voxel to voxel, which is up to 8 % longer than what it stands for, and stops short
of free ends. Here each branch has a smooth axis, from the axis of its parent to its end, and each voxel of the airway
belongs to the nearest point of an axis. The area of a cross-section is then volume over length, of any slant and on any
grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.spatial import KDTree

from nnunetv2_airway.tree.branches import inscribed_radius, paths_from_trachea
from nnunetv2_airway.tree.parse import AirwayTree

STEP = 0.25
"""Distance of the points of an axis, in units of the shortest side of a voxel."""
SMOOTHING = 2.0
"""Standard deviation along the way from voxel to voxel of the axis made of it, in units of the mean side of a voxel."""
BLUR = 1.0
"""Standard deviation of the area along an axis, in units of the longest side of a voxel, and at least in mm."""
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


@dataclass(frozen=True)
class _Axis:
    """The axis of a branch.

    Args:
        points: (N, 3) as (z, y, x) in mm, evenly spaced.
        along: how far along the axis each is, (N,) in mm.
        origin: the branch it comes from, 0 for none.
        start: radius in mm of the fork it comes out of, 0 where it begins freely.
        radius: of the branch, in mm, roughly.
    """

    points: np.ndarray
    along: np.ndarray
    origin: int
    start: float
    radius: float

    @property
    def length(self) -> float:
        return float(self.along[-1])

    def inside(self) -> np.ndarray:
        """Which points lie away from forks and ends, (N,) bool; the middle third where there are none else."""
        chosen = (self.along >= max(self.start, self.radius)) & (self.along <= self.length - self.radius)
        if not chosen.any():
            chosen = np.abs(self.along - self.length / 2) <= self.length / 6
        return chosen


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
    axes = _axes(tree, spacing)
    axes = _centred(tree, spacing, axes)
    volumes, _ = _belonging(tree, spacing, axes)
    return [_measure(tree, spacing, number, axes, volumes[number]) for number in axes]


def _axes(tree: AirwayTree, spacing: np.ndarray) -> dict[int, _Axis]:
    distance, before = paths_from_trachea(tree, spacing)
    radius = inscribed_radius(tree, spacing)
    places = tree.line * spacing
    axes = {}
    for number in range(1, tree.num_branches + 1):
        own = np.flatnonzero((tree.line_branch == number) & np.isfinite(distance))
        if not len(own):  # a piece that the centerline does not reach
            own = np.flatnonzero(tree.line_branch == number)
        width = float(np.median(radius[own]))
        way = _way(int(own[distance[own].argmax()]), number, tree, before, int(4 * width / spacing.min()))
        first = way[0]
        origin = int(tree.line_branch[first]) if tree.line_branch[first] != number else 0
        points = _smooth(places[way], spacing) if len(way) > 1 else _through(tree, number, places[first], spacing)
        if number not in tree.parents:
            points = _to_the_end(points, tree, number, width, spacing)
        if not origin:
            points = _to_the_end(points[::-1], tree, number, width, spacing)[::-1]
        points, along = _evenly(points, STEP * spacing.min())
        axes[number] = _Axis(points, along, origin, float(radius[first]) if origin else 0.0, width)
    return axes


def _way(end: int, number: int, tree: AirwayTree, before: np.ndarray, most: int) -> list[int]:
    """Follow the centerline from where a branch comes from to its end, as indices into ``tree.line``.

    Where branches meet, up to ``most`` voxels between a branch's own may belong to others.
    """
    way, own = [end], 0
    while before[way[-1]] >= 0 and len(way) - own <= most + 1:
        way.append(int(before[way[-1]]))
        if tree.line_branch[way[-1]] == number:
            own = len(way) - 1
    return way[: own + 2][::-1]


def _smooth(way: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Smooth a way from voxel to voxel (N, 3) in mm; its ends stay."""
    points, _ = _evenly(way, STEP * spacing.min())
    sigma = SMOOTHING * np.cbrt(spacing.prod()) / (STEP * spacing.min())
    rim = min(int(4 * sigma), len(points) - 1)
    if rim < 1:
        return points
    turned = np.pad(points, ((rim, rim), (0, 0)), mode="reflect", reflect_type="odd")
    return gaussian_filter1d(turned, sigma, axis=0, mode="nearest")[rim:-rim]


def _through(tree: AirwayTree, number: int, place: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Two points along the main direction of a branch of which thinning has left one voxel."""
    voxels = tree.voxels[tree.voxel_branch == number] * spacing
    heading = np.linalg.svd(voxels - voxels.mean(0), full_matrices=False)[2][0]
    return place + np.outer((-0.5, 0.5), heading * spacing.min())


def _evenly(points: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Space points along a line evenly: the points, and how far along each is."""
    ends = np.concatenate(([0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))))
    along = np.linspace(0, ends[-1], max(2, int(np.ceil(ends[-1] / step)) + 1))
    return np.stack([np.interp(along, ends, axis) for axis in points.T], axis=1), along


def _to_the_end(points: np.ndarray, tree: AirwayTree, number: int, radius: float, spacing: np.ndarray) -> np.ndarray:
    """Lead an axis on, straight, to where the lumen ends."""
    heading = _direction(points, len(points) - 1, max(2 * radius, 3 * spacing.max()))
    if heading is None:
        return points
    voxels = tree.voxels[tree.voxel_branch == number] * spacing - points[-1]
    ahead = voxels @ heading
    aside = np.linalg.norm(voxels - np.outer(ahead, heading), axis=1)
    width = max(0.7 * radius, 0.7 * spacing.max())
    near = np.sort(ahead[(ahead > 0) & (aside <= width)])
    gap = np.flatnonzero(np.diff(near, prepend=0) > 2 * spacing.max())
    count = gap[0] if len(gap) else len(near)
    if not count:
        return points
    farthest = near[count - 1] + np.abs(heading) @ spacing / 2  # to the voxel's face
    reach = min(count * spacing.prod() / (np.pi * width**2), farthest)  # volume over area, for ends of any slant
    return np.concatenate((points, [points[-1] + heading * reach]))


def _direction(points: np.ndarray, last: int, length: float) -> np.ndarray | None:
    """Unit vector along evenly spaced points, over a length in mm up to the last; None where there are too few."""
    ends = np.linalg.norm(points[: last + 1] - points[last], axis=1) if last else np.zeros(1)
    first = int(np.flatnonzero(ends > length)[-1]) if (ends > length).any() else 0
    way = points[last] - points[first]
    size = np.linalg.norm(way)
    if size == 0:
        return None
    if last - first >= 3:
        centred = points[first : last + 1] - points[first : last + 1].mean(0)
        main = np.linalg.svd(centred, full_matrices=False)[2][0]
        return main * np.sign(main @ way)
    return way / size


def _belonging(
    tree: AirwayTree, spacing: np.ndarray, axes: dict[int, _Axis]
) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """Find the voxels that are nearest to each point of each axis: their volume in mm3 (N,), and mean place (N, 3)."""
    ends = np.cumsum([len(axis.points) for axis in axes.values()])
    places = tree.voxels * spacing
    nearest = KDTree(np.concatenate([axis.points for axis in axes.values()])).query(places)[1]
    count = np.bincount(nearest, minlength=ends[-1])
    sums = np.stack([np.bincount(nearest, side, minlength=ends[-1]) for side in places.T], axis=1)
    counts, sums = (dict(zip(axes, np.split(each, ends[:-1]), strict=True)) for each in (count, sums))
    return {number: own * spacing.prod() for number, own in counts.items()}, sums


def _centred(tree: AirwayTree, spacing: np.ndarray, axes: dict[int, _Axis]) -> dict[int, _Axis]:
    """Move axes sideways to the middle of the lumen, but not where branches meet."""
    volumes, sums = _belonging(tree, spacing, axes)
    centred = {}
    for number, axis in axes.items():
        step = axis.length / (len(axis.along) - 1)
        sigma = BLUR * max(spacing.max(), axis.radius) / step
        count = gaussian_filter1d(volumes[number] / spacing.prod(), sigma, mode="nearest")
        middle = gaussian_filter1d(sums[number], sigma, axis=0, mode="nearest")
        mean_place = gaussian_filter1d(axis.points, sigma, axis=0, mode="nearest")
        shift = middle / np.maximum(count, 1e-9)[:, None] - mean_place
        tangent = np.gradient(axis.points, axis=0)
        tangent /= np.maximum(np.linalg.norm(tangent, axis=1), 1e-9)[:, None]
        shift -= (shift * tangent).sum(1)[:, None] * tangent
        free = np.ones(len(axis.points))
        if axis.origin:
            free *= np.clip(axis.along / max(axis.start, axis.radius) - 1, 0, 1)
        if number in tree.parents:
            free *= np.clip((axis.length - axis.along) / axis.radius - 1, 0, 1)
        points, along = _evenly(axis.points + shift * free[:, None], STEP * spacing.min())
        centred[number] = replace(axis, points=points, along=along)
    return centred


def _measure(
    tree: AirwayTree, spacing: np.ndarray, number: int, axes: dict[int, _Axis], volumes: np.ndarray
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


def _angle(axis: _Axis, origin: _Axis | None, spacing: np.ndarray) -> float:
    """Angle in degrees between an axis, behind the fork, and the one it comes from, before it."""
    if origin is None:
        return NEVER
    span = max(2 * axis.radius, 4 * spacing.max(), 5.0)
    first = int(np.searchsorted(axis.along, min(2 * max(axis.start, axis.radius), axis.length / 2)))
    last = int(np.searchsorted(axis.along, min(axis.along[first] + span, axis.length), side="right")) - 1
    own = _direction(axis.points[first:], max(last - first, 0), np.inf)
    fork = int(np.linalg.norm(origin.points - axis.points[0], axis=1).argmin())
    back = int(np.searchsorted(origin.along, max(origin.along[fork] - 2 * origin.radius, origin.along[fork] / 2)))
    before = _direction(origin.points, back, max(2 * origin.radius, span))
    if own is None or before is None:
        return NEVER
    return float(np.degrees(np.arccos(np.clip(own @ before, -1, 1))))
