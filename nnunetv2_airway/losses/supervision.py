"""One loss on every output of a network: the groups of WingsNet, or the resolutions of nnU-Net's deep supervision.

Papers: Zheng 2021, section III-B: each group has its own loss; Tang 2022, eq. 5: the weights of a voxel add up. As in
the public code of Zheng 2021, groups count alike and sums run over the whole batch; under DDP over all ranks, as with
nnU-Net's ``batch_dice``. Under deep supervision the weight of a voxel is that of full resolution, taken where nnU-Net
takes the label of a lower one, so it means the same in every output.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from nnunetv2.utilities.ddp_allgather import AllGatherGrad
from torch import nn

from nnunetv2_airway.losses.functional import foreground_logit, most_across_faces
from nnunetv2_airway.losses.rows import Loss, SumOfLosses, terms_of
from nnunetv2_airway.losses.weights import Weight


class SupervisionLoss(nn.Module):
    """Add up one loss per output.

    Args:
        loss: the loss, or several.
        weights: terms of a voxel's weight, added up; none is 1 everywhere.
        foreground_label: value of the structure in the target; None where the target is one region.
        ignore_label: value of voxels without annotation, or None; they weigh 0.
        ddp: add the sums of all ranks before the loss is made of them.
        maps: names of the maps that follow the labels in the list of targets.
        output_weights: factor of each output; None is 1 for all. Outputs of factor 0 are left out.

    A region's target has one channel of {0, 1}, and with an ignore label a second one that marks ignored voxels. In
    training mode the weights sample what is random, else its mean is taken.
    """

    def __init__(
        self,
        loss: Loss | SumOfLosses,
        weights: Sequence[Weight] = (),
        *,
        foreground_label: int | None,
        ignore_label: int | None,
        ddp: bool,
        maps: Sequence[str] = (),
        output_weights: Sequence[float] | None = None,
    ):
        super().__init__()
        self.loss = loss
        self.parts = terms_of(loss)
        self.weights = tuple(weights)
        self.foreground_label = foreground_label
        self.ignore_label = ignore_label
        self.ddp = ddp
        self.maps = tuple(maps)
        self.output_weights = output_weights

    def forward(
        self, outputs: torch.Tensor | list[torch.Tensor], targets: torch.Tensor | list[torch.Tensor]
    ) -> torch.Tensor:
        """Compute the loss.

        Args:
            outputs: logits (N, heads, Z, Y, X), or a list of them, full resolution first.
            targets: label (N, 1 or 2, Z, Y, X), or a list of labels, one for all outputs or one for each, and then of
                the maps (N, 1, Z, Y, X) at full resolution.

        Returns:
            Scalar, float32 or better.
        """
        outputs = outputs if isinstance(outputs, list) else [outputs]
        labels, maps = self.unpack(targets)
        target, annotated = self.split(labels[0])
        weight = self.weight(target, annotated, maps)
        part_maps = [part.map_name and _dilated(maps[part.map_name], part.dilations) for part in self.parts]
        total = 0.0
        for index, logits in enumerate(outputs):
            factor = 1.0 if self.output_weights is None else self.output_weights[index]
            if not factor:
                continue
            if index and len(labels) > 1:
                own_target, own_annotated = self.split(labels[index])
                own_weight = None if weight is None else _resized(weight, logits)
            else:
                own_target, own_annotated, own_weight = target, annotated, weight
            logits = foreground_logit(logits.to(torch.promote_types(logits.dtype, torch.float32)))
            for part, part_map in zip(self.parts, part_maps, strict=True):
                if own_factor := factor * part.factor(index):
                    wanted = own_target
                    if part_map is not None:
                        wanted = (own_target > 0) & (_resized(part_map, logits) > 0)
                    voxels = own_weight if part.weighted else own_annotated
                    total = total + own_factor * self._value(part.loss, logits, wanted, voxels, own_annotated)
        return total

    def unpack(self, targets: torch.Tensor | list[torch.Tensor]) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
        """Return the labels, full resolution first, and the maps by name."""
        targets = targets if isinstance(targets, list) else [targets]
        labels = len(targets) - len(self.maps)
        return targets[:labels], dict(zip(self.maps, targets[labels:], strict=True))

    def target_and_terms(
        self, targets: torch.Tensor | list[torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the binary target of full resolution and the terms of its voxels' weight, to be drawn."""
        labels, maps = self.unpack(targets)
        target, annotated = self.split(labels[0])
        return target, self.terms(target, annotated, maps)

    def split(self, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the binary target (N, 1, Z, Y, X), and 0 on ignored voxels and 1 elsewhere, None without such."""
        if self.foreground_label is None:
            return label[:, :1] > 0, None if self.ignore_label is None else 1 - label[:, 1:2].float()
        annotated = None if self.ignore_label is None else (label != self.ignore_label).float()
        return label == self.foreground_label, annotated

    def weight(
        self, target: torch.Tensor, annotated: torch.Tensor | None, maps: Mapping[str, torch.Tensor]
    ) -> torch.Tensor | None:
        """Add up the terms of the weight, 0 on ignored voxels: (N, 1, Z, Y, X) in float32, None where all weigh 1."""
        terms = list(self.terms(target, annotated, maps).values())
        if not terms:
            return annotated
        weight = sum(terms[1:], terms[0])
        return weight if annotated is None else weight * annotated

    def terms(
        self, target: torch.Tensor, annotated: torch.Tensor | None, maps: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Compute the terms of the weight by name, (N, 1, Z, Y, X) in float32 each."""
        if annotated is not None:
            # signed, for what the weights are to leave out
            maps = {name: torch.where(annotated > 0, carried.int(), -1) for name, carried in maps.items()}
        return {row.name: row.weigh(target, maps, sample=self.training) for row in self.weights}

    def _value(
        self,
        loss: Loss,
        logits: torch.Tensor,
        target: torch.Tensor,
        weight: torch.Tensor | None,
        annotated: torch.Tensor | None,
    ) -> torch.Tensor:
        sums = loss.sums(logits, target, weight, annotated)
        if self.ddp:
            sums = AllGatherGrad.apply(sums).sum(0)
        return loss.value(sums)


def _dilated(values: torch.Tensor, times: int) -> torch.Tensor:
    for _ in range(times):
        values = most_across_faces(values.float())
    return values


def _resized(values: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Bring values (N, 1, Z, Y, X) of full resolution to that of an output, by the nearest voxel."""
    if values.shape[2:] == logits.shape[2:]:
        return values
    return F.interpolate(values.float(), logits.shape[2:], mode="nearest-exact")


def resolution_weights(outputs: int, *, lowest: float) -> list[float]:
    """Weigh the outputs of nnU-Net's deep supervision as it does: half as much at each lower resolution.

    Args:
        outputs: number of them, full resolution first.
        lowest: factor of the last one, before all are made to sum to 1; nnU-Net's is 0.

    >>> [round(weight, 3) for weight in resolution_weights(3, lowest=0)]
    [0.667, 0.333, 0.0]
    """
    weights = [0.5**index for index in range(outputs)]
    if outputs > 1:
        weights[-1] = lowest
    return [weight / sum(weights) for weight in weights]
