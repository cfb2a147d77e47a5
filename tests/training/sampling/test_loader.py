from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from nnunetv2_airway.training.sampling import loader as module
from nnunetv2_airway.training.sampling.loader import PatchLoader, patch_around
from nnunetv2_airway.training.schedule import HARD_SMALL_RANDOM, RANDOM, Sampling

SHAPE = (30, 41, 26)
FINAL, INITIAL = (8, 16, 24), (11, 21, 29)
LABELS = SimpleNamespace(all_labels=[0, 1], has_ignore_label=False)


def final_corner(corner):
    """Lowest corner of the final patch, which nnU-Net cuts from the middle of the initial one."""
    return [c + i // 2 - f // 2 for c, i, f in zip(corner, INITIAL, FINAL, strict=True)]


@pytest.mark.parametrize("voxel", [(0, 0, 0), (29, 40, 25), (15, 20, 13), (3, 39, 1)])
def test_the_voxel_lies_anywhere_in_the_final_patch_and_the_patch_inside_the_case(voxel):
    np.random.seed(0)
    places = set()
    for _ in range(3000):
        corner = final_corner(patch_around(voxel, SHAPE, FINAL, INITIAL))
        inside = tuple(v - c for v, c in zip(voxel, corner, strict=True))
        assert all(0 <= place < size for place, size in zip(inside, FINAL, strict=True))
        assert all(0 <= c <= length - size for c, length, size in zip(corner, SHAPE, FINAL, strict=True))
        places.add(inside)
    for axis in range(3):
        # every place that keeps the patch inside the case comes up
        first = min(voxel[axis], SHAPE[axis] - FINAL[axis])
        last = max(0, voxel[axis] - FINAL[axis] + 1)
        assert {place[axis] for place in places} == {voxel[axis] - corner for corner in range(last, first + 1)}


def test_an_axis_shorter_than_the_patch_is_held_whole():
    np.random.seed(0)
    starts = set()
    for _ in range(200):
        corner = patch_around((2, 20, 5), (5, 41, 26), FINAL, INITIAL)
        starts.add(final_corner(corner)[0])
    assert starts == {-3, -2, -1, 0}


class Data:
    identifiers = ["a", "b"]  # noqa: RUF012

    def __init__(self, sampling):
        self.sampling = sampling


def make(sampling, batch_size=32):
    return PatchLoader(Data(sampling), batch_size, INITIAL, FINAL, LABELS)


POINTS = {"hard": np.array([[3, 4, 5]]), "small": np.array([[20, 30, 20]]), "centerline": np.array([[10, 10, 10]])}


def test_a_batch_asks_for_the_shares_of_its_data_set_once_per_batch():
    loader = make(HARD_SMALL_RANDOM)
    for _ in range(3):
        kinds = [loader.get_do_oversample(index) for index in range(32)]
        assert Counter(kinds) == {"hard": 16, "small": 8, "random": 8}


def test_parts_of_ddp_ranks(monkeypatch):
    parts = []
    for rank in range(3):
        monkeypatch.setattr(module, "all_gather", lambda value: [11, 11, 10])
        monkeypatch.setattr(module, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(module, "ranks", lambda: 3)
        size = (11, 11, 10)[rank]
        loader = make(HARD_SMALL_RANDOM, batch_size=size)
        parts += [loader.get_do_oversample(index) for index in range(size)]
    assert Counter(parts) == {"hard": 16, "small": 8, "random": 8}


def test_small_batches_have_the_shares_on_average():
    np.random.seed(0)
    loader, counts = make(HARD_SMALL_RANDOM, batch_size=2), Counter()
    for _ in range(1000):
        counts.update(loader.get_do_oversample(index) for index in range(2))
    assert counts["hard"] == 1000
    assert abs(counts["small"] - 500) < 80 and abs(counts["random"] - 500) < 80


def holds(box, voxel):
    low = final_corner(box[0])
    return all(start <= v < start + size for start, v, size in zip(low, voxel, FINAL, strict=True))


@pytest.mark.parametrize("kind", ["hard", "small", "centerline"])
def test_a_patch_holds_a_voxel_of_its_kind(kind):
    loader = make(Sampling(**{kind: 1}))
    for _ in range(50):
        low, high = loader.get_bbox(SHAPE, kind, POINTS)
        assert holds((low, high), POINTS[kind][0])
        assert [b - a for a, b in zip(low, high, strict=True)] == list(INITIAL)


def test_every_voxel_of_a_kind_is_chosen():
    voxels = np.array([[3, 3, 3], [26, 37, 22]])
    loader, found = make(RANDOM), Counter()
    for _ in range(200):
        box = loader.get_bbox(SHAPE, "small", {**POINTS, "small": voxels})
        found.update(i for i, voxel in enumerate(voxels) if holds(box, voxel))
    assert set(found) == {0, 1} and min(found.values()) > 50


def test_fallbacks():
    loader, empty = make(RANDOM), np.zeros((0, 3), int)
    assert holds(loader.get_bbox(SHAPE, "hard", {**POINTS, "hard": empty}), POINTS["small"][0])
    nothing = dict.fromkeys(POINTS, empty)
    for kind in ("hard", "small", "centerline", "random"):
        corners = np.array([loader.get_bbox(SHAPE, kind, nothing)[0] for _ in range(300)])
        # as random patches of nnU-Net: all over the case
        assert (corners.max(0) - corners.min(0) > (np.array(SHAPE) - FINAL) * 0.7).all()


def test_random_patches_keep_to_annotated_voxels_where_there_is_an_ignore_label():
    labels = SimpleNamespace(all_labels=[0, 1], has_ignore_label=True)
    loader = PatchLoader(Data(RANDOM), 2, INITIAL, FINAL, labels)
    annotated = {**POINTS, (-1, 0, 1): np.array([[0, 15, 20, 13]])}
    low, high = loader.get_bbox(SHAPE, "random", annotated)
    assert all(a <= v < b for a, v, b in zip(low, (15, 20, 13), high, strict=True))
