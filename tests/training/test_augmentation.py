import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_airway.hounsfield import HounsfieldScale
from nnunetv2_airway.training.augmentation import (
    FromAugmentationRange,
    ToAugmentationRange,
    augment_in_range,
    rotate_only,
)

SCALES = (HounsfieldScale(), HounsfieldScale(slope=161.9, intercept=-823.6, clipped_at=(-1020, -429)))


def stock() -> ComposeTransforms:
    return nnUNetTrainer.get_training_transforms((16, 24, 16), (-0.5, 0.5), [[1.0] * 3], (0, 1, 2), False)


@pytest.mark.parametrize("scale", SCALES)
def test_the_range_is_left_as_it_was_entered_but_for_the_clip(scale):
    hu = torch.tensor([-3024.0, -1024, -850, -600, 0, 1024, 3071]).view(1, 1, 1, -1)
    stored = (hu - scale.intercept) / scale.slope
    inside = ToAugmentationRange(scale)(image=stored)["image"]
    torch.testing.assert_close(inside, ((hu.clamp(-1024, 1024) + 600) / 250), atol=1e-4, rtol=0)
    back = FromAugmentationRange(scale)(image=inside)["image"]
    torch.testing.assert_close(back * scale.slope + scale.intercept, hu.clamp(-1024, 1024), atol=1e-3, rtol=0)


def test_only_the_intensity_transforms_stand_inside_the_range():
    steps = augment_in_range(stock(), HounsfieldScale()).transforms
    enter = [isinstance(step, ToAugmentationRange) for step in steps].index(True)
    leave = [isinstance(step, FromAugmentationRange) for step in steps].index(True)
    assert all(isinstance(step, RandomTransform) for step in steps[enter + 1 : leave])
    outside = steps[:enter] + steps[leave + 1 :]
    assert not any(isinstance(step, RandomTransform) for step in outside)
    assert [type(s) for s in outside] == [type(s) for s in stock().transforms if not isinstance(s, RandomTransform)]


def test_noise_has_a_size_that_matters_in_hu():
    for step in (wrapped := augment_in_range(stock(), HounsfieldScale())).transforms:
        if isinstance(step, RandomTransform):
            step.apply_probability = float("Noise" in type(step.transform).__name__)
    deviations = []
    torch.manual_seed(0)
    for _ in range(30):
        data = wrapped(image=torch.full((1, 16, 24, 16), -850.0), segmentation=torch.zeros(1, 16, 24, 16).short())
        deviations.append(data["image"][:, 4:12, 8:16, 4:12].std().item())
    assert 5 < sum(deviations) / len(deviations) < 80


def test_an_unknown_pipeline_is_refused():
    with pytest.raises(RuntimeError, match="RandomTransform"):
        augment_in_range(ComposeTransforms([]), HounsfieldScale())


def test_rotation_alone_moves_every_patch_and_changes_no_intensity():
    pipeline = rotate_only(nnUNetTrainer.get_training_transforms((16, 24, 16), (-0.26, 0.26), [[1.0] * 3], (), False))
    assert not any(isinstance(step, RandomTransform) for step in pipeline.transforms)
    ramp = torch.arange(30.0).view(1, 30, 1, 1).expand(1, 30, 36, 32).contiguous()
    angles = []
    for seed in range(40):
        np.random.seed(seed)
        out = pipeline(image=ramp.clone(), segmentation=torch.ones(1, 30, 36, 32).short())["image"][0]
        # a ramp stays a ramp of the same slope in another direction: no scaling, at most 15 degrees about each axis
        inner = out[4:-4, 6:-6, 4:-4]
        slope = torch.stack([(inner.diff(dim=axis)).mean() for axis in range(3)])
        assert slope.norm().item() == pytest.approx(1, abs=1e-3)
        angles.append(torch.rad2deg(torch.arccos(slope[0].clamp(-1, 1))).item())
    assert min(angles) > 0.1 and 10 < max(angles) < 15 * 2**0.5 + 0.1


def test_rotation_of_an_unknown_pipeline_is_refused():
    with pytest.raises(RuntimeError, match="SpatialTransform"):
        rotate_only(ComposeTransforms([]))
