"""Put a phantom together: a chest around a grown airway tree, or around a given airway mask."""

from collections.abc import Iterator
from dataclasses import dataclass

import cc3d
import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from nnunetv2_airway.maps.centerline import centerline
from nnunetv2_airway.phantom.chest import Anatomy, Frame, lung, paint_chest
from nnunetv2_airway.phantom.scan import FAR, average_blocks, coverage, draw_cones, mix, scan
from nnunetv2_airway.phantom.tree import Branch, Growth, curved_path, grow

ADULT_HALF_WIDTH = 130.0
"""Half width of an adult's lung box in mm, to which wall thickness is scaled."""
SEEDS = 3000
MASK_MARGIN = 6.0
"""How far around a given mask walls are drawn, in mm."""
SMALLEST_HALF = 20.0
"""Half extent in mm that the lungs around a mask have at least, however small the mask."""
LABELLED_SHARE = 0.45
"""A voxel is labelled airway from this share of lumen on: at 0.5 the smallest airways would fall into pieces."""
LUMEN_HU, WALL_HU, BLOOD_HU = -1000.0, 20.0, 45.0


@dataclass(frozen=True)
class PhantomOptions:
    """What a user may choose; axis order (z, y, x), lengths in mm, intensities in HU."""

    shape: tuple[int, int, int] = (192, 192, 192)
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    generations: int = 12
    smallest: float = 1.0
    """Radius of the smallest airways, in voxels of the finest spacing; below 1, blur closes the lumen."""
    noise: float = 35.0
    blur: float = 0.5
    """Standard deviation of the scanner's point spread, in units of the finest spacing."""
    seed: int = 0

    def __post_init__(self):
        if len(self.shape) != 3 or min(self.shape) < 32:
            raise ValueError(f"--shape needs three numbers of at least 32 voxels, got {self.shape}")
        if len(self.spacing) != 3 or not all(0 < s < 20 for s in self.spacing):
            raise ValueError(f"--spacing needs three numbers between 0 and 20 mm, got {self.spacing}")
        if self.generations < 1 or self.smallest <= 0 or self.noise < 0 or self.blur < 0:
            raise ValueError(
                f"--generations must be at least 1, --smallest above 0, --noise and --blur at least 0; got "
                f"{self.generations}, {self.smallest}, {self.noise} and {self.blur}"
            )


def wall_thickness(radius: np.ndarray | float, frame: Frame) -> np.ndarray | float:
    """Airway wall in mm for a lumen radius in mm: 0.4 mm plus 9 % of the diameter in an adult, scaled to the frame."""
    return 0.4 * frame.half[2] / ADULT_HALF_WIDTH + 0.18 * radius


def synthesize(options: PhantomOptions, index: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Make phantom number ``index``.

    Returns:
        CT (Z, Y, X) int16 in HU, and its airway lumen (Z, Y, X) uint8; the same options and index give the same voxels.
    """
    rng = np.random.default_rng([options.seed, index])
    factors, fine_shape, fine = _fine_grid(options.shape, options.spacing)
    extent = np.array(options.shape) * options.spacing
    frame = Frame(centre=extent * (0.47, 0.47, 0.5), half=extent / 2 * (0.84, 0.60, 0.68) * rng.uniform(0.95, 1.02, 3))
    anatomy = Anatomy.draw(rng)
    branches = list(_grow_airways(frame, anatomy, options.smallest * fine.min(), options.generations, extent[0], rng))

    lumen = np.full(fine_shape, FAR)
    outer = np.full(fine_shape, FAR)
    for branch in branches:
        cones = branch.cones()
        draw_cones(lumen, cones, fine, 1.5 * fine.max())
        cones[:, 6:] += wall_thickness(cones[:, 6:], frame)
        draw_cones(outer, cones, fine, 1.5 * fine.max())
    arteries = np.vstack([np.empty((0, 8)), *(_beside(branch, frame) for branch in branches if branch.generation >= 2)])
    lungs = _lungs(frame, anatomy, fine_shape, fine)
    ct = _compose(options, frame, anatomy, factors, fine, lungs, lumen, outer, arteries, rng)
    airway = average_blocks(coverage(lumen, float(fine.mean())), factors) >= LABELLED_SHARE
    return ct, _largest(airway)


def synthesize_around(mask: np.ndarray, options: PhantomOptions, index: int = 0) -> np.ndarray:
    """Make a CT (Z, Y, X) int16 in HU around an airway mask (Z, Y, X); of the options, the shape is the mask's.

    Raises:
        ValueError: the mask is empty.
    """
    if not mask.any():
        raise ValueError("the airway mask is empty: a phantom needs a tree to be built around")
    rng = np.random.default_rng([options.seed, index])
    factors, fine_shape, fine = _fine_grid(mask.shape, options.spacing)
    fine_mask = mask > 0
    for axis, factor in enumerate(factors):
        fine_mask = np.repeat(fine_mask, factor, axis)
    anatomy = Anatomy.draw(rng)
    frame, lumen, outer, spheres = _around_mask(fine_mask, fine, rng)
    peripheral = spheres[:, 6] < 0.03 * frame.half[2]
    near = np.full(fine_shape, FAR)
    draw_cones(near, spheres[peripheral], fine, 0.08 * float(frame.half[2]))
    lungs = _lungs(frame, anatomy, fine_shape, fine) | (near < 0.06 * frame.half[2])
    return _compose(options, frame, anatomy, factors, fine, lungs, lumen, outer, spheres[peripheral], rng)


def _fine_grid(shape, spacing) -> tuple[tuple[int, int, int], tuple[int, int, int], np.ndarray]:
    """Subdivide thick slices so that shapes are drawn on a nearly isotropic grid."""
    spacing = np.array(spacing)
    factors = np.maximum(1, np.rint(spacing / spacing.min())).astype(int)
    return tuple(factors.tolist()), tuple((np.array(shape) * factors).tolist()), spacing / factors


def _grow_airways(
    frame: Frame, anatomy: Anatomy, smallest: float, generations: int, top: float, rng: np.random.Generator
) -> Iterator[Branch]:
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
        return hilum | lung(u, anatomy, -1) | lung(u, anatomy, 1)

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


def _veins(frame: Frame, anatomy: Anatomy, voxel: float, rng: np.random.Generator) -> np.ndarray:
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


def _beside(branch: Branch, frame: Frame) -> np.ndarray:
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


def _around_mask(
    mask: np.ndarray, spacing: np.ndarray, rng: np.random.Generator
) -> tuple[Frame, np.ndarray, np.ndarray, np.ndarray]:
    """Frame around a mask, distance fields of its lumen and outer wall, and spheres of arteries along it."""
    corners = np.argwhere(mask)
    rim = np.ceil(MASK_MARGIN / spacing).astype(int)
    low = np.maximum(corners.min(0) - rim, 0)
    high = np.minimum(corners.max(0) + rim + 1, mask.shape)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    inside = ndimage.distance_transform_edt(mask[box], spacing).astype(np.float32)
    outside = ndimage.distance_transform_edt(~mask[box], spacing).astype(np.float32)
    half_voxel = np.float32(spacing.mean() / 2)
    signed = np.where(mask[box], half_voxel - inside, outside - half_voxel)

    line = np.argwhere(centerline(mask[box]))
    radii = np.maximum(inside[tuple(line.T)] - half_voxel, half_voxel)
    positions = (line + low) * spacing
    frame = _frame_around(positions[radii <= max(radii.max() / 3, np.median(radii))])  # not the trachea
    band = (signed > -2 * half_voxel) & (signed < MASK_MARGIN)
    nearest = cKDTree(line * spacing).query(np.argwhere(band) * spacing, workers=-1)[1]
    lumen, outer = np.full(mask.shape, FAR), np.full(mask.shape, FAR)
    lumen[box] = signed
    walled = signed.copy()
    walled[band] -= wall_thickness(radii[nearest], frame).astype(np.float32)
    outer[box] = walled

    # the artery lies to one side, which changes slowly along the tree
    waves = rng.normal(0, 2 / frame.half.mean(), (3, 3))
    aside = np.sin(positions @ waves + rng.uniform(0, 2 * np.pi, 3))
    aside /= np.maximum(np.linalg.norm(aside, axis=1, keepdims=True), 1e-3)
    outer_radii = radii + wall_thickness(radii, frame)
    centres = positions + aside * (1.85 * outer_radii)[:, None]
    return frame, lumen, outer, np.column_stack((centres, centres, 0.85 * outer_radii, 0.85 * outer_radii))


def _frame_around(small_airways: np.ndarray) -> Frame:
    """Lungs that hold small airways (n, 3) in mm: these end above the diaphragm and short of apex and pleura."""
    low, high = small_airways.min(0), small_airways.max(0)
    reach = np.array([(-0.5, 0.7), (-0.8, 0.8), (-0.72, 0.72)])
    half = np.maximum((high - low) / (reach[:, 1] - reach[:, 0]), SMALLEST_HALF)
    return Frame(centre=(low + high) / 2 - reach.mean(1) * half, half=half)


def _lungs(frame: Frame, anatomy: Anatomy, shape: tuple[int, ...], spacing: np.ndarray) -> np.ndarray:
    u = frame.grid(shape, spacing)
    return lung(u, anatomy, -1) | lung(u, anatomy, 1)


def _compose(options, frame, anatomy, factors, fine, lungs, lumen, outer, arteries, rng) -> np.ndarray:
    """Paint the chest, then vessels within the lungs, then airway walls, then lumen, and scan it."""
    voxel = float(fine.mean())
    hu = paint_chest(frame.grid(lungs.shape, fine), anatomy, lungs, rng)
    vessels = np.full(lungs.shape, FAR)
    draw_cones(vessels, arteries, fine, 1.5 * fine.max())
    draw_cones(vessels, _veins(frame, anatomy, float(fine.min()), rng), fine, 1.5 * fine.max())
    share = coverage(vessels, voxel)
    share[~lungs] = 0
    mix(hu, share, BLOOD_HU)
    mix(hu, coverage(outer, voxel), WALL_HU)
    mix(hu, coverage(lumen, voxel), LUMEN_HU)
    hu = average_blocks(hu, factors)
    return scan(hu, np.array(options.spacing), blur=options.blur * fine.min(), noise=options.noise, rng=rng)


def _largest(mask: np.ndarray) -> np.ndarray:
    return (cc3d.largest_k(mask, k=1, connectivity=6) > 0).astype(np.uint8)
