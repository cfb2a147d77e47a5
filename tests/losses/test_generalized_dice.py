import pytest
import torch

from nnunetv2_airway.losses.generalized_dice import generalized_dice_from_sums, generalized_dice_sums


def loss(p, g, w=None):
    tensors = [None if values is None else torch.tensor(values, dtype=torch.double) for values in (p, g, w)]
    return generalized_dice_from_sums(generalized_dice_sums(*tensors)).item()


def test_by_hand():
    # foreground of one voxel, v = 1; background of three, v = 1/9
    overlap = 0.8 + (0.9 + 0.6 + 1.0) / 9
    both = (0.8 + 0.1 + 0.4 + 1) + ((0.2 + 0.9 + 0.6 + 1.0) + 3) / 9
    assert loss([0.8, 0.1, 0.4, 0.0], [1, 0, 0, 0]) == pytest.approx(1 - 2 * overlap / both)


def test_weights_are_as_so_many_voxels_of_the_kind():
    assert loss([0.8, 0.3], [1, 0], [2, 3]) == pytest.approx(loss([0.8, 0.8, 0.3, 0.3, 0.3], [1, 1, 0, 0, 0]))


@pytest.mark.parametrize("g", [0, 1])
def test_one_class_alone(g):
    assert loss([float(g)] * 4, [g] * 4) == pytest.approx(0)
    assert loss([1.0 - g] * 4, [g] * 4) > 0.9
