import json

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage
from skimage.measure import label as label_components
from skimage.morphology import skeletonize

from nnunetv2_airway.phantom.model import PhantomOptions, synthesize
from nnunetv2_airway.tree.parse import _merge, _nearest, parse_tree

CORNERS = np.ones((3, 3, 3))
FACES = ndimage.generate_binary_structure(3, 1)


def parse_volume(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[int, tuple[int, int]]]:
    """The challenge's definition step by step on whole volumes: labels, skeleton, {branch: (generation, parent)}."""
    components = label_components(mask > 0, connectivity=1)
    airway = ndimage.binary_fill_holes(components == np.bincount(components[components > 0]).argmax())
    skeleton = skeletonize(airway) > 0
    neighbours = ndimage.convolve(skeleton.astype(int), CORNERS.astype(int), mode="reflect")
    pieces, number = ndimage.label(skeleton & (neighbours <= 3), CORNERS)
    sizes = np.bincount(pieces.ravel())
    pieces, number = ndimage.label((pieces > 0) & (sizes[pieces] >= 5), CORNERS)
    nearest = ndimage.distance_transform_edt(pieces == 0, return_distances=False, return_indices=True)
    labels = pieces[tuple(nearest)] * airway
    while True:
        around = {k: set(np.unique(labels[ndimage.binary_dilation(labels == k, FACES)])) - {0, k}
                  for k in range(1, number + 1)}  # fmt: skip
        volumes = np.bincount(labels[labels > 0], minlength=number + 1)
        trachea = int(np.flatnonzero(volumes == volumes.max())[-1])
        generation, front = {trachea: 0}, [trachea]
        while front:
            found = sorted({k for parent in front for k in around[parent]} - generation.keys())
            generation.update({k: generation[front[0]] + 1 for k in found})
            front = found
        parents = {k: sorted(p for p in around[k] if generation[p] == generation[k] - 1) for k in generation}
        children = {p: sorted(k for k in parents if p in parents[k]) for p in generation}
        gone = []
        for k in sorted(parents):
            for other in parents[k][1:]:
                labels[labels == other] = parents[k][0]
                gone.append(other)
        for p in sorted(children):
            if len(children[p]) == 1 and p not in gone and children[p][0] not in gone:
                labels[labels == children[p][0]] = p
                gone.append(children[p][0])
        if not gone:
            return labels, skeleton, {k: (generation[k], (parents[k] or [0])[0]) for k in sorted(generation)}
        for k in range(1, number + 1):
            if k not in gone:
                labels[labels == k] = k - len({other for other in gone if other < k})
        number -= len(set(gone))


def phantom(index: int) -> np.ndarray:
    options = PhantomOptions(shape=(72, 64, 80), spacing=(1.5, 1.0, 1.2), smallest=0.9)
    return synthesize(options, index)[1]


@pytest.mark.parametrize("case", ["ATM_305", pytest.param("ATM_384", marks=pytest.mark.slow)])
def test_every_voxel_is_the_official_one(reference, case):
    folder = reference / "atm22" / case
    expected = json.loads((folder / "expected.json").read_text())
    tree = parse_tree(sitk.GetArrayFromImage(sitk.ReadImage(str(folder / expected["reference_mask"]))))
    with np.load(folder / "tree.npz") as official:
        assert np.array_equal(tree.labels, official["branch_labels"])
        assert np.array_equal(tree.skeleton, official["skeleton"])
    assert tree.num_branches == expected["branches"] and len(tree.line) == expected["skeleton_voxels"]


def with_loop(fork) -> np.ndarray:
    mask = fork()
    mask[8:11, 18:21, 12:48] = 1  # joins both branches
    mask[8:40, 18:21, 45:48] = 1
    return mask


def cut(index: int) -> np.ndarray:
    """A phantom of which the volume cuts airways at several faces."""
    mask = phantom(index)
    low, high = np.argwhere(mask).min(0), np.argwhere(mask).max(0)
    quarter = (high - low) // 4
    return mask[tuple(slice(a, b) for a, b in zip(low + quarter, high - quarter, strict=True))]


MASKS = {
    "fork": lambda fork: fork(),
    "loop": with_loop,
    **{f"phantom {index}": lambda fork, index=index: phantom(index) for index in range(6)},
    **{f"cut phantom {index}": lambda fork, index=index: cut(index) for index in range(6)},
}


@pytest.mark.parametrize("name", MASKS)
def test_the_definition_step_by_step_gives_the_same(name, fork):
    mask = MASKS[name](fork)
    labels, skeleton, branches = parse_volume(mask)
    tree = parse_tree(mask)
    assert np.array_equal(tree.labels, labels) and np.array_equal(tree.skeleton, skeleton)
    assert dict(enumerate(zip(tree.generations, tree.parents, strict=True), start=1)) == branches
    assert tree.num_branches == labels.max() == len(branches)


def test_phantoms_are_trees_worth_comparing():
    branches = [parse_tree(phantom(index)).num_branches for index in range(6)]
    assert min(branches) >= 5 and sum(branches) >= 40


def test_a_fork_by_hand(fork):
    mask = fork()
    tree = parse_tree(mask)
    assert tree.num_branches == 3 and tree.labels.dtype == np.uint16
    trachea, left, right = (int(tree.labels[place]) for place in ((45, 19, 30), (8, 19, 13), (8, 19, 47)))
    assert sorted((trachea, left, right)) == [1, 2, 3]
    assert tree.generations[trachea - 1] == 0 and tree.parents[trachea - 1] == 0
    assert [tree.parents[k - 1] for k in (left, right)] == [trachea] * 2
    assert np.array_equal(tree.labels > 0, mask > 0)


def test_islands_go_and_holes_are_filled(fork):
    mask = fork()
    whole = parse_tree(mask)
    mask[2:5, 2:6, 2:6] = 1
    mask[24, 22, 33] = 1  # touches the trunk at a corner only
    mask[40, 19, 30] = 0
    tree = parse_tree(mask)
    assert np.array_equal(tree.labels, whole.labels) and np.array_equal(tree.skeleton, whole.skeleton)


@pytest.mark.parametrize("axis", range(3))
def test_a_tube_is_one_branch_whichever_way_it_runs_and_ends(axis):
    mask = np.zeros((30, 9, 11), bool)
    mask[:, 3:6, 4:7] = True
    mask = np.moveaxis(mask, 0, axis)
    tree = parse_tree(mask)
    assert tree.num_branches == 1 and np.array_equal(tree.labels, mask)
    assert tree.generations.tolist() == tree.parents.tolist() == [0]


def test_an_empty_mask_has_no_branches():
    tree = parse_tree(np.zeros((5, 6, 7), np.uint8))
    assert tree.num_branches == 0
    assert tree.labels.shape == tree.skeleton.shape == (5, 6, 7) and not tree.labels.any() and not tree.skeleton.any()


@pytest.mark.parametrize("side", [1, 2, 4])
def test_an_airway_without_a_piece_that_counts_is_one_branch(side):
    mask = np.zeros((9, 9, 9), bool)
    mask[3 : 3 + side, 3 : 3 + side, 3 : 3 + side] = True
    tree = parse_tree(mask)
    assert tree.num_branches == 1 and np.array_equal(tree.labels, mask)
    assert tree.skeleton.any() and (tree.skeleton <= mask).all()


@pytest.mark.parametrize("shape", [(5, 6), (5,), (1, 5, 6, 7)])
def test_three_axes_are_needed(shape):
    with pytest.raises(ValueError, match="three axes"):
        parse_tree(np.ones(shape))


def test_equally_near_pieces_are_chosen_as_scipy_s_distance_transform_does():
    rng = np.random.default_rng(0)
    ties = 0
    for _ in range(20):
        volume = rng.random((9, 12, 10)) < 0.03
        points = np.argwhere(volume)
        voxels = np.argwhere(np.ones_like(volume))
        expected = ndimage.distance_transform_edt(~volume, return_distances=False, return_indices=True)
        assert np.array_equal(points[_nearest(points, voxels)], expected.reshape(3, -1).T)
        squared = ((voxels[:, None] - points) ** 2).sum(-1)
        ties += ((squared == squared.min(1, keepdims=True)).sum(1) > 1).sum()
    assert ties > 1000


def test_a_branch_that_was_merged_away_can_be_the_target_of_the_next():
    is_parent = np.zeros((6, 6), bool)  # (child, parent)
    is_parent[4, [0, 1]] = is_parent[5, [1, 2]] = True
    # 1 becomes 0; 2 becomes the 1 that is gone; 4, the only child of 0, becomes 0; then 3 moves up to 1, and 5 to 2
    assert _merge(is_parent).tolist() == [0, 0, 1, 1, 0, 2]


def test_a_branch_that_was_merged_away_takes_in_no_child_of_its_own():
    is_parent = np.zeros((3, 3), bool)  # (child, parent)
    is_parent[2, 1] = is_parent[0, 2] = True
    # 2 becomes 1; its only child 0 waits for the next round
    assert _merge(is_parent).tolist() == [0, 1, 1]


def test_an_only_child_that_was_fused_with_another_branch_does_not_become_its_parent():
    is_parent = np.zeros((8, 8), bool)  # (child, parent)
    is_parent[[1, 2], 0] = is_parent[4, 1] = is_parent[[3, 5], 2] = True
    is_parent[6, [3, 4]] = is_parent[7, [4, 5]] = True
    # 4 becomes 3; 5 becomes the 4 that is gone; 6, the only child of 3, becomes 3. 4 is the only child of 1, but gone,
    # and with it the 5 that is called 4 stays. Then 7 moves up to 4.
    assert _merge(is_parent).tolist() == [0, 1, 2, 3, 3, 4, 3, 4]


def rough_trachea() -> np.ndarray:
    """A trachea with a septum near its top and a stub halfway, and two main bronchi."""
    mask = np.zeros((120, 40, 90), bool)
    z, y, x = np.ogrid[tuple(map(slice, mask.shape))]
    mask |= (z >= 50) & ((y - 20) ** 2 + (x - 45) ** 2 < 64)
    mask[96:110, :, 45] = False  # the septum
    mask |= (abs(z - 80) < 4) & (abs(y - 20) < 4) & (x >= 45) & (x < 60)  # the stub
    for side in (-1, 1):
        axis = 45 + side * (50 - z) * 0.8
        mask |= (z < 54) & (z > 12) & ((y - 20) ** 2 + (x - axis) ** 2 < 36)
    return mask


def test_a_rough_trachea_is_one_branch_where_planes_go_to_the_head():
    mask = rough_trachea()
    tree = parse_tree(mask, upright=True)
    assert tree.generations.tolist().count(0) == 1 and tree.generations.tolist().count(1) == 2
    trachea = tree.labels == 1 + tree.generations.tolist().index(0)
    assert trachea[60:].sum() > 0.99 * mask[60:].sum() and trachea[:40].sum() < 0.02 * mask[:40].sum()


def test_a_tree_that_stands_on_its_head_keeps_its_branches():
    tree = parse_tree(rough_trachea()[:80][::-1], upright=True)
    assert tree.num_branches == 3 and sorted(tree.generations) == [0, 1, 1]


def test_a_narrow_main_bronchus_leaves_the_other_one_what_it_is():
    """Trachea of 16 voxels, main bronchi of 12 and 5, each of which forks again."""
    mask = np.zeros((150, 40, 130), bool)
    z, y, x = np.ogrid[tuple(map(slice, mask.shape))]
    mask |= (z >= 90) & ((y - 20) ** 2 + (x - 65) ** 2 < 64)
    for side, radius in ((-1, 6.0), (1, 2.6)):
        axis = 65 + side * (90 - z) * 0.7
        mask |= (z < 92) & (z > 55) & ((y - 20) ** 2 + (x - axis) ** 2 < radius**2)
        for further in (0.2, 1.2):
            child = 65 + side * (35 * 0.7 + (55 - z) * further)
            mask |= (z < 58) & (z > 25) & ((y - 20) ** 2 + (x - child) ** 2 < (0.8 * radius) ** 2)
    tree = parse_tree(mask, upright=True)
    assert sorted(tree.generations) == [0, 1, 1, 2, 2, 2, 2]
    trachea = tree.labels == 1 + tree.generations.tolist().index(0)
    assert trachea[:75].sum() == 0
