"""From shapes to a scan: distance fields of tubes, partial volume, scanner blur and noise."""

import numpy as np
from scipy import ndimage

FAR = np.float32(1e3)


def draw_cones(field: np.ndarray, cones: np.ndarray, spacing: np.ndarray, margin: float) -> None:
    """Lower a distance field to that of cones, in place.

    Args:
        field: (Z, Y, X) float32, signed distance to the surface in mm, negative inside.
        cones: (n, 8): start (z, y, x), end (z, y, x), start radius, end radius, in mm.
        spacing: (z, y, x) in mm.
        margin: how far outside the surface the field is needed, in mm.
    """
    for start, end, start_radius, end_radius in zip(cones[:, :3], cones[:, 3:6], cones[:, 6], cones[:, 7], strict=True):
        reach = max(start_radius, end_radius) + margin
        low = np.maximum(np.floor((np.minimum(start, end) - reach) / spacing).astype(int), 0)
        high = np.minimum(np.ceil((np.maximum(start, end) + reach) / spacing).astype(int) + 1, field.shape)
        if np.any(low >= high):
            continue
        axis = end - start
        length2 = max(float(axis @ axis), 1e-12)
        offsets = [
            ((np.arange(a, b) * s - p).astype(np.float32)).reshape([-1 if i == d else 1 for i in range(3)])
            for d, (a, b, s, p) in enumerate(zip(low, high, spacing, start, strict=True))
        ]
        along = sum(o * np.float32(a) for o, a in zip(offsets, axis, strict=True)) / np.float32(length2)
        along = np.clip(along, 0, 1)
        square = sum((o - along * np.float32(a)) ** 2 for o, a in zip(offsets, axis, strict=True))
        distance = np.sqrt(square) - (np.float32(start_radius) + along * np.float32(end_radius - start_radius))
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        np.minimum(field[box], distance, out=field[box])


def coverage(field: np.ndarray, voxel: float) -> np.ndarray:
    """Share of each voxel that lies inside the surface, float32: partial volume for a voxel size in mm."""
    return np.clip(0.5 - field / np.float32(voxel), 0, 1)


def mix(hu: np.ndarray, share: np.ndarray, value: float) -> None:
    """Replace a share of each voxel by a material of ``value`` HU, in place."""
    touched = share > 0
    hu[touched] += share[touched] * (np.float32(value) - hu[touched])


def average_blocks(volume: np.ndarray, factors: tuple[int, int, int]) -> np.ndarray:
    """Average blocks of voxels: a thick slice sees the mean of the thin ones in it."""
    if factors == (1, 1, 1):
        return volume
    z, y, x = (n // f for n, f in zip(volume.shape, factors, strict=True))
    return volume.reshape(z, factors[0], y, factors[1], x, factors[2]).mean(axis=(1, 3, 5), dtype=np.float32)


def scan(hu: np.ndarray, spacing: np.ndarray, *, blur: float, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Blur by the scanner's point spread (standard deviation in mm), add noise (in HU), store as int16.

    Noise is correlated between neighbours, as a reconstruction kernel leaves it.
    """
    if blur > 0:
        hu = ndimage.gaussian_filter(hu, blur / spacing, output=np.float32, truncate=3)
    if noise > 0:
        hu = hu + grain(hu.shape, noise, rng)
    return stored(hu)


def grain(shape: tuple[int, ...], noise: float, rng: np.random.Generator) -> np.ndarray:
    """Draw noise of a standard deviation in HU, correlated between neighbours; float32."""
    drawn = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), 0.6, truncate=3)
    return drawn * np.float32(noise / drawn.std())


def stored(hu: np.ndarray) -> np.ndarray:
    """Round HU to what a scanner stores, int16."""
    return np.clip(np.rint(hu), -1024, 3071).astype(np.int16)
