"""Tree length detected, precision and leakage of an epoch's validation patches, and the score of a checkpoint.

"Pseudo", as in nnU-Net: pooled over the validation patches of an epoch, not over whole cases. Sources: tree length
detected as in Lo et al., IEEE TMI 31(11), 2012 (EXACT'09), here counted in centerline voxels; leakage as the volume of
false positives over that of the reference (Garcia-Uceda et al., Scientific Reports 11, 2021); the checkpoint's score
after the ranking of ATM'22 (Zhang et al., Medical Image Analysis 90, 2023), without branches detected.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from nnunetv2_airway.losses.functional import foreground_logit
from nnunetv2_airway.training.ranks import all_gather
from nnunetv2_airway.tree.centerline import ON_LINE

LENGTH, PRECISION, LEAKAGE = "pseudo_tree_length_detected", "pseudo_precision", "pseudo_leakage"
FIGURES = (LENGTH, PRECISION, LEAKAGE)
"""Names in nnU-Net's log."""
SCORED = {"mean_fg_dice": "Dice", LENGTH: "tree length detected", PRECISION: "precision"}
"""What the checkpoint's score is the mean of: nnU-Net's or our name in the log, and its name in words."""
SMOOTHING = 0.9
"""nnU-Net's, for its own moving average."""


@contextmanager
def outputs_of(network: nn.Module) -> Iterator[list]:
    """Collect what a network returns inside the block."""
    outputs: list = []
    hook = network.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    try:
        yield outputs
    finally:
        hook.remove()


def count_line(logits: torch.Tensor, closeness: torch.Tensor) -> dict[str, int]:
    """Count the centerline voxels of a batch: all, and those that are predicted.

    Args:
        logits: nnU-Net's heads, (N, 1 or 2, Z, Y, X).
        closeness: the "centerline" map, (N, 1, Z, Y, X).
    """
    line = closeness.to(logits.device) == ON_LINE
    return {"line_found": int((line & (foreground_logit(logits) > 0)).sum()), "line": int(line.sum())}


def figures_of_epoch(outputs: Sequence[Mapping]) -> dict[str, float]:
    """Compute an epoch's figures from what the validation steps of all ranks counted; all ranks call this together."""
    names = ("tp_hard", "fp_hard", "fn_hard", "line_found", "line")
    mine = [sum(np.sum(output[name]) for output in outputs) for name in names]
    return pseudo_metrics(*np.sum(all_gather(mine), axis=0))


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


def best_so_far(log: Mapping[str, Sequence[float]]) -> str:
    """Say the score of the last epoch if none before was as good, else nothing."""
    *earlier, score = checkpoint_scores(log)
    if score <= max(earlier, default=-1):
        return ""
    return f"{score:.4f}, moving average of the mean of pseudo {', '.join(SCORED.values())}"


def in_a_line(log: Mapping[str, Sequence[float]]) -> str:
    """Say the figures of the last epoch."""
    length, precision, leakage = (log[name][-1] for name in FIGURES)
    return f"Pseudo tree length detected {length:.4f}, precision {precision:.4f}, leakage {leakage:.4f}"


def _quotient(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else float("nan")
