"""WingsNet as its paper writes it down, without any of our shortcuts: what ours is measured against and tested with."""

import torch
import torch.nn.functional as F

from nnunetv2_airway.architectures.wingsnet import BLOCKS, WingsNet


class PlainWingsNet(WingsNet):
    """The same parameters; gates one after the other, every block up-sampled to full size, then concatenated.

    Source: Zheng 2021, section III-B and fig. 3.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Return what WingsNet returns."""
        size, pyramid, skips, level = x.shape[2:], [], {}, 0
        for row in BLOCKS:
            block = getattr(self, row.name)
            if row.level > level:
                skips[level], x = x, F.max_pool3d(x, 2)
            if row.level < level:
                x = F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=True)
                x = torch.cat((x, skips[row.level]), 1)
            level = row.level
            x = F.conv3d(x, block.conv1.weight, block.conv1.bias, padding=row.dilation, dilation=row.dilation)
            x = F.leaky_relu(block.norm(x))
            x = x * torch.sigmoid(block.conv_se(x))
            if row.gates == 2:
                x = x * torch.sigmoid(block.conv_se2(x))
            to_group = block.conv2(x) if block.conv2 else x
            pyramid.append(F.interpolate(to_group, size=size, mode="trilinear", align_corners=True))
        logits = [
            getattr(self, f"dc0_{i}")(
                F.dropout3d(torch.cat([pyramid[b] for b in group], 1), self.dropout, self.training)
            )
            for i, group in reversed(list(enumerate(self.groups)))
        ]
        return logits if self.deep_supervision else logits[0]
