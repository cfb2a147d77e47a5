import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch.nn.functional import grid_sample

from nnunetv2_airway.hounsfield import HounsfieldScale
from nnunetv2_airway.training.augmentation import augment_in_range
from nnunetv2_airway.training.carry_maps import SpatialWithMaps, carry_maps
from nnunetv2_airway.training.maps.numbers import component_numbers

PATCH = (20, 24, 28)
DRAWN = (26, 32, 36)


def pipeline(*, spatial: float, intensity: float, dummy_2d: bool = False, names=("centerline",)):
    """nnU-Net's own training pipeline with our two steps, its probabilities set."""
    stock = nnUNetTrainer.get_training_transforms(PATCH, (-0.5, 0.5), [[1.0] * 3], (0, 1, 2), dummy_2d)
    wrapped = carry_maps(augment_in_range(stock, HounsfieldScale()), names, foreground=(1,))
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
    label = torch.from_numpy(mask.astype(np.int16))
    return label * 255, label


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
        out = augment(image=closeness[None] * 3.0, segmentation=torch.stack((label, closeness)))
        target, found = out["segmentation"]
        assert found.dtype == torch.uint8 and found.shape == target.shape == out["image"].shape == (1, *PATCH)
        # the label is the majority of the voxels around a point, the map their linear mean
        ct = out["image"] / 3  # without intensity transforms the CT, drawn alike, has moved alike
        certain = (ct < 110) | (ct > 145)
        assert torch.equal((ct > 127)[certain], (target > 0)[certain])
        assert certain.float().mean() > 0.9 and (target > 0).any()
        inside = target > 0
        torch.testing.assert_close(ct[inside], found[inside].float(), atol=0.6, rtol=0)
        moved += not torch.equal(target[0], label[:, 4:28, 4:32] if dummy_2d else label[3:23, 4:28, 4:32])
    assert moved == 20


def test_a_map_that_goes_on_outside_the_label_moves_as_the_ct_does():
    augment = pipeline(spatial=1, intensity=0, names=("line", "breakage"))
    closeness, label = drawn_case()
    line = torch.zeros_like(label)
    for plane in range(4, 22):
        line[plane, 11 + plane // 2, 12] = 1
    lengths = []
    for seed in range(5):
        torch.manual_seed(seed)
        np.random.seed(seed)
        blurred = torch.nn.functional.avg_pool3d(closeness[None].float(), 5, 1, 2).round()
        out = augment(image=blurred, segmentation=torch.stack((label, line, blurred[0].short())))
        target, found_line, found = out["segmentation"]
        torch.testing.assert_close(out["image"], found.float(), atol=0.6, rtol=0)
        assert found.dtype == torch.uint8 and (found[target == 0] > 0).any()
        assert set(found_line.unique().tolist()) == {0, 1}
        assert (found_line * target).sum() > 0.8 * found_line.sum()
        lengths.append(int(found_line.sum()))
    assert 0.5 < np.mean(lengths) / line.sum() < 1.5, "of much the same length, though some leaves the patch"


def test_intensity_transforms_leave_the_map_alone():
    augment = pipeline(spatial=0, intensity=1)
    augment.transforms = [step for step in augment.transforms if type(step).__name__ != "MirrorTransform"]
    closeness, label = drawn_case()
    closeness = torch.randint(0, 256, DRAWN, dtype=torch.int16) * (closeness > 0)
    ct = torch.randint(-1000, 300, DRAWN).float()
    out = augment(image=ct[None], segmentation=torch.stack((label, closeness)))
    middle = (slice(3, 23), slice(4, 28), slice(4, 32))
    assert torch.equal(out["segmentation"][1][0], closeness[middle].to(torch.uint8))
    assert torch.equal(out["segmentation"][0][0], label[middle])
    assert (out["image"][0] - ct[middle]).abs().mean() > 10


def test_validation_takes_the_patch_as_it_is():
    closeness, label = drawn_case()
    ct = torch.randint(-1000, 300, DRAWN).float()
    out = carry_maps(nnUNetTrainer.get_validation_transforms([[1.0] * 3]), ("centerline",), foreground=(1,))(
        image=ct[None], segmentation=torch.stack((label, closeness))
    )
    assert torch.equal(out["image"][0], ct)
    assert torch.equal(out["segmentation"][0][0], label)
    assert torch.equal(out["segmentation"][1][0], closeness.to(torch.uint8))


def test_regions_become_one_hot_and_the_map_stays():
    closeness, label = drawn_case()
    transforms = nnUNetTrainer.get_validation_transforms([[1.0] * 3], regions=[(1, 2)], ignore_label=3)
    label[0, 0, 0] = 3
    out = carry_maps(transforms, ("centerline",), foreground=(1, 2))(
        image=closeness[None].float(), segmentation=torch.stack((label, closeness))
    )
    target, found = out["segmentation"]
    assert target.shape[0] == 2 and target[1].sum() == 1
    assert torch.equal(found[0] == 255, target[0] > 0)


def test_outside_the_case_a_map_is_zero():
    closeness, label = drawn_case()
    label[:6], closeness[:6] = -1, -1  # nnU-Net's padding of labels, and so of their channels; the patch begins at 3
    out = pipeline(spatial=0, intensity=0)(image=label[None].float(), segmentation=torch.stack((label, closeness)))
    assert out["segmentation"][1].max() == 255 and (out["segmentation"][1] > 0).equal(out["segmentation"][0] > 0)


def test_a_patch_without_foreground_has_an_empty_map():
    closeness, label = drawn_case()
    out = pipeline(spatial=1, intensity=0)(image=label[None].float(), segmentation=torch.stack((label * 0, closeness)))
    assert out["image"].any() and out["segmentation"][1].shape == (1, *PATCH) and not out["segmentation"][1].any()


def lesions() -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers of many small components of a case, going on around them, and its label; all (Z, Y, X)."""
    mask = np.zeros(DRAWN, bool)
    rng = np.random.default_rng(0)
    for low in np.argwhere(np.ones((5, 6, 6))) * 5 + 2:
        size = rng.integers(2, 4, 3)
        mask[tuple(slice(a, a + n) for a, n in zip(low, size, strict=True))] = True
    return torch.from_numpy(component_numbers(mask)), torch.from_numpy(mask.astype(np.int16))


@pytest.mark.parametrize("dummy_2d", [False, True])
def test_numbers_move_as_labels(dummy_2d):
    augment = pipeline(spatial=1, intensity=1, dummy_2d=dummy_2d, names=("centerline", "components"))
    numbers, label = lesions()
    if dummy_2d:
        numbers, label = numbers[3:23], label[3:23]
    closeness = label * 255
    sizes = torch.bincount(numbers[label > 0])
    assert len(sizes) > 100
    moved = 0
    for seed in range(20):
        torch.manual_seed(seed)
        np.random.seed(seed)
        segmentation = torch.stack((label, closeness, numbers))
        out = augment(image=label[None] * -900.0, segmentation=segmentation)
        target, close, found = out["segmentation"]
        assert found.dtype == torch.int16 and found.shape == target.shape == close.shape == (1, *PATCH)
        # nothing between two numbers, nothing of the one map in the other, a number wherever there is foreground
        assert set(found.unique().tolist()) <= set(numbers.unique().tolist())
        assert (found[target > 0] > 0).all() and (close[found == 0] < 128).all()
        # a component stays one piece: none is larger than scaling can make it
        after = torch.bincount(found[target > 0], minlength=len(sizes))
        assert (after[1:] <= 4 * sizes[1:] + 8).all() and (after > 0).sum() > 10
        moved += not dummy_2d and not torch.equal(found[0], numbers[3:23, 4:28, 4:32])
    assert moved == (0 if dummy_2d else 20)


def test_numbers_are_those_of_the_nearest_voxel():
    numbers, label = lesions()
    transform = SpatialTransform(PATCH, 0, False, p_rotation=1, rotation=(0.2, 0.4), p_scaling=1, scaling=(0.8, 1.2))
    carrying = SpatialWithMaps(transform, ("components",), (1,), 0.5)
    params = carrying.get_parameters(image=label[None].float())
    patch = {"regression_target": numbers[None].to(torch.int16), "segmentation": label[None]}
    moved = carrying.apply(patch, **params)["regression_target"].float()
    expected = grid_sample(numbers[None, None].float(), params["grid"][None], mode="nearest", align_corners=False)[0]
    assert torch.equal(moved, expected) and len(expected.unique()) > 50


def rotated(cut: float, label: torch.Tensor, seed: int) -> torch.Tensor:
    """A label after nnU-Net's spatial transform with a cut, rotation alone."""
    transform = SpatialTransform(PATCH, 0, False, p_rotation=1, rotation=(0.2, 0.25), padding_value_seg=-1,
                                 border_mode_seg="constant")  # fmt: skip
    np.random.seed(seed)
    torch.manual_seed(seed)
    return SpatialWithMaps(transform, (), (1, 2), cut)(image=label[None].float(), segmentation=label[None])


@pytest.mark.parametrize("cut", [0.8, 0.9])
def test_interpolated_labels_are_cut(cut):
    _, label = drawn_case()
    label[10:14, 20:24] *= 2  # two values of one structure: where they meet nothing is cut
    label[20:23, 25:30, 2:8] = 3  # the ignore label
    out = rotated(cut, label, 0)
    foreground = (label == 1) | (label == 2)
    assert (label == 2).any()
    grid_share = rotated(0.5, foreground.short(), 0)["image"]  # the linear share of foreground, by the image's way
    plain = rotated(0.5, label, 0)["segmentation"]
    expected = torch.where(((plain == 1) | (plain == 2)) & (grid_share < cut), 0, plain)
    assert torch.equal(out["segmentation"], expected)
    assert (expected != plain).sum() > 100 and torch.equal(out["segmentation"] == 3, plain == 3)


def moved_by(cut: float, label: torch.Tensor, *parts: float) -> torch.Tensor:
    """A label (Z, Y, X) moved by parts of a voxel; free of rounding where sizes are powers of two and so are parts."""
    axes = [(2 * (torch.arange(n) - part) + 1) / n - 1 for n, part in zip(label.shape, parts, strict=True)]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], -1)
    transform = SpatialTransform(tuple(label.shape), 0, False, border_mode_seg="border")
    patch = {"image": label[None].float(), "segmentation": label[None]}
    return SpatialWithMaps(transform, (), (1,), cut).apply(patch, grid=grid)["segmentation"][0]


def test_a_voxel_whose_share_of_foreground_is_the_cut_stays_foreground():
    label = torch.zeros(4, 8, 16, dtype=torch.int16)
    label[..., 8:] = 1
    narrower = label.clone()
    narrower[..., 8] = 0
    assert torch.equal(moved_by(0.75, label, 0, 0, 0.25), label)
    assert torch.equal(moved_by(0.75, label, 0, 0, 0.265625), narrower)


def test_at_one_half_nothing_is_cut_even_where_three_labels_meet():
    label = torch.zeros(4, 8, 16, dtype=torch.int16)
    label[:, 4:] = 1
    label[..., :8] = 3  # the ignore label
    # at row 4, column 8: 25/64 foreground, 24/64 ignored, 15/64 background
    assert torch.equal(moved_by(0.5, label, 0, 0.375, 0.375), label)
    narrower = label.clone()
    narrower[:, 4, 8] = 0
    assert torch.equal(moved_by(0.6, label, 0, 0.375, 0.375), narrower)


def test_labels_that_were_not_interpolated_are_not_cut():
    _, label = drawn_case()
    transform = SpatialTransform(PATCH, 0, False, p_rotation=0, p_scaling=0)
    out = SpatialWithMaps(transform, (), (1,), 0.9)(image=label[None].float(), segmentation=label[None])
    assert torch.equal(out["segmentation"][0], label[3:23, 4:28, 4:32])


def test_without_maps_nothing_changes():
    closeness, label = drawn_case()
    transforms = nnUNetTrainer.get_validation_transforms([[1.0] * 3, [0.5] * 3])
    image = torch.stack((closeness, closeness + 1)).float()
    out = carry_maps(transforms, (), foreground=(1,))(image=image, segmentation=label[None])
    assert torch.equal(out["image"], image) and len(out["segmentation"]) == 2
