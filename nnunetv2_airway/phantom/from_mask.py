"""Read a given airway mask as shapes: distance fields, centerline, and the chest that would hold it."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from nnunetv2_airway.phantom.airways import wall_thickness
from nnunetv2_airway.phantom.chest import Frame
from nnunetv2_airway.phantom.scan import FAR
from nnunetv2_airway.tree.centerline import centerline

MASK_MARGIN = 6.0
"""How far around a given mask walls are drawn, in mm."""
SMALLEST_HALF = 20.0
"""Half extent in mm that the lungs around a mask have at least, however small the mask."""


@dataclass(frozen=True)
class MaskShapes:
    """A mask's lungs' box, distance fields (Z, Y, X) in mm of lumen and outer wall, and arteries along it.

    The arteries are spheres, as cones (n, 8) of no length.
    """

    frame: Frame
    lumen: np.ndarray
    outer: np.ndarray
    arteries: np.ndarray


def read_mask(mask: np.ndarray, spacing: np.ndarray, rng: np.random.Generator) -> MaskShapes:
    """Read a mask (Z, Y, X) bool that is not empty, at a spacing (z, y, x) in mm."""
    half_voxel = np.float32(spacing.min() / 2)
    box, inside, line, radii = _middle(mask, spacing)
    outside = ndimage.distance_transform_edt(~mask[box], spacing).astype(np.float32)
    signed = np.where(mask[box], half_voxel - inside, outside - half_voxel)

    positions = (line + [axis.start for axis in box]) * spacing
    frame = _frame_around(positions, radii)
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
    arteries = np.column_stack((centres, centres, 0.85 * outer_radii, 0.85 * outer_radii))
    return MaskShapes(frame, lumen, outer, arteries)


def lungs_around(mask: np.ndarray, spacing: np.ndarray) -> Frame:
    """Tell which lungs would hold a mask (Z, Y, X) bool that is not empty, at a spacing (z, y, x) in mm."""
    box, _, line, radii = _middle(mask, spacing)
    return _frame_around((line + [axis.start for axis in box]) * spacing, radii)


def _middle(mask: np.ndarray, spacing: np.ndarray) -> tuple[tuple[slice, ...], np.ndarray, np.ndarray, np.ndarray]:
    """Box around a mask with a rim; in it the distance to the background in mm, the centerline (n, 3) and its radii."""
    corners = np.argwhere(mask)
    rim = np.ceil(MASK_MARGIN / spacing).astype(int)
    low = np.maximum(corners.min(0) - rim, 0)
    high = np.minimum(corners.max(0) + rim + 1, mask.shape)
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    half_voxel = np.float32(spacing.min() / 2)
    inside = ndimage.distance_transform_edt(mask[box], spacing).astype(np.float32)
    line = np.argwhere(centerline(mask[box]))
    return box, inside, line, np.maximum(inside[tuple(line.T)] - half_voxel, half_voxel)


def _frame_around(positions: np.ndarray, radii: np.ndarray) -> Frame:
    """Lungs that hold the small airways of a centerline (n, 3) with its radii, in mm.

    These end above the diaphragm and short of apex and pleura.
    """
    small_airways = positions[radii <= max(radii.max() / 3, np.median(radii))]  # not the trachea
    low, high = small_airways.min(0), small_airways.max(0)
    reach = np.array([(-0.5, 0.7), (-0.8, 0.8), (-0.72, 0.72)])
    half = np.maximum((high - low) / (reach[:, 1] - reach[:, 0]), SMALLEST_HALF)
    return Frame(centre=(low + high) / 2 - reach.mean(1) * half, half=half)
