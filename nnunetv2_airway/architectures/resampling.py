"""Trilinear up-sampling whose backward pass is fast."""

import torch
import torch.nn.functional as F

from nnunetv2_airway.architectures.memory import in_rows


def upsample(x: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """Up-sample (N, C, z, y, x) to ``size``, linearly, corners to corners, as ``F.interpolate`` does.

    Along each axis it is a product with a matrix. ``F.interpolate`` gives a CPU one thread for each channel, and its
    backward pass on a GPU adds atomically; without one, and of a patch ``in_rows``, it is the faster on a CPU.
    """
    if x.device.type == "cpu" and not torch.is_grad_enabled() and in_rows(x):
        return F.interpolate(x, size, mode="trilinear", align_corners=True)
    for axis in (4, 3, 2):
        if x.shape[axis] != size[axis - 2]:
            matrix = _linear(x.shape[axis], size[axis - 2], x.dtype, x.device)
            if axis == 4:
                x = x @ matrix.T
            elif axis == 3:
                x = matrix @ x
            else:
                x = (matrix @ x.flatten(3)).unflatten(3, x.shape[3:])
    return x


def _linear(source: int, target: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The matrix (target, source) of linear interpolation."""
    unit = torch.eye(source, dtype=torch.promote_types(dtype, torch.float32), device=device)[None]
    return F.interpolate(unit, target, mode="linear", align_corners=True)[0].T.to(dtype)
