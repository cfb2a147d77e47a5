import cc3d
import numpy as np
import pytest

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


@pytest.mark.parametrize("width", [(2, 2), (4, 4), (2, 3), (10, 18)])
@pytest.mark.parametrize("axis", range(3))
def test_pieces_of_even_width_keep_a_line_inside_them(width, axis):
    mask = np.zeros((46, 24, 26), bool)
    mask[3:43, 4 : 4 + width[0], 5 : 5 + width[1]] = True
    mask = np.moveaxis(mask, 0, axis)
    line = centerline(mask)
    assert (line <= mask).all()
    positions = np.sort(np.argwhere(line)[:, axis])
    assert np.ptp(positions) >= 40 - max(width) - 2 and (np.diff(positions) <= 1).all()


def test_every_piece_keeps_a_voxel():
    mask = np.zeros((20, 20, 20), bool)
    mask[2:4, 2:4, 2:4] = mask[10:14, 10:14, 10:14] = mask[17, 17, 2] = True
    mask[6:9, 14:17, 3:9] = True
    pieces = cc3d.connected_components(mask, connectivity=26)
    assert set(pieces[centerline(mask)]) == {1, 2, 3, 4}
