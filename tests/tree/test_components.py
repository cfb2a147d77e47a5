import math

import numpy as np
import pytest
from scipy import ndimage

from nnunetv2_airway.tree.components import count_components, largest_component, largest_of, with_neighbours


@pytest.mark.parametrize("connectivity", [6, 26])
def test_against_scipy_on_noise(connectivity):
    structure = ndimage.generate_binary_structure(3, 1 if connectivity == 6 else 3)
    for seed in range(5):
        # 0.12 and 0.35 are near where faces and corners begin to connect everything
        mask = np.random.default_rng(seed).random((13, 17, 11)) < (0.35 if connectivity == 6 else 0.12)
        labels, number = ndimage.label(mask, structure)
        sizes = np.bincount(labels[mask])
        if np.count_nonzero(sizes == sizes.max()) > 1:
            continue
        expected = ndimage.binary_fill_holes(labels == sizes.argmax())
        assert number > 3 and np.array_equal(largest_component(mask, connectivity=connectivity), expected)
        if connectivity == 26:
            assert count_components(mask) == number


def test_a_hole_is_filled_and_a_tunnel_is_not_also_at_the_edge_of_the_volume():
    mask = np.ones((6, 7, 8), np.uint8)
    mask[2, 3, 3] = 0
    mask[4, 3, 5:] = 0
    expected = mask.copy()
    expected[2, 3, 3] = 1
    assert np.array_equal(largest_component(mask, connectivity=6), expected > 0)


def test_neighbours_are_those_of_faces_edges_and_corners_also_at_the_edge_of_the_volume():
    mask = np.random.default_rng(0).random((9, 11, 13)) < 0.02
    assert np.array_equal(with_neighbours(mask), ndimage.binary_dilation(mask, np.ones((3, 3, 3))))


def test_nothing_stays_nothing():
    empty = np.zeros((3, 4, 5))
    assert not largest_component(empty, connectivity=26).any() and count_components(empty) == 0


def test_in_mm_a_piece_that_reaches_far_along_two_axes_goes_before_a_compact_or_a_narrow_one():
    mask = np.zeros((30, 14, 16), bool)
    mask[1:7, 1:7, 1:7] = True  # 216 voxels
    mask[2:26, 9:12, 7:9] = mask[2:5, 9:12, 9:15] = True  # 198 voxels
    compact, far = mask.copy(), mask.copy()
    compact[:, 8:], far[:, :8] = False, False
    assert np.array_equal(largest_component(mask, connectivity=26), compact)
    # 216 voxels x 12 mm x 3.6 mm, and 198 x 48 x 4.8
    assert np.array_equal(largest_component(mask, connectivity=26, spacing=(2.0, 0.6, 0.6)), far)
    # wide rows turn it round: 216 x 24 x 12, and 198 x 16 x 12
    assert np.array_equal(largest_component(mask, connectivity=26, spacing=(0.1, 4.0, 2.0)), compact)
    # what is long but narrow does not win: 48 voxels x 48 mm x 1.2 mm
    narrow = compact.copy()
    narrow[2:26, 9, 7:9] = True
    assert np.array_equal(largest_component(narrow, connectivity=26, spacing=(2.0, 0.6, 0.6)), compact)


def test_the_largest_in_mm_of_noise():
    spacing = np.array((2.5, 0.7, 0.8))
    for seed in range(5):
        mask = np.random.default_rng(seed).random((13, 17, 11)) < 0.12
        numbers, count = ndimage.label(mask, np.ones((3, 3, 3)))
        sizes = []
        for number in range(1, count + 1):
            voxels = np.argwhere(numbers == number)
            _, *sides = sorted((np.ptp(voxels, axis=0) + 1) * spacing)
            sizes.append(len(voxels) * math.prod(sides))
        assert largest_of(numbers, spacing) == 1 + np.argmax(sizes)
