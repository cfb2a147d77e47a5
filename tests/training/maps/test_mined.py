"""Mined maps against brute force: every voxel against every other."""

import numpy as np
import pytest

from nnunetv2_airway.training.maps.mined import breakage_attention, missed_closeness
from nnunetv2_airway.tree.centerline import centerline, centerline_distance_weight
from nnunetv2_airway.tree.components import with_neighbours

SPACING = (2.5, 0.8, 0.6)


def distances(voxels: np.ndarray, places: np.ndarray, spacing=(1.0, 1.0, 1.0)) -> np.ndarray:
    return np.linalg.norm((voxels[:, None] - places[None]) * spacing, axis=2)


def test_closeness_to_the_missed_part_of_the_centerline(fork):
    mask = fork() > 0
    line = np.argwhere(centerline(mask))
    missed = line[:, 2] > 33
    assert 10 < missed.sum() < len(line) - 10
    found = missed_closeness(mask, line, missed, SPACING)
    voxels = np.argwhere(mask)
    distance = distances(voxels, line, SPACING)
    kept = missed[distance.argmin(1)]
    near = distance.min(1)
    expected = np.where(kept, 1 - near / near[kept].max(), 0)
    # where a found voxel of the line is as near as a missed one, either may be the nearest
    certain = (np.isclose(distance, near[:, None]) @ np.stack((missed, ~missed), 1)).all(1) == 0
    assert certain.mean() > 0.95
    np.testing.assert_allclose(found[mask][certain] / 255, expected[certain], atol=0.51 / 255)
    assert (found[tuple(line[missed].T)] == 255).all() and not found[tuple(line[~missed].T)].any()
    assert not found[~with_neighbours(mask)].any() and found[with_neighbours(mask) & ~mask].any()


def test_all_missed_is_the_weight_of_the_centerline_and_nothing_missed_is_nothing(fork):
    mask = fork() > 0
    line = np.argwhere(centerline(mask))
    found = missed_closeness(mask, line, np.full(len(line), True), SPACING)
    np.testing.assert_allclose((found[mask] / 255) ** 2, centerline_distance_weight(mask, SPACING)[mask], atol=1 / 255)
    assert not missed_closeness(mask, line, np.full(len(line), False), SPACING).any()
    assert not missed_closeness(np.zeros_like(mask), line[:0], np.zeros(0, bool), SPACING).any()


def test_attention_where_a_second_piece_is_close():
    prediction = np.zeros((30, 22, 44), bool)
    prediction[2:12, 5:9, 4:9] = prediction[14:24, 5:9, 6:10] = prediction[4:9, 8:16, 22:26] = True
    prediction[25:27, 15:20, 30:35] = True  # 50 voxels are no piece
    prediction[12, 9, 9] = True  # touches the first at a corner
    found = breakage_attention(prediction)
    pieces = [prediction & box for box in (np.zeros_like(prediction) for _ in range(3))]
    pieces[0][2:13, 5:10, 4:10] = prediction[2:13, 5:10, 4:10]
    pieces[1][14:24, 5:9, 6:10] = True
    pieces[2][4:9, 8:16, 22:26] = True
    voxels = np.argwhere(np.ones_like(prediction))
    each = np.stack([distances(voxels, np.argwhere(piece)).min(1) for piece in pieces])
    second = np.sort(each, axis=0)[1]
    expected = 1 / (1 + np.exp(second - 5))
    expected[expected < 0.001] = 0
    np.testing.assert_allclose(found.ravel() / 255, expected, atol=0.51 / 255)
    assert found[13, 7, 7] > 230 and found[3, 6, 5] > 0, "in the gap, and in the pieces themselves"


@pytest.mark.parametrize("pieces", [0, 1])
def test_no_attention_without_a_second_piece(pieces):
    prediction = np.zeros((12, 14, 16), bool)
    prediction[2 : 2 + 5 * pieces, 3:8, 3:9] = True
    prediction[10, 12, 12:14] = True
    assert not breakage_attention(prediction).any()
