"""The closeness map's way through nnU-Net's augmentation: spatial transforms move it, intensity transforms do not.

The loader's patches have it as their last image channel. The first transform makes it a ``regression_target``, which
batchgeneratorsv2 carries through every spatial transform with linear interpolation, and the last one appends it to the
list of targets, where nnU-Net's collation, training and validation step take it along.
"""

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms


class TakeMapFromImage(BasicTransform):
    """Move the last image channel to ``regression_target``."""

    def apply(self, data_dict: dict, **params) -> dict:
        """Split the channels; the label stays."""
        data_dict["regression_target"] = data_dict["image"][-1:]
        data_dict["image"] = data_dict["image"][:-1]
        return data_dict


class AppendMapToTargets(BasicTransform):
    """Append the map to the list of targets, as (1, Z, Y, X) uint8."""

    def apply(self, data_dict: dict, **params) -> dict:
        """Round the map back to one byte; ``segmentation`` becomes [label, ..., map]."""
        closeness = data_dict.pop("regression_target").round().clamp(0, 255).to(torch.uint8)
        data_dict["segmentation"] = [*data_dict["segmentation"], closeness]
        return data_dict


def carry_map(pipeline: ComposeTransforms) -> ComposeTransforms:
    """Put nnU-Net's pipeline, which ends with deep supervision's list of targets, between the two."""
    return ComposeTransforms([TakeMapFromImage(), *pipeline.transforms, AppendMapToTargets()])
