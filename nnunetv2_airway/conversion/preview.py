"""A picture of each case, and all of them on one sheet."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from matplotlib import image as picture
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from nnunetv2_airway.io.files import atomic_path
from nnunetv2_airway.io.images import Grid, orientation

WINDOW = (-1000, 400)
"""HU shown from black to white."""
INCHES, DPI = 2.4, 100
LABEL, BOX = "#ffb000", "#4fb3ff"
GOOD, LOOK, BAD = "white", "#ffb000", "#ff6b6b"
SHEET_RATIO = 1.6


def draw_preview(
    file: Path,
    hu: np.ndarray,
    grid: Grid,
    mask: np.ndarray | None,
    box: Sequence[slice],
    *,
    title: str,
    colour: str = GOOD,
) -> None:
    """Draw one coronal plane, head up and the patient's right at the left, with the label's outline and the lung box.

    The plane is that with most of the label, or the box's middle one where there is none.

    Args:
        file: the PNG.
        hu: (Z, Y, X), before it was cut to the box.
        grid: where its voxels lie.
        mask: (Z, Y, X), airway where > 0; None for a case without a label.
        box: planes, rows and columns.
        title: line above the picture.
        colour: of the title.
    """
    depth = next(2 - axis for axis, letter in enumerate(orientation(grid.image(hu[:1, :1, :1]))) if letter in "AP")
    amount = np.zeros(1) if mask is None else mask.sum(tuple({0, 1, 2} - {depth}), dtype=np.int64)
    place = int(amount.argmax()) if amount.any() else (box[depth].start + box[depth].stop) // 2
    inside = np.zeros([1 if axis == depth else n for axis, n in enumerate(hu.shape)], np.uint8)
    inside[tuple(slice(0, 1) if axis == depth else span for axis, span in enumerate(box))] = 1

    def upright(array: np.ndarray) -> sitk.Image:
        return sitk.DICOMOrient(grid.image(array), "LPS")

    def plane(image: sitk.Image) -> np.ndarray:
        return sitk.GetArrayFromImage(image)[:, 0]

    shown = upright(hu.take([place], depth))
    label = None if mask is None else plane(upright(mask.take([place], depth)))
    across, _, up = shown.GetSpacing()
    figure = Figure(figsize=(INCHES, INCHES), dpi=DPI, facecolor="black")
    panel = figure.add_axes((0.01, 0.02, 0.98, 0.86))
    panel.imshow(
        plane(shown),
        cmap="gray",
        vmin=WINDOW[0],
        vmax=WINDOW[1],
        origin="lower",
        aspect=up / across,
    )
    if label is not None and label.any():
        panel.contour(label, levels=[0.5], colors=LABEL, linewidths=0.7)
    framed = plane(upright(inside))
    planes, columns = (np.flatnonzero(framed.any(axis)) for axis in (1, 0))
    corner = (columns[0] - 0.5, planes[0] - 0.5)
    panel.add_patch(
        Rectangle(corner, len(columns), len(planes), fill=False, edgecolor=BOX, linewidth=0.8, clip_on=False)
    )
    panel.set_axis_off()
    figure.text(0.5, 0.985, title, color=colour, fontsize=7, ha="center", va="top", parse_math=False)
    with atomic_path(file) as temporary:
        figure.savefig(temporary)


def draw_contact_sheet(file: Path, previews: Mapping[str, tuple[Path, str]]) -> None:
    """Put all previews on one sheet, in order.

    Args:
        file: the PNG.
        previews: picture of each case, and what to write where there is none.
    """
    side = round(INCHES * DPI)
    columns = max(1, math.ceil(math.sqrt(SHEET_RATIO * len(previews))))
    sheet = np.zeros((math.ceil(len(previews) / columns) * side, columns * side, 3), np.uint8)
    for index, (case, (preview, words)) in enumerate(previews.items()):
        tile = _read(preview) if preview.is_file() else None
        if tile is None or tile.shape != (side, side, 3):
            tile = _placeholder(case, words, side)
        top, left = (index // columns) * side, (index % columns) * side
        sheet[top : top + side, left : left + side] = tile
    with atomic_path(file) as temporary:
        picture.imsave(temporary, sheet)


def _read(file: Path) -> np.ndarray:
    return np.rint(picture.imread(file)[..., :3] * 255).astype(np.uint8)


def _placeholder(case: str, words: str, side: int) -> np.ndarray:
    figure = Figure(figsize=(INCHES, INCHES), dpi=side / INCHES, facecolor="black")
    canvas = FigureCanvasAgg(figure)
    figure.text(0.5, 0.985, case, color=BAD, fontsize=7, ha="center", va="top", parse_math=False)
    lines = "\n".join(textwrap.wrap(words, 40)[:14])
    figure.text(0.05, 0.5, lines, color="white", fontsize=6, va="center", parse_math=False)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]
