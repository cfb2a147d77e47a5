"""Published checkpoints become models that nnU-Net runs."""

import json
from collections import OrderedDict
from functools import partial

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

from nnunetv2_airway.architectures.airway_network import AirwayNetwork
from nnunetv2_airway.architectures.baseline_unet import BaselineUNet
from nnunetv2_airway.architectures.wingsnet import WingsNet
from nnunetv2_airway.cli import import_model as command
from nnunetv2_airway.hounsfield import HounsfieldInput
from nnunetv2_airway.inference import published
from nnunetv2_airway.inference.published import KINDS, import_published
from nnunetv2_airway.io.errors import UserError
from nnunetv2_airway.nnunet_ext import airway_trainers

TIMI, ZHENG, BASELINE = KINDS


def zheng_file(network: WingsNet) -> dict:
    """As Zheng's repository writes it: a state dict of data-parallel training, heads in a Sequential."""
    named = {
        f"module.{name[:5]}.0{name[5:]}" if name.startswith("dc0_") else f"module.{name}": value
        for name, value in network.state_dict().items()
    }
    return {"epoch": 60, "state_dict": OrderedDict(named)}


FILES = {
    "timi": (TIMI, WingsNet(2), lambda network: network.state_dict()),
    "zheng": (ZHENG, WingsNet(1), zheng_file),
    "baseline": (BASELINE, BaselineUNet(1), lambda network: network.state_dict()),
}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(published, "PATCH", (16, 24, 32))


@pytest.mark.parametrize("name", FILES)
def test_nnunets_predictor_runs_them(name, tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_airway_float32", "1")  # bfloat16 has 8 bits
    kind, network, wrap = FILES[name]
    torch.save(wrap(network), tmp_path / "file.ckpt")
    import_published(tmp_path / "file.ckpt", tmp_path / "model")
    about = json.loads((tmp_path / "model" / "plans.json").read_text())[published.PUBLISHED]
    assert about["network"] == kind.name and about["assumed"] == (name == "zheng")
    predictor = nnUNetPredictor(use_gaussian=False, use_mirroring=True, device=torch.device("cpu"))
    predictor.initialize_from_trained_model_folder(str(tmp_path / "model"), None)
    hu = np.random.default_rng(0).uniform(-1100, 700, (1, 20, 26, 34)).astype(np.float32)
    _, probabilities = predictor.predict_single_npy_array(hu, {"spacing": [3.0, 0.7, 0.6]}, None, None, True)
    assert probabilities.shape == (2, 20, 26, 34)  # no resampling

    # the same by hand: every window with its channels, and the mean of their logits
    windows = [published.WINDOWS[window] for window in about["windows"]]
    channels = [((hu - w.lower) / (w.upper - w.lower)).clip(0, 1) for w in windows]
    x = torch.from_numpy(np.concatenate(channels))[None]
    total, count = torch.zeros(20, 26, 34), torch.zeros(20, 26, 34)
    if isinstance(network, WingsNet):
        network.deep_supervision = False
    network.eval()
    with torch.no_grad():
        for z in (0, 4):
            for y in (0, 2):
                for column in (0, 2):
                    part = (slice(z, z + 16), slice(y, y + 24), slice(column, column + 32))
                    total[part] += network(x[(slice(None), slice(None), *part)])[0, 0]
                    count[part] += 1
    np.testing.assert_allclose(probabilities[1], torch.sigmoid(total / count), atol=2e-3)  # nnU-Net adds in float16


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_trainers_named_have_these_windows_and_networks(kind):
    for windows, name in kind.trainers.items():
        trainer = getattr(airway_trainers, name)
        assert trainer.windows == windows
        assert type(trainer.network.build(None, None, len(windows), False)) is type(kind.build())


@pytest.mark.parametrize("name", FILES)
def test_fine_tuning_starts_from_them(name, tmp_path):
    _, network, wrap = FILES[name]
    torch.save(wrap(network), tmp_path / "file.pth")
    trainer = getattr(airway_trainers, import_published(tmp_path / "file.pth", tmp_path / "model"))
    body = trainer.network.build(None, None, len(trainer.windows), True)
    own = AirwayNetwork(HounsfieldInput(trainer.windows), body, 2)
    load_pretrained_weights(own, tmp_path / "model" / "fold_0" / "checkpoint_final.pth")
    for key, value in network.state_dict().items():
        assert torch.equal(own.body.state_dict()[key], value)


def test_the_window_of_zheng_is_an_option(tmp_path, run_main):
    run = partial(run_main, command.main)
    torch.save(zheng_file(WingsNet(1)), tmp_path / "gul.ckpt")
    code, said = run("-i", tmp_path / "gul.ckpt", "-o", tmp_path / "model")
    assert code == 0 and "-1000 to 600 HU: assumed" in said and "none stated" in said
    code, said = run("-i", tmp_path / "gul.ckpt", "-o", tmp_path / "model", "--window", -1200, 600)
    assert code == 0 and "-1200 to 600 HU" in said and "assumed" not in said and "nnUNetTrainerWingsGULWide" in said
    plans = json.loads((tmp_path / "model" / "plans.json").read_text())
    assert plans[published.PUBLISHED]["windows"] == ["zheng_wide"]
    code, said = run("-i", tmp_path / "gul.ckpt", "-o", tmp_path / "model", "--window", 0, 1)
    assert code == 1 and "is run with -1000 to 600 or -1000 to 400 or -1200 to 600 HU, got 0 to 1" in said


class Code:
    """What a checkpoint should not hold."""


def odd_files(folder):
    torch.save({"state_dict": WingsNet(1).state_dict(), "args": Code()}, folder / "code.ckpt")
    torch.save({"network_weights": {}, "trainer_name": "x"}, folder / "bare.pth")
    torch.save({"network_weights": {}, "_best_ema": np.float64(0.5)}, folder / "nnunet.pth")
    torch.save([1, 2], folder / "list.pth")
    torch.save({"epoch": 3}, folder / "numbers.pth")
    (folder / "text.pth").write_text("<html>404</html>")
    (folder / "empty.pth").touch()
    torch.save(BaselineUNet().state_dict(), folder / "whole.pth")
    content = (folder / "whole.pth").read_bytes()
    (folder / "cut.pth").write_bytes(content[: len(content) // 2])
    (folder / "flipped.pth").write_bytes(content[:90_000] + bytes(50) + content[90_050:])
    state = WingsNet(3).state_dict()
    state["extra"] = state.pop("dc0_1.bias")
    torch.save(state, folder / "three.pth")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("code.ckpt", "holds more than tensors, which could run code"),
        ("bare.pth", "needs no import"),
        ("nnunet.pth", "needs no import"),
        ("list.pth", "must hold tensors by name, alone or as its state_dict; got a list"),
        ("numbers.pth", "got a mapping of epoch"),
        ("text.pth", "is no checkpoint"),
        ("empty.pth", "cannot be read as a checkpoint"),
        ("cut.pth", "damaged|cannot be read"),
        ("flipped.pth", "damaged"),
        ("three.pth", r"dc0_1.bias is missing; extra is not part of WingsNet; ec1.conv1.weight has shape \(8, 3, 3"),
        ("absent.pth", "there is no file"),
    ],
)
def test_other_files_are_refused_with_the_reason(name, words, tmp_path):
    odd_files(tmp_path)
    with pytest.raises(UserError, match=words):
        import_published(tmp_path / name, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_folders_of_others_are_left_alone(published_file, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "plans.json").write_text("{}")
    with pytest.raises(UserError, match="holds something else than an imported model"):
        import_published(published_file, model)
    assert (model / "plans.json").read_text() == "{}"
    (model / "plans.json").unlink()
    import_published(published_file, model)
    import_published(published_file, model)  # again
