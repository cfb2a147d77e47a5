"""The chest around the airways: analytic shapes in a frame that is fitted to the lungs.

Normalised coordinates u = (position - centre) / half, (z, y, x), span the lungs' box from -1 to 1. Every function
takes u as three arrays that broadcast against each other.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

Coordinates = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Frame:
    """Centre and half extent (z, y, x) of the lungs' box in mm."""

    centre: np.ndarray
    half: np.ndarray

    def normalise(self, positions: np.ndarray) -> Coordinates:
        """Turn positions (n, 3) in mm into normalised coordinates."""
        return tuple(((np.asarray(positions) - self.centre) / self.half).T)

    def grid(self, shape: tuple[int, ...], spacing: np.ndarray) -> Coordinates:
        """Normalised coordinates of a voxel grid, as three arrays that broadcast to ``shape``."""
        axes = [
            ((np.arange(n) * s - c) / h).astype(np.float32)
            for n, s, c, h in zip(shape, spacing, self.centre, self.half, strict=True)
        ]
        return tuple(np.meshgrid(*axes, indexing="ij", sparse=True))


@dataclass(frozen=True)
class Anatomy:
    """What differs between patients; HU and normalised lengths."""

    lung_hu: float
    emphysema: float
    tissue_hu: float
    heart: tuple[float, float, float]
    apex_power: float
    diaphragm: float

    @classmethod
    def sample(cls, rng: np.random.Generator) -> "Anatomy":
        """Sample a patient."""
        return cls(
            lung_hu=rng.uniform(-885, -840),
            emphysema=rng.uniform(0.6, 1.2),
            tissue_hu=rng.uniform(35, 55),
            heart=tuple(rng.uniform((0.40, 0.46, 0.36), (0.50, 0.56, 0.46))),
            apex_power=rng.uniform(2.2, 3.2),
            diaphragm=rng.uniform(0.35, 0.55),
        )


def lung(u: Coordinates, anatomy: Anatomy, side: int) -> np.ndarray:
    """Whether u lies in one lung; ``side`` is -1 for the right lung, +1 for the left."""
    z, y, x = u
    width = np.sqrt(1 - np.clip((z + 0.6) / 1.6, 0, 1) ** anatomy.apex_power)
    x = x - side * 0.54
    inside = (np.abs(y - 0.02) / (0.98 * width + 1e-3)) ** 2.3 + (np.abs(x) / (0.46 * width + 1e-3)) ** 2.3 < 1
    dome = -1 + anatomy.diaphragm * (1 - (x / 0.5) ** 2 - (y / 1.1) ** 2)
    heart = sum(
        ((a - b) / c) ** 2 for a, b, c in zip((z, y, x + side * 0.54), (-0.4, -0.25, 0.16), anatomy.heart, strict=True)
    )
    return inside & (z > dome) & (heart > 1)


def both_lungs(u: Coordinates, anatomy: Anatomy) -> np.ndarray:
    """Whether u lies in either lung."""
    return lung(u, anatomy, -1) | lung(u, anatomy, 1)


def paint_chest(u: Coordinates, anatomy: Anatomy, lungs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Hounsfield units of everything but airways and lung vessels, float32, shape of ``lungs``."""
    z, y, x = u
    shape = lungs.shape
    hu = np.full(shape, -1000, np.float32)

    radius = (np.abs(y - 0.03) / 1.36) ** 2.4 + (np.abs(x) / 1.27) ** 2.4 + 0 * z
    hu[radius < 1] = -100  # skin and fat
    muscle = radius < 0.78
    hu[muscle] = (anatomy.tissue_hu + _texture(shape, 10, rng) * 20)[muscle]

    wall = np.sqrt((y / 1.10) ** 2 + (x / 1.08) ** 2)
    phase = np.abs((z - 0.3 * y) / 0.21 % 1 - 0.5)  # ribs descend towards the front
    rib = (np.abs(wall - 1.02) < 0.055) & (phase < 0.17) & (np.abs(x) > 0.12)
    hu[rib] = 250
    hu[rib & (np.abs(wall - 1.02) > 0.03)] = 600
    disc = np.abs(z / 0.24 % 1 - 0.5) < 0.08
    spine = ((y - 0.98) / 0.2) ** 2 + (x / 0.19) ** 2 < 1
    hu[spine & ~disc] = 220
    hu[spine & disc] = 90
    hu[(np.abs(y + 1.1) < 0.05) & (np.abs(x) < 0.13) & (z > -0.3)] = 240  # sternum

    # between the lungs: fat around the great vessels, the heart's muscle below
    mediastinum = ((x / 0.36) ** 2 + (y / 0.75) ** 2 < 1) & (z > -0.1)
    hu[mediastinum] = (-60 + _texture(shape, 6, rng) * 45)[mediastinum]
    aorta = ((y - 0.5) / 0.13) ** 2 + ((x - 0.13) / 0.12) ** 2 + 0 * z < 1
    hu[aorta] = 45
    gullet = ((y - 0.38) / 0.07) ** 2 + ((x - 0.04) / 0.07) ** 2 + 0 * z < 1
    hu[gullet] = 30
    bubble = rng.uniform(0.1, 0.7)  # swallowed air beside the trachea, not an airway
    gas = ((y - 0.38) / 0.045) ** 2 + ((x - 0.04) / 0.045) ** 2 + ((z - bubble) / 0.1) ** 2 < 1
    hu[gas] = -820

    table = (np.abs(y - 1.55 - 0.08 * x**2) < 0.06) & (np.abs(x) < 1.3) & np.ones_like(z, bool)
    hu[table] = -350

    parenchyma = anatomy.lung_hu + 45 * y + 25 * _texture(shape, 2, rng) + 25 * _texture(shape, 9, rng)
    holes = np.clip((_texture(shape, 4, rng) - 2.0 + anatomy.emphysema) * 1.5, 0, 1)
    parenchyma += holes * (-975 - parenchyma) * (_texture(shape, 30, rng) > 0)
    np.copyto(hu, parenchyma, where=lungs)
    return hu


def _texture(shape: tuple[int, ...], size: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise of unit variance with structures of about ``size`` voxels, float32."""
    coarse = rng.standard_normal([int(np.ceil(n / size)) + 3 for n in shape], dtype=np.float32)
    coarse = ndimage.gaussian_filter(coarse, 0.5, output=np.float32)
    grown = coarse
    for axis, n in enumerate(shape):
        positions = np.arange(n, dtype=np.float32) / size + 0.5
        lower = positions.astype(int)
        share = (positions - lower).reshape([-1 if a == axis else 1 for a in range(3)])
        grown = np.take(grown, lower, axis) * (1 - share) + np.take(grown, lower + 1, axis) * share
    return grown / max(float(grown.std()), 1e-6)
