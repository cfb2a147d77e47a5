"""An airway mask parsed into its branches, as the ATM'22 challenge does it for its evaluation.

Source: the challenge's official evaluation (Zhang et al., Medical Image Analysis 90, 2023, 102957; github.com/
EndoluminalSurgicalVision-IMR/ATM-22-Related-Work), with which every voxel agrees. The official code scans the whole
volume for each branch and at each refinement; here only the airway's own voxels are touched, and everything after the
first labels happens on a table of which pieces touch. Where the official code stops with an error, this one goes on: an
empty mask has no branches, and a mask without a centerline piece of ``SHORTEST_PIECE`` voxels is one branch.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, shortest_path
from scipy.spatial import KDTree

from nnunetv2_airway.tree.centerline import centerline
from nnunetv2_airway.tree.components import bounding_box, largest_component

VERSION = "1"
"""To be raised whenever the branches of some mask change: what has been made from them is then made again."""
SHORTEST_PIECE = 5
"""Voxels of a piece of the centerline that counts."""
WIDE = 0.75
"""Width of a piece, in units of the widest's, from which on it can be the trachea."""
MAIN = 0.4
"""Width of a piece, in units of the trachea's, from which on it may be a main bronchus or more trachea."""
ASIDE = 1.5
"""How far aside of the trachea's centre what lies above it may be, in units of its width."""
TOUCHING = 1.8
"""Between sqrt(3), the distance of voxels that touch at a corner, and 2."""


@dataclass(frozen=True)
class AirwayTree:
    """An airway tree and its branches, numbered from 1; branch k stands at index k - 1.

    Args:
        shape: of the volume, (Z, Y, X).
        voxels: of the airway, (N, 3) int, in the order of memory.
        voxel_branch: branch of each of these, (N,).
        line: voxels of the centerline, (M, 3) int, in the order of memory.
        line_branch: branch of each of these, (M,).
        parents: parent of each branch, 0 for the trachea, (B,).
        generations: of each branch, 0 for the trachea, (B,).
    """

    shape: tuple[int, int, int]
    voxels: np.ndarray
    voxel_branch: np.ndarray
    line: np.ndarray
    line_branch: np.ndarray
    parents: np.ndarray
    generations: np.ndarray

    @property
    def num_branches(self) -> int:
        """How many branches the tree has, the trachea among them."""
        return len(self.parents)

    @property
    def labels(self) -> np.ndarray:
        """Branch of each voxel, (Z, Y, X) uint16, 0 outside the airway; made anew at each call."""
        volume = np.zeros(self.shape, np.uint16)
        volume[tuple(self.voxels.T)] = self.voxel_branch
        return volume

    @property
    def skeleton(self) -> np.ndarray:
        """The centerline, (Z, Y, X) bool; made anew at each call."""
        volume = np.zeros(self.shape, bool)
        volume[tuple(self.line.T)] = True
        return volume


def parse_tree(mask: np.ndarray, *, upright: bool = False) -> AirwayTree:
    """Parse an airway mask into its branches.

    The mask is reduced to its largest 6-connected component with holes filled and thinned. Centerline voxels with more
    than two neighbours are cut out, pieces of fewer than 5 voxels dropped, and each airway voxel belongs to the nearest
    piece left. The largest of these branches is the trachea; parents and generations follow from which branches share a
    face. Several parents of one branch are fused, an only child is merged with its parent, until neither is left.

    Thinning goes through the voxels in the order of the axes, so that a mask stored with another orientation has up to
    a tenth more or fewer branches: compare predictions on references of one orientation.

    Args:
        mask: (Z, Y, X), airway where > 0.
        upright: planes go from feet to head and voxels are even, and the trachea is made of the highest of the wide
            pieces and those that go on from it, where the official code takes the largest piece alone.

    Returns:
        The tree; no branches for an empty mask.

    Raises:
        ValueError: the mask does not have three axes.
    """
    mask = np.asarray(mask) > 0
    if mask.ndim != 3:
        raise ValueError(f"an airway mask with three axes (Z, Y, X) is needed, got shape {mask.shape}")
    box = bounding_box(mask)
    if box is None:
        nothing, nowhere = np.zeros(0, np.uint16), np.zeros((0, 3), np.int32)
        return AirwayTree(mask.shape, nowhere, nothing, nowhere, nothing, nothing, nothing)
    airway = largest_component(mask[box], connectivity=6)
    corner = np.array([axis.start for axis in box])
    line, voxels = (np.argwhere(part) + corner for part in (centerline(airway), airway))
    starts, piece = _cut_into_pieces(line, mask.shape)
    voxel_piece = piece[_nearest(starts, voxels)]
    volumes = np.bincount(voxel_piece)
    touching = _touching(voxels, voxel_piece)
    trachea = _trachea(voxels, voxel_piece, np.bincount(piece, minlength=len(volumes)), touching) if upright else None
    branch, parents, generations = _refine(touching, volumes, trachea)
    return AirwayTree(
        shape=mask.shape,
        voxels=voxels.astype(np.int32),
        voxel_branch=branch[voxel_piece],
        line=line.astype(np.int32),
        line_branch=branch[piece[_nearest(starts, line)]],
        parents=parents,
        generations=generations,
    )


def _cut_into_pieces(line: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the voxels of the centerline's pieces and, for each, the number of its piece, from 0.

    As in the official code, a volume is continued by its mirror image when neighbours are counted.
    """
    volume = np.zeros(shape, bool)
    volume[tuple(line.T)] = True
    last = np.array(shape) - 1
    counted = np.zeros(len(line), int)  # a voxel and its neighbours
    for offset in product((-1, 0, 1), repeat=3):
        counted += volume[tuple(np.clip(line + offset, 0, last).T)]
    voxels = line[counted <= 3]
    piece = _components(voxels)
    long = np.bincount(piece, minlength=1)[piece] >= SHORTEST_PIECE
    if not long.any():
        return line, np.zeros(len(line), int)
    return voxels[long], _components(voxels[long])


def pieces_of_line(tree: AirwayTree, voxels: np.ndarray) -> tuple[np.ndarray, int]:
    """Tell which piece voxels belong to before pieces are merged into branches.

    Args:
        tree: as ``parse_tree`` returns it.
        voxels: (N, 3) int.

    Returns:
        The number of each voxel's piece from 0, (N,), -1 outside the tree's airway, and how many pieces there are.
    """
    piece = np.full(len(voxels), -1)
    if not tree.num_branches:
        return piece, 0
    starts, own = _cut_into_pieces(tree.line, tree.shape)
    inside = tree.labels[tuple(voxels.T)] > 0
    piece[inside] = own[_nearest(starts, voxels[inside])]
    return piece, int(own.max()) + 1


def touching_pairs(voxels: np.ndarray) -> np.ndarray:
    """Find the pairs of voxels (N, 3) that share a face, an edge or a corner, as their indices (P, 2)."""
    return KDTree(voxels).query_pairs(TOUCHING, output_type="ndarray") if len(voxels) else np.zeros((0, 2), int)


def _components(voxels: np.ndarray) -> np.ndarray:
    """26-connected component of each voxel, numbered in the order of memory as by ``scipy.ndimage.label``."""
    pairs = touching_pairs(voxels)
    graph = coo_array((np.ones(len(pairs), bool), pairs.T), shape=(len(voxels), len(voxels)))
    component = connected_components(graph, directed=False)[1] if len(voxels) else np.zeros(0, int)
    first, inverse = np.unique(component, return_index=True, return_inverse=True)[1:]
    return np.argsort(np.argsort(first))[inverse]


def _nearest(points: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    """Find, for each voxel, the nearest of some points, and among equally near ones that which SciPy's transform takes.

    The official code finds the nearest centerline voxel with ``scipy.ndimage.distance_transform_edt``, which looks at
    the whole volume; a k-d tree looks at the airway's voxels alone and is some ten times as fast. But voxels halfway
    between two branches are many, and which branch they go to decides which branches touch, and so the whole tree.
    Among equally near points SciPy takes the first along the last axis, then the middle one, then the first. A k-d tree
    takes any. So the points get a fourth coordinate that ranks them in this order, and the voxels have 0 there: squared
    distances between voxels are whole numbers, and the square of the fourth coordinate grows with the rank and stays
    below 1/2, so that it decides between equals and changes nothing else.

    Args:
        points: (M, 3) int.
        voxels: (N, 3) int.

    Returns:
        (N,) indices into ``points``.
    """
    rank = np.empty(len(points))
    rank[np.lexsort(points.T)] = np.arange(len(points))
    order = np.sqrt(rank / (2 * len(points)))
    return KDTree(np.column_stack((points, order))).query(np.column_stack((voxels, np.zeros(len(voxels)))))[1]


def _touching(voxels: np.ndarray, piece: np.ndarray) -> np.ndarray:
    """Tell which pieces share a face: symmetric (P, P) bool."""
    low = voxels.min(0)
    volume = np.full(voxels.max(0) - low + 2, -1, np.int32)  # with a rim, so that no neighbour lies outside
    volume[tuple((voxels - low).T)] = piece
    touching = np.zeros((piece.max() + 1,) * 2, bool)
    for offset in np.eye(3, dtype=int):
        other = volume[tuple((voxels - low + offset).T)]
        inside = other >= 0
        touching[piece[inside], other[inside]] = True
    touching |= touching.T
    np.fill_diagonal(touching, False)
    return touching


def _trachea(voxels: np.ndarray, voxel_piece: np.ndarray, lengths: np.ndarray, touching: np.ndarray) -> np.ndarray:
    """Find the pieces of the trachea, where stubs of a rough surface have cut it: numbers, the uppermost one first.

    It begins with the piece that reaches highest among those about as wide as the widest. What lies above it belongs to
    it, too, as do stubs that touch nothing else, and what goes on from it, where only one of the pieces that touch it
    is more than a stub: at the carina there are two.
    """
    volumes = np.bincount(voxel_piece)
    area = volumes / np.maximum(lengths, 1)
    top = np.full(len(volumes), -1)
    np.maximum.at(top, voxel_piece, voxels[:, 0])
    large = volumes >= volumes.max() / 20  # the width of a stub says little
    first = int(np.where(large & (area >= WIDE**2 * area[large].max()), top, -1).argmax())
    centre = np.column_stack([np.bincount(voxel_piece, axis) for axis in voxels.T]) / volumes[:, None]
    inside = np.arange(len(volumes)) == first
    while True:
        own = volumes[inside].sum() / max(lengths[inside].sum(), 1)
        width = 2 * np.sqrt(own / np.pi)
        place = centre - np.average(centre[inside], axis=0, weights=volumes[inside])
        beside = touching[inside].any(0) & ~inside
        above = beside & (place[:, 0] > 0) & (np.hypot(*place[:, 1:].T) < ASIDE * width)
        above &= (place[beside, 0] < 0).any()  # else it is a tree that stands on its head
        stubs = beside & (lengths < width) & ~touching[:, ~inside].any(1)
        wide = beside & (area >= MAIN**2 * own) & ~above & ~stubs
        thin = beside & ~above & ~stubs & ~wide & (lengths >= width)  # a main bronchus may be so
        goes_on = wide if wide.sum() == 1 and not thin.any() else None
        joined = above | stubs if (above | stubs).any() else goes_on
        if joined is None:
            return np.array([first, *np.setdiff1d(np.flatnonzero(inside), first)])
        inside |= joined


def _refine(
    touching: np.ndarray, volumes: np.ndarray, trachea: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Merge pieces into branches until each branch has one parent, and two children or none.

    Args:
        touching: which pieces share a face, (P, P) bool.
        volumes: voxels of each piece, (P,).
        trachea: pieces that it is made of; None is the largest branch.

    Returns:
        The branch of each piece (P,), parents (B,) and generations (B,), all numbered from 1 as in ``AirwayTree``.
    """
    branch = np.arange(len(volumes))
    if trachea is not None:
        branch[trachea] = trachea[0]
        branch = np.unique(branch, return_inverse=True)[1]
    while True:
        number = branch.max() + 1
        root = np.argsort(np.bincount(branch, volumes))[-1] if trachea is None else branch[trachea[0]]
        adjacent = np.zeros((number, number), bool)
        rows, columns = np.nonzero(touching)
        adjacent[branch[rows], branch[columns]] = True
        np.fill_diagonal(adjacent, False)
        generation = shortest_path(adjacent, unweighted=True, indices=root).astype(int)
        is_parent = adjacent & (generation[None] + 1 == generation[:, None])  # (child, parent)
        merged = _merge(is_parent)
        if merged is None:
            parents = np.where(is_parent.any(1), is_parent.argmax(1) + 1, 0)
            return (branch + 1).astype(np.uint16), parents.astype(np.uint16), generation.astype(np.uint16)
        branch = merged[branch]


def _merge(is_parent: np.ndarray) -> np.ndarray | None:
    """Fuse several parents of one child, then merge only children.

    A loop in the airways, or a cut that left a stub, gives a branch two parents: these are one branch, called by the
    first one's number. A branch with one child is a piece of airway that was cut by a side branch too short to count:
    it and its child are one branch, called by the parent's number. All this is done on a list that says what each
    branch is called now, in the order of the official code, whose result depends on it: a branch that has been merged
    away is no longer merged with another (``gone``), although it still may be what others are called by. Last, the
    numbers are closed up, as the official code does it: in ascending order, each one that has not gone moves down by
    how many have gone before it. There a number that comes free can be taken again, which joins branches that were not
    merged; they are joined here, too.

    Args:
        is_parent: (B, B) bool, whether a branch (second axis) is the parent of another (first axis).

    Returns:
        The new number of each branch, (B,), from 0 without gaps; None if nothing was merged.
    """
    now = np.arange(len(is_parent))
    gone = set()
    for parents in is_parent[is_parent.sum(1) > 1]:
        first, *others = np.nonzero(parents)[0]
        now[np.isin(now, others)] = first
        gone.update(others)
    for parent in np.nonzero(is_parent.sum(0) == 1)[0]:
        child = is_parent[:, parent].argmax()
        if parent not in gone and child not in gone:
            now[now == child] = parent
            gone.add(child)
    if not gone:
        return None
    moved_up = 0
    for number in range(len(now)):
        if number in gone:
            moved_up += 1
        else:
            now[now == number] = number - moved_up
    return np.unique(now, return_inverse=True)[1]
