import numpy as np
import pytest

from nnunetv2_airway.phantom.chest import Anatomy, Frame, lung, paint_chest

FRAME = Frame(centre=np.array([60.0, 80, 96]), half=np.array([50.0, 48, 65]))
SHAPE, SPACING = (60, 80, 96), np.array([2.0, 2.0, 2.0])


@pytest.fixture(scope="module")
def chest():
    anatomy = Anatomy.sample(np.random.default_rng(3))
    u = FRAME.grid(SHAPE, SPACING)
    right, left = lung(u, anatomy, -1), lung(u, anatomy, 1)
    return right, left, paint_chest(u, anatomy, right | left, np.random.default_rng(4))


def test_grid_and_positions_agree():
    z, y, x = FRAME.grid(SHAPE, SPACING)
    index = np.array([[10, 20, 30]])
    expected = [axis.ravel()[i] for axis, i in zip((z, y, x), index[0], strict=True)]
    assert np.ravel(FRAME.normalise(index * SPACING)) == pytest.approx(expected, abs=1e-6)


def test_two_lungs_apart_the_heart_on_the_left(chest):
    right, left, _ = chest
    assert not (right & left).any()
    assert np.nonzero(right)[2].max() < 48 + 3 and np.nonzero(left)[2].min() > 48 - 3
    assert 0.5 < left.sum() / right.sum() < 0.95


def test_tissues_have_their_hounsfield_units(chest):
    right, left, hu = chest
    lungs = right | left
    assert -920 < np.median(hu[lungs]) < -800
    assert hu[lungs].min() < -950  # emphysema: a threshold for air leaks into it
    assert hu[0, 0, 0] == -1000  # air around the patient
    bone = hu > 200
    assert bone.any() and not (bone & lungs).any()
    assert bone[:, 60:].sum() > bone[:, :20].sum()  # spine at the back
    table = hu == -350
    assert np.nonzero(table)[1].min() > np.nonzero(lungs)[1].max()  # below the patient
