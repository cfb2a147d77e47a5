"""WingsNet: a U-Net of 18 blocks whose blocks are supervised in groups.

Paper: Zheng et al., "Alleviating Class-wise Gradient Imbalance for Pulmonary Airway Segmentation", IEEE TMI 40(9),
2021, section III-B and fig. 3. Public code: 3d-airway-segmentation (haozheng-sjtu); channels, dilations and parameter
names are those of its checkpoints, which therefore load.

Deviations, none of which changes the function: the attention gates of a block and its channels for the group come from
one product (``gates``), and a group's last convolution runs at each resolution, before one up-sampling per level
instead of one per block (both are linear, so they commute; the public code concatenates 36 full-size channels).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from nnunetv2_airway.architectures.convolution import Conv3d
from nnunetv2_airway.architectures.gates import norm_and_gates
from nnunetv2_airway.architectures.memory import rows_for_prediction
from nnunetv2_airway.architectures.published import differences, published_tensors
from nnunetv2_airway.architectures.resampling import upsample

DOWNSAMPLING = 8
"""Each axis of a patch is a multiple of this: three max-poolings."""


@dataclass(frozen=True)
class BlockRow:
    """One ConvBlock: its published name, resolution level (0 is full size), channels, dilation and gates."""

    name: str
    level: int
    channels: int
    dilation: int = 1
    gates: int = 2


BLOCKS = (
    BlockRow("ec1", 0, 8, gates=1),
    BlockRow("ec2", 0, 16, gates=1),
    BlockRow("ec3", 0, 32, dilation=2, gates=1),
    BlockRow("ec4", 1, 32),
    BlockRow("ec5", 1, 32, dilation=2),
    BlockRow("ec6", 1, 64, dilation=2),
    BlockRow("ec7", 2, 64),
    BlockRow("ec8", 2, 64, dilation=2),
    BlockRow("ec9", 2, 64, dilation=2),
    BlockRow("ec10", 3, 64),
    BlockRow("ec11", 3, 64),
    BlockRow("ec12", 3, 64),
    BlockRow("dc1", 2, 64),
    BlockRow("dc2", 2, 64),
    BlockRow("dc3", 1, 64),
    BlockRow("dc4", 1, 32),
    BlockRow("dc5", 0, 32, gates=1),
    BlockRow("dc6", 0, 16, gates=1),
)
"""Encoding blocks 1 to 12, decoding blocks 13 to 18."""

PARTITIONS: dict[str, tuple[tuple[int, ...], ...]] = {
    "wings": (tuple(range(12)), tuple(range(12, 18))),
    "decoder": (tuple(range(12, 18)),),
    "one_group": (tuple(range(18)),),
    "four_successive": (tuple(range(6)), tuple(range(6, 12)), tuple(range(12, 15)), tuple(range(15, 18))),
    "four_crossed": tuple(tuple(range(first, 18, 4)) for first in (2, 3, 0, 1)),
    "every_block": tuple((block,) for block in range(18)),
}
"""Groups of block indices (Zheng fig. 8); the last group holds the last block and is the prediction."""


class ConvBlock(nn.Module):
    """3x3x3 convolution, instance norm, leaky ReLU, one or two attention gates (Zheng eqs. 4 to 6)."""

    def __init__(self, in_channels: int, row: BlockRow, supervised: bool):
        super().__init__()
        self.conv1 = Conv3d(in_channels, row.channels, 3, padding=row.dilation, dilation=row.dilation)
        self.conv2 = nn.Conv3d(row.channels, 2, 1) if supervised else None
        self.norm = nn.InstanceNorm3d(row.channels)
        self.conv_se = nn.Conv3d(row.channels, 1, 1, bias=False)
        self.conv_se2 = nn.Conv3d(row.channels, 1, 1, bias=False) if row.gates == 2 else None

    def forward(self, x: torch.Tensor, skip: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the features for the next block (N, C, z, y, x) and those for its group, if any (N, 2, z, y, x)."""
        x = self.conv1(x) if skip is None else self.conv1.of_both(x, skip)
        layers = (self.conv_se, self.conv_se2, self.conv2)
        weight = torch.cat([layer.weight.flatten(1) for layer in layers if layer is not None])
        gates = 1 if self.conv_se2 is None else 2
        x, to_group = norm_and_gates(x, weight, gates=gates, eps=self.norm.eps)
        return x, None if self.conv2 is None else to_group + self.conv2.bias.to(to_group.dtype).view(1, -1, 1, 1, 1)


class WingsNet(nn.Module):
    """WingsNet with its groups' heads.

    Args:
        in_channels: channels of the input.
        num_classes: logits per voxel and group; one for a binary task.
        deep_supervision: return every group's logits; may be changed at any time by the attribute of that name.
        partition: name of a row of ``PARTITIONS``; "wings" is the published network.
        dropout: probability with which whole channels of a group's pyramid are dropped in training.

    Raises:
        ValueError: unknown partition; on the first forward pass, a patch with an axis not divisible by 8.

    Source: Zheng 2021, section III-B.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int = 1,
        deep_supervision: bool = True,
        *,
        partition: str = "wings",
        dropout: float = 0.3,
    ):
        super().__init__()
        if partition not in PARTITIONS:
            raise ValueError(f"partition must be one of {', '.join(PARTITIONS)}, got {partition!r}")
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.deep_supervision = deep_supervision
        self.groups = PARTITIONS[partition]
        self.dropout = dropout
        supervised = {block for group in self.groups for block in group}
        previous = in_channels
        for index, row in enumerate(BLOCKS):
            # dc1, dc3 and dc5 also receive the encoder's last block of their level
            skip = {"dc1": 64, "dc3": 64, "dc5": 32}.get(row.name, 0)
            self.add_module(row.name, ConvBlock(previous + skip, row, index in supervised))
            previous = row.channels
        for index, group in enumerate(self.groups):
            self.add_module(f"dc0_{index}", nn.Conv3d(2 * len(group), num_classes, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Segment a patch.

        Args:
            x: (N, in_channels, Z, Y, X), each of Z, Y, X divisible by 8.

        Returns:
            Logits (N, num_classes, Z, Y, X) of the last group (the decoding blocks); with deep supervision the
            list of every group's, last group first.
        """
        size = x.shape[2:]
        if len(size) != 3 or any(axis % DOWNSAMPLING for axis in size):
            raise ValueError(
                f"WingsNet halves a 3-D patch three times and needs each axis to be a multiple of {DOWNSAMPLING}, "
                f"got {tuple(size)}: change the patch size of the plans, or pad the patch"
            )
        pyramid = self._features(rows_for_prediction(x))
        if not self.deep_supervision:
            return self._group_logits(pyramid, len(self.groups) - 1, size)
        return [self._group_logits(pyramid, index, size) for index in reversed(range(len(self.groups)))]

    def _features(self, x: torch.Tensor) -> list[torch.Tensor | None]:
        """Run the 18 blocks and return what each sends to its group: (N, 2, z, y, x) at the block's resolution."""
        pyramid, skips, skip, level = [], {}, None, 0
        for row in BLOCKS:
            if row.level > level:
                skips[level] = x
                x = F.max_pool3d(x, 2)
            elif row.level < level:
                skip = skips.pop(row.level)
                x = upsample(x, skip.shape[2:])
            level = row.level
            x, to_group = getattr(self, row.name)(x, skip)
            skip = None
            pyramid.append(to_group)
        return pyramid

    def _group_logits(self, pyramid: list[torch.Tensor | None], index: int, size: torch.Size) -> torch.Tensor:
        """Zheng eq. 3 without its sigmoid, summed over resolutions: conv(cat(up(f))) = sum of up(conv(f))."""
        head = getattr(self, f"dc0_{index}")
        group = self.groups[index]
        logits = head.bias.view(1, -1, 1, 1, 1)
        for level in sorted({BLOCKS[block].level for block in group}):
            members = [position for position, block in enumerate(group) if BLOCKS[block].level == level]
            features = torch.cat([pyramid[group[position]] for position in members], dim=1)
            features = F.dropout3d(features, self.dropout, self.training)
            weight = torch.cat([head.weight[:, 2 * position : 2 * position + 2] for position in members], dim=1)
            logits = logits + upsample(F.conv3d(features, weight), size)
        return logits

    def load_published_state_dict(self, state_dict: Mapping[str, torch.Tensor]) -> None:
        """Load a checkpoint of the authors' public code.

        Args:
            state_dict: its tensors by name, wrapped as ``published_tensors`` accepts it.

        Raises:
            ValueError: a name is missing or unknown, or a shape differs; all of them are listed.
        """
        tensors = published_tensors(state_dict)
        problems = differences(self, tensors)
        if problems:
            raise ValueError(
                f"these weights do not fit a WingsNet of {self.in_channels} input channel(s), {self.num_classes} "
                f"class(es) and {len(self.groups)} group(s): {'; '.join(problems)}"
            )
        self.load_state_dict(tensors)
