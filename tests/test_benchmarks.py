"""What the benchmarks compare does the same, and their table says what was measured."""

from contextlib import nullcontext
from functools import partial
from itertools import chain
from pathlib import Path

import growth
import networks
import numpy as np
import pytest
import run
import torch
from loader import rows as loader_rows
from measure import Measured, Row, measure, peak_memory, seconds, table
from networks import airway_network, predictor, training_step
from plain_wingsnet import PlainWingsNet
from scipy import ndimage
from volumes import plain_maps, plain_postprocessing, with_islands
from volumes import rows as volume_rows

from nnunetv2_airway.architectures.wingsnet import WingsNet
from nnunetv2_airway.inference.postprocessing import keep_airway_tree
from nnunetv2_airway.training.maps.kinds import MAPS

SPACING = (1.25, 0.7, 0.8)


@pytest.fixture(scope="module")
def mask() -> np.ndarray:
    """A thick branching airway, (60, 50, 40)."""
    line = np.zeros((60, 50, 40), bool)
    line[5:30, 25, 20] = True
    for step in range(25):
        line[30 + step, 25 + step // 2, 20] = line[30 + step, 25 - step // 2, 20 + step // 3] = True
    return ndimage.binary_dilation(line, iterations=2)


def test_the_plain_maps_are_ours(mask):
    closeness, small = plain_maps(mask, SPACING)
    values, points = MAPS["centerline"].compute(mask, SPACING)
    assert np.abs(values[mask] / 255 - closeness[mask]).max() <= 1.01 / 255
    inside = (points["small"] >= 2).all(1) & (points["small"] < np.array(mask.shape) - 2).all(1)
    assert {tuple(voxel) for voxel in points["small"][inside]} <= {tuple(voxel) for voxel in np.argwhere(small)}


def test_the_plain_post_processing_is_ours(mask, monkeypatch):
    monkeypatch.setattr("volumes.PREDICTION", (64, 56, 48))
    volume = with_islands(mask)
    volume[20, 25, 20] = 0  # a hole
    assert np.array_equal(plain_postprocessing(volume), keep_airway_tree(volume))


@pytest.mark.parametrize("network", [WingsNet, PlainWingsNet])
def test_a_training_step_trains(network):
    step = training_step(network, (2, 2, 16, 16, 16), "float32", part=1)
    model = next(cell.cell_contents for cell in step.__closure__ if isinstance(cell.cell_contents, network))
    before = model.ec1.conv1.weight.clone()
    step()
    assert not torch.equal(before, model.ec1.conv1.weight)


def test_the_rows_of_a_gpu_can_be_listed(monkeypatch):
    monkeypatch.setattr(networks, "_largest_batch", lambda: 4)
    listed = [(row.what, row.repeats) for row in networks.rows("cuda", short=True)]
    assert [name for name, _ in listed] == [
        "training step, 4 x 128^3, autocast",
        "training step, 4 x 128^3, autocast, memory",
        "prediction of a box of 128 x 256 x 256, patch 128^3, float16",
        "training step, 32 x 128^3, one patch at a time, memory",
        "training step, 2 x 128^3, autocast, compiled",
        "training step, 2 x 128^3, autocast, compiled, memory",
    ]
    assert max(repeats for _, repeats in listed) == 2


def test_prediction_is_that_of_the_network():
    network = airway_network("float32")
    ct = torch.randn(1, 16, 16, 16) * 100 - 800
    found = predictor(network, ct, (16, 16, 16), "cpu")()
    with torch.no_grad():
        expected = network(ct[None])[0]
    inside = (slice(None), *(slice(4, 12),) * 3)  # nnU-Net weighs the rim of a window by little, in half precision
    torch.testing.assert_close(found.float()[inside], expected[inside], atol=2e-3, rtol=0)


def test_ratios_and_their_table():
    quick, slow = iter([9.0, 1.0, 1.0, 2.0]), iter([9.0, 3.0, 4.0, 4.0])
    faster = measure(Row("a", "b", ">= 2.6", lambda: quick.__next__, lambda: slow.__next__, repeats=3))
    assert faster.ratios == [2, 3, 4] and faster.reached
    share = Measured(Row("c", "d", "<= 0.2", None, None), faster.ours, faster.theirs)
    assert share.ratios == [0.25, 1 / 3, 0.5] and not share.reached
    first, second = table([faster, share]).splitlines()[2:]
    assert first == "| a | b | 1 s | 4 s | **3.00** (2.00 to 4.00) | >= 2.6 | yes |"
    assert second == "| c | d | 1 s | 4 s | **0.33** (0.25 to 0.50) | <= 0.2 | no |"


def test_peak_memory_is_that_of_the_work():
    linux = Path("/proc/self/clear_refs").exists()
    with nullcontext() if linux else pytest.raises(FileNotFoundError):
        assert 0.45 < peak_memory(partial, torch.ones, 500 * 2**18)() < 0.55


def test_the_table_goes_between_its_marks():
    page = "a\n<!-- benchmarks cpu -->\nold\n<!-- end of benchmarks cpu -->\nb\n"
    assert run.into(page, "new\n", "cpu") == page.replace("old", "new")
    with pytest.raises(ValueError, match="benchmarks cuda"):
        run.into(page, "new\n", "cuda")


@pytest.mark.slow
def test_every_row_of_volumes_and_loader_can_be_measured(mask, monkeypatch):
    monkeypatch.setattr("volumes.PREDICTION", (64, 56, 48))
    monkeypatch.setattr("loader.PATCH", (16, 16, 16))
    mask = np.pad(mask, 4)
    names = []
    for row in chain(volume_rows(mask, SPACING, "a tube"), loader_rows(mask, SPACING, "a tube")):
        assert row.ours()() > 0 and row.theirs()() > 0
        names.append(row.what)
    assert len(names) == 6


@pytest.mark.slow
def test_the_growth_of_everything_is_drawn(mask, tmp_path, monkeypatch):
    for name, value in {"PATCHES": (16, 24), "STOCK_PATCHES": (64,), "SHARES": (0.5, 1.0)}.items():
        monkeypatch.setattr(growth, name, value)
    monkeypatch.setattr(growth, "peak_memory", lambda *_, **__: lambda: 1.0)  # its processes take half a minute
    drawn = []
    monkeypatch.setattr(growth, "_plot", lambda _axes, title, _x, _y, curves: drawn.append((title, curves)))
    growth.draw(tmp_path / "growth.png", mask, SPACING, "cpu")
    assert (tmp_path / "growth.png").exists() and len(drawn) == 6
    for title, curves in drawn:
        for curve in curves:
            assert len(curve.x) == len(curve.y) and min(curve.y) > 0, (title, curve)
    branches = drawn[-1][1][0].x
    assert list(branches) == [3]


def test_time_is_that_of_the_work():
    assert 0.05 <= seconds(lambda: __import__("time").sleep(0.05))() < 5
