"""The equations, as functions of tensors (B, 1, Z, Y, X).

Papers: Zheng 2021, section III-C (Tversky, Root Tversky, General Union); Tang 2022, section 1. The public code of
Zheng 2021 sums over the whole batch, and so do we.
"""

import torch


def union_sums(
    prob: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    *,
    alpha: float,
    beta: float,
    root: float,
    epsilon: float,
) -> torch.Tensor:
    """Sum numerator and denominator of the union loss: (2,) in float32 or better, differentiable in ``prob``.

    Separate from ``union_loss`` so that ranks can add theirs up first. Arguments as there.
    """
    prob = prob.to(torch.promote_types(prob.dtype, torch.float32))
    target = target.to(prob.dtype)
    found = prob + epsilon if epsilon else prob
    found = found.pow(root) if root != 1 else found
    overlap = found * target
    union = alpha * prob + beta * target
    if weight is not None:
        overlap, union = overlap * weight, union * weight
    return torch.stack((overlap.sum(), union.sum()))


def union_loss_from_sums(sums: torch.Tensor, *, smooth: float) -> torch.Tensor:
    """Turn the sums of ``union_sums`` into the loss."""
    return 1 - (sums[0] + smooth) / (sums[1] + smooth)


def union_loss(
    prob: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    *,
    alpha: float,
    beta: float,
    root: float = 1.0,
    smooth: float = 1.0,
    epsilon: float = 0.0,
) -> torch.Tensor:
    """Compute the family of union losses: 1 - (sum w (p + epsilon)^root g + smooth) / (sum w (alpha p + beta g) + smooth).

    Dice is alpha = beta = 1/2, root = 1; Tversky alpha + beta = 1; Root Tversky root = 0.7; General Union has weights.

    Args:
        prob: foreground probability p in [0, 1], (B, 1, Z, Y, X); any floating type, computed in float32 or better.
        target: g in {0, 1}, same shape.
        weight: w >= 0, same shape; None is 1 everywhere.
        alpha: share of the prediction in the denominator.
        beta: share of the target in the denominator.
        root: exponent of the prediction in the numerator.
        smooth: keeps the quotient defined for an empty patch.
        epsilon: keeps the gradient of the root finite at p = 0.

    Returns:
        Scalar loss; sums run over the whole batch.

    Source: Zheng 2021, eqs. 10, 12, 16; Tang 2022, eq. 2.
    """  # noqa: E501
    sums = union_sums(prob, target, weight, alpha=alpha, beta=beta, root=root, epsilon=epsilon)
    return union_loss_from_sums(sums, smooth=smooth)
