"""Chests drawn by hand, with what has misled lung masks."""

from collections.abc import Callable

import numpy as np
import pytest

SPACING = (3.0, 2.3, 2.1)
SHAPE = (110, 112, 186)
TISSUE, FAT, OUTSIDE, GAS = 40, -90, -1000, -990


def draw_chest(*traps: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw an adult's chest: (HU, lungs), both (Z, Y, X), feet first, front first; mm about the image's middle.

    Trunk of 330 x 220 mm over the whole height; lungs from z = 75 to 255 mm of 330, with vessels; a trachea of 20 mm
    that leaves the volume above. ``traps`` add what their names say.
    """
    rng = np.random.default_rng(seed)
    z, y, x = (
        ((np.arange(n) + 0.5) * s - centre).reshape([-1 if axis == a else 1 for a in range(3)])
        for axis, (n, s, centre) in enumerate(zip(SHAPE, SPACING, (0, 130, 195), strict=True))
    )

    def ellipsoid(centre, radii):
        return sum(((u - c) / r) ** 2 for u, c, r in zip((z, y, x), centre, radii, strict=True)) < 1

    everywhere = np.zeros(SHAPE, bool)
    hu = np.full(SHAPE, OUTSIDE, np.float32)
    trunk = (y / 110) ** 2 + (x / 165) ** 2 < 1
    hu[trunk | everywhere] = FAT
    hu[((y / 100) ** 2 + (x / 155) ** 2 < 1) | everywhere] = TISSUE
    hu[(((y - 70) / 22) ** 2 + (x / 20) ** 2 < 1) | everywhere] = 300
    sides = {}
    for side in (-1, 1):
        lung = ellipsoid((75, 5, side * 78), (180, 82, 62)) & (z > 75)
        dome = ellipsoid((75, -10, side * 78), (55, 70, 50))
        sides[side] = lung & ~dome & ~ellipsoid((110, -40, 15), (60, 50, 62))
    lungs = sides[-1] | sides[1]
    parenchyma = -970 if "emphysema" in traps else -850
    hu[lungs] = parenchyma
    for _ in range(900):  # vessels, 4 to 9 mm wide
        centre = rng.uniform((75, -80, -140), (255, 85, 140))
        radii = rng.uniform(2, 4.5, 3)
        radii[rng.integers(3)] = 14
        middle = (centre + np.array((0, 130, 195))) / SPACING
        part = tuple(
            slice(max(int(m - r / s), 0), int(m + r / s) + 2) for m, r, s in zip(middle, radii, SPACING, strict=True)
        )
        near = [u.reshape(-1)[span] for u, span in zip((z, y, x), part, strict=True)]
        distance = sum(((u - c) / r) ** 2 for u, c, r in zip(np.ix_(*near), centre, radii, strict=True))
        hu[part][(distance < 1) & lungs[part]] = TISSUE
    if "consolidated base" in traps:
        hu[sides[1] & (z < 150)] = 20
    if "white lung" in traps:
        hu[sides[1]] = 20
    trachea = (((y - 20) / 10) ** 2 + (x / 10) ** 2 < 1) & (z > 170)
    hu[(((y - 20) / 12) ** 2 + (x / 12) ** 2 < 1) & (z > 168)] = TISSUE
    for side in (-1, 1):
        hu[ellipsoid((165, 20, side * 22), (8, 8, 30))] = GAS  # main bronchi, into the lungs
    hu[trachea] = GAS
    if "bowel gas" in traps:
        hu[ellipsoid((95, -20, 80), (28, 45, 34))] = GAS  # stomach, under the dome
        hu[ellipsoid((30, -50, 0), (25, 35, 130))] = GAS
    if "table" in traps:
        hu[(np.abs(y - 128) < 3) & (np.abs(x) < 190) | everywhere] = -200
        hu[(np.abs(y - 113) < 3) & (np.abs(x) < 190) & (np.abs(x) > 30) | everywhere] = -200
        hu[(np.abs(y - 120) <= 5) & (np.abs(x) < 188) | everywhere] = -930
        hu[(np.abs(np.abs(x) - 188) < 3) & (np.abs(y - 120) < 10) | everywhere] = -200
    if "arms" in traps:
        for side in (-1, 1):
            hu[(((y - 10) / 35) ** 2 + ((x - side * 180) / 18) ** 2 < 1) | everywhere] = TISSUE
            hu[(((y + 35) / 12) ** 2 + ((x - side * 165) / 30) ** 2 < 1) | everywhere] = TISSUE
    if "head" in traps:
        above = (z > 280) & ~trachea
        hu[above & ~((y / 90) ** 2 + (x / 75) ** 2 < 1)] = OUTSIDE
        hu[(z > 300) & (np.abs(x) < 14) & (y < 25) & (y > -110)] = OUTSIDE  # open mouth, down to the trachea
    if "air at the floor" in traps:
        hu[hu == OUTSIDE] = -1024
    hu = np.maximum(hu + rng.normal(0, 12, SHAPE), -1024)
    if "field of view" in traps:
        hu[(y**2 + x**2 > 128**2) | everywhere] = -1024
    return hu.astype(np.int16), lungs


@pytest.fixture(scope="session")
def chest() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """The function that draws a chest."""
    return draw_chest
