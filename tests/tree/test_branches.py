import numpy as np
import pytest
import SimpleITK as sitk
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import pdist, squareform

from nnunetv2_airway.tree import branches
from nnunetv2_airway.tree.branches import line_lengths, measure_branches, nearest_branch
from nnunetv2_airway.tree.parse import AirwayTree, parse_tree

SPACING = (2.5, 0.8, 0.6)


def on_line(voxels: list, branch: list | None = None, parents=(0,), generations=(0,)) -> AirwayTree:
    """A tree that is nothing but its centerline."""
    line, branch = np.array(voxels), np.array(branch or [1] * len(voxels))
    return AirwayTree((30, 30, 30), line, branch, line, branch, np.array(parents), np.array(generations))


@pytest.mark.parametrize("axis", range(3))
def test_length_of_a_straight_line(axis):
    voxels = np.full((11, 3), 5)
    voxels[:, axis] = np.arange(7, 18)
    [branch] = measure_branches(on_line(voxels.tolist()), SPACING)
    assert branch.length == pytest.approx(10 * SPACING[axis])
    assert branch.diameter == pytest.approx(2 * np.sqrt(np.prod(SPACING) / SPACING[axis] / np.pi))
    assert {branch.start, branch.end} == {tuple(voxels[0].tolist()), tuple(voxels[-1].tolist())}


def test_length_around_a_corner_and_along_diagonals():
    voxels = [(5, 5, 5), (5, 5, 6), (5, 6, 7), (6, 7, 8)]
    steps = [0.6, np.hypot(0.8, 0.6), np.linalg.norm(SPACING)]
    assert line_lengths(on_line(voxels), SPACING).tolist() == pytest.approx(
        [steps[0] / 2, sum(steps[:2]) / 2, sum(steps[1:]) / 2, steps[2] / 2]
    )


@pytest.mark.parametrize("width", [3, 7])
@pytest.mark.parametrize("axis", range(3))
def test_diameter_of_a_round_tube(axis, width):
    spacing = np.array(SPACING)
    shape = np.ceil(np.full(3, 2 * width + 6) / spacing).astype(int)
    shape[axis] = 120 / spacing[axis]
    place = np.indices(shape) * spacing[:, None, None, None]
    middle = shape * spacing / 2
    across = [a for a in range(3) if a != axis]
    mask = sum((place[a] - middle[a]) ** 2 for a in across) <= width**2
    [branch] = measure_branches(parse_tree(mask), SPACING)
    assert branch.diameter == pytest.approx(2 * width, rel=0.1)
    ends = np.array(branch.start) - branch.end
    assert branch.length == pytest.approx(np.linalg.norm(ends * spacing), rel=0.03) and 80 < branch.length < 120


def test_branches_begin_at_their_parent_and_share_the_length_of_the_whole_centerline(fork):
    tree = parse_tree(fork())
    measured = measure_branches(tree, SPACING)
    trachea = next(branch for branch in measured if branch.generation == 0)
    assert trachea.parent == 0 and trachea.start[0] > 45 and trachea.end[0] < 30
    for branch in measured:
        assert tree.labels[branch.start] == tree.labels[branch.end] == branch.number
        if branch is not trachea:
            assert branch.parent == trachea.number
            assert branch.start[0] > 20 and branch.end[0] < 6 and abs(branch.end[2] - 30) > 18
            assert branch.length == pytest.approx(21 * np.hypot(2.5, 0.6), rel=0.1)
    # independent: the minimum spanning tree of all pairs of voxels that touch
    apart = squareform(pdist(tree.line * np.array(SPACING)))
    apart[squareform(pdist(tree.line, "chebyshev")) > 1] = 0
    assert sum(branch.length for branch in measured) == pytest.approx(minimum_spanning_tree(apart).sum())


def test_spacing_scales_lengths_and_diameters(fork):
    tree = parse_tree(fork())
    for small, large in zip(
        measure_branches(tree, SPACING), measure_branches(tree, np.array(SPACING) * 3), strict=True
    ):
        assert large.length == pytest.approx(3 * small.length)
        assert large.diameter == pytest.approx(3 * small.diameter)
        assert (large.start, large.end) == (small.start, small.end)


@pytest.mark.parametrize("many", [0, 10**6])
def test_the_nearest_branch_by_either_way(monkeypatch, many, fork):
    monkeypatch.setattr(branches, "MAX_SEARCHED", many)
    tree = parse_tree(fork())
    mask = np.random.default_rng(0).random(tree.shape) < 0.02
    nearest = nearest_branch(tree, mask, SPACING)
    apart = np.linalg.norm((np.argwhere(mask)[:, None] - tree.line) * SPACING, axis=-1)
    to_branch = np.stack([apart[:, tree.line_branch == k].min(1) for k in (1, 2, 3)], axis=1)
    np.testing.assert_allclose(to_branch[np.arange(len(nearest)), nearest - 1], apart.min(1))
    assert np.bincount(nearest)[1:].min() > 100


def test_a_lone_voxel_has_the_diameter_of_a_sphere_and_no_tree_no_branches():
    [branch] = measure_branches(on_line([(3, 4, 5)]), SPACING)
    assert branch.length == 0 and branch.start == branch.end == (3, 4, 5)
    assert np.pi / 6 * branch.diameter**3 == pytest.approx(np.prod(SPACING))
    assert measure_branches(parse_tree(np.zeros((4, 4, 4))), SPACING) == []


@pytest.mark.parametrize("case", ["ATM_305", pytest.param("ATM_384", marks=pytest.mark.slow)])
def test_a_real_tree_narrows_from_generation_to_generation(reference, case):
    image = sitk.ReadImage(str(reference / "atm22" / case / "deeptree_damo.nii.gz"))
    branches = measure_branches(parse_tree(sitk.GetArrayFromImage(image)), image.GetSpacing()[::-1])
    mean = [np.mean([b.diameter for b in branches if b.generation == generation]) for generation in range(6)]
    assert mean == sorted(mean, reverse=True) and 10 < mean[0] < 20 and mean[5] < 3.5
    trachea = next(branch for branch in branches if branch.generation == 0)
    assert trachea.start[0] > trachea.end[0] and 80 < trachea.length < 200
