"""One picture per case: three projections of the tree, found in grey, missed in red, false in blue."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import patheffects
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from nnunetv2_airway.io.files import atomic_path
from nnunetv2_airway.tree.components import bounding_box

FOUND, MISSED, FALSE = (0.62, 0.62, 0.62), (0.85, 0.10, 0.10), (0.10, 0.37, 0.85)
MARGIN = 5.0
"""White around the tree, in mm."""
WIDTH = 18.0
"""Of the picture, in inches."""
HALO = (patheffects.withStroke(linewidth=1.2, foreground="white"),)
VIEWS = (("coronal", 1), ("sagittal", 2), ("axial", 0))


def project(prediction: np.ndarray, reference: np.ndarray, axis: int) -> np.ndarray:
    """Look through a case along one axis.

    Args:
        prediction: (Z, Y, X), airway where > 0.
        reference: same shape.
        axis: the axis to look along.

    Returns:
        RGB image in [0, 1] over the other two axes: the mean colour of all airway voxels behind a pixel, so that a
        missed branch is red while a missed surface voxel in front of a found trachea hardly shows; white where none.
    """
    prediction, reference = prediction > 0, reference > 0
    masks = (prediction & reference, reference & ~prediction, prediction & ~reference)
    counts = np.stack([mask.sum(axis) for mask in masks], axis=-1).astype(float)
    total = counts.sum(-1, keepdims=True)
    colours = counts @ np.array((FOUND, MISSED, FALSE)) / np.maximum(total, 1)
    return np.where(total > 0, colours, 1.0)


def draw_projections(
    file: Path,
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: tuple[float, float, float],
    *,
    title: str,
    marks: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Write coronal, sagittal and axial projections of the tree's box as a PNG, to scale, head up.

    Args:
        file: the PNG.
        prediction: (Z, Y, X), airway where > 0; planes from feet to head, rows from front to back.
        reference: same shape.
        spacing: (z, y, x) in mm.
        title: line above the picture.
        marks: words to write at voxels (plane, row, column).
    """
    low, high = _box((prediction > 0) | (reference > 0), np.ceil(MARGIN / np.array(spacing)).astype(int))
    crop = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    edges = [(a * step, b * step) for a, b, step in zip(low, high, spacing, strict=True)]
    height, breadth, width = (b - a for a, b in edges)
    tallest = max(height, breadth)  # of all panels, so that a millimetre is the same in each
    figure = Figure(figsize=(WIDTH, WIDTH * tallest / (2 * width + breadth) + 0.7), layout="constrained")
    panels = figure.subplots(1, 3, width_ratios=(width, breadth, width))
    for panel, (name, axis) in zip(panels, VIEWS, strict=True):
        rows, columns = (edges[other] for other in range(3) if other != axis)
        up = 1 if axis else -1  # planes count towards the head, rows of a plane towards the back
        image = project(prediction[crop], reference[crop], axis)
        panel.imshow(
            image, extent=(*columns, *rows[::up]), origin="lower" if up == 1 else "upper", interpolation="nearest"
        )
        middle = sum(rows) / 2
        for word, place in (marks or {}).items():
            row, column = ((place[other] + 0.5) * spacing[other] for other in range(3) if other != axis)
            panel.text(column, row, word, fontsize=7, ha="center", va="center", path_effects=HALO)
        panel.set(title=name, xlabel="mm", ylabel="mm", ylim=(middle - up * tallest / 2, middle + up * tallest / 2))
    figure.suptitle(title, parse_math=False)
    handles = [Patch(color=c, label=n) for c, n in ((FOUND, "found"), (MISSED, "missed"), (FALSE, "false"))]
    words = "colours mix where one lies behind another" + ("; numbers: missed branches, at their ends" if marks else "")
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, title=words)
    with atomic_path(file) as temporary:
        figure.savefig(temporary, dpi=130)


def _box(mask: np.ndarray, margin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners of a mask's box with a margin in voxels; of the whole volume where the mask is empty."""
    box = bounding_box(mask)
    if box is None:
        return np.zeros(3, int), np.array(mask.shape)
    low = np.array([axis.start for axis in box]) - margin
    high = np.array([axis.stop for axis in box]) + margin
    return np.maximum(low, 0), np.minimum(high, mask.shape)
