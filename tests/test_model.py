"""How the package's model is trained and made: pairs of patches, and the folder that is shipped."""

import torch
from model_trainers.paired import PairedLoader
from ship_model import ship

from nnunetv2_airway.inference.predictor import Settings, load_predictor


def test_each_batch_holds_a_patient_s_patch_and_a_synthetic_one_in_any_order():
    loader = PairedLoader.__new__(PairedLoader)
    loader.indices = ["LUNGx-CT004", "LUNGx-CT004_2mm", "650_phantom_000", "003_LUNGx-CT004_5mm"]
    drawn = [loader.get_indices() for _ in range(60)]
    firsts = [first.startswith("LUNGx") for first, _ in drawn]
    assert all(first.startswith("LUNGx") != second.startswith("LUNGx") for first, second in drawn)
    assert 10 < sum(firsts) < 50 and {case for pair in drawn for case in pair} == set(loader.indices)


def test_what_is_shipped_is_the_network_in_float16(model, tmp_path):
    ship(model / "fold_0" / "checkpoint_final.pth", tmp_path / "own")
    predictor = load_predictor(tmp_path / "own", Settings())
    assert predictor.folds == ("all",) and predictor.allowed_mirroring_axes is None
    assert tuple(predictor.configuration_manager.patch_size) == (128, 128, 128)
    trained = torch.load(model / "fold_0" / "checkpoint_final.pth", weights_only=False)["network_weights"]
    for name, value in predictor.network.state_dict().items():
        torch.testing.assert_close(value, trained[name].half().float(), rtol=0, atol=0)
