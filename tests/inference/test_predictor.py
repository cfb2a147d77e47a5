"""nnU-Net's predictor in this process: windows that are passed over, grids, and models that do not fit."""

import json
import shutil

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunetv2_airway.architectures.wingsnet import WingsNet
from nnunetv2_airway.inference import published
from nnunetv2_airway.inference.predictor import AirwayPredictor, Settings, load_predictor
from nnunetv2_airway.io.errors import UserError


@pytest.fixture
def hu() -> np.ndarray:
    """Tissue with air in one corner of many windows; nothing at its border is 0."""
    hu = np.random.default_rng(0).normal(40, 20, (40, 70, 90)).astype(np.float32)
    hu[10:14, 20:26, 5:12] = -950
    return hu


def stock(model, hu: np.ndarray, spacing) -> np.ndarray:
    predictor = nnUNetPredictor(device=torch.device("cpu"))
    predictor.initialize_from_trained_model_folder(str(model), None)
    return predictor.predict_single_npy_array(hu[None], {"spacing": list(spacing)})


def test_without_windows_to_pass_over_it_is_nnunets_prediction(model, hu):
    hu = hu[:, :40, :40]
    hu[::9, ::9, ::9] = -900
    predictor = load_predictor(model, Settings())
    found = predictor.segment_ct(hu, (1.0, 0.8, 0.7))
    assert predictor.windows == (8, 8) and found.dtype == np.uint8
    assert np.array_equal(found, stock(model, hu, (1.0, 0.8, 0.7)))


class AirIsAirway(torch.nn.Module):
    """Logits of two labels: what is air is airway."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = -600 - x
        return torch.cat((torch.zeros_like(z), z), 1)


@pytest.mark.parametrize("heads", ["labels", "region"])
@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2, 0)], ids=["as it is", "transposed"])
def test_windows_without_air_are_passed_over_with_the_same_result(heads, axes, model, hu):
    predictor = load_predictor(model, Settings())
    network = predictor.network = AirIsAirway()
    predictor.list_of_parameters = [{}]
    plans = predictor.plans_manager.plans
    plans["transpose_forward"], plans["transpose_backward"] = list(axes), np.argsort(axes).tolist()
    if heads == "region":
        predictor.dataset_json |= {"labels": {"background": 0, "airway": [1, 2]}, "regions_class_order": [1]}
        predictor.label_manager = predictor.plans_manager.get_label_manager(predictor.dataset_json)
        predictor.network = torch.nn.Sequential(network, torch.nn.Conv3d(2, 1, 1, bias=False))
        predictor.network[1].weight.data = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1, 1)
        predictor.list_of_parameters = [predictor.network.state_dict()]
    found = predictor.segment_ct(hu, (1.0, 0.8, 0.7))
    windows, predicted = predictor.windows
    assert windows == 40 and 0 < predicted < 8
    assert np.array_equal(found, hu < -600)


def test_windows_of_a_ct_that_nnunet_pads(model):
    """Air at one end of a CT that is shorter than a patch along one axis, and longer along the others."""
    predictor = load_predictor(model, Settings())
    predictor.network, predictor.list_of_parameters = AirIsAirway(), [{}]
    hu = np.full((10, 100, 32), 40, np.float32)
    hu[9, 97, 0] = -950
    assert np.array_equal(predictor.segment_ct(hu, (1.0, 1.0, 1.0)), hu < -600)
    assert predictor.windows == (6, 1)
    hu = np.full((20, 24, 90), 40, np.float32)
    hu[0, 0, 89] = hu[0, 23, 0] = -950
    assert np.array_equal(predictor.segment_ct(hu, (1.0, 1.0, 1.0)), hu < -600)
    assert predictor.windows == (5, 2)


def test_a_real_network_passes_over_windows_with_the_same_result(model, hu, monkeypatch):
    """One with a receptive field, whose logits in soft tissue are those of background, as a trained one's are."""
    predictor = load_predictor(model, Settings())
    smooth = torch.nn.Conv3d(1, 1, 5, padding=2, bias=False)
    torch.nn.init.constant_(smooth.weight, 1 / 125)
    predictor.network, predictor.list_of_parameters = torch.nn.Sequential(smooth, AirIsAirway()), [{}]
    predictor.network.load_state_dict = lambda state: None
    found = predictor.segment_ct(hu, (1.0, 0.8, 0.7))
    assert found.any() and predictor.windows[1] < predictor.windows[0]
    monkeypatch.setattr(AirwayPredictor, "_holds_air", lambda self, padded, window: True)
    assert np.array_equal(predictor.segment_ct(hu, (1.0, 0.8, 0.7)), found)
    assert predictor.windows == (40, 40)


def test_a_network_that_gives_no_numbers_is_named(model, hu):
    predictor = load_predictor(model, Settings())
    predictor.network, predictor.list_of_parameters = AirIsAirway(), [{}]
    predictor.network.forward = lambda x: torch.full((1, 2, *x.shape[2:]), torch.nan)
    with pytest.raises(UserError, match="gives values that are no numbers"):
        predictor.segment_ct(hu, (1.0, 0.8, 0.7))


def test_settings_reach_nnunets_predictor(model, tmp_path):
    predictor = load_predictor(model, Settings(step_size=0.75, mirroring=False))
    assert predictor.tile_step_size == 0.75 and not predictor.use_mirroring
    assert predictor.use_gaussian and load_predictor(model, Settings()).use_mirroring  # of the baseline
    torch.save(WingsNet(2).state_dict(), tmp_path / "timi.pth")
    published.import_published(tmp_path / "timi.pth", tmp_path / "timi")
    assert not load_predictor(tmp_path / "timi", Settings()).use_gaussian


def test_a_ct_without_air_has_no_airways(model):
    predictor = load_predictor(model, Settings())
    found = predictor.segment_ct(np.full((20, 40, 50), 40, np.float32), (1.0, 1.0, 1.0))
    assert predictor.windows[1] == 0 and not found.any()


def test_thick_slices_get_a_grid(model, hu, monkeypatch):
    predictor = load_predictor(model, Settings())
    predictor.network, predictor.list_of_parameters = AirIsAirway(), [{}]
    shapes = []
    real = AirwayPredictor.predict_logits_from_preprocessed_data
    monkeypatch.setattr(
        AirwayPredictor,
        "predict_logits_from_preprocessed_data",
        lambda self, data: shapes.append(tuple(data.shape[1:])) or real(self, data),
    )
    for spacing, grid, shape in (
        ((1.25, 0.8, 0.7), None, (40, 70, 90)),
        ((3.0, 0.8, 0.7), None, (120, 70, 90)),
        ((3.0, 1.5, 0.7), (3.0, 1.0, 0.7), (40, 105, 90)),
    ):
        found = predictor.segment_ct(hu, spacing, grid)
        assert shapes.pop() == shape and found.shape == hu.shape
        both = np.count_nonzero(found & (hu < -600))
        assert 2 * both / (np.count_nonzero(found) + np.count_nonzero(hu < -600)) > 0.85


def changed(model, tmp_path, plans=lambda plans: None, dataset=lambda dataset: None):
    """A copy of the model with other plans."""
    copy = shutil.copytree(model, tmp_path / "model")
    for name, change in (("plans.json", plans), ("dataset.json", dataset)):
        content = json.loads((copy / name).read_text())
        change(content)
        (copy / name).write_text(json.dumps(content))
    return copy


def configuration(**values):
    return lambda plans: plans["configurations"]["3d_fullres"].update(values)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"plans": configuration(patch_size=[64, 64])}, "works on single slices"),
        (
            {"plans": configuration(previous_stage="3d_lowres")},
            "needs the segmentation of another",
        ),
        ({"dataset": lambda d: d["labels"].update(lung=2)}, r"segments 2 structures \(background, airway, lung\)"),
        ({"dataset": lambda d: d["channel_names"].update({"1": "PET"})}, r"takes 2 images a case \(noNorm, PET\)"),
    ],
    ids=["2d", "cascade", "two structures", "two channels"],
)
def test_models_of_another_kind_are_refused(change, words, model, tmp_path):
    with pytest.raises(UserError, match=words):
        load_predictor(changed(model, tmp_path, **change), Settings())


def test_what_a_model_lacks_is_said(model, tmp_path):
    with pytest.raises(UserError, match=r"has no fold_3/checkpoint_final.pth; there are fold_0/checkpoint_final.pth"):
        load_predictor(model, Settings(folds=("3",)))
    with pytest.raises(UserError, match=r"has no fold with a checkpoint_best.pth"):
        load_predictor(model, Settings(checkpoint="checkpoint_best.pth"))
    with pytest.raises(UserError, match="there is no such device here"):
        load_predictor(model, Settings(device="nonsense"))
    with pytest.raises(UserError, match=r"is no model folder of nnU-Net, it has no plans\.json"):
        load_predictor(tmp_path, Settings())
    copy = changed(model, tmp_path)
    (copy / "plans.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        load_predictor(copy, Settings())


def test_damaged_checkpoints_and_unknown_trainers_are_named(model, tmp_path):
    copy = changed(model, tmp_path)
    file = copy / "fold_0" / "checkpoint_final.pth"
    saved = torch.load(file, weights_only=False)
    torch.save({**saved, "trainer_name": "nnUNetTrainerOfSomeone"}, file)
    with pytest.raises(UserError, match="cannot be loaded as a model: Could not find requested nnunet trainer"):
        load_predictor(copy, Settings())
    content = file.read_bytes()
    file.write_bytes(content[:9000] + bytes(50) + content[9050:])
    with pytest.raises(UserError, match=r"checkpoint_final.pth is damaged"):
        load_predictor(copy, Settings())


def test_a_model_with_a_grid_of_its_own_takes_no_other(model, tmp_path):
    copy = changed(model, tmp_path, plans=lambda plans: plans.pop("airway_published"))
    predictor = load_predictor(copy, Settings())
    with pytest.raises(UserError, match="has a grid of its own"):
        predictor.segment_ct(np.zeros((8, 8, 8), np.float32), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0))


def test_folds_are_averaged(model, tmp_path):
    copy = changed(model, tmp_path)
    shutil.copytree(copy / "fold_0", copy / "fold_1")
    shutil.copytree(copy / "fold_0", copy / "fold_all")
    predictor = load_predictor(copy, Settings())
    assert predictor.folds == ("0", "1") and len(predictor.list_of_parameters) == 2
    assert load_predictor(copy, Settings(folds=("all",))).folds == ("all",)
