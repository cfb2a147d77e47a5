"""Cross-entropy of two classes, plain, weighted by class, or focal.

Papers: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017; Shirokikh 2020, which compares both with inverse
weighting; Zheng 2021, fig. 7 (Dice with weighted cross-entropy). As in the public code of Shirokikh 2020: the mean over
all voxels, gamma = 2 and alpha = 0.75 (its choice on LUNA16), and classes weighted by the inverse of their size.
"""

import torch
import torch.nn.functional as F


def cross_entropy_sums(
    logits: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    annotated: torch.Tensor | None = None,
    *,
    gamma: float = 0.0,
) -> torch.Tensor:
    """Sum w (1 - p_t)^gamma (-log p_t) over foreground and background, and count their voxels.

    Separate from ``cross_entropy_from_sums`` so that ranks can add theirs up first.

    Args:
        logits: z of the foreground, (B, 1, Z, Y, X), any floating type, computed in float32 or better.
        target: g in {0, 1}, same shape; p_t is the probability of the voxel's own class.
        weight: w >= 0, same shape; None is 1 everywhere.
        annotated: 1 where a voxel counts and 0 elsewhere, same shape; None is 1 everywhere.
        gamma: focus on voxels that are wrong; 0 is cross-entropy.

    Returns:
        (4,) {loss of the foreground, of the background, voxels of the foreground, of the background}.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    target = target.to(logits.dtype)
    toward = logits * (2 * target - 1)  # logit of the voxel's own class
    loss = F.softplus(-toward)
    if gamma:
        loss = loss * torch.exp(-gamma * F.softplus(toward))  # (1 - p_t)^gamma, with a finite gradient at p_t = 1
    if weight is not None:
        loss = loss * weight
    background = 1 - target
    if annotated is not None:
        loss, target, background = loss * annotated, target * annotated, background * annotated
    return torch.stack(((loss * target).sum(), (loss * background).sum(), target.sum(), background.sum()))


def cross_entropy_from_sums(sums: torch.Tensor, *, alpha: float | None = None, balanced: bool = False) -> torch.Tensor:
    """Turn the sums of ``cross_entropy_sums`` into the loss.

    Args:
        sums: (4,).
        alpha: factor of the foreground, 1 - alpha that of the background; None is 1 for both.
        balanced: weigh each class by N / (2 S), N voxels in all and S of the class, so that both count alike.

    Returns:
        Scalar, the mean over all voxels.
    """
    losses, voxels = sums[:2], sums[2:]
    if alpha is not None:
        losses = losses * torch.tensor((alpha, 1 - alpha), dtype=losses.dtype, device=losses.device)
    if balanced:
        return (losses / voxels.clamp_min(1)).sum() / 2
    return losses.sum() / voxels.sum().clamp_min(1)
