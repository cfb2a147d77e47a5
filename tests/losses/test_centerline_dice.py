"""clDice against a calculation by scipy, and what its skeleton is of tubes."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from nnunetv2_airway.losses.centerline_dice import centerline_dice_from_sums, centerline_dice_sums, soft_skeleton


def eroded(values):
    sizes = ((3, 1, 1), (1, 3, 1), (1, 1, 3))
    return np.min([ndimage.minimum_filter(values, size, mode="constant", cval=np.inf) for size in sizes], axis=0)


def opened(values):
    return ndimage.maximum_filter(eroded(values), 3, mode="constant", cval=-np.inf)


def by_scipy(values, iterations):
    skeleton = np.maximum(values - opened(values), 0)
    for _ in range(iterations):
        values = eroded(values)
        delta = np.maximum(values - opened(values), 0)
        skeleton += np.maximum(delta - skeleton * delta, 0)
    return skeleton


@pytest.mark.parametrize("iterations", [1, 4])
def test_the_skeleton_by_scipy(iterations):
    values = np.random.default_rng(0).random((2, 7, 9, 11))
    found = soft_skeleton(torch.from_numpy(values)[:, None], iterations)[:, 0].numpy()
    for own, patch in zip(found, values, strict=True):
        assert np.allclose(own, by_scipy(patch, iterations))


def test_a_tube_becomes_its_line():
    tube = torch.zeros(1, 1, 9, 9, 30)
    tube[..., 2:7, 2:7, 3:27] = 1
    line = soft_skeleton(tube, 4)
    assert line.sum() < 0.12 * tube.sum() and line[0, 0, 4, 4, 8:22].sum() == 14
    assert line[0, 0, :, :, 8:22].sum() == 14


def test_the_loss_by_its_equation():
    rng = torch.Generator().manual_seed(0)
    z = torch.randn((2, 1, 6, 7, 8), generator=rng, dtype=torch.double)
    g = (torch.rand(z.shape, generator=rng) > 0.7).long()
    found = centerline_dice_from_sums(centerline_dice_sums(z, g, iterations=3), smooth=1.0)
    p, truth = torch.sigmoid(z).numpy()[:, 0], g.numpy()[:, 0].astype(float)
    lines = [np.stack([by_scipy(patch, 3) for patch in values]) for values in (p, truth)]
    precision = ((lines[0] * truth).sum() + 1) / (lines[0].sum() + 1)
    sensitivity = ((lines[1] * p).sum() + 1) / (lines[1].sum() + 1)
    assert float(found) == pytest.approx(1 - 2 * precision * sensitivity / (precision + sensitivity))


def test_a_perfect_prediction_costs_nothing():
    g = torch.zeros(1, 1, 9, 9, 20)
    g[..., 3:6, 3:6, :] = 1
    sums = centerline_dice_sums(40 * (g - 0.5), g, iterations=3)
    assert float(centerline_dice_from_sums(sums, smooth=1.0)) == pytest.approx(0, abs=1e-6)
