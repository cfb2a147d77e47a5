"""The part of a CT that is kept: the lungs' box with a margin, enlarged to hold the airways."""

import numpy as np
import SimpleITK as sitk

from nnunetv2_airway.conversion.lungs import Box, lung_box, open_ends
from nnunetv2_airway.io.images import Grid, axis_between, orientation
from nnunetv2_airway.tree.components import bounding_box

MARGIN = 10.0
"""Of the lung box, in mm, where nothing else is asked for."""
FLATTEST = 0.5
"""Height of a lungs' box, divided by its width, below which a part of the lungs seems to be missing."""


def region(
    ct: sitk.Image, mask: np.ndarray | None, *, margin: float | None, lungs: np.ndarray | None = None
) -> tuple[Box, str, list[str]]:
    """Choose the part of a CT to keep.

    Args:
        ct: in HU, any orientation.
        mask: (Z, Y, X), airway where > 0; None for a CT without a label.
        margin: around the lungs, in mm; None keeps the whole CT.
        lungs: (Z, Y, X), lung where > 0; by default the lungs are looked for.

    Returns:
        Planes, rows and columns; where the lungs come from ("found", "label", "not found" or "not asked for"); and what
        is in doubt about them.
    """
    shape, spacing = ct.GetSize()[::-1], ct.GetSpacing()[::-1]
    whole = tuple(slice(0, n) for n in shape)
    if margin is None:
        return whole, "not asked for", []
    found = lung_box(ct) if lungs is None else _of_label(lungs > 0, ct)
    if found is None:
        return whole, "not found", ["no lungs found: the whole CT is kept"]
    box, ends = found
    source = "found" if lungs is None else "label"
    doubts = []
    if ends:
        doubts.append(
            f"the CT ends inside the lungs: {' and '.join(ends)} of their largest cross-section in its last slice "
            f"there. Slices may be missing"
        )
    height, width = (extent(box, ct, letters) for letters in ("SI", "LR"))
    if height < FLATTEST * width:
        doubts.append(
            f"the lungs' box is only {height:.0f} mm high, but {width:.0f} mm wide: parts of the lungs may be "
            f"consolidated or missing; --no-lung-box keeps the whole CT"
        )
    rims = [int(np.ceil(margin / step)) for step in spacing]
    box = tuple(slice(max(b.start - r, 0), min(b.stop + r, n)) for b, r, n in zip(box, rims, shape, strict=True))
    held = bounding_box(mask > 0) if mask is not None else None
    if not held:
        return box, source, doubts
    enlarged = tuple(slice(min(b.start, h.start), max(b.stop, h.stop)) for b, h in zip(box, held, strict=True))
    beyond = _beyond(enlarged, box, ct)
    if beyond > 0:
        doubts.append(
            f"airways reach {beyond:.0f} mm out of the lungs' box, which was enlarged: parts of the lungs may be "
            f"consolidated, and would be cut in a CT without a label"
        )
    return enlarged, source, doubts


def _of_label(lungs: np.ndarray, ct: sitk.Image) -> tuple[Box, list[str]] | None:
    """The same as ``lung_box``, of a label of the lungs."""
    box = bounding_box(lungs)
    upright = sitk.DICOMOrient(Grid.of(ct).image(lungs.astype(np.uint8)), "LPS")
    return box and (box, open_ends(sitk.GetArrayViewFromImage(upright) > 0))


def _beyond(enlarged: Box, box: Box, image: sitk.Image) -> float:
    """How far a box was enlarged, in mm, but for the side of the head, where the trachea leaves the lungs."""
    lengths = []
    for axis, (letter, new, old) in enumerate(zip(orientation(image)[::-1], enlarged, box, strict=True)):
        step = image.GetSpacing()[2 - axis]
        lengths += [0 if letter == "I" else (old.start - new.start) * step]
        lengths += [0 if letter == "S" else (new.stop - old.stop) * step]
    return max(lengths)


def extent(box: Box, image: sitk.Image, letters: str) -> float:
    """Length of a box in mm along the axis of an image that points to one of two sides, such as "SI"."""
    axis, _ = axis_between(image, letters)
    return (box[axis].stop - box[axis].start) * image.GetSpacing()[2 - axis]
