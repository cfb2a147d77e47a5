"""Airways of a chest, and the vessels of its lungs: where trees start, and how wide they are."""

from collections.abc import Iterator

import numpy as np

from nnunetv2_airway.phantom.chest import Anatomy, Frame, both_lungs, lung
from nnunetv2_airway.phantom.tree import Branch, Growth, curved_path, grow

ADULT_HALF_WIDTH = 130.0
"""Half width of an adult's lung box in mm, to which wall thickness is scaled."""
SEEDS = 3000


def wall_thickness(radius: np.ndarray | float, frame: Frame) -> np.ndarray | float:
    """Airway wall in mm for a lumen radius in mm: 0.4 mm plus 9 % of the diameter in an adult, scaled to the frame."""
    return 0.4 * frame.half[2] / ADULT_HALF_WIDTH + 0.18 * radius


def grow_airways(
    frame: Frame, anatomy: Anatomy, smallest: float, generations: int, top: float, rng: np.random.Generator
) -> Iterator[Branch]:
    """Grow trachea, main bronchi and what follows.

    Args:
        frame: the lungs' box.
        anatomy: the patient.
        smallest: radius of the smallest airways, in mm.
        generations: last generation; the trachea is 0.
        top: z of the field of view's upper edge, which the trachea crosses, in mm.
        rng: source of all randomness.
    """

    def place(z: float, y: float, x: float) -> np.ndarray:
        return frame.centre + frame.half * (np.array((z, y, x)) + rng.normal(0, 0.015, 3))

    radius = 0.095 * frame.half[2] * rng.uniform(0.92, 1.08)
    carina = place(0.25, 0.12, 0.02)
    inlet = place(0, 0.02, 0)
    inlet[0] = top + 2 * radius
    down = np.array([-1.0, 0.0, 0.0])
    trachea = Branch(curved_path(inlet, carina, down), radius, radius * 0.97, 0)
    yield trachea

    def inside(positions: np.ndarray) -> np.ndarray:
        u = frame.normalise(positions)
        hilum = (np.abs(u[0]) < 0.35) & (np.abs(u[1]) < 0.4) & (np.abs(u[2]) < 0.45)
        return hilum | both_lungs(u, anatomy)

    for side, share, hilum in ((-1, 0.55, place(0.06, 0.16, -0.26)), (1, 0.45, place(-0.02, 0.18, 0.30))):
        heading = (hilum - carina) / np.linalg.norm(hilum - carina)
        start_radius = radius * (share + 0.05) ** (1 / 2.4)
        main = Branch(curved_path(carina, hilum, 0.5 * down + 0.5 * heading), start_radius, start_radius * 0.93, 1)
        yield main
        growth = Growth(smallest_radius=smallest, generations=generations, inside=inside)
        yield from grow(main, heading, _seeds(frame, anatomy, side, rng), growth, rng)


def _seeds(frame: Frame, anatomy: Anatomy, side: int, rng: np.random.Generator) -> np.ndarray:
    u = rng.uniform(-0.94, 0.94, (SEEDS * 4, 3))
    kept = u[lung(tuple(u.T * 1.05), anatomy, side)]
    return frame.centre + frame.half * kept[:SEEDS]


def veins(frame: Frame, anatomy: Anatomy, voxel: float, rng: np.random.Generator) -> np.ndarray:
    """Cones of the pulmonary veins: trees of their own, which no airway accompanies."""
    rows = []
    for side in (-1, 1):
        atrium = frame.centre + frame.half * (-0.12, 0.05, 0.12 * side)
        hilum = frame.centre + frame.half * (-0.1, 0.08, 0.36 * side)
        heading = (hilum - atrium) / np.linalg.norm(hilum - atrium)
        trunk = Branch(curved_path(atrium, hilum, heading), 0.07 * frame.half[2], 0.065 * frame.half[2], 0)
        growth = Growth(0.3 * voxel, 14, lambda p, s=side: lung(frame.normalise(p), anatomy, s))
        seeds = _seeds(frame, anatomy, side, rng)
        rows += [branch.cones() for branch in (trunk, *grow(trunk, heading, seeds, growth, rng))]
    return np.concatenate(rows)


def artery_beside(branch: Branch, frame: Frame) -> np.ndarray:
    """Cones of the pulmonary artery that runs along a bronchus, about as wide as the bronchus."""
    cones = branch.cones()
    outer = cones[:, 6:] + wall_thickness(cones[:, 6:], frame)
    direction = branch.path[-1] - branch.path[0]
    aside = np.cross(direction, (0.3, 1.0, 0.2))
    aside /= max(np.linalg.norm(aside), 1e-6)
    cones[:, :3] += aside * (1.85 * outer[:, :1])
    cones[:, 3:6] += aside * (1.85 * outer[:, 1:])
    cones[:, 6:] = 0.85 * outer
    return cones
