"""What training says of itself after each epoch, beside nnU-Net's losses and pseudo Dice.

"Pseudo", as in nnU-Net: pooled over the validation patches of an epoch, not over whole cases. Sources: tree length
detected as in Lo et al., IEEE TMI 31(11), 2012 (EXACT'09), here counted in centerline voxels; leakage as the volume of
false positives over that of the reference (Garcia-Uceda et al., Scientific Reports 11, 2021); the checkpoint's score
after the ranking of ATM'22 (Zhang et al., Medical Image Analysis 90, 2023), without branches detected.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nnunetv2_airway.files import atomic_path
from nnunetv2_airway.schedule import Phase, first_epoch

LENGTH, PRECISION, LEAKAGE = "pseudo_tree_length_detected", "pseudo_precision", "pseudo_leakage"
SCORED = {"mean_fg_dice": "Dice", LENGTH: "tree length detected", PRECISION: "precision"}
"""What the checkpoint's score is the mean of: nnU-Net's or our name in the log, and its name in words."""
SMOOTHING = 0.9
"""nnU-Net's, for its own moving average."""


def pseudo_metrics(
    true_positives: float, false_positives: float, false_negatives: float, line_found: int, line: int
) -> dict[str, float]:
    """Compute an epoch's figures from counts of voxels, pooled over its validation patches.

    Args:
        true_positives: airway voxels that are predicted.
        false_positives: other voxels that are predicted.
        false_negatives: airway voxels that are not.
        line_found: centerline voxels that are predicted.
        line: centerline voxels.

    Returns:
        Fractions by name, nan where the patches give none.
    """
    return {
        LENGTH: _quotient(line_found, line),
        PRECISION: _quotient(true_positives, true_positives + false_positives),
        LEAKAGE: _quotient(false_positives, true_positives + false_negatives),
    }


def checkpoint_scores(log: Mapping[str, Sequence[float]]) -> list[float]:
    """Compute, for each epoch, what the best checkpoint is chosen by.

    Args:
        log: nnU-Net's log, one value per epoch and name.

    Returns:
        Moving average over the epochs of the mean of pseudo Dice, tree length detected and precision. A figure that an
        epoch's patches did not give counts as 0.
    """
    epochs = zip(*(log[name] for name in SCORED), strict=True)
    scores: list[float] = []
    for values in epochs:
        score = float(np.mean(np.nan_to_num(values)))
        scores.append(SMOOTHING * scores[-1] + (1 - SMOOTHING) * score if scores else score)
    return scores


def write_progress(file: Path, log: Mapping[str, Sequence[float]], phases: Sequence[Phase]) -> None:
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


def _quotient(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else float("nan")
