import numpy as np

from nnunetv2_airway.maps.centerline import centerline


def test_a_straight_tube_thins_to_its_axis():
    mask = np.zeros((40, 11, 13), np.uint8)
    mask[4:36, 4:7, 5:8] = 1
    line = centerline(mask)
    assert line.dtype == bool and line.shape == mask.shape
    positions = np.argwhere(line)
    assert (positions[:, 1:] == (5, 6)).all()
    assert 28 <= len(positions) <= 32 and len(set(positions[:, 0])) == len(positions)


def test_a_tube_at_the_edge_of_the_volume_keeps_its_axis():
    mask = np.zeros((20, 7, 7), bool)
    mask[:, 2:5, 2:5] = True
    assert (np.argwhere(centerline(mask))[:, 1:] == (3, 3)).all()


def test_empty_mask_and_lone_voxel():
    mask = np.zeros((5, 6, 7), bool)
    assert not centerline(mask).any()
    mask[2, 3, 4] = True
    assert np.array_equal(centerline(mask), mask)
