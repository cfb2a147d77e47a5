"""Airway trainers by their network: WingsNet, or the one that nnU-Net has planned."""

import numpy as np
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_airway.architectures.convolution import use_conv3d
from nnunetv2_airway.architectures.wingsnet import DOWNSAMPLING, WingsNet
from nnunetv2_airway.trainers.airway_trainer import AirwayTrainer


class WingsNetTrainer(AirwayTrainer):
    """WingsNet, each group of its blocks supervised at full size (Zheng 2021, section III-B)."""

    partition: str = "wings"
    """How the blocks are grouped, a row of ``architectures.wingsnet.PARTITIONS`` (Zheng 2021, fig. 8)."""

    @staticmethod
    def patch_divisor(configuration_manager):
        """Three max-poolings."""
        return (DOWNSAMPLING,) * 3

    @classmethod
    def build_body(cls, plans_manager, configuration_manager, num_input_channels, enable_deep_supervision):
        """Build WingsNet."""
        return WingsNet(num_input_channels, deep_supervision=enable_deep_supervision, partition=cls.partition)

    @staticmethod
    def switch_deep_supervision(body, enabled):
        """Return all groups' logits or those of the last group alone."""
        body.deep_supervision = enabled

    def _get_deep_supervision_scales(self):
        """One target for all groups."""
        return [[1.0, 1.0, 1.0]]

    def output_weights(self):
        """Groups count alike."""
        return None


class PlannedNetworkTrainer(AirwayTrainer):
    """nnU-Net's own network as planned, with its deep supervision, on the windows of the CT."""

    @staticmethod
    def patch_divisor(configuration_manager):
        """The strides of all stages."""
        return np.prod(np.vstack(configuration_manager.pool_op_kernel_sizes), axis=0).tolist()

    @classmethod
    def build_body(cls, plans_manager, configuration_manager, num_input_channels, enable_deep_supervision):
        """Build the planned network with one logit per voxel."""
        return use_conv3d(
            nnUNetTrainer.build_network_architecture(
                plans_manager, configuration_manager, num_input_channels, 1, enable_deep_supervision
            )
        )

    @staticmethod
    def switch_deep_supervision(body, enabled):
        """Return the logits of all resolutions or those of the highest alone."""
        body.decoder.deep_supervision = enabled
