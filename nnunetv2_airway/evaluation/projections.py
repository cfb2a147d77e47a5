"""One picture per case: three projections of the tree, found in grey, missed in red, false in green."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from nnunetv2_airway.files import atomic_path

FOUND, MISSED, FALSE = (0.62, 0.62, 0.62), (0.85, 0.10, 0.10), (0.05, 0.60, 0.20)
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


def write_projections(
    file: Path, prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, float, float], *, title: str
) -> None:
    """Write coronal, sagittal and axial projections as a PNG, to scale, head up.

    Args:
        file: the PNG.
        prediction: (Z, Y, X), airway where > 0.
        reference: same shape.
        spacing: (z, y, x) in mm.
        title: line above the picture.
    """
    figure = Figure(figsize=(13, 5.2), layout="constrained")
    extents = [size * step for size, step in zip(reference.shape, spacing, strict=True)]
    widths = [extents[2], extents[1], extents[2]]
    for panel, (name, axis) in zip(figure.subplots(1, 3, width_ratios=widths), VIEWS, strict=True):
        rows, columns = (other for other in range(3) if other != axis)
        image = project(prediction, reference, axis)
        panel.imshow(
            image,
            extent=(0, extents[columns], 0, extents[rows]) if rows == 0 else (0, extents[columns], extents[rows], 0),
            origin="lower" if rows == 0 else "upper",
            interpolation="nearest",
        )
        panel.set(title=name, xlabel="mm", ylabel="mm")
    figure.suptitle(title)
    handles = [Patch(color=c, label=n) for c, n in ((FOUND, "found"), (MISSED, "missed"), (FALSE, "false"))]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    with atomic_path(file) as temporary:
        figure.savefig(temporary, dpi=110)
