import numpy as np
import pytest

from nnunetv2_airway.phantom.tree import Branch, Growth, curved_path, grow

START, END = np.array([50.0, 0, 0]), np.array([30.0, 0, 0])
DOWN = np.array([-1.0, 0, 0])


def grown(seed=0, generations=10, smallest=0.5) -> list[Branch]:
    rng = np.random.default_rng(seed)
    points = rng.uniform((-40, -30, -20), (25, 30, 20), (2000, 3))
    trunk = Branch(curved_path(START, END, DOWN), 5, 5, 0)
    growth = Growth(smallest, generations, lambda p: (np.abs(p) < (60, 35, 25)).all(-1))
    return grow(trunk, DOWN, points, growth, rng)


def test_a_path_leaves_along_its_direction_and_arrives():
    path = curved_path(START, np.array([40.0, 10, 5]), DOWN)
    assert path[0] == pytest.approx(START) and path[-1] == pytest.approx((40, 10, 5))
    first = path[1] - path[0]
    assert first @ DOWN / np.linalg.norm(first) > 0.9


def test_every_branch_continues_a_thicker_parent():
    branches = grown()
    ends = {tuple(END): (5.0, 0)}
    for branch in branches:
        radius, generation = ends[tuple(branch.path[0])]
        assert branch.start_radius < radius and branch.generation == generation + 1
        assert branch.end_radius <= branch.start_radius
        ends[tuple(branch.path[-1])] = (branch.end_radius, branch.generation)


def test_the_tree_fills_its_volume_asymmetrically():
    branches = grown()
    ends = np.array([branch.path[-1] for branch in branches])
    assert len(branches) > 60
    assert (np.abs(ends) < (60, 35, 25)).all()
    assert np.ptp(ends, axis=0) == pytest.approx((65, 60, 40), rel=0.35)
    pairs = {}
    for branch in branches:
        pairs.setdefault(tuple(branch.path[0]), []).append(branch.start_radius)
    ratios = [min(radii) / max(radii) for radii in pairs.values() if len(radii) == 2]
    assert 0.7 < np.mean(ratios) < 0.95 and np.std(ratios) > 0.03


def test_limits_are_kept():
    assert max(branch.generation for branch in grown(generations=3)) == 3
    assert min(branch.start_radius for branch in grown(smallest=1.5)) >= 1.5


def test_the_seed_decides():
    a, b, c = grown(1), grown(1), grown(2)
    assert all(np.array_equal(x.path, y.path) for x, y in zip(a, b, strict=True))
    assert not np.array_equal(a[0].path, c[0].path)


def test_cones_join_end_to_end():
    branch = Branch(curved_path(START, END, DOWN), 3, 2, 1)
    cones = branch.cones()
    assert np.array_equal(cones[1:, :3], cones[:-1, 3:6]) and np.array_equal(cones[1:, 6], cones[:-1, 7])
    assert (cones[0, 6], cones[-1, 7]) == (3, 2)
