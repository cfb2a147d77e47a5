"""Airway labels: which values count, whether they belong to their CT."""

from collections.abc import Collection
from itertools import combinations
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunetv2_airway.io.errors import UserError
from nnunetv2_airway.io.images import foreground_values, orientation, read_volume, require_same_geometry, whole_numbers
from nnunetv2_airway.tree.components import bounding_box, with_neighbours

HEADER_NOISE = 1e-3
"""Differences of geometry above this, in voxels, are worth a line."""
AIR = -700.0
"""HU: airways lie below on average, also with the partial volume of small ones; another CT's label does not."""
BETTER = 50.0
"""HU by which a mirrored label lies deeper in air if it is the label that is mirrored."""
PURE_AIR, CONTRAST = -900.0, 150.0
"""HU: a label above the first should be darker than its surroundings, where the walls are, by the second."""
MAX_SHARE = 0.2
"""Share of a CT's voxels that no airways fill."""
AXES = ("plane", "row", "column")


def read_label(
    file: Path, ct: sitk.Image, *, values: Collection[int] | None = None, ignore_header: bool = False
) -> tuple[np.ndarray, list[str]]:
    """Read a label onto the grid of its CT.

    Args:
        file: the label.
        ct: its CT.
        values: those that count; by default all above 0.
        ignore_header: take the CT's geometry whatever the label's header says, where the sizes are the same.

    Returns:
        (Z, Y, X) uint8, 1 where labelled; and what was done. A label that is stored with other axes is turned; small
        differences between the headers are repaired from the CT.

    Raises:
        UserError: it cannot be read, is no label, holds none of the values, or does not lie on the CT's grid.
    """
    image = read_volume(file)
    notes = []
    if ignore_header and image.GetSize() == ct.GetSize():
        image.CopyInformation(ct)
    if orientation(image) != orientation(ct):
        notes.append(f"label turned from {orientation(image)} to the CT's {orientation(ct)}")
        image = sitk.DICOMOrient(image, orientation(ct))
    try:
        apart = require_same_geometry(image, ct, name="CT")
    except UserError as error:
        advice = (
            ". If it was made voxel by voxel on this CT and only its header is wrong, --ignore-label-header CASE takes "
            "the CT's"
        )
        raise UserError(f"{file}: {error}{advice if image.GetSize() == ct.GetSize() else ''}") from error
    if apart > HEADER_NOISE:
        notes.append(f"header of the label repaired from the CT (voxels lay {apart:.2g} voxels apart)")
    array = whole_numbers(sitk.GetArrayViewFromImage(image))
    found = foreground_values(array)
    listed = ", ".join(f"{value:g}" for value in found)
    if (found < 0).any() or (found != np.round(found)).any():
        what = "a CT; is it in the wrong folder?" if (found < 0).any() else "a probability map; threshold it first"
        raise UserError(f"{file} must be a label, got the values {listed}: it looks like {what}")
    if values is None:
        if len(found) > 1:
            notes.append(
                f"label values {listed} all taken as airway; --lumen {found[0]:g} would take {found[0]:g} only"
            )
        return (array != 0).astype(np.uint8), notes
    mask = np.isin(array, list(values))
    if found.size and not mask.any():
        raise UserError(f"{file} holds none of the values {sorted(values)} of --lumen, but {listed}")
    return mask.astype(np.uint8), notes


def check_label(mask: np.ndarray, hu: np.ndarray) -> tuple[str, str]:
    """Look whether a label can be that of its CT.

    Args:
        mask: (Z, Y, X), airway where > 0.
        hu: (Z, Y, X), the CT in HU.

    Returns:
        Why it seems not to be, and why it is in doubt; empty where there is nothing to say.

    Raises:
        UserError: it is empty, or holds more of the CT than airways do.
    """
    voxels = np.nonzero(mask)
    share = len(voxels[0]) / mask.size
    if not share:
        raise UserError("the label is empty")
    if share > MAX_SHARE:
        raise UserError(f"the label holds {share:.0%} of the CT: it is inverted, or no label of airways")
    level = float(hu[voxels].mean())
    mirrored = {
        axes: float(hu[_mirror(voxels, hu.shape, axes)].mean())
        for count in (1, 2, 3)
        for axes in combinations(range(3), count)
    }
    best = min(mirrored, key=mirrored.__getitem__)
    if mirrored[best] < min(AIR, level - BETTER):
        axes = " and ".join(AXES[axis] for axis in best)
        return (
            f"the label seems to be mirrored: it lies at {level:.0f} HU on average, mirrored along the {axes} axis at "
            f"{mirrored[best]:.0f} HU. Its header or its array is flipped"
        ), ""
    if level > AIR:
        return (
            f"the label does not lie in air: {level:.0f} HU on average, airways lie between -1000 and {AIR:.0f}. It "
            f"may belong to another CT, be flipped, or hold more than the lumen (then --lumen says which value is); or "
            f"its CT is not in HU"
        ), ""
    contrast = _level_around(mask, hu) - level
    if level > PURE_AIR and contrast < CONTRAST:
        return "", (
            f"the label is hardly darker than what is around it ({level:.0f} HU, {level + contrast:.0f} HU around): it "
            f"may be shifted, belong to another CT, or hold walls"
        )
    return "", ""


def _mirror(voxels: tuple[np.ndarray, ...], shape: tuple[int, ...], axes: Collection[int]) -> tuple[np.ndarray, ...]:
    return tuple(n - 1 - v if axis in axes else v for axis, (v, n) in enumerate(zip(voxels, shape, strict=True)))


def _level_around(mask: np.ndarray, hu: np.ndarray) -> float:
    """Mean HU of the voxels that touch a label."""
    box = tuple(slice(max(span.start - 1, 0), span.stop + 1) for span in bounding_box(mask > 0))
    inside = mask[box] > 0
    around = with_neighbours(inside) & ~inside
    return float(hu[box][around].mean()) if around.any() else float("inf")
