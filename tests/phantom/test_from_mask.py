import numpy as np
import pytest

from nnunetv2_airway.phantom.airways import wall_thickness
from nnunetv2_airway.phantom.from_mask import SMALLEST_HALF, read_mask
from nnunetv2_airway.tree.centerline import centerline

SPACING = np.array([2.0, 1.0, 0.5])


@pytest.fixture(scope="module")
def tube():
    mask = np.zeros((60, 50, 90), bool)
    mask[10:50, 20:29, 40:58] = True  # 80 mm long, 9 x 9 mm wide
    return mask, read_mask(mask, SPACING, np.random.default_rng(0))


def test_distance_to_the_lumen_at_anisotropic_spacing(tube):
    mask, shapes = tube
    assert ((shapes.lumen < 0) == mask).all()
    row = shapes.lumen[30, 24]  # along x, in steps of 0.5 mm, through the middle
    outside = row[58:66]
    assert np.diff(outside) == pytest.approx(0.5)
    assert row[49] == pytest.approx(-4.5, abs=0.6)


def test_the_wall_has_the_thickness_of_the_local_radius(tube):
    _, shapes = tube
    thickness = shapes.lumen[30, 24, 60] - shapes.outer[30, 24, 60]
    assert thickness == pytest.approx(wall_thickness(4.5, shapes.frame), rel=0.15)


def test_arteries_follow_the_centerline_outside_the_wall(tube):
    _, shapes = tube
    voxels = np.rint(shapes.arteries[:, :3] / SPACING).astype(int)
    inside = (voxels >= 0).all(1) & (voxels < shapes.lumen.shape).all(1)
    assert inside.mean() > 0.8
    assert (shapes.lumen[tuple(voxels[inside].T)] > 0).all()


def test_lungs_hold_the_mask_and_are_never_tiny(tube):
    mask, shapes = tube
    assert (shapes.frame.half >= SMALLEST_HALF).all()
    line = np.argwhere(centerline(mask)) * SPACING
    assert (np.abs((line - shapes.frame.centre) / shapes.frame.half) < 1).all()
