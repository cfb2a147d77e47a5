"""The U-Net of the ATM'22 organisers' baseline: four levels, instance norm, PReLU.

Public code: ATM-22-Related-Work (MIT), whose weights load: names and shapes of the parameters are theirs.
"""

import torch
import torch.nn.functional as F
from torch import nn

from nnunetv2_airway.architectures.convolution import Conv3d
from nnunetv2_airway.architectures.memory import in_rows, rows_for_prediction
from nnunetv2_airway.architectures.resampling import upsample

CHANNELS = (16, 32, 64, 128)
"""Of the levels, from full size down."""
DOWNSAMPLING = 8
"""Each axis of a patch is a multiple of this: three max-poolings."""


class Block(nn.Module):
    """3x3x3 convolution, instance norm, PReLU with a slope for each channel."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = Conv3d(in_channels, out_channels, 3, padding=1)
        self.instancenorm = nn.InstanceNorm3d(out_channels, affine=True)
        self.pReLU = nn.PReLU(out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, C, z, y, x) to (N, D, z, y, x)."""
        x, norm = self.conv(x), self.instancenorm
        if in_rows(x):  # instance norm would copy it; of one patch, batch norm is the same
            x = F.batch_norm(x, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)
            return _prelu_in_rows(x, self.pReLU.weight)
        return self.pReLU(norm(x))


def _prelu_in_rows(x: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
    """PReLU of (1, C, Z, Y, X), a line of voxels at a time; one voxel's C values at a time take five times as long."""
    rows = x.permute(0, 2, 3, 4, 1)
    many = F.prelu(rows.flatten(3).flatten(0, 2), slopes.to(x.dtype).repeat(x.shape[-1]))
    return many.view(rows.shape).permute(0, 4, 1, 2, 3)


class Level(nn.Module):
    """Two blocks."""

    def __init__(self, in_channels: int, between: int, out_channels: int):
        super().__init__()
        blocks = {"Conv1": Block(in_channels, between), "Conv2": Block(between, out_channels)}
        self.basic_module = nn.Sequential()
        for name, block in blocks.items():
            self.basic_module.add_module(name, block)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, C, z, y, x) to (N, D, z, y, x)."""
        return self.basic_module(x)


class BaselineUNet(nn.Module):
    """The baseline's network.

    Args:
        in_channels: channels of the input.
        deep_supervision: return the logits in a list, as networks of several outputs do; may be changed at any time by
            the attribute of that name.
    """

    def __init__(self, in_channels: int = 1, deep_supervision: bool = False):
        super().__init__()
        self.deep_supervision = deep_supervision
        previous = in_channels
        for number, channels in enumerate(CHANNELS, 1):
            between = max(previous, channels // 2)
            self.add_module(f"EncoderLayer{number}", Level(previous, between, channels))
            previous = channels
        for number, channels in enumerate(CHANNELS[-2::-1], 1):
            self.add_module(f"DecoderLayer{number}", Level(previous + channels, channels, channels))
            previous = channels
        self.final_conv = nn.Conv3d(previous, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Segment a patch.

        Args:
            x: (N, in_channels, Z, Y, X), each of Z, Y, X divisible by 8.

        Returns:
            Logits (N, 1, Z, Y, X): the second of the network's two channels, whose sigmoid the published code takes.
        """
        x = rows_for_prediction(x)
        skips = []
        for number in range(1, len(CHANNELS) + 1):
            x = getattr(self, f"EncoderLayer{number}")(x if number == 1 else F.max_pool3d(x, 2))
            skips.append(x)
        for number, skip in enumerate(skips[-2::-1], 1):
            x = getattr(self, f"DecoderLayer{number}")(torch.cat((skip, upsample(x, skip.shape[2:])), dim=1))
        logits = self.final_conv(x)[:, 1:]
        return [logits] if self.deep_supervision else logits
