import cc3d
import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from nnunetv2_airway.tree.centerline import (
    ON_LINE,
    centerline,
    centerline_closeness,
    centerline_distance_weight,
    small_airway_points,
)

SPACING = (2.5, 0.8, 0.6)


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


def tree() -> np.ndarray:
    """A trunk that the volume's edge cuts, a thin branch, and a lone piece."""
    mask = np.zeros((40, 30, 34), np.uint8)
    mask[10:, 8:17, 9:20] = 1
    mask[12:15, 10:13, 19:32] = 1
    mask[2:5, 22:27, 3:8] = 1
    return mask


def distance_transform(mask, line, spacing):
    """Independent of ours: scipy's distance transform of the whole volume."""
    distance = ndimage.distance_transform_edt(~line, sampling=spacing)
    return np.where(mask > 0, distance, 0)


@pytest.mark.parametrize("spacing", [(1, 1, 1), SPACING, (10, 0.5, 0.5)])
def test_distance_weight_is_tang_s_equation_4(spacing):
    mask = tree()
    distance = distance_transform(mask, centerline(mask), spacing)
    expected = np.where(mask, (1 - distance / distance.max()) ** 2, 0)
    weight = centerline_distance_weight(mask, spacing)
    assert weight.dtype == np.float32 and weight.shape == mask.shape
    np.testing.assert_allclose(weight, expected, atol=1e-6)
    assert weight.max() == 1 and weight[mask > 0].min() == 0


def test_distance_weight_of_a_slab_by_hand():
    # a slab three voxels wide in the row direction, whose centerline runs along its middle
    mask = np.zeros((30, 9, 9), bool)
    mask[2:28, 3:6, 4] = True
    weight = centerline_distance_weight(mask, (1.0, 0.5, 7.0))
    assert weight[15, 4, 4] == 1 and 0 <= weight[15, 3, 4] < 1
    assert weight[15, 3, 4] == weight[15, 5, 4]


@pytest.mark.parametrize("spacing", [(1, 1, 1), SPACING])
def test_closeness_is_the_root_of_the_weight_in_one_byte_and_goes_on_around_the_airways(spacing):
    mask = tree()
    closeness, line = centerline_closeness(mask, spacing)
    assert closeness.dtype == np.uint8
    assert np.array_equal(closeness == ON_LINE, centerline(mask)) and np.array_equal(
        line, np.argwhere(centerline(mask))
    )
    np.testing.assert_allclose(
        (closeness[mask > 0] / 255) ** 2, centerline_distance_weight(mask, spacing)[mask > 0], atol=0.01
    )
    rim = ndimage.binary_dilation(mask, np.ones((3, 3, 3))) & (mask == 0)
    distance = ndimage.distance_transform_edt(closeness != ON_LINE, sampling=spacing)
    farthest = distance[mask > 0].max()
    np.testing.assert_allclose(closeness[rim] / 255, np.clip(1 - distance[rim] / farthest, 0, 1), atol=0.005)
    assert (closeness[~(rim | (mask > 0))] == 0).all() and closeness[rim].max() > 0


def test_a_voxel_beside_the_line_is_not_on_it_however_thick_the_airway_is():
    mask = np.zeros((30, 9, 8), bool)
    mask[2:28, 2:7, 3:6] = True
    closeness, line = centerline_closeness(mask, (2.5, 7.0, 0.01))
    # 0.01 of 14 mm away: 254.8 of 255
    assert closeness[15, 4, 3:6].tolist() == [254, ON_LINE, 254]
    assert (closeness == ON_LINE).sum() == len(line)


def test_maps_of_no_airway_and_of_a_lone_voxel():
    mask = np.zeros((7, 8, 9), np.uint8)
    assert not centerline_distance_weight(mask, SPACING).any() and not small_airway_points(mask).any()
    closeness, line = centerline_closeness(mask, SPACING)
    assert not closeness.any() and line.shape == (0, 3)
    mask[3, 0, 8] = 1
    weight = centerline_distance_weight(mask, SPACING)
    assert weight[3, 0, 8] == weight.sum() == 1
    assert np.array_equal(small_airway_points(mask), mask > 0)
    closeness, line = centerline_closeness(mask, SPACING)
    assert closeness[3, 0, 8] == 255 and line.tolist() == [[3, 0, 8]] and (closeness == 255).sum() == 1


@pytest.mark.parametrize("spacing", [(1, 1), (1, 0, 1), (1, -1, 1), (1, float("nan"), 1)])
def test_a_bad_spacing_is_refused(spacing):
    with pytest.raises(ValueError, match="three positive numbers in mm"):
        centerline_distance_weight(tree(), spacing)


@pytest.mark.parametrize("radius", [1.0, 1.5, 2.0, 3.2])
def test_small_airways_are_near_the_background_but_the_edge_of_the_volume_is_none(radius):
    mask = tree()
    # independent of ours: a distance transform in a volume whose outside is airway
    outside = np.pad(mask, 5, mode="edge")
    distance = ndimage.distance_transform_edt(outside)[5:-5, 5:-5, 5:-5]
    expected = centerline(mask) & (distance < radius)
    assert np.array_equal(small_airway_points(mask, radius), expected)


def test_a_trachea_cut_by_the_field_of_view_is_not_small():
    mask = np.zeros((12, 9, 9), bool)
    mask[:, 2:7, 2:7] = True
    assert centerline(mask).any() and not small_airway_points(mask).any()
    mask[:, 2:7, 2:7] = False
    mask[:, 3:6, 3:6] = True  # its axis lies 2 voxels from the background, which is not nearer than 2
    assert not small_airway_points(mask).any() and small_airway_points(mask, 2.1).any()


@pytest.mark.slow
@pytest.mark.parametrize("case", ["ATM_305", "ATM_384"])
def test_distance_weight_of_a_real_tree(reference, case):
    image = sitk.ReadImage(str(reference / "atm22" / case / "deeptree_damo.nii.gz"))
    mask, spacing = sitk.GetArrayFromImage(image), image.GetSpacing()[::-1]
    box = ndimage.find_objects(mask)[0]
    mask = mask[box]
    distance = distance_transform(mask, centerline(mask), spacing)
    expected = np.where(mask, (1 - distance / distance.max()) ** 2, 0)
    np.testing.assert_allclose(centerline_distance_weight(mask, spacing), expected, atol=1e-5)
