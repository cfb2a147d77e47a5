"""Put a phantom together: a chest around a grown airway tree, or around a given airway mask."""

from dataclasses import dataclass

import cc3d
import numpy as np

from nnunetv2_airway.io.errors import UserError
from nnunetv2_airway.phantom.airways import artery_beside, grow_airways, veins, wall_thickness
from nnunetv2_airway.phantom.chest import Anatomy, Frame, both_lungs, paint_chest
from nnunetv2_airway.phantom.from_mask import read_mask
from nnunetv2_airway.phantom.scan import FAR, average_blocks, coverage, draw_cones, mix, scan
from nnunetv2_airway.tree.components import bounding_box

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
    lung_box: float | None = None
    """Margin in mm around lungs and airways, outside which the CT is 0 (Tang 2022, section 2.1); None: the whole CT."""
    vary: float = 0.0
    """By which share noise and blur differ between patients, and the size of a given mask, which is bent as well."""

    def __post_init__(self):
        if len(self.shape) != 3 or min(self.shape) < 32:
            raise UserError(f"--shape needs three numbers of at least 32 voxels, got {self.shape}")
        if len(self.spacing) != 3 or not all(0 < s < 20 for s in self.spacing):
            raise UserError(f"--spacing needs three numbers between 0 and 20 mm, got {self.spacing}")
        if self.lung_box is not None and not self.lung_box >= 0:
            raise UserError(f"--lung-box needs a margin of at least 0 mm, got {self.lung_box}")
        if not 0 <= self.vary <= 0.5:
            raise UserError(f"--vary needs a share from 0 to 0.5, got {self.vary}")
        if self.generations < 1 or self.smallest <= 0 or self.noise < 0 or self.blur < 0:
            raise UserError(
                f"--generations must be at least 1, --smallest above 0, --noise and --blur at least 0; got "
                f"{self.generations}, {self.smallest}, {self.noise} and {self.blur}"
            )


def synthesize(options: PhantomOptions, index: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Make phantom number ``index``.

    Returns:
        CT (Z, Y, X) int16 in HU, and its airway lumen (Z, Y, X) uint8; the same options and index give the same voxels.
    """
    rng = np.random.default_rng([options.seed, index])
    grid = FineGrid.of(options.shape, options.spacing)
    extent = np.array(options.shape) * options.spacing
    frame = Frame(centre=extent * (0.47, 0.47, 0.5), half=extent / 2 * (0.84, 0.60, 0.68) * rng.uniform(0.95, 1.02, 3))
    anatomy = Anatomy.sample(rng)
    smallest = options.smallest * grid.spacing.min()
    branches = list(grow_airways(frame, anatomy, smallest, options.generations, extent[0], rng))

    lumen, outer = np.full(grid.shape, FAR), np.full(grid.shape, FAR)
    for branch in branches:
        cones = branch.cones()
        draw_cones(lumen, cones, grid.spacing, grid.rim)
        cones[:, 6:] += wall_thickness(cones[:, 6:], frame)
        draw_cones(outer, cones, grid.spacing, grid.rim)
    arteries = [artery_beside(branch, frame) for branch in branches if branch.generation >= 2]
    lungs = both_lungs(frame.grid(grid.shape, grid.spacing), anatomy)
    scene = Scene(frame, anatomy, lungs, lumen, outer, np.vstack([np.empty((0, 8)), *arteries]))
    airway = average_blocks(coverage(lumen, grid.spacing.mean()), grid.factors) >= LABELLED_SHARE
    return _render(scene, grid, options, rng), _largest(airway)


def synthesize_around(mask: np.ndarray, options: PhantomOptions, index: int = 0) -> np.ndarray:
    """Make a CT (Z, Y, X) int16 in HU around an airway mask (Z, Y, X); of the options, the shape is the mask's.

    Raises:
        UserError: the mask is empty.
    """
    if not mask.any():
        raise UserError("the airway mask is empty: a phantom needs a tree to be built around")
    rng = np.random.default_rng([options.seed, index])
    grid = FineGrid.of(mask.shape, options.spacing)
    fine_mask = mask > 0
    for axis, factor in enumerate(grid.factors):
        fine_mask = np.repeat(fine_mask, factor, axis)
    anatomy = Anatomy.sample(rng)
    shapes = read_mask(fine_mask, grid.spacing, rng)
    frame = shapes.frame
    arteries = shapes.arteries[shapes.arteries[:, 6] < 0.03 * frame.half[2]]
    # lung also where the mask's small airways lie outside the analytic lungs
    near = np.full(grid.shape, FAR)
    draw_cones(near, arteries, grid.spacing, 0.08 * float(frame.half[2]))
    lungs = both_lungs(frame.grid(grid.shape, grid.spacing), anatomy) | (near < 0.06 * frame.half[2])
    return _render(Scene(frame, anatomy, lungs, shapes.lumen, shapes.outer, arteries), grid, options, rng)


@dataclass(frozen=True)
class FineGrid:
    """The nearly isotropic grid on which shapes are drawn: thick slices are subdivided.

    ``factors`` (z, y, x) fine voxels make one voxel of the scan; ``spacing`` is the fine one, in mm.
    """

    factors: tuple[int, int, int]
    shape: tuple[int, int, int]
    spacing: np.ndarray

    @classmethod
    def of(cls, shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> "FineGrid":
        """Make the grid for a scan."""
        thickness = np.array(spacing)
        factors = np.maximum(1, np.rint(thickness / thickness.min())).astype(int)
        return cls(tuple(factors.tolist()), tuple((np.array(shape) * factors).tolist()), thickness / factors)

    @property
    def rim(self) -> float:
        """How far around a surface partial volume reaches, in mm."""
        return 1.5 * float(self.spacing.max())


@dataclass(frozen=True)
class Scene:
    """What is drawn: masks and distance fields (Z, Y, X) in mm on the fine grid, arteries as cones (n, 8)."""

    frame: Frame
    anatomy: Anatomy
    lungs: np.ndarray
    lumen: np.ndarray
    outer: np.ndarray
    arteries: np.ndarray


def _render(scene: Scene, grid: FineGrid, options: PhantomOptions, rng: np.random.Generator) -> np.ndarray:
    """Paint the chest, vessels within the lungs, airway walls and lumen over each other, and scan the result."""
    hu = paint_chest(scene.frame.grid(grid.shape, grid.spacing), scene.anatomy, scene.lungs, rng)
    vessels = np.full(grid.shape, FAR)
    draw_cones(vessels, scene.arteries, grid.spacing, grid.rim)
    draw_cones(vessels, veins(scene.frame, scene.anatomy, float(grid.spacing.min()), rng), grid.spacing, grid.rim)
    vessels[~scene.lungs] = FAR
    for field, material in ((vessels, BLOOD_HU), (scene.outer, WALL_HU), (scene.lumen, LUMEN_HU)):
        mix(hu, coverage(field, grid.spacing.mean()), material)
    noise, blur = options.noise, options.blur * grid.spacing.min()
    if options.vary:
        noise, blur = np.array([noise, blur]) * (1 + options.vary * rng.uniform(-1, 1, 2))
    ct = scan(average_blocks(hu, grid.factors), np.array(options.spacing), blur=blur, noise=noise, rng=rng)
    return ct if options.lung_box is None else _cut(ct, scene.lungs | (scene.lumen < 0), grid, options.lung_box)


def _cut(ct: np.ndarray, inside: np.ndarray, grid: FineGrid, margin: float) -> np.ndarray:
    """Set a CT to 0 outside the box of a mask on the fine grid, with a margin in mm."""
    rims = np.ceil(margin / (grid.spacing * grid.factors)).astype(int)
    box = tuple(
        slice(max(axis.start // factor - rim, 0), -(-axis.stop // factor) + rim)
        for axis, factor, rim in zip(bounding_box(inside), grid.factors, rims, strict=True)
    )
    cut = np.zeros_like(ct)
    cut[box] = ct[box]
    return cut


def _largest(mask: np.ndarray) -> np.ndarray:
    return (cc3d.largest_k(mask, k=1, connectivity=6) > 0).astype(np.uint8)
