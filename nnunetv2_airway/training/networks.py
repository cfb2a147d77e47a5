"""The network as a row of a recipe: ``network = WINGSNET`` or ``network = PLANNED``.

Another network is one more frozen class with the methods of ``Network``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunetv2_airway.architectures import baseline_unet
from nnunetv2_airway.architectures.convolution import use_conv3d
from nnunetv2_airway.architectures.wingsnet import DOWNSAMPLING, WingsNet


class Network(Protocol):
    """A network of one logit per voxel, or a list of such under deep supervision."""

    full_size: bool
    """All outputs have the size of the patch and count alike; else they are nnU-Net's resolutions."""

    def patch_divisor(self, configuration: ConfigurationManager) -> Sequence[int]:
        """Return what each axis of a patch must be a multiple of."""

    def build(
        self, plans: PlansManager, configuration: ConfigurationManager, channels: int, deep_supervision: bool
    ) -> nn.Module:
        """Build the network for so many input channels."""

    def switch_deep_supervision(self, body: nn.Module, enabled: bool) -> None:
        """Let the network return the logits of all outputs, or the prediction alone."""


@dataclass(frozen=True)
class WingsNetRow:
    """WingsNet, each group of its blocks supervised at full size (Zheng 2021, section III-B).

    Args:
        partition: how the blocks are grouped, a row of ``architectures.wingsnet.PARTITIONS`` (Zheng 2021, fig. 8).
    """

    partition: str = "wings"
    full_size: ClassVar[bool] = True

    def patch_divisor(self, configuration):  # noqa: D102, as in Network
        return (DOWNSAMPLING,) * 3

    def build(self, plans, configuration, channels, deep_supervision):  # noqa: D102, as in Network
        return WingsNet(channels, deep_supervision=deep_supervision, partition=self.partition)

    def switch_deep_supervision(self, body, enabled):  # noqa: D102, as in Network
        body.deep_supervision = enabled


@dataclass(frozen=True)
class PlannedRow:
    """The network that nnU-Net has planned, with its deep supervision."""

    full_size: ClassVar[bool] = False

    def patch_divisor(self, configuration):  # noqa: D102, as in Network
        return np.prod(np.vstack(configuration.pool_op_kernel_sizes), axis=0).tolist()

    def build(self, plans, configuration, channels, deep_supervision):  # noqa: D102, as in Network
        stock = nnUNetTrainer.build_network_architecture
        return use_conv3d(stock(plans, configuration, channels, 1, deep_supervision))

    def switch_deep_supervision(self, body, enabled):  # noqa: D102, as in Network
        body.decoder.deep_supervision = enabled


@dataclass(frozen=True)
class BaselineUNetRow:
    """The U-Net of the ATM'22 organisers' baseline; its only output is the prediction."""

    full_size: ClassVar[bool] = True

    def patch_divisor(self, configuration):  # noqa: D102, as in Network
        return (baseline_unet.DOWNSAMPLING,) * 3

    def build(self, plans, configuration, channels, deep_supervision):  # noqa: D102, as in Network
        return baseline_unet.BaselineUNet(channels, deep_supervision)

    def switch_deep_supervision(self, body, enabled):  # noqa: D102, as in Network
        body.deep_supervision = enabled


WINGSNET = WingsNetRow()
BASELINE_UNET = BaselineUNetRow()
PLANNED = PlannedRow()
