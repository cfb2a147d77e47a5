import hashlib

import numpy as np
import pytest
from scipy import ndimage

from nnunetv2_airway.training.maps.numbers import branch_numbers, component_numbers
from nnunetv2_airway.tree.parse import VERSION, parse_tree

SPACING = (2.5, 0.8, 0.6)
CUBE = np.ones((3, 3, 3), bool)


def drawn_mask() -> np.ndarray:
    """Three pieces: a block, one that touches it at a corner only, one apart from both, at the volume's edge."""
    mask = np.zeros((14, 18, 20), bool)
    mask[2:6, 3:8, 4:9] = True
    mask[6, 8, 9:14] = True
    mask[11:, 14:, 17:] = True
    return mask


def same_pieces(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two numberings differ in their numbers only."""
    pairs = np.unique(np.stack((a.ravel(), b.ravel())), axis=1)
    return len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]


def test_components_are_those_of_scipy_and_go_on_for_one_voxel():
    mask = drawn_mask()
    found = component_numbers(mask)
    expected, count = ndimage.label(mask, CUBE)
    assert found.dtype == np.int16 and count == 2 and same_pieces(found * mask, expected)
    assert np.array_equal(found > 0, ndimage.binary_dilation(mask, CUBE))
    # around a piece its own number goes on
    for number in (1, 2):
        assert ((found == number) == ndimage.binary_dilation(found * mask == number, CUBE)).all()


def test_components_agree_with_the_authors_code(reference):
    with np.load(reference / "inverse_weighting.npz") as file:
        mask, expected = file["mask"], file["components"]
    assert same_pieces(component_numbers(mask) * mask, expected)


def test_more_pieces_than_can_be_numbered_are_refused():
    specks = np.zeros((64, 64, 65), bool)
    specks[::2, ::2, ::2] = True
    with pytest.raises(ValueError, match="has 33792 pieces; up to 32767"):
        component_numbers(specks)


def test_random_masks():
    for seed in range(5):
        mask = np.random.default_rng(seed).random((9, 11, 13)) < 0.1
        expected, count = ndimage.label(mask, CUBE)
        found = component_numbers(mask)
        assert count > 5 and same_pieces(found * mask, expected)
        assert np.array_equal(found > 0, ndimage.binary_dilation(mask, CUBE))


@pytest.mark.parametrize("number", [component_numbers, lambda mask: branch_numbers(mask, SPACING)])
def test_empty_and_full_masks(number):
    assert (number(np.zeros((6, 7, 8), bool)) == 0).all()
    assert (number(np.ones((6, 7, 8), bool)) == 1).all()


def drawn_tree() -> np.ndarray:
    """A trunk of radius 5 that divides into two branches of radius 2.2."""
    mask = np.zeros((44, 60, 50), bool)
    voxels = np.argwhere(~mask)
    for end, start, radius in (((3, 30, 25), (20, 30, 25), 5), ((40, 12, 25), (20, 30, 25), 2.2),
                               ((40, 48, 25), (20, 30, 25), 2.2)):  # fmt: skip
        along = np.subtract(end, start)
        share = np.clip((voxels - start) @ along / (along @ along), 0, 1)[:, None]
        mask |= (((voxels - start - share * along) ** 2).sum(1) <= radius**2).reshape(mask.shape)
    return mask


def test_branches_are_those_of_the_parsed_tree():
    mask = drawn_tree()
    tree = parse_tree(mask)
    found = branch_numbers(mask, SPACING)
    assert tree.num_branches == 3 and np.array_equal(found[mask], tree.labels[mask])
    assert np.array_equal(found > 0, ndimage.binary_dilation(mask, CUBE))


def test_branches_of_a_phantom_cover_all_of_its_airways(scans):
    for _, mask in scans:
        found, tree = branch_numbers(mask, SPACING), parse_tree(mask)
        own = tree.labels * (mask > 0)  # the tree's holes are filled
        assert (found[mask > 0] > 0).all() and tree.num_branches > 1
        assert np.array_equal(found[own > 0], own[own > 0])


def test_a_piece_apart_is_a_branch_of_its_own_if_it_is_as_large_as_the_smallest():
    mask = drawn_tree()
    tree = branch_numbers(mask, SPACING) * mask
    smallest = np.bincount(tree[tree > 0])[1:].min()
    mask[2:12, 50:57, 1:9] = True  # 560 voxels
    mask[30:39, 29:32, 44:48] = True  # 108 voxels
    assert 108 < smallest < 560
    found = branch_numbers(mask, SPACING) * mask
    assert np.array_equal(found[tree > 0], tree[tree > 0])
    assert np.unique(found[2:12, 50:57, 1:9]).tolist() == [4] and found.max() == 4
    assert set(np.unique(found[30:39, 29:32, 44:48])) <= {1, 2, 3}


@pytest.mark.parametrize(("missing", "numbers"), [(0, {4}), (1, {1, 2, 3})])
def test_a_piece_as_large_as_the_smallest_branch_is_told_from_one_a_voxel_smaller(missing, numbers):
    mask = drawn_tree()
    tree = branch_numbers(mask, SPACING) * mask
    size = np.bincount(tree[tree > 0])[1:].min() - missing
    piece = mask[2:12, 50:57, 1:9]
    piece[...] = np.arange(piece.size).reshape(piece.shape) < size
    assert piece.sum() == size
    assert set(np.unique(branch_numbers(mask, SPACING)[2:12, 50:57, 1:9][piece])) <= numbers


def test_a_small_piece_is_part_of_the_branch_that_is_nearest_in_mm():
    mask = drawn_tree()
    tree = branch_numbers(mask, SPACING) * mask
    owned, voxel = np.argwhere(tree), np.array([10, 48, 25])
    mask[tuple(voxel)] = True
    answers = []
    for spacing in ((0.1, 1, 1), (10, 1, 1)):
        found = branch_numbers(mask, spacing)[tuple(voxel)]
        nearest = owned[np.argmin((((owned - voxel) * spacing) ** 2).sum(1))]
        assert found == tree[tuple(nearest)]
        answers.append(found)
    assert answers[0] != answers[1]


def test_branches_have_not_changed_without_a_new_version():
    digest = hashlib.blake2b(
        branch_numbers(drawn_tree(), SPACING).astype(np.int32).tobytes(), digest_size=8
    ).hexdigest()
    assert (VERSION, digest) == ("1", "bbc412bba8181340"), "the branches have changed: raise VERSION beside parse_tree"
