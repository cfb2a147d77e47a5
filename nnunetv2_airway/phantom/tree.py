"""Branching trees that fill a volume: airways, and the veins beside them.

Method: volume division after Tawhai et al., "CT-based geometry analysis and finite element models of the human and
ovine bronchial tree", J. Appl. Physiol. 97, 2004: points spread over a lung are split by a plane through the branch,
each half is fed by a child that grows part of the way towards its centre. Radii follow the number of points fed
(Murray's law), which makes the branching asymmetric as in the lung.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

MURRAY = 3.0
PATH_POINTS = 5


@dataclass(frozen=True)
class Branch:
    """One branch: its centerline as points (n, 3) in mm, radius at start and end in mm, and generation."""

    path: np.ndarray
    start_radius: float
    end_radius: float
    generation: int

    def cones(self) -> np.ndarray:
        """Return rows of (start z, y, x, end z, y, x, start radius, end radius), one per piece of the path."""
        radii = np.linspace(self.start_radius, self.end_radius, len(self.path))
        return np.column_stack((self.path[:-1], self.path[1:], radii[:-1], radii[1:]))


def curved_path(start: np.ndarray, end: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Quadratic curve (PATH_POINTS, 3) that leaves ``start`` along ``direction`` and arrives at ``end``."""
    corner = start + 0.4 * np.linalg.norm(end - start) * direction
    t = np.linspace(0, 1, PATH_POINTS)[:, None]
    return (1 - t) ** 2 * start + 2 * t * (1 - t) * corner + t**2 * end


@dataclass(frozen=True)
class Growth:
    """Where to stop: smallest radius in mm, last generation, and which positions (n, 3) a branch may end in."""

    smallest_radius: float
    generations: int
    inside: Callable[[np.ndarray], np.ndarray]


def grow(
    trunk: Branch, direction: np.ndarray, points: np.ndarray, growth: Growth, rng: np.random.Generator
) -> list[Branch]:
    """Grow a tree from the end of a trunk into a cloud of points.

    Args:
        trunk: the branch to continue; not part of the result.
        direction: unit vector in which the trunk ends.
        points: (n, 3) in mm, spread over the volume to fill.
        growth: where to stop.
        rng: source of all randomness.

    Returns:
        The branches, parents before children.
    """
    branches: list[Branch] = []
    waiting = [(trunk, direction, points)]
    while waiting:
        parent, heading, cloud = waiting.pop(0)
        if parent.generation >= growth.generations or len(cloud) < 8:
            continue
        for half in _divide(parent.path[-1], heading, cloud, rng):
            radius = parent.end_radius * (len(half) / len(cloud)) ** (1 / MURRAY) if len(half) else 0
            if radius < growth.smallest_radius:
                continue
            child = _child(parent, heading, half, radius, growth, rng)
            if child is not None:
                branches.append(child)
                last = child.path[-1] - child.path[-2]
                waiting.append((child, last / np.linalg.norm(last), half))
    return branches


def _divide(
    apex: np.ndarray, heading: np.ndarray, cloud: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Split a cloud across its widest direction at right angles to the branch, unevenly."""
    across = cloud - apex
    across = across - np.outer(across @ heading, heading)
    normal = np.linalg.eigh(np.cov(across.T))[1][:, -1] + rng.normal(0, 0.35, 3)
    side = across @ normal
    upper = side > np.quantile(side, rng.uniform(0.3, 0.7))
    return cloud[upper], cloud[~upper]


def _child(
    parent: Branch, heading: np.ndarray, cloud: np.ndarray, radius: float, growth: Growth, rng: np.random.Generator
) -> Branch | None:
    start = parent.path[-1]
    towards = cloud.mean(0) - start
    distance = np.linalg.norm(towards)
    if distance == 0:
        return None
    towards = towards / distance
    if towards @ heading < 0.3:  # at most about 70 degrees from the parent
        aside = towards - (towards @ heading) * heading
        towards = 0.3 * heading + 0.95 * aside / max(np.linalg.norm(aside), 1e-6)
    length = distance * rng.uniform(0.45, 0.62)
    while length > 1.5 * radius:
        end = start + length * towards
        if growth.inside(end[None])[0]:
            path = curved_path(start, end, heading)
            return Branch(path, radius, radius * rng.uniform(0.88, 0.96), parent.generation + 1)
        length *= 0.8
    return None
