"""Pictures of a training: its first batch of a phase with the weight of every voxel, and its curves over the epochs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill

import numpy as np
import torch
from matplotlib import style
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nnunetv2_airway.io.files import atomic_path
from nnunetv2_airway.training.monitoring import LEAKAGE, LENGTH, SCORED, checkpoint_scores
from nnunetv2_airway.training.schedule import Phase, first_epoch

ROWS = 4
CHARACTERS_PER_INCH = 10
"""Of the title, so that it breaks before it leaves the picture."""


def draw_patches(
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


def draw_progress(file: Path, log: Mapping[str, Sequence[float]], phases: Sequence[Phase]) -> None:
    """Draw losses, pseudo metrics and leakage over the epochs, with the phases of the schedule, as a PNG.

    Args:
        file: the PNG.
        log: nnU-Net's log, one value per epoch and name.
        phases: the schedule.
    """
    epochs = np.arange(len(log[LENGTH]))
    rows = (
        ("loss", {"training": log["train_losses"], "validation": log["val_losses"]}),
        (
            "pseudo metric",
            {
                **{words: log[name] for name, words in SCORED.items()},
                "chooses checkpoint_best": checkpoint_scores(log),
            },
        ),
        ("leakage", {"false positive / airway volume": log[LEAKAGE]}),
    )
    with style.context("default"):  # nnU-Net's logger changes the style of the whole process
        figure = Figure(figsize=(11, 9), layout="constrained")
        panels = figure.subplots(len(rows), 1, sharex=True)
        for panel, (label, curves) in zip(panels, rows, strict=True):
            for name, values in curves.items():
                line = dict(color="black", linewidth=2.2) if name.startswith("chooses") else dict(linewidth=1.4)
                panel.plot(epochs, values[: len(epochs)], marker="." if len(epochs) < 40 else None, label=name, **line)
            panel.set(ylabel=label, xlim=(-0.5, first_epoch(phases, len(phases)) - 0.5))
            panel.grid(alpha=0.3)
            panel.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small", frameon=False)
            for index, phase in enumerate(phases):
                start = first_epoch(phases, index) - 0.5
                panel.axvspan(start, start + phase.epochs, color="tab:gray", alpha=0.18 * (index % 2), linewidth=0)
        panels[1].set_ylim(-0.02, 1.02)
        # symmetric logarithm: a network that has just begun leaks many times the airways' volume
        panels[2].set_yscale("symlog", linthresh=0.1)
        panels[2].set(ylim=(0, None), xlabel="epoch")
        panels[2].xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.suptitle(
            "\n".join(
                f"phase {index + 1}, from epoch {first_epoch(phases, index)}: {phase}"
                for index, phase in enumerate(phases)
            ),
            fontsize="small",
        )
        with atomic_path(file) as temporary:
            figure.savefig(temporary, dpi=90)
