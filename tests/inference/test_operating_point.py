"""Threshold, hysteresis and reconnection by hand, the latter against all paths, and what is kept on disk."""

import itertools

import networkx as nx
import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from nnunetv2_airway.cli import postprocess
from nnunetv2_airway.inference import operating_point
from nnunetv2_airway.inference.operating_point import (
    OperatingPoint,
    read_operating_point,
    reconnect,
    write_operating_point,
)
from nnunetv2_airway.inference.predictor import Settings, load_predictor
from nnunetv2_airway.io.files import digest_of
from nnunetv2_airway.tree.components import count_components

SPACING = (2.0, 0.8, 1.3)


def broken_tube(gap: float) -> np.ndarray:
    """Probabilities of a tube along the columns with a gap in it, and of an island beside it."""
    p = np.full((7, 9, 30), 0.01, np.float32)
    p[2:5, 3:6, 1:12] = p[2:5, 3:6, 17:29] = 0.9
    p[3, 4, 12:17] = gap
    p[0, 0, 0] = 0.7
    return p


def test_threshold_and_hysteresis():
    p = broken_tube(0.3)
    assert np.array_equal(OperatingPoint(0.6).mask(p, SPACING), p > 0.6)
    sure = OperatingPoint(0.6, seed=0.8).mask(p, SPACING)
    assert not sure[0, 0, 0] and sure.sum() == (p > 0.8).sum()
    assert OperatingPoint(0.2, seed=0.8).mask(p, SPACING)[3, 4, 14]


@pytest.mark.parametrize("seed", range(3))
def test_thin_airways_have_their_own_threshold_where_no_thick_one_is_near(seed):
    rng = np.random.default_rng(seed)
    p = rng.uniform(0, 0.6, (9, 11, 14))
    p[:4, 1:5, 2:6] = 0.9
    p[-3:, -3:, -5:] = 0.1
    p[-1, -1, -3:] = 0.4  # hangs on nothing
    mask = p > 0.5
    cubes = [
        np.array(corner)
        for corner in itertools.product(*(range(side - 2) for side in p.shape))
        if mask[tuple(slice(index, index + 3) for index in corner)].all()
    ]
    more = mask.copy()
    for voxel in np.argwhere(p > 0.2):
        # between the voxel and the nearest one of the cube
        away = [np.maximum(0, np.maximum(corner - voxel, voxel - corner - 2)).max() for corner in cubes]
        more[tuple(voxel)] |= min(away) > 2
    parts, _ = ndimage.label(more, np.ones((3, 3, 3)))
    expected = mask | (parts == parts[2, 2, 3])  # the cube is the largest
    assert mask.sum() < expected.sum() < (p > 0.2).sum() and not (expected & ~mask)[-1, -1, -3:].any()
    assert np.array_equal(OperatingPoint(0.5, thin=0.2).mask(p, SPACING), expected)


def test_a_thin_airway_is_joined_at_its_own_threshold():
    p = broken_tube(0.3)
    thin = OperatingPoint(0.5, thin=0.2, bridge=0.1).mask(p, SPACING)
    assert thin[3, 4, 12:17].all() and thin.sum() == (p > 0.5).sum() + 5
    assert np.array_equal(OperatingPoint(0.5, thin=0.2).mask(p, SPACING), p > 0.5)  # 14 alone is far enough from both
    assert not OperatingPoint(0.5, thin=0.2).mask(np.zeros((3, 4, 5), np.float32), SPACING).any()


def test_pieces_are_joined_where_the_whole_path_is_above_the_least():
    p = broken_tube(0.3)
    joined = OperatingPoint(0.5, bridge=0.2).mask(p, SPACING)
    assert joined.sum() - (p > 0.5).sum() == 5 and joined[3, 4, 12:17].all()
    assert count_components(joined) == 2  # the island cannot be reached
    p[3, 4, 14] = 0.15
    assert np.array_equal(OperatingPoint(0.5, bridge=0.2).mask(p, SPACING), p > 0.5)
    assert not OperatingPoint(0.5, bridge=0.2).mask(np.zeros((3, 4, 5), np.float32), SPACING).any()


def cheapest(p: np.ndarray, mask: np.ndarray, spacing, least: float) -> float:
    """Cost of the best path between both pieces of a mask, by networkx over all voxels."""
    graph = nx.Graph()
    cost = np.where(mask, 0, -np.log(p))
    for voxel in np.argwhere(mask | (p > least)).tolist():
        for step in itertools.product((-1, 0, 1), repeat=3):
            other = tuple(np.add(voxel, step))
            inside = all(0 <= index < side for index, side in zip(other, p.shape, strict=True))
            if step > (0, 0, 0) and inside and (mask[other] or p[other] > least):
                length = np.linalg.norm(np.multiply(step, spacing)) * (cost[tuple(voxel)] + cost[other]) / 2
                graph.add_edge(tuple(voxel), other, weight=length)
    first, last = (tuple(np.argwhere(mask)[index].tolist()) for index in (0, -1))
    return nx.shortest_path_length(graph, first, last, weight="weight")


@pytest.mark.parametrize("seed", range(5))
def test_the_path_is_the_best_of_all(seed):
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.02, 0.4, (5, 6, 9)).astype(np.float32)
    p[:2, :2, :2] = p[-1:, -2:, -2:] = 0.9
    mask = p > 0.5
    joined = reconnect(mask, p, SPACING, least=0.05)
    assert count_components(joined) == 1
    path = joined & ~mask
    assert (p[path] > 0.05).all()
    # what it has added alone allows no cheaper and no dearer path than all voxels do
    alone = np.where(path, p, 0.01)
    assert cheapest(alone, mask, SPACING, 0.011) == pytest.approx(cheapest(p, mask, SPACING, 0.05), rel=1e-5)


def two_ways() -> np.ndarray:
    """A gap between two pieces with two ways of five equal steps around it: one along planes, one along rows."""
    p = np.full((5, 5, 9), 0.001, np.float32)
    p[2, 2, 0] = p[2, 2, 8] = 0.9
    for column, offset in zip(range(1, 8), (1, 2, 2, 2, 2, 2, 1), strict=True):
        p[2 - offset, 2, column] = p[2, 2 - offset, column] = 0.3
    return p


PLANES, ROWS = (0, 2, 4), (2, 0, 4)
"""A voxel on each way."""


@pytest.mark.parametrize(("spacing", "taken", "left"), [((3, 1, 1), ROWS, PLANES), ((1, 3, 1), PLANES, ROWS)])
def test_steps_are_as_long_as_in_mm(spacing, taken, left):
    joined = OperatingPoint(0.5, bridge=0.2).mask(two_ways(), spacing)
    assert joined[taken] and not joined[left] and count_components(joined) == 1


def test_of_many_voxels_the_most_probable_are_searched(monkeypatch):
    monkeypatch.setattr(operating_point, "MOST", 6)
    p = broken_tube(0.3)
    p[:, 6:] = 0.25  # much that leads nowhere
    assert OperatingPoint(0.5, bridge=0.2).mask(p, SPACING)[3, 4, 12:17].all()
    p[:, 6:] = 0.35
    assert np.array_equal(OperatingPoint(0.5, bridge=0.2).mask(p, SPACING), p > 0.5)


def test_several_pieces_share_their_paths():
    p = np.full((3, 9, 20), 0.01, np.float32)
    p[1, 4, :8] = 0.9
    p[1, 4, 8:12] = 0.3
    for row in (2, 6):
        p[1, row, 14:19] = 0.9
        p[1, row + np.sign(4 - row), 12:14] = 0.25
    joined = OperatingPoint(0.5, bridge=0.2).mask(p, (1.0, 1.0, 1.0))
    assert count_components(joined) == 1 and joined[1, 4, 8:12].all()


@pytest.mark.parametrize(
    "values",
    [(None,), (0.5, 0.4), (0.5, None, 0.6), (1.0,), (0.0,), ("a",), (0.5, 0.5), (0.5, None, None, 0.6),
     (0.5, None, 0.2, 0.1)],
)  # fmt: skip
def test_numbers_that_are_no_operating_point(values):
    with pytest.raises((ValueError, TypeError), match=r"bridge < thin < threshold < seed|not supported"):
        OperatingPoint(*values)


def test_on_disk(tmp_path):
    file = tmp_path / "operating_point.json"
    point = OperatingPoint(0.3, 0.8, 0.1, 0.2)
    write_operating_point(file, point, criterion="mean")
    assert read_operating_point(file) == point
    for content in ("{", '{"threshold": 0.5}', '{"threshold": 2, "seed": null, "bridge": null, "thin": null}'):
        file.write_text(content)
        with pytest.raises(ValueError, match=r"operating_point\.json holds no operating point"):
            read_operating_point(file)


def test_a_model_that_was_tuned_brings_its_own(model, tmp_path):
    copy = tmp_path / "model"
    copy.mkdir()
    for file in model.iterdir():
        (copy / file.name).symlink_to(file)
    assert load_predictor(copy, Settings()).operating_point == OperatingPoint()
    checkpoint = next(copy.glob("fold_*/checkpoint_final.pth"))
    made_for = {str(checkpoint.relative_to(copy)): digest_of(checkpoint)}
    write_operating_point(copy / "operating_point.json", OperatingPoint(0.3), checkpoints=made_for)
    assert load_predictor(copy, Settings()).operating_point == OperatingPoint(0.3)
    asked = Settings(operating_point=OperatingPoint(0.7))
    assert load_predictor(copy, asked).operating_point == OperatingPoint(0.7)
    write_operating_point(copy / "operating_point.json", OperatingPoint(0.3), checkpoints=dict.fromkeys(made_for, "1"))
    with pytest.raises(ValueError, match=r"was chosen for another .*checkpoint_final\.pth"):
        load_predictor(copy, Settings())
    assert load_predictor(copy, asked).operating_point == OperatingPoint(0.7)


def test_the_predictor_works_at_it(ct, model, finds_trachea, monkeypatch):
    predictor = load_predictor(model, Settings())
    spacing = (1.0, 2.0, 3.0)
    noise = np.random.default_rng(0).normal(0, 30, ct.shape)
    ct = (ct + noise).astype(np.float32)
    usual = predictor.segment_ct(ct, spacing)
    predictor.operating_point = OperatingPoint(0.5, seed=0.51)  # the same by another way
    found = predictor.segment_ct(ct, spacing)
    assert not (found > usual).any() and found.sum() > 0.99 * usual.sum()
    # p > 0.99 asks for 4.6 HU less than p > 0.5
    seen = []
    monkeypatch.setattr(OperatingPoint, "mask", lambda self, p, spacing: (seen.append(spacing), p > self.threshold)[1])
    predictor.operating_point = OperatingPoint(0.99)
    less = predictor.segment_ct(ct, spacing)
    assert 0 < less.sum() < usual.sum() and not (less > usual).any() and seen == [spacing]


@pytest.fixture
def predicted(tmp_path, write_mask):
    """A prediction with probabilities beside it, as nnU-Net writes them."""
    p = broken_tube(0.3)
    file = tmp_path / "predictions" / "case.nii.gz"
    write_mask(file, (p > 0.5).astype(np.uint8))
    np.savez_compressed(file.parent / "case.npz", probabilities=np.stack([1 - p, p]))
    return file, p


def test_postprocess_at_an_operating_point(predicted, tmp_path, run_main, in_this_process):
    file, p = predicted
    write_operating_point(tmp_path / "op.json", OperatingPoint(0.5, bridge=0.2))
    line = ["-i", file.parent, "-o", tmp_path / "trees", "--operating-point", tmp_path / "op.json"]
    code, said = run_main(postprocess.main, *line)
    assert code == 0, said
    tree = sitk.ReadImage(str(tmp_path / "trees" / "case.nii.gz"))
    expected = p > 0.2
    assert np.array_equal(sitk.GetArrayFromImage(tree) > 0, expected & ~(p == np.float32(0.7)))
    assert tree.GetOrigin() == pytest.approx(sitk.ReadImage(str(file)).GetOrigin())


def test_postprocess_takes_the_shorter_way_in_mm(tmp_path, write_mask, run_main, in_this_process):
    p = two_ways()  # planes are 2.5 mm apart, rows 0.8
    file = tmp_path / "predictions" / "case.nii.gz"
    write_mask(file, (p > 0.5).astype(np.uint8))
    np.savez_compressed(file.parent / "case.npz", probabilities=np.stack([1 - p, p]))
    write_operating_point(tmp_path / "op.json", OperatingPoint(0.5, bridge=0.2))
    line = ["-i", file.parent, "-o", tmp_path / "trees", "--operating-point", tmp_path / "op.json"]
    assert run_main(postprocess.main, *line)[0] == 0
    tree = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "trees" / "case.nii.gz")))
    assert tree[ROWS] and not tree[PLANES]


@pytest.mark.parametrize("change", ["gone", "damaged", "another", "structures"])
def test_probabilities_that_cannot_be_used(predicted, tmp_path, run_main, in_this_process, change):
    file, p = predicted
    npz = file.parent / "case.npz"
    if change == "gone":
        npz.unlink()
    elif change == "damaged":
        npz.write_bytes(npz.read_bytes()[:200])
    elif change == "another":
        np.savez_compressed(npz, probabilities=np.stack([p, 1 - p]))
    else:
        np.savez_compressed(npz, probabilities=np.stack([p, p, p]))
    words = {"gone": "--save_probabilities", "damaged": "cannot be read", "another": "gives another mask"}
    write_operating_point(tmp_path / "op.json", OperatingPoint(0.3))
    line = ["-i", file.parent, "-o", tmp_path / "trees", "--operating-point", tmp_path / "op.json"]
    code, said = run_main(postprocess.main, *line)
    assert code == 1 and words.get(change, "one structure") in said and "case.n" in said
