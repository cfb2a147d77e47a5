"""Supervision of every group of WingsNet with one loss of the union family.

Paper: Zheng 2021, section III-B: each group has its own loss; method as in the public code: equal weights, sums over
the whole batch. Under DDP the sums run over all ranks, as with nnU-Net's ``batch_dice``.
"""

from dataclasses import dataclass

import torch
from nnunetv2.utilities.ddp_allgather import AllGatherGrad
from torch import nn

from nnunetv2_airway.losses.functional import union_loss_from_sums, union_sums


@dataclass(frozen=True)
class Union:
    """One row of the family of union losses; the symbols are those of ``functional.union_loss``."""

    alpha: float
    beta: float
    root: float = 1.0
    smooth: float = 1.0
    epsilon: float = 0.0


DICE = Union(alpha=0.5, beta=0.5)


class GroupSupervisionLoss(nn.Module):
    """Add up one union loss per group output.

    Args:
        union: the loss.
        foreground_label: value of the airway in the target; None where the target is one region.
        ignore_label: value of voxels without annotation, or None; they weigh 0.
        ddp: add the sums of all ranks before the quotient.

    A region's target has one channel of {0, 1}, and with an ignore label a second one that marks ignored voxels.
    """

    def __init__(self, union: Union, *, foreground_label: int | None, ignore_label: int | None, ddp: bool):
        super().__init__()
        self.union = union
        self.foreground_label = foreground_label
        self.ignore_label = ignore_label
        self.ddp = ddp

    def forward(
        self, outputs: torch.Tensor | list[torch.Tensor], targets: torch.Tensor | list[torch.Tensor]
    ) -> torch.Tensor:
        """Compute the loss of logits (N, heads, Z, Y, X), or a list of them, against a target (N, 1 or 2, Z, Y, X)."""
        outputs = outputs if isinstance(outputs, list) else [outputs]
        target = targets[0] if isinstance(targets, list) else targets
        target, weight = self._split(target)
        return sum(self._loss_of_group(logits, target, weight) for logits in outputs)

    def _split(self, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the binary target and a weight of 0 on ignored voxels."""
        if self.foreground_label is None:
            return target[:, :1], None if self.ignore_label is None else 1 - target[:, 1:2].float()
        weight = None if self.ignore_label is None else (target != self.ignore_label).float()
        return target == self.foreground_label, weight

    def _loss_of_group(self, logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        logits = logits.float()
        # softmax over {background, airway} is the sigmoid of the difference
        z = logits if logits.shape[1] == 1 else logits[:, 1:2] - logits[:, :1]
        union = self.union
        sums = union_sums(
            torch.sigmoid(z), target, weight, alpha=union.alpha, beta=union.beta, root=union.root, epsilon=union.epsilon
        )
        if self.ddp:
            sums = AllGatherGrad.apply(sums).sum(0)
        return union_loss_from_sums(sums, smooth=union.smooth)
