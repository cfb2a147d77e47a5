"""clDice, the Dice of two centerlines, with soft skeletons.

Paper: Shit et al., "clDice: a novel topology-preserving loss function for tubular structure segmentation", CVPR 2021;
algorithm 1 (soft skeleton) and equation 3.
"""

import torch
import torch.nn.functional as F

from nnunetv2_airway.losses.functional import most_across_faces


def soft_skeleton(values: torch.Tensor, iterations: int) -> torch.Tensor:
    """Thin values in [0, 1] by repeated minima, keeping at each step what an opening would remove.

    Args:
        values: (N, 1, Z, Y, X).
        iterations: erosions, at least the radius of the widest tube in voxels for a line one voxel wide.

    Returns:
        Same shape, in [0, 1].
    """
    skeleton = F.relu(values - _dilate(_erode(values)))
    for _ in range(iterations):
        values = _erode(values)
        removed = F.relu(values - _dilate(_erode(values)))
        skeleton = skeleton + F.relu(removed - skeleton * removed)
    return skeleton


def _erode(values: torch.Tensor) -> torch.Tensor:
    return -most_across_faces(-values)


def _dilate(values: torch.Tensor) -> torch.Tensor:
    return F.max_pool3d(values, 3, 1, 1)


def centerline_dice_sums(
    logits: torch.Tensor, target: torch.Tensor, annotated: torch.Tensor | None = None, *, iterations: int
) -> torch.Tensor:
    """Sum over the voxels of a batch what clDice is made of.

    Args:
        logits: z of the foreground, (N, 1, Z, Y, X).
        target: binary g, same shape.
        annotated: 0 on ignored voxels and 1 elsewhere, same shape.
        iterations: of ``soft_skeleton``.

    Returns:
        (4,) float32: skeleton of p times g, skeleton of p, skeleton of g times p, skeleton of g.
    """
    prob, target = torch.sigmoid(logits), target.to(logits.dtype)
    if annotated is not None:
        prob, target = prob * annotated, target * annotated
    line = soft_skeleton(prob, iterations)
    with torch.no_grad():
        own_line = soft_skeleton(target, iterations)
    return torch.stack([(line * target).sum(), line.sum(), (own_line * prob).sum(), own_line.sum()])


def centerline_dice_from_sums(sums: torch.Tensor, *, smooth: float) -> torch.Tensor:
    """Turn the sums into 1 - 2 P S / (P + S), P being topology precision and S topology sensitivity."""
    precision, sensitivity = (sums[0] + smooth) / (sums[1] + smooth), (sums[2] + smooth) / (sums[3] + smooth)
    return 1 - 2 * precision * sensitivity / (precision + sensitivity)
