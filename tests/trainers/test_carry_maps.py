import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_airway.hounsfield import HounsfieldScale
from nnunetv2_airway.trainers.augmentation import augment_in_range
from nnunetv2_airway.trainers.carry_maps import SpatialWithMaps, carry_maps

PATCH = (20, 24, 28)
DRAWN = (26, 32, 36)


def pipeline(*, spatial: float, intensity: float, dummy_2d: bool = False):
    """nnU-Net's own training pipeline with our two steps, its probabilities set."""
    stock = nnUNetTrainer.get_training_transforms(PATCH, (-0.5, 0.5), [[1.0] * 3], (0, 1, 2), dummy_2d)
    wrapped = carry_maps(augment_in_range(stock, HounsfieldScale()), ("centerline",), foreground=(1,))
    for step in wrapped.transforms:
        if isinstance(step, SpatialWithMaps):
            step.spatial.p_rotation = step.spatial.p_scaling = spatial
        if isinstance(step, RandomTransform):
            step.apply_probability = intensity
    return wrapped


def drawn_case():
    """A case without symmetry: a bent, tilted tube, 255 in its map, 1 in its label, its CT the same times 3."""
    mask = np.zeros(DRAWN, bool)
    for plane in range(4, 22):
        mask[plane, 8 + plane // 2 : 14 + plane // 2, 9:15] = True
    mask[10:14, 12:24, 15:30] = True
    closeness = torch.from_numpy(mask * np.float32(255))
    return closeness, torch.from_numpy(mask.astype(np.int16))


@pytest.mark.parametrize("dummy_2d", [False, True])
def test_the_map_goes_where_the_label_goes(dummy_2d):
    augment = pipeline(spatial=1, intensity=0, dummy_2d=dummy_2d)
    closeness, label = drawn_case()
    if dummy_2d:  # whose planes are all final ones
        closeness, label = closeness[3:23], label[3:23]
    moved = 0
    for seed in range(20):
        torch.manual_seed(seed)
        np.random.seed(seed)
        out = augment(image=torch.stack((closeness * 3, closeness)), segmentation=label[None])
        target, found = out["segmentation"]
        assert found.dtype == torch.uint8 and found.shape == target.shape == out["image"].shape == (1, *PATCH)
        # the label is the majority of the voxels around a point, the map their linear mean
        certain = (found < 110) | (found > 145)
        assert torch.equal((found > 127)[certain], (target > 0)[certain])
        assert certain.float().mean() > 0.9 and (target > 0).any()
        # without intensity transforms the CT, drawn alike, has moved alike
        torch.testing.assert_close(out["image"] / 3, found.float(), atol=0.6, rtol=0)
        moved += not torch.equal(target[0], label[:, 4:28, 4:32] if dummy_2d else label[3:23, 4:28, 4:32])
    assert moved == 20


def test_intensity_transforms_leave_the_map_alone():
    augment = pipeline(spatial=0, intensity=1)
    augment.transforms = [step for step in augment.transforms if type(step).__name__ != "MirrorTransform"]
    closeness, label = drawn_case()
    closeness = torch.randint(0, 256, DRAWN).float() * (closeness > 0)
    ct = torch.randint(-1000, 300, DRAWN).float()
    out = augment(image=torch.stack((ct, closeness)), segmentation=label[None])
    middle = (slice(3, 23), slice(4, 28), slice(4, 32))
    assert torch.equal(out["segmentation"][1][0], closeness[middle].to(torch.uint8))
    assert torch.equal(out["segmentation"][0][0], label[middle])
    assert (out["image"][0] - ct[middle]).abs().mean() > 10


def test_validation_takes_the_patch_as_it_is():
    closeness, label = drawn_case()
    ct = torch.randint(-1000, 300, DRAWN).float()
    out = carry_maps(nnUNetTrainer.get_validation_transforms([[1.0] * 3]), ("centerline",), foreground=(1,))(
        image=torch.stack((ct, closeness)), segmentation=label[None]
    )
    assert torch.equal(out["image"][0], ct)
    assert torch.equal(out["segmentation"][0][0], label)
    assert torch.equal(out["segmentation"][1][0].float(), closeness)


def test_regions_become_one_hot_and_the_map_stays():
    closeness, label = drawn_case()
    transforms = nnUNetTrainer.get_validation_transforms([[1.0] * 3], regions=[(1, 2)], ignore_label=3)
    label[0, 0, 0] = 3
    out = carry_maps(transforms, ("centerline",), foreground=(1, 2))(
        image=torch.stack((closeness, closeness)), segmentation=label[None]
    )
    target, found = out["segmentation"]
    assert target.shape[0] == 2 and target[1].sum() == 1
    assert torch.equal(found[0] == 255, target[0] > 0)
