"""How the package's model is trained and made: pairs of patches, and the folder that is shipped."""

import shutil

import torch
from model_trainers.paired import PairedLoader
from ship_model import ship

from nnunetv2_airway.inference.operating_point import DEFAULT, OperatingPoint, write_operating_point
from nnunetv2_airway.inference.predictor import Settings, load_predictor


def test_each_batch_holds_a_patient_s_patch_and_a_synthetic_one_in_any_order():
    loader = PairedLoader.__new__(PairedLoader)
    loader.indices = ["LUNGx-CT004", "LUNGx-CT004_2mm", "650_phantom_000", "003_LUNGx-CT004_5mm"]
    drawn = [loader.get_indices() for _ in range(60)]
    firsts = [first.startswith("LUNGx") for first, _ in drawn]
    assert all(first.startswith("LUNGx") != second.startswith("LUNGx") for first, second in drawn)
    assert 10 < sum(firsts) < 50 and {case for pair in drawn for case in pair} == set(loader.indices)


def test_what_is_shipped_is_between_start_and_end_in_float16(model, tmp_path):
    end = shutil.copytree(model, tmp_path / "end") / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(end, weights_only=False)
    weights = checkpoint["network_weights"]
    changed = {name: value + torch.randn(value.shape) for name, value in weights.items()}
    torch.save({**checkpoint, "network_weights": changed}, end)
    write_operating_point(tmp_path / "chosen.json", OperatingPoint(0.7), criterion="the best")
    for point in (None, tmp_path / "chosen.json"):
        ship(end, model / "fold_0" / "checkpoint_final.pth", tmp_path / "own", point)
        predictor = load_predictor(tmp_path / "own", Settings())
        assert predictor.operating_point == (OperatingPoint(0.7) if point else DEFAULT)
    assert predictor.folds == ("all",) and predictor.allowed_mirroring_axes is None
    assert tuple(predictor.configuration_manager.patch_size) == (128, 128, 128)
    for name, value in predictor.network.state_dict().items():
        expected = 0.5 * weights[name] + 0.5 * changed[name]
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-3)
        assert value.equal(value.half().float())
