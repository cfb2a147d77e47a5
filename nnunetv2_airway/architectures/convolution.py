"""Three-dimensional convolution whose backward pass on a CPU is right in bfloat16, and fast.

On a GPU it is PyTorch's. What stands here was measured with PyTorch 2.15 and oneDNN; ``benchmarks`` measures it again.
"""

import torch
import torch.nn.functional as F
from torch import nn

from nnunetv2_airway.architectures.memory import in_rows, rows_for_prediction


class Conv3d(nn.Conv3d):
    """``torch.nn.Conv3d`` with the same parameters and results."""

    def of_both(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """Convolve (N, C, Z, Y, X) and (N, D, Z, Y, X) as if concatenated, without a copy of both."""
        first, second = self.weight.split((x.shape[1], skip.shape[1]), dim=1)
        return self._conv_forward(x, first, self.bias).add_(self._conv_forward(skip, second, None))

    def _conv_forward(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if x.device.type != "cpu" or not torch.is_grad_enabled():
            if in_rows(x):  # the result is to be, too; of small or one-channel patches, PyTorch decides otherwise
                weight = weight.contiguous(memory_format=torch.channels_last_3d)
                return rows_for_prediction(super()._conv_forward(x, weight, bias))
            return super()._conv_forward(x, weight, bias)
        if torch.is_autocast_enabled("cpu") and self.kernel_size[0] > 1 and x.shape[2] == 2:
            # of two planes, oneDNN makes weights' gradients in bfloat16 out of whatever memory holds
            with torch.autocast("cpu", enabled=False):
                return super()._conv_forward(x.float(), weight, bias)
        if self.dilation == (2, 2, 2) and x.shape[2] != 4 and not any(side % 2 for side in x.shape[2:]):
            return self._on_eight_grids(x, weight, bias)
        return super()._conv_forward(x, weight, bias)

    def _on_eight_grids(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Take apart the grids that dilation 2 connects, through which oneDNN's backward pass is slow."""
        n, c, *size = x.shape
        halves = [side // 2 for side in size]
        z, y, w = halves
        grids = x.reshape(n, c, z, 2, y, 2, w, 2).permute(0, 3, 5, 7, 1, 2, 4, 6).reshape(8 * n, c, *halves)
        grids = F.conv3d(grids, weight, bias, padding=[side // 2 for side in self.padding])
        return grids.view(n, 2, 2, 2, -1, *halves).permute(0, 4, 5, 1, 6, 2, 7, 3).reshape(n, -1, *size)


def use_conv3d(network: nn.Module) -> nn.Module:
    """Turn the convolutions of a network into ``Conv3d``; parameters and their names stay."""
    for module in network.modules():
        if type(module) is nn.Conv3d:
            module.__class__ = Conv3d
    return network
