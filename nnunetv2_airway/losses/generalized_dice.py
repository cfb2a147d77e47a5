"""Generalized Dice: foreground and background weighted by the inverse square of their size.

Paper: Sudre et al., "Generalised Dice overlap as a deep learning loss function for highly unbalanced segmentations",
DLMIA 2017, with which Shirokikh 2020 compares. Deviation: sums run over the whole batch, as in all our losses.
"""

import torch


def generalized_dice_sums(prob: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """Sum what the loss is made of.

    Separate from ``generalized_dice_from_sums`` so that ranks can add theirs up first.

    Args:
        prob: foreground probability p, (B, 1, Z, Y, X), any floating type, computed in float32 or better.
        target: g in {0, 1}, same shape.
        weight: of each voxel, same shape; None is 1 everywhere.

    Returns:
        (6,) {sum p g, sum p, sum g} of the foreground, and the same of the background, with 1 - p and 1 - g.
    """
    prob = prob.to(torch.promote_types(prob.dtype, torch.float32))
    target = target.to(prob.dtype)
    weight = torch.ones_like(prob) if weight is None else weight
    classes = ((prob, target), (1 - prob, 1 - target))
    return torch.stack([(weight * term).sum() for p, g in classes for term in (p * g, p, g)])


def generalized_dice_from_sums(sums: torch.Tensor) -> torch.Tensor:
    """Turn the sums of ``generalized_dice_sums`` into 1 - 2 sum_l v_l sum p g / sum_l v_l sum (p + g), v_l = 1 / (sum g)^2.

    A class without voxels has v_l = 1.
    """  # noqa: E501
    overlap, predicted, size = sums.view(2, 3).unbind(1)
    share = 1 / size.clamp_min(1) ** 2
    return 1 - 2 * (share * overlap).sum() / (share * (predicted + size)).sum()
