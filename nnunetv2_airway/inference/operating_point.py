"""From probabilities to an airway mask: thresholds, hysteresis and reconnection, and the file that keeps the choice.

A network trained for recall is rarely best at p > 0.5. ``nnUNetv2_airway_tune`` chooses an operating point on
validation cases; ``nnUNetv2_airway_segment`` and ``nnUNetv2_airway_postprocess`` work at it.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import dijkstra

from nnunetv2_airway.io.errors import UserError
from nnunetv2_airway.io.files import digest_of, main_line, write_json
from nnunetv2_airway.tree.components import bounding_box, connected_components, largest_of, largest_piece

FILE = "operating_point.json"
"""In a model's folder."""


@dataclass(frozen=True)
class OperatingPoint:
    """How probabilities become an airway mask.

    Args:
        threshold: a voxel is airway above it.
        seed: hysteresis: pieces without a voxel above it are left out; None keeps all.
        bridge: reconnection: pieces are joined to the largest along the path of highest probability, if all of the path
            is above it; None joins none.
        thin: away from thick airways what hangs on the largest piece is airway above this lower threshold, which around
            them would only take their walls for lumen; None has one threshold for all.

    Raises:
        ValueError: numbers that are no probabilities, or not in the order bridge < thin < threshold < seed.
    """

    threshold: float = 0.5
    seed: float | None = None
    bridge: float | None = None
    thin: float | None = None

    def __post_init__(self):
        given = [value for value in (self.bridge, self.thin, self.threshold, self.seed) if value is not None]
        if self.threshold is None:
            given = []
        numbers = all(isinstance(value, int | float) and 0 < value < 1 for value in given)
        if not (given and numbers and given == sorted(set(given))):
            raise ValueError(
                f"probabilities between 0 and 1 with bridge < thin < threshold < seed are needed, got {self!r}"
            )

    @property
    def is_threshold(self) -> bool:
        """Whether it is one threshold alone, or one for thick and one for thin airways."""
        return self.seed is None and self.bridge is None

    def mask(self, probability: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
        """Make a mask.

        Args:
            probability: (Z, Y, X) of airway.
            spacing: (z, y, x) in mm.

        Returns:
            (Z, Y, X) bool; pieces that hang on nothing are in it, too.
        """
        mask = probability > self.threshold
        if self.thin is not None:
            mask = with_thin(mask, probability > self.thin, spacing)
        if self.seed is not None:
            mask = with_seeds(mask, probability > self.seed)
        return mask if self.bridge is None else reconnect(mask, probability, spacing, least=self.bridge)

    def __str__(self):
        words = [f"p > {self.threshold:g}"]
        if self.thin is not None:
            words.append(f"thin airways p > {self.thin:g}")
        if self.seed is not None:
            words.append(f"pieces with p > {self.seed:g}")
        if self.bridge is not None:
            words.append(f"joined along p > {self.bridge:g}")
        return ", ".join(words)


DEFAULT = OperatingPoint()
THICK = 3
"""An airway is thick where a cube of so many voxels fits into it."""
APART = 2
"""Voxels between a thick airway and a thin one."""
MOST = 1_000_000
"""Voxels among which paths are looked for: a noisy prediction would take minutes."""


def with_thin(mask: np.ndarray, candidates: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Add thin airways to a mask: candidates further than ``APART`` voxels from its thick parts.

    Args:
        mask: (Z, Y, X) bool.
        candidates: same shape, and True where the mask is.
        spacing: (z, y, x) in mm.

    Returns:
        The mask, and of what is added that which hangs on its largest piece.
    """
    box = bounding_box(candidates)
    if box is None:
        return mask
    thick = ndimage.minimum_filter(mask[box], THICK, mode="constant")
    near = ndimage.maximum_filter(thick, THICK + 2 * APART, mode="constant")
    more = mask.copy()
    more[box] |= candidates[box] & ~near
    return mask | with_seeds(more, largest_piece(mask, connectivity=26, spacing=spacing))


def with_seeds(mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Keep the 26-connected pieces of a mask (Z, Y, X) bool that hold a seed, bool of the same shape."""
    kept = np.zeros_like(mask)
    box = bounding_box(mask)
    if box is not None:
        pieces = connected_components(mask[box], connectivity=26)
        holds_seed = np.zeros(int(pieces.max()) + 1, bool)
        holds_seed[pieces[seeds[box] & mask[box]]] = True
        kept[box] = holds_seed[pieces]
    return kept


def reconnect(mask: np.ndarray, probability: np.ndarray, spacing: Sequence[float], *, least: float) -> np.ndarray:
    """Join the pieces of a mask to its largest one, along the path of highest probability.

    The paths are shortest ones between the centres of 26-connected voxels, a step being as long as its length in mm
    times the mean of -log p at its ends; inside the mask steps cost nothing.

    Args:
        mask: (Z, Y, X) bool.
        probability: same shape.
        spacing: (z, y, x) in mm.
        least: all voxels of a path are above it; where ``MOST`` voxels or more are, above what leaves fewer.

    Returns:
        The mask with paths of one voxel's width; pieces that cannot be reached stay apart.
    """
    box = bounding_box(probability > least)
    if box is None or not mask.any():
        return mask
    inside, p = mask[box], probability[box]
    candidates = p[(p > least) & ~inside]
    if len(candidates) >= MOST:
        least = np.partition(candidates, -MOST)[-MOST]
    reachable = connected_components(inside | (p > least), connectivity=26)
    pieces = connected_components(inside, connectivity=26)
    largest = largest_of(pieces, spacing)
    voxels = np.argwhere(reachable == reachable[pieces == largest][0])
    gap = ~inside[tuple(voxels.T)]
    numbers = np.unique(pieces[tuple(voxels[~gap].T)])
    if len(numbers) == 1:
        return mask
    graph = _graph(voxels, gap, pieces, p, spacing)
    _, before = dijkstra(graph, directed=False, indices=largest, return_predecessors=True)
    path = np.zeros(len(before), bool)
    for node in numbers:
        while before[node] >= 0 and not path[node]:
            path[node] = True
            node = before[node]
    joined = mask.copy()
    joined[box][tuple(voxels[gap][path[-np.count_nonzero(gap) :]].T)] = True
    return joined


def _graph(
    voxels: np.ndarray, gap: np.ndarray, pieces: np.ndarray, p: np.ndarray, spacing: Sequence[float]
) -> csr_array:
    """Make the graph of steps between voxels (N, 3): a piece is one node, by its number; then come those in gaps."""
    count = int(pieces.max()) + 1
    inner = tuple((voxels + 1).T)  # within a rim
    nodes = np.full(np.add(p.shape, 2), -1, np.int64)
    nodes[inner] = np.where(gap, count + np.cumsum(gap) - 1, pieces[tuple(voxels.T)])
    cost = np.zeros(nodes.shape, np.float32)
    cost[inner] = np.where(gap, -np.log(p[tuple(voxels.T)]), 0)
    edges = []
    for offset in product((-1, 0, 1), repeat=3):
        if offset > (0, 0, 0):
            other = tuple(axis + step for axis, step in zip(inner, offset, strict=True))
            near, far = nodes[inner], nodes[other]
            linked = (far >= 0) & (near != far)
            lengths = np.linalg.norm(np.multiply(offset, spacing)) * (cost[inner] + cost[other]) / 2
            edges.append((np.minimum(near, far)[linked], np.maximum(near, far)[linked], lengths[linked]))
    low, high, lengths = (np.concatenate(parts) for parts in zip(*edges, strict=True))
    # of several steps between a piece and a voxel the shortest counts; a sparse matrix would add them up
    total = count + np.count_nonzero(gap)
    order = np.lexsort((lengths, low * total + high))
    first = order[np.flatnonzero(np.diff((low * total + high)[order], prepend=-1))]
    return coo_array((lengths[first], (low[first], high[first])), (total, total)).tocsr()


def write_operating_point(file: Path, point: OperatingPoint, **about) -> None:
    """Write an operating point, and what is to be known about it."""
    write_json(file, {**asdict(point), **about})


def read_operating_point(file: Path) -> OperatingPoint:
    """Read what ``write_operating_point`` has written.

    Raises:
        UserError: the file cannot be read or holds no operating point.
    """
    return _read(file)[0]


def own_operating_point(model: Path) -> OperatingPoint:
    """Read that of a model's folder; where it has none, p > 0.5.

    Raises:
        UserError: it cannot be read, or the model was trained again since.
    """
    file = model / FILE
    if not file.exists():
        return DEFAULT
    point, about = _read(file)
    for name, digest in about.get("checkpoints", {}).items():
        if not (model / name).is_file() or digest_of(model / name) != digest:
            raise UserError(
                f"{file} was chosen for another {name}: validate with --npz and run nnUNetv2_airway_tune again, delete "
                f"it to work at p > 0.5, or name a file with --operating-point"
            )
    return point


def _read(file: Path) -> tuple[OperatingPoint, dict]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return OperatingPoint(**{field.name: content.pop(field.name) for field in fields(OperatingPoint)}), content
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file} holds no operating point as nnUNetv2_airway_tune writes it ({main_line(error)}): run that again"
        ) from error
