"""What can be measured of each branch of an airway tree: length, diameter, end points."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra, minimum_spanning_tree
from scipy.spatial import KDTree

from nnunetv2_airway.tree.components import voxels_of, with_neighbours
from nnunetv2_airway.tree.parse import AirwayTree, touching_pairs

Voxel = tuple[int, int, int]
MAX_SEARCHED = 1_000_000
"""Voxels above which one distance transform of the volume is faster than a search for each."""


@dataclass(frozen=True)
class Branch:
    """One branch of a tree.

    Args:
        number: from 1, its label in ``AirwayTree.labels``.
        generation: 0 for the trachea.
        parent: its parent's number, 0 for the trachea.
        length: of all its centerline, in mm; where pieces side by side were merged into one branch, of each of them.
            Thinning stops short of a free end by up to the airway's radius.
        diameter: mean, in mm: of the circle whose area is volume over length, where the volume of a centerline voxel is
            that nearest to it, and voxels at free ends, with all that lies beyond them, do not count.
        start: the centerline voxel (plane, row, column) where it begins, seen from the trachea.
        end: the centerline voxel farthest from there along the airways.
    """

    number: int
    generation: int
    parent: int
    length: float
    diameter: float
    start: Voxel
    end: Voxel


def measure_branches(tree: AirwayTree, spacing: Sequence[float]) -> list[Branch]:
    """Measure every branch of a tree.

    Args:
        tree: as ``parse_tree`` returns it.
        spacing: (z, y, x) in mm.

    Returns:
        One entry for each branch, by number. Where a centerline is nothing but ends, the diameter is that of a sphere
        of the branch's volume.
    """
    if not tree.num_branches:
        return []
    lengths, diameters = _lengths_and_diameters(tree, spacing)
    from_trachea, _ = paths_from_trachea(tree, spacing)
    branches = []
    for number, (length, diameter) in enumerate(zip(lengths, diameters, strict=True), start=1):
        own = np.flatnonzero(tree.line_branch == number)
        start, end = own[from_trachea[own].argmin()], own[from_trachea[own].argmax()]
        generation, parent = int(tree.generations[number - 1]), int(tree.parents[number - 1])
        ends = (tuple(tree.line[index].tolist()) for index in (start, end))
        branches.append(Branch(number, generation, parent, float(length), float(diameter), *ends))
    return branches


def nearest_branch(tree: AirwayTree, mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Find the branch whose centerline is nearest in mm to each voxel of a mask.

    Args:
        tree: as ``parse_tree`` returns it, with at least one branch.
        mask: (Z, Y, X) bool.
        spacing: (z, y, x) in mm.

    Returns:
        (N,) for the mask's voxels in the order of memory.
    """
    if np.count_nonzero(mask) <= MAX_SEARCHED:
        return tree.line_branch[nearest_on_line(tree, voxels_of(mask), spacing)]
    away = np.ones(mask.shape, bool)
    away[tuple(tree.line.T)] = False
    branch = np.zeros(mask.shape, tree.line_branch.dtype)
    branch[tuple(tree.line.T)] = tree.line_branch
    places = ndimage.distance_transform_edt(away, spacing, return_distances=False, return_indices=True)
    # plane by plane, for the sake of memory
    return np.concatenate([branch[tuple(places[:, plane][:, inside])] for plane, inside in enumerate(mask)])


def nearest_on_line(tree: AirwayTree, voxels: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Find the centerline voxel that is nearest in mm to each place.

    Args:
        tree: as ``parse_tree`` returns it, with at least one branch.
        voxels: (N, 3) as (plane, row, column), also between voxels.
        spacing: (z, y, x) in mm.

    Returns:
        (N,) indices into ``tree.line``.
    """
    ratios = _ratios(spacing)
    return KDTree(tree.line * ratios).query(voxels * ratios)[1]


def _ratios(spacing: Sequence[float]) -> np.ndarray:
    """Spacing in units of its shortest side, rounded: one of another scale decides alike between equal distances."""
    return np.round(np.asarray(spacing, float) / np.min(spacing), 6)


def inscribed_radius(tree: AirwayTree, spacing: Sequence[float]) -> np.ndarray:
    """Find the radius in mm of the largest sphere inside the airways around each voxel of ``tree.line``, (M,)."""
    spacing = np.asarray(spacing, float)
    airway = np.pad(tree.labels > 0, 1)
    rim = np.argwhere(airway ^ with_neighbours(airway)) - 1
    # to a voxel's edge, not its centre
    return KDTree(rim * spacing).query(tree.line * spacing)[0] - spacing.min() / 2


def line_lengths(tree: AirwayTree, spacing: Sequence[float]) -> np.ndarray:
    """Give each centerline voxel its share of the tree's length: half of each step to a neighbour.

    The steps are those of the minimum spanning tree of the centerline, so that corners are not counted twice; a loop is
    left open at one step.

    Args:
        tree: as ``parse_tree`` returns it.
        spacing: (z, y, x) in mm.

    Returns:
        (M,) in mm, for ``tree.line``; the sum is the length of the whole centerline.
    """
    return _walk(tree, spacing)[0]


def _walk(tree: AirwayTree, spacing: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return each centerline voxel's share of the length in mm, and to how many others a step leads from it."""
    steps = minimum_spanning_tree(_line_graph(tree, spacing)).tocoo()
    length = np.linalg.norm((tree.line[steps.row] - tree.line[steps.col]) * np.asarray(spacing, float), axis=1)
    ends = np.concatenate((steps.row, steps.col))
    halves = np.concatenate((length, length)) / 2
    return np.bincount(ends, halves, minlength=len(tree.line)), np.bincount(ends, minlength=len(tree.line))


def _lengths_and_diameters(tree: AirwayTree, spacing: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    length, neighbours = _walk(tree, spacing)
    volume = np.bincount(nearest_on_line(tree, tree.voxels, spacing), minlength=len(tree.line)) * np.prod(spacing)
    inner = neighbours > 1

    def by_branch(values: np.ndarray) -> np.ndarray:
        return np.bincount(tree.line_branch, values, minlength=tree.num_branches + 1)[1:]

    inner_length, inner_volume = by_branch(length * inner), by_branch(volume * inner)
    circle = 2 * np.sqrt(inner_volume / (np.pi * np.where(inner_length, inner_length, 1)))
    sphere = np.cbrt(6 * by_branch(volume) / np.pi)
    return by_branch(length), np.where(inner_length, circle, sphere)


def _line_graph(tree: AirwayTree, spacing: Sequence[float]) -> csr_array:
    """The centerline's voxels and, between those that touch, the distance in units of the shortest side of a voxel."""
    pairs = touching_pairs(tree.line)
    distance = np.linalg.norm((tree.line[pairs[:, 0]] - tree.line[pairs[:, 1]]) * _ratios(spacing), axis=1)
    return csr_array((distance, tuple(pairs.T)), shape=(len(tree.line),) * 2)


def paths_from_trachea(tree: AirwayTree, spacing: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Follow the centerline from the trachea's free end.

    Args:
        tree: as ``parse_tree`` returns it, with at least one branch.
        spacing: (z, y, x) in mm.

    Returns:
        For each voxel of ``tree.line`` how far it is along the shortest way, (M,) in units of the shortest side of a
        voxel, and which voxel comes before it, (M,), negative for the first.
    """
    graph = _line_graph(tree, spacing)
    in_trachea = tree.line_branch == np.flatnonzero(tree.generations == 0)[0] + 1
    # the free end is the farthest from all other branches, or where there are none, from any voxel
    others = np.flatnonzero(~in_trachea) if not in_trachea.all() else [0]
    distance = dijkstra(graph, directed=False, indices=others, min_only=True)
    free_end = np.where(in_trachea & np.isfinite(distance), distance, -1).argmax()
    return dijkstra(graph, directed=False, indices=free_end, return_predecessors=True)
