"""What the loss sees: a few training patches with the weight of every voxel, as a picture."""

from collections.abc import Mapping
from pathlib import Path
from textwrap import fill

import numpy as np
import torch
from matplotlib import style
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from nnunetv2_airway.files import atomic_path

ROWS = 4
CHARACTERS_PER_INCH = 10
"""Of the title, so that it breaks before it leaves the picture."""


def write_patches(
    file: Path, images: torch.Tensor, target: torch.Tensor, terms: Mapping[str, torch.Tensor], *, title: str
) -> None:
    """Draw patches of a batch, each in the plane with the most airway voxels: image with outline, weight terms, sum.

    Args:
        file: the PNG.
        images: (N, C, Z, Y, X), of which the first channel is drawn.
        target: binary, (N, 1, Z, Y, X).
        terms: parts of the weight by name, same shape as the target.
        title: line above the picture.
    """
    shown = np.unique(np.linspace(0, len(images) - 1, ROWS).round().astype(int))
    columns = dict(terms)
    if len(terms) > 1:
        columns["sum"] = sum(terms.values())
    with style.context("default"):  # nnU-Net's logger changes the style of the whole process
        figure = Figure(figsize=(3.2 * (1 + len(columns)), 3 * len(shown) + 0.6), layout="constrained")
        panels = figure.subplots(len(shown), 1 + len(columns), squeeze=False)
        for row, index in zip(panels, shown, strict=True):
            plane = int(target[index, 0].sum((1, 2)).argmax())
            mask = target[index, 0, plane].cpu().numpy()
            row[0].imshow(images[index, 0, plane].cpu().numpy(), cmap="gray", interpolation="nearest")
            for panel in row:
                if mask.any() and not mask.all():
                    panel.contour(mask, [0.5], colors="tab:cyan" if panel is row[0] else "white", linewidths=0.8)
                panel.set(xticks=[], yticks=[])
            row[0].set_ylabel(f"patch {index}, plane {plane}")
            for panel, (name, term) in zip(row[1:], columns.items(), strict=True):
                most = max(1, len(terms)) if name == "sum" else 1
                # weights of unequal pieces span orders of magnitude
                scale = LogNorm(float(term[term > 0].min()), float(term.max())) if term.max() > most else None
                scale = scale or Normalize(0, most)
                drawn = panel.imshow(term[index, 0, plane].cpu().numpy(), norm=scale)
                figure.colorbar(drawn, ax=panel, fraction=0.046)
        for panel, name in zip(panels[0], ("image and label", *columns), strict=True):
            panel.set_title(name)
        figure.suptitle(fill(title, int(CHARACTERS_PER_INCH * figure.get_figwidth())))
        with atomic_path(file) as temporary:
            figure.savefig(temporary, dpi=90)
