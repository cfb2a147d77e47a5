"""One picture per case: three projections of the tree, coloured by what was found, or by generation."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps, patheffects
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


def project(layers: Sequence[np.ndarray], colours: Sequence[Sequence[float]], axis: int) -> np.ndarray:
    """Look through a case along one axis.

    Args:
        layers: (Z, Y, X) bool each, apart from each other.
        colours: of the layers, RGB in [0, 1].
        axis: the axis to look along.

    Returns:
        RGB image in [0, 1] over the other two axes: the mean colour of all voxels of layers behind a pixel, so that a
        missed branch is red while a missed surface voxel in front of a found trachea hardly shows; white where none.
    """
    counts = np.stack([mask.sum(axis) for mask in layers], axis=-1).astype(float)
    total = counts.sum(-1, keepdims=True)
    return np.where(total > 0, counts @ np.array(colours) / np.maximum(total, 1), 1.0)


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
    prediction, reference = prediction > 0, reference > 0
    layers = {
        "found": (prediction & reference, FOUND),
        "missed": (reference & ~prediction, MISSED),
        "false": (prediction & ~reference, FALSE),
    }
    words = "colours mix where one lies behind another" + ("; numbers: missed branches, at their ends" if marks else "")
    _draw(file, layers, spacing, title=title, words=words, marks=marks or {})


def draw_generations(file: Path, generations: np.ndarray, spacing: tuple[float, float, float], *, title: str) -> None:
    """Write the same projections of one tree, coloured by generation.

    Args:
        file: the PNG.
        generations: (Z, Y, X) int, 1 for the trachea, 2 for the main bronchi, 0 outside the airways.
        spacing: (z, y, x) in mm.
        title: line above the picture.
    """
    deepest = int(generations.max(initial=1))
    colours = colormaps["viridis"](np.linspace(0, 1, max(deepest, 2)))[:, :3]
    layers = {str(number): (generations == number + 1, colours[number]) for number in range(deepest)}
    _draw(file, layers, spacing, title=title, words="generation; colours mix where one lies behind another", marks={})


def _draw(
    file: Path,
    layers: Mapping[str, tuple[np.ndarray, Sequence[float]]],
    spacing: tuple[float, float, float],
    *,
    title: str,
    words: str,
    marks: Mapping[str, Sequence[float]],
) -> None:
    masks, colours = zip(*layers.values(), strict=True)
    low, high = _box(np.logical_or.reduce(masks), np.ceil(MARGIN / np.array(spacing)).astype(int))
    crop = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    masks = [mask[crop] for mask in masks]
    edges = [(a * step, b * step) for a, b, step in zip(low, high, spacing, strict=True)]
    height, breadth, width = (b - a for a, b in edges)
    tallest = max(height, breadth)  # of all panels, so that a millimetre is the same in each
    figure = Figure(figsize=(WIDTH, WIDTH * tallest / (2 * width + breadth) + 0.7), layout="constrained")
    panels = figure.subplots(1, 3, width_ratios=(width, breadth, width))
    for panel, (name, axis) in zip(panels, VIEWS, strict=True):
        rows, columns = (edges[other] for other in range(3) if other != axis)
        up = 1 if axis else -1  # planes count towards the head, rows of a plane towards the back
        panel.imshow(
            project(masks, colours, axis),
            extent=(*columns, *rows[::up]),
            origin="lower" if up == 1 else "upper",
            interpolation="nearest",
        )
        middle = sum(rows) / 2
        for word, place in marks.items():
            row, column = ((place[other] + 0.5) * spacing[other] for other in range(3) if other != axis)
            panel.text(column, row, word, fontsize=7, ha="center", va="center", path_effects=HALO)
        panel.set(title=name, xlabel="mm", ylabel="mm", ylim=(middle - up * tallest / 2, middle + up * tallest / 2))
    figure.suptitle(title, parse_math=False)
    handles = [Patch(color=colour, label=name) for name, (_, colour) in layers.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, title=words)
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
