"""Supervision of every group of WingsNet with one loss of the union family.

Papers: Zheng 2021, section III-B: each group has its own loss; Tang 2022, eq. 5: the weights of a voxel add up. As in
the public code: groups count alike, sums run over the whole batch. Under DDP they run over all ranks, as with nnU-Net's
``batch_dice``.
"""

from collections.abc import Sequence

import torch
from nnunetv2.utilities.ddp_allgather import AllGatherGrad
from torch import nn

from nnunetv2_airway.losses.functional import (
    centerline_distance_weight,
    foreground_logit,
    local_imbalance_weight,
    union_loss_from_sums,
    union_sums,
)
from nnunetv2_airway.losses.rows import CenterlineDistance, LocalImbalance, Union, Weight


class GroupSupervisionLoss(nn.Module):
    """Add up one union loss per group output.

    Args:
        union: the loss.
        weights: terms of a voxel's weight, added up; none is 1 everywhere.
        foreground_label: value of the airway in the target; None where the target is one region.
        ignore_label: value of voxels without annotation, or None; they weigh 0.
        ddp: add the sums of all ranks before the quotient.

    A region's target has one channel of {0, 1}, and with an ignore label a second one that marks ignored voxels. In
    training mode the exponents of the local imbalance are drawn for each patch, else their mean is taken.
    """

    def __init__(
        self,
        union: Union,
        weights: Sequence[Weight] = (),
        *,
        foreground_label: int | None,
        ignore_label: int | None,
        ddp: bool,
    ):
        super().__init__()
        self.union = union
        self.weights = tuple(weights)
        self.foreground_label = foreground_label
        self.ignore_label = ignore_label
        self.ddp = ddp

    def forward(
        self, outputs: torch.Tensor | list[torch.Tensor], targets: torch.Tensor | list[torch.Tensor]
    ) -> torch.Tensor:
        """Compute the loss.

        Args:
            outputs: logits (N, heads, Z, Y, X), or a list of them.
            targets: label (N, 1 or 2, Z, Y, X), or a list of the label and the closeness to the centerline
                (N, 1, Z, Y, X), uint8 from 0 to 255 (see ``maps.centerline``).

        Returns:
            Scalar, float32.
        """
        outputs = outputs if isinstance(outputs, list) else [outputs]
        label, *maps = targets if isinstance(targets, list) else [targets]
        target, annotated = self.split(label)
        weight = self.weight(target, *maps)
        if annotated is not None:
            weight = annotated if weight is None else weight * annotated
        return sum(self._loss_of_group(logits, target, weight) for logits in outputs)

    def split(self, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the binary target (N, 1, Z, Y, X), and 0 on ignored voxels and 1 elsewhere, None without such."""
        if self.foreground_label is None:
            return label[:, :1] > 0, None if self.ignore_label is None else 1 - label[:, 1:2].float()
        annotated = None if self.ignore_label is None else (label != self.ignore_label).float()
        return label == self.foreground_label, annotated

    def weight(self, target: torch.Tensor, closeness: torch.Tensor | None = None) -> torch.Tensor | None:
        """Add up the terms of the weight of a binary target: (N, 1, Z, Y, X) in float32, None where there are none."""
        terms = list(self.terms(target, closeness).values())
        return sum(terms[1:], terms[0]) if terms else None

    def terms(self, target: torch.Tensor, closeness: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Compute the terms of the weight by name, (N, 1, Z, Y, X) in float32 each."""
        return {row.name: self._term(row, target, closeness) for row in self.weights}

    def _term(self, row: Weight, target: torch.Tensor, closeness: torch.Tensor | None) -> torch.Tensor:
        if isinstance(row, LocalImbalance):
            low, high = row.exponents
            drawn = torch.rand((len(target), 1, 1, 1, 1), device=target.device) if self.training else 0.5
            exponent = low + (high - low) * drawn
            return local_imbalance_weight(target, exponent=exponent, kernel_size=row.kernel_size, floor=row.floor)
        if isinstance(row, CenterlineDistance):
            return centerline_distance_weight(target, closeness.float() / 255)
        raise TypeError(f"unknown weight {row!r}; known are {Weight}")

    def _loss_of_group(self, logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        union, prob = self.union, torch.sigmoid(foreground_logit(logits.float()))
        sums = union_sums(
            prob, target, weight, alpha=union.alpha, beta=union.beta, root=union.root, epsilon=union.epsilon
        )
        if self.ddp:
            sums = AllGatherGrad.apply(sums).sum(0)
        return union_loss_from_sums(sums, smooth=union.smooth)
