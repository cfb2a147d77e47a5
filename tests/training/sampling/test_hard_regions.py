from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nnunetv2_airway.training.maps.kinds import BREAKAGE, MINED, MISSED
from nnunetv2_airway.training.maps.mined import missed_closeness
from nnunetv2_airway.training.sampling.hard_regions import HardRegions, MinedMaps, missed

LINE = np.array([[0, 1, 2], [3, 4, 5], [2, 0, 6]])


def logits_of(found, heads):
    """Logits whose probability is above one half at the found voxels alone."""
    z = torch.full((5, 6, 7), -0.1)
    for voxel in found:
        z[tuple(voxel)] = 0.1
    return torch.stack((torch.full_like(z, 3), z + 3)) if heads == 2 else z[None]


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_missed_voxels_have_a_probability_below_one_half(heads, dtype):
    assert missed(logits_of(LINE[1:2], heads).to(dtype), LINE).tolist() == LINE[[0, 2]].tolist()
    assert missed(logits_of(LINE, heads).to(dtype), LINE).shape == (0, 3)


def test_a_probability_of_one_half_is_no_miss():
    assert missed(torch.zeros(2, 5, 6, 7), LINE).shape == (0, 3)


def test_a_diverged_network_does_not_pass_for_a_perfect_one():
    with pytest.raises(ValueError, match="training has diverged"):
        missed(torch.full((2, 5, 6, 7), float("nan")), LINE)


class Maps:
    spacing, foreground = (2.5, 0.8, 0.6), (1,)
    lines = {"a": LINE, "b": LINE[:2], "empty": LINE[:0]}  # noqa: RUF012
    version = "1"

    def read(self, case):
        return SimpleNamespace(points={"centerline": self.lines[case]})

    def fingerprint(self, case):
        return f"{case}{self.version}"


def load(case):
    label = np.zeros((1, 5, 6, 7), np.int8)
    label[(0, *Maps.lines[case].T)] = 1
    return np.full((1, 5, 6, 7), ord(case[0]), np.float32), label


def mine(store, cases):
    seen = []

    def predict(ct):
        seen.append(chr(int(ct[0, 0, 0, 0])))
        return logits_of(LINE[:1], 2)

    store.mine(cases, load, predict, progress=False)
    return seen


def test_mined_once_in_a_training(tmp_path):
    store = HardRegions(tmp_path / "hard", Maps(), "run 1")
    assert store.missing(["a", "b", "empty"]) == ["a", "b", "empty"]
    assert mine(store, ["a"]) == ["a"]
    # as after an interruption: another object, the same training
    store = HardRegions(tmp_path / "hard", Maps(), "run 1")
    assert store.missing(["a", "b", "empty"]) == ["b", "empty"]
    assert mine(store, store.missing(["a", "b", "empty"])) == ["b"], "a case without centerline needs no prediction"
    assert store.read("a").tolist() == LINE[1:].tolist() and store.read("b").tolist() == LINE[1:2].tolist()
    assert store.read("empty").shape == (0, 3)


def test_mined_again_in_another_training_after_new_preprocessing_and_when_damaged(tmp_path):
    store = HardRegions(tmp_path, Maps(), "run 1")
    mine(store, ["a", "b"])
    assert HardRegions(tmp_path, Maps(), "run 2").missing(["a", "b"]) == ["a", "b"]
    newer = Maps()
    newer.version = "2"
    assert HardRegions(tmp_path, newer, "run 1").missing(["a", "b"]) == ["a", "b"]
    file = tmp_path / "a.npz"
    for content in (b"", file.read_bytes()[:100], b"x" * 500):
        file.write_bytes(content)
        assert store.missing(["a", "b"]) == ["a"]


def test_maps_are_mined_with_the_voxels_and_again_when_one_is_damaged(tmp_path):
    store = HardRegions(tmp_path, Maps(), "run 1")
    mine(store, ["a"])
    store = HardRegions(tmp_path, Maps(), "run 1", MINED)
    assert store.missing(["a", "empty"]) == ["a", "empty"], "its maps are missing"
    assert mine(store, ["a", "empty"]) == ["a", "e"]
    assert store.missing(["a", "empty"]) == [] and store.read("a").tolist() == LINE[1:].tolist()
    mask = load("a")[1][0] > 0
    expected = missed_closeness(mask, LINE, np.array([False, True, True]), Maps.spacing)
    assert np.array_equal(MinedMaps(store, MISSED).read("a").values[:, :, :], expected) and expected.max() == 255
    assert not MinedMaps(store, MISSED).read("empty").values[:, :, :].any()
    assert not MinedMaps(store, BREAKAGE).read("a").values[:, :, :].any()
    file = store.map_file("a", BREAKAGE)
    file.write_bytes(file.read_bytes()[:-9])
    assert store.missing(["a", "empty"]) == ["a"]
    file.unlink()
    with pytest.raises(RuntimeError, match=r"cannot read the map .*a_breakage\.b2nd"):
        MinedMaps(store, BREAKAGE).read("a")


def test_an_interruption_while_writing_leaves_no_half_file(tmp_path, monkeypatch):
    store = HardRegions(tmp_path, Maps(), "run 1")

    def half(file, **arrays):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", half)
    with pytest.raises(
        RuntimeError, match=r"hard regions of case a could not be mined: cannot write .*a\.npz: disk full"
    ):
        mine(store, ["a"])
    assert list(tmp_path.iterdir()) == [] and store.missing(["a"]) == ["a"]


def test_what_is_damaged_is_mined_again(tmp_path):
    store = HardRegions(tmp_path, Maps(), "run")
    mine(store, ["a"])
    (file,) = tmp_path.iterdir()
    content, expected = file.read_bytes(), store.read("a")
    assert len(expected)
    for place in range(len(content)):
        for damaged in (content[:place], content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]):
            file.write_bytes(damaged)
            found = store.read("a")
            assert found is None or np.array_equal(found, expected)
            assert (found is None) == (store.missing(["a"]) == ["a"])
