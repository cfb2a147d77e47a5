"""The axes of a tree's branches: smooth lines in the middle of the lumen, from the axis of a parent to a branch's end.

The centerline of thinning runs from voxel to voxel, which is up to 8 % longer than what it stands for, and stops short
of free ends.
"""

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


@dataclass(frozen=True)
class Axis:
    """The axis of a branch.

    Args:
        points: (N, 3) as (z, y, x) in mm, evenly spaced.
        along: how far along the axis each is, (N,) in mm.
        start: radius in mm of the fork it comes out of, 0 where it begins freely.
        radius: of the branch, in mm, roughly.
    """

    points: np.ndarray
    along: np.ndarray
    start: float
    radius: float

    @property
    def length(self) -> float:
        """In mm."""
        return float(self.along[-1])

    def inside(self) -> np.ndarray:
        """Which points lie away from forks and ends, (N,) bool; the middle third where there are none else."""
        chosen = (self.along >= max(self.start, self.radius)) & (self.along <= self.length - self.radius)
        if not chosen.any():
            chosen = np.abs(self.along - self.length / 2) <= self.length / 6
        return chosen


def branch_axes(tree: AirwayTree, spacing: np.ndarray) -> dict[int, Axis]:
    """Lay an axis through every branch.

    Args:
        tree: as ``parse_tree`` returns it.
        spacing: (z, y, x) in mm.

    Returns:
        Axes by the branches' numbers.
    """
    return _centred(tree, spacing, _along_the_line(tree, spacing))


def _along_the_line(tree: AirwayTree, spacing: np.ndarray) -> dict[int, Axis]:
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
        begins_freely = tree.line_branch[first] == number
        points = _smooth(places[way], spacing) if len(way) > 1 else _through(tree, number, places[first], spacing)
        if number not in tree.parents:
            points = _to_the_end(points, tree, number, width, spacing)
        if begins_freely:
            points = _to_the_end(points[::-1], tree, number, width, spacing)[::-1]
        points, along = _evenly(points, STEP * spacing.min())
        axes[number] = Axis(points, along, 0.0 if begins_freely else float(radius[first]), width)
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
    heading = direction(points, len(points) - 1, max(2 * radius, 3 * spacing.max()))
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


def direction(points: np.ndarray, last: int, length: float) -> np.ndarray | None:
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


def voxels_of_axes(
    tree: AirwayTree, spacing: np.ndarray, axes: dict[int, Axis]
) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """Find the voxels that are nearest to each point of each axis: their number (N,), and the sum of places (N, 3)."""
    ends = np.cumsum([len(axis.points) for axis in axes.values()])
    places = tree.voxels * spacing
    nearest = KDTree(np.concatenate([axis.points for axis in axes.values()])).query(places)[1]
    count = np.bincount(nearest, minlength=ends[-1])
    sums = np.stack([np.bincount(nearest, side, minlength=ends[-1]) for side in places.T], axis=1)
    return tuple(dict(zip(axes, np.split(each, ends[:-1]), strict=True)) for each in (count, sums))


def _centred(tree: AirwayTree, spacing: np.ndarray, axes: dict[int, Axis]) -> dict[int, Axis]:
    """Move axes sideways to the middle of the lumen, but not where branches meet."""
    counts, sums = voxels_of_axes(tree, spacing, axes)
    centred = {}
    for number, axis in axes.items():
        step = axis.length / (len(axis.along) - 1)
        sigma = BLUR * max(spacing.max(), axis.radius) / step
        count = gaussian_filter1d(counts[number].astype(float), sigma, mode="nearest")
        middle = gaussian_filter1d(sums[number], sigma, axis=0, mode="nearest")
        mean_place = gaussian_filter1d(axis.points, sigma, axis=0, mode="nearest")
        shift = middle / np.maximum(count, 1e-9)[:, None] - mean_place
        tangent = np.gradient(axis.points, axis=0)
        tangent /= np.maximum(np.linalg.norm(tangent, axis=1), 1e-9)[:, None]
        shift -= (shift * tangent).sum(1)[:, None] * tangent
        free = np.ones(len(axis.points))
        if axis.start:
            free *= np.clip(axis.along / max(axis.start, axis.radius) - 1, 0, 1)
        if number in tree.parents:
            free *= np.clip((axis.length - axis.along) / axis.radius - 1, 0, 1)
        points, along = _evenly(axis.points + shift * free[:, None], STEP * spacing.min())
        centred[number] = replace(axis, points=points, along=along)
    return centred
