"""The lungs in a chest CT, as far as their box needs it.

Tang 2022, section 2.1, works in the circumscribed box of the lungs. The mask here serves to find that box: it may miss
consolidated parts and vessels, but it must hold both lungs and nothing that lies outside the thorax.
"""

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from nnunetv2_airway.io.images import Grid, orientation
from nnunetv2_airway.tree.components import bounding_box

STEP = 2.0
"""Voxels of about this size in mm are enough; smaller ones are averaged."""
AIR = -400.0
"""HU below which a voxel is air or lung."""
GAS = -960.0
"""HU: pure gas (bowel, trachea, air between body and table) lies below; lung, also emphysematous, mixes in vessels."""
PADDING = -1024.0
"""HU outside the scanner's field of view."""
VESSEL, TRACHEA = 5.0, 13.0
"""Radii in mm that neither lung vessels and the table's shell nor a trachea exceed, in adults."""
ADULT = 250.0
"""Square root in mm of the area of an adult's chest in an axial slice."""
CUT = 0.2
"""Share of the lungs' largest cross-section in a CT's last slice above which the CT ends inside them."""
ENDS = (("feet", "head"), ("front", "back"), ("right", "left"))
"""Of the axes of an upright CT, from the first voxel to the last."""
WITHIN_SLICE = np.array([[[0] * 3] * 3, [[0, 1, 0], [1, 1, 1], [0, 1, 0]], [[0] * 3] * 3])
"""Neighbours of a voxel in its axial slice."""

Box = tuple[slice, slice, slice]


def lung_box(ct: sitk.Image) -> tuple[Box, list[str]] | None:
    """Find the circumscribed box of both lungs, and where the CT ends inside them.

    Where one lung has no air (consolidation, effusion, pneumonectomy), the box is widened to mirror the other's.

    Args:
        ct: in HU, any orientation.

    Returns:
        Planes, rows and columns of the image, and what ``open_ends`` says; or None where no lungs are found.
    """
    factors = [max(1, round(STEP / step)) for step in ct.GetSpacing()]
    factors = [min(factor, size) for factor, size in zip(factors, ct.GetSize(), strict=True)]
    coarse = sitk.BinShrink(ct, factors)
    upright = sitk.DICOMOrient(coarse, "LPS")
    found = find_lungs(sitk.GetArrayViewFromImage(upright), upright.GetSpacing()[::-1])
    if found is None:
        return None
    image = sitk.DICOMOrient(Grid.of(upright).image(found.view(np.uint8)), orientation(ct))
    box = bounding_box(sitk.GetArrayViewFromImage(image).astype(bool))
    # the last coarse voxel stands also for the few fine ones behind it
    fine = tuple(
        slice(axis.start * factor, size if axis.stop == size // factor else axis.stop * factor)
        for axis, factor, size in zip(box, factors[::-1], ct.GetSize()[::-1], strict=True)
    )
    return fine, open_ends(found)


def open_ends(lungs: np.ndarray) -> list[str]:
    """Say at which ends of a CT the lungs are cut off.

    Args:
        lungs: (Z, Y, X) bool, from feet to head, front to back, right to left.

    Returns:
        The ends at which the lungs still fill more than ``CUT`` of their largest cross-section, with that share.
    """
    found = []
    for axis, ends in enumerate(ENDS):
        profile = lungs.sum(tuple({0, 1, 2} - {axis}))
        shares = profile[[0, -1]] / max(profile.max(), 1)
        found += [f"{end} ({share:.0%})" for end, share in zip(ends, shares, strict=True) if share > CUT]
    return found


def find_lungs(hu: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray | None:
    """Find the aerated lungs.

    What is air and surrounded in its axial slice by tissue, or by the edge of the field of view where the air there is
    lung, is a candidate. Where it lies deeper than a trachea is wide are its cores; they are told from gas by their HU,
    from the table's foam by what lies behind, and from other things by their size and height. From its cores a lung
    grows within its slices, down into its recesses, and a little upwards, where the trachea leads out of it. Vessels do
    not count as its border. Lengths are those of an adult, and are scaled down for smaller bodies.

    Args:
        hu: (Z, Y, X), at least -1024, planes from feet to head, rows from front to back.
        spacing: (z, y, x) in mm.

    Returns:
        (Z, Y, X) bool, or None where no lungs are found. Where one lung alone is found, its mirror image about the
        body's middle is lung as well.
    """
    air = hu < AIR
    parts, number = ndimage.label(air & (hu > PADDING), WITHIN_SLICE)
    _remove_outside(parts, number, hu)
    enclosed = parts > 0
    area = np.median((enclosed | ~air).sum((1, 2))) * spacing[1] * spacing[2]
    scale = min(1.0, np.sqrt(area) / ADULT)
    solid = _opened(~air, scale * VESSEL, spacing)
    if not enclosed.any() or not solid.any():
        return None
    depth = ndimage.distance_transform_edt(~solid, spacing)
    cores, count = ndimage.label(enclosed & (depth > scale * TRACHEA))
    smooth = ndimage.gaussian_filter(hu, scale * VESSEL / np.array(spacing), output=np.float32, truncate=2)
    chosen = _lung_cores(cores, count, smooth, solid)
    if not chosen:
        return None

    keep = np.zeros(number + 1, bool)
    keep[parts[np.isin(cores, chosen)]] = True
    for _ in range(int(np.ceil(scale * TRACHEA / spacing[0]))):
        keep[parts[1:][keep[parts[:-1]]]] = True
        keep[0] = False
    for plane in range(len(parts) - 2, -1, -1):
        keep[parts[plane][keep[parts[plane + 1]]]] = True
        keep[0] = False
    return _with_mirror_image(keep[parts], solid)


def air_around(hu: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """Find the air around the patient: what meets the edge of the field of view, slice by slice, and is no lung.

    Args:
        hu: as in ``find_lungs``, also cut to the lungs' box.
        spacing: (z, y, x) in mm.

    Returns:
        (Z, Y, X) bool.
    """
    passable = hu < AIR
    lungs = find_lungs(hu, spacing)
    if lungs is not None:
        passable &= ~lungs
    edge = np.zeros(hu.shape, bool)
    edge[:, [0, -1]] = edge[:, :, [0, -1]] = True
    return ndimage.binary_propagation(edge & passable, WITHIN_SLICE, passable)


def _remove_outside(parts: np.ndarray, number: int, hu: np.ndarray) -> None:
    """Remove, in place, the parts that meet the edge of the field of view with gas rather than with lung."""
    around = np.zeros(parts.shape, bool)
    around[:, [0, -1]] = around[:, :, [0, -1]] = True
    padding = ndimage.binary_propagation(around & (hu <= PADDING), WITHIN_SLICE, hu <= PADDING)
    edge = (around | ndimage.binary_dilation(padding, WITHIN_SLICE, iterations=2)) & (parts > 0)
    met = np.unique(parts[edge])
    outside = np.zeros(number + 1, bool)
    if len(met):
        outside[met[ndimage.median(hu[edge], parts[edge], met) < GAS]] = True
    parts[outside[parts]] = 0


def _opened(mask: np.ndarray, radius: float, spacing: tuple[float, float, float]) -> np.ndarray:
    """Remove what is thinner than twice a radius in mm."""
    inner = ndimage.distance_transform_edt(mask, spacing) > radius
    return ndimage.distance_transform_edt(~inner, spacing) <= radius if inner.any() else inner


def _lung_cores(cores: np.ndarray, count: int, smooth: np.ndarray, solid: np.ndarray) -> list[int]:
    """Choose the cores that are lung: not gas, body before and behind, not small beside the largest, at its height."""
    indices = np.arange(count + 1)
    size = np.bincount(cores.ravel(), minlength=count + 1)
    level = ndimage.mean(smooth, cores, indices)
    before = np.logical_or.accumulate(solid, axis=1)
    behind = np.logical_or.accumulate(solid[:, ::-1], axis=1)[:, ::-1]
    inside = ndimage.mean(before & behind, cores, indices)
    fitting = [index for index in indices[1:] if level[index] > GAS and inside[index] > 0.5]
    if not fitting:
        return []
    largest = max(fitting, key=lambda index: size[index])
    boxes = ndimage.find_objects(cores)
    planes = boxes[largest - 1][0]

    def beside(index: int) -> bool:
        own = boxes[index - 1][0]
        common = min(own.stop, planes.stop) - max(own.start, planes.start)
        return size[index] > 0.15 * size[largest] and common > 0.3 * (own.stop - own.start)

    return [index for index in fitting if beside(index)]


def _with_mirror_image(lungs: np.ndarray, solid: np.ndarray) -> np.ndarray:
    """Add the mirror image of lungs that lie on one side of the body alone."""
    planes = bounding_box(lungs)[0]
    columns = np.flatnonzero(solid[planes].any((0, 1)))
    middle = columns[0] + columns[-1]
    voxels = np.nonzero(lungs)
    right = np.count_nonzero(2 * voxels[2] < middle)
    if min(right, len(voxels[2]) - right) > 0.2 * max(right, len(voxels[2]) - right):
        return lungs
    mirrored = np.clip(middle - voxels[2], 0, lungs.shape[2] - 1)
    both = lungs.copy()
    both[voxels[0], voxels[1], mirrored] = True
    return both
