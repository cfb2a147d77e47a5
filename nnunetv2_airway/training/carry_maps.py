"""The maps' way through nnU-Net's augmentation: spatial transforms move them, intensity transforms do not.

The loader's patches have them as their last label channels. The first transform makes them the ``regression_target``,
which batchgeneratorsv2 carries through every spatial transform, and the last one appends them to the list of targets,
where nnU-Net's collation, training and validation step take them along. nnU-Net's one transform that interpolates is
wrapped: maps of numbers move by the nearest voxel, and interpolated labels can be cut higher than at one half.
"""

from collections.abc import Sequence
from copy import copy
from functools import reduce

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms

from nnunetv2_airway.training.maps.kinds import EVERYWHERE, NUMBERS


class TakeMapsFromLabel(BasicTransform):
    """Move the last label channels to ``regression_target``: int16, 0 outside the case."""

    def __init__(self, names: Sequence[str]):
        super().__init__()
        self.names = tuple(names)

    def apply(self, data_dict: dict, **params) -> dict:
        """Split the channels; the image stays."""
        label = data_dict["segmentation"]
        data_dict["regression_target"] = label[-len(self.names) :].clamp(min=0)  # nnU-Net pads labels with -1
        data_dict["segmentation"] = label[: -len(self.names)]
        return data_dict


class AppendMapsToTargets(BasicTransform):
    """Append the maps to the list of targets, (1, Z, Y, X) each: uint8 for values, int16 for numbers."""

    def __init__(self, names: Sequence[str]):
        super().__init__()
        self.names = tuple(names)

    def apply(self, data_dict: dict, **params) -> dict:
        """Split the channels; ``segmentation`` becomes [label, ..., map, ...]."""
        maps = data_dict.pop("regression_target").split(1)
        data_dict["segmentation"] = [
            *data_dict["segmentation"],
            *(
                carried if name in NUMBERS else carried.to(torch.uint8)
                for name, carried in zip(self.names, maps, strict=True)
            ),
        ]
        return data_dict


class SpatialWithMaps(BasicTransform):
    """nnU-Net's spatial transform, which moves each map in its own way and can narrow labels.

    Args:
        spatial: nnU-Net's; image and label move as it moves them.
        names: of the maps.
        foreground: the label's values that are the structure.
        cut: where the label has been interpolated, share of foreground below which a voxel is background. One half is
            what nnU-Net does; Zheng 2021, section IV-B: 0.8 and 0.9.
    """

    def __init__(self, spatial: SpatialTransform, names: Sequence[str], foreground: Sequence[int], cut: float):
        super().__init__()
        self.spatial = spatial
        self.nearest = copy(spatial)
        self.nearest.mode_seg, self.nearest.padding_value_seg = "nearest", 0
        self.names = tuple(names)
        self.foreground = tuple(foreground)
        self.cut = cut

    def get_parameters(self, **data_dict) -> dict:
        """Draw what the spatial transform draws."""
        return self.spatial.get_parameters(**data_dict)

    def apply(self, data_dict: dict, **params) -> dict:
        """Move image and label, and then the maps; most values are interpolated where the label says foreground."""
        maps = data_dict.pop("regression_target", None)
        data_dict = super().apply(data_dict, **params)
        if maps is not None:
            # nnU-Net's 2-D augmentation of thin patches has the planes of each map as channels
            each = zip(self.names, maps.tensor_split(len(self.names)), strict=True)
            label = data_dict["segmentation"]
            moved = [self._carry(name, values, label, **params) for name, values in each]
            data_dict["regression_target"] = torch.cat(moved)
        return data_dict

    def _apply_to_image(self, img: torch.Tensor, **params) -> torch.Tensor:
        return self.spatial._apply_to_image(img, **params)

    def _apply_to_segmentation(self, segmentation: torch.Tensor, **params) -> torch.Tensor:
        moved = self.spatial._apply_to_segmentation(segmentation, **params)
        if self.cut > 0.5 and params["grid"] is not None:
            share = self.spatial._apply_to_image(self._is_foreground(segmentation).float(), **params)
            moved[self._is_foreground(moved) & (share < self.cut)] = 0
        return moved

    def _carry(self, name: str, values: torch.Tensor, label: torch.Tensor, **params) -> torch.Tensor:
        grid = params["grid"]
        if name in NUMBERS:
            return self.nearest._apply_to_segmentation(values, **params)
        if grid is None:
            return self.spatial._apply_to_image(values, **params)
        if name in EVERYWHERE:
            return self.spatial._apply_to_image(values.float(), **params).round().to(values.dtype)
        inside = self._is_foreground(label).any(0)
        points = grid[inside][(None,) * (inside.ndim - 1)]
        carried = values.new_zeros((len(values), *inside.shape))
        found = self.spatial._apply_to_image(values.float(), **{**params, "grid": points})
        carried[:, inside] = found.flatten(1).round().to(values.dtype)
        return carried

    def _is_foreground(self, label: torch.Tensor) -> torch.Tensor:
        # torch.isin takes ten times as long
        return reduce(torch.logical_or, (label == value for value in self.foreground))


def carry_maps(
    pipeline: ComposeTransforms, names: Sequence[str], *, foreground: Sequence[int], cut: float = 0.5
) -> ComposeTransforms:
    """Let maps follow nnU-Net's pipeline, which ends with deep supervision's list of targets.

    Args:
        pipeline: nnU-Net's transforms for training or validation.
        names: of the maps.
        foreground: the label's values that are the structure.
        cut: see ``SpatialWithMaps``.
    """
    steps = [
        SpatialWithMaps(step, names, foreground, cut) if isinstance(step, SpatialTransform) else step
        for step in pipeline.transforms
    ]
    if names:
        steps = [TakeMapsFromLabel(names), *steps, AppendMapsToTargets(names)]
    return ComposeTransforms(steps)
