"""nnU-Net's own augmentation, made to work on Hounsfield units; or nothing of it but rotation (Zheng 2021).

nnU-Net tunes noise, brightness and contrast for images of mean 0 and standard deviation 1. On raw HU the same noise
would be invisible, and a brightness factor would act around water. So the intensity transforms see
(HU - CENTER) / SPREAD, clipped to the widest window that the network looks at, and their result returns to HU.
"""

import torch
from batchgeneratorsv2.transforms.base.basic_transform import ImageOnlyTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform

from nnunetv2_airway.hounsfield import WINDOWS, HounsfieldScale

CENTER = -600.0
"""About the mean of a lung box, in HU."""
SPREAD = 250.0
"""nnU-Net's noise (standard deviation up to 0.32) becomes up to 79 HU: from a standard to a low-dose scan."""


class ToAugmentationRange(ImageOnlyTransform):
    """Map stored intensities to (HU - CENTER) / SPREAD."""

    def __init__(self, scale: HounsfieldScale):
        super().__init__()
        self.scale = scale

    def _apply_to_image(self, img: torch.Tensor, **params) -> torch.Tensor:
        hu = img.mul(self.scale.slope).add_(self.scale.intercept)
        return hu.clamp_(WINDOWS["original"].lower, WINDOWS["original"].upper).sub_(CENTER).div_(SPREAD)


class FromAugmentationRange(ImageOnlyTransform):
    """Map (HU - CENTER) / SPREAD back to stored intensities."""

    def __init__(self, scale: HounsfieldScale):
        super().__init__()
        self.scale = scale

    def _apply_to_image(self, img: torch.Tensor, **params) -> torch.Tensor:
        return img.mul(SPREAD).add_(CENTER - self.scale.intercept).div_(self.scale.slope)


def augment_in_range(pipeline: ComposeTransforms, scale: HounsfieldScale) -> ComposeTransforms:
    """Wrap the intensity transforms of nnU-Net's training pipeline (its ``RandomTransform`` steps) in the range.

    Raises:
        RuntimeError: the pipeline has no such steps, so nnU-Net's augmentation is not what we know.
    """
    steps = list(pipeline.transforms)
    intensity = [index for index, step in enumerate(steps) if isinstance(step, RandomTransform)]
    if not intensity:
        raise RuntimeError(f"no RandomTransform found in nnU-Net's training transforms: {steps}")
    steps.insert(intensity[-1] + 1, FromAugmentationRange(scale))
    steps.insert(intensity[0], ToAugmentationRange(scale))
    return ComposeTransforms(steps)


def rotate_only(pipeline: ComposeTransforms) -> ComposeTransforms:
    """Have nnU-Net's spatial transform rotate every patch and never scale it, and leave out its intensity transforms.

    Raises:
        RuntimeError: the pipeline has no such transform, so nnU-Net's augmentation is not what we know.
    """
    steps = [step for step in pipeline.transforms if not isinstance(step, RandomTransform)]
    spatial = [step for step in steps if isinstance(step, SpatialTransform)]
    if not spatial:
        raise RuntimeError(f"no SpatialTransform found in nnU-Net's training transforms: {pipeline.transforms}")
    for step in spatial:
        step.p_rotation, step.p_scaling = 1, 0
    return ComposeTransforms(steps)
