import shutil
import zipfile

import pytest
import torch

from nnunetv2_airway.inference.models import BUILT_IN, find_model
from nnunetv2_airway.inference.operating_point import DEFAULT, own_operating_point
from nnunetv2_airway.inference.predictor import Settings, load_predictor
from nnunetv2_airway.inference.published import FORMAT
from nnunetv2_airway.io.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    return tmp_path / "cache" / "nnunetv2_airway" / FORMAT.replace(" ", "_")


@pytest.fixture
def results(model, tmp_path):
    """A folder as nnU-Net keeps its results, with one model."""
    shutil.copytree(model, tmp_path / "Dataset510_Airways" / "Trainer__nnUNetPlans__3d_fullres")
    return tmp_path / "Dataset510_Airways"


def test_a_folder_or_the_one_that_holds_it(model, results):
    assert find_model(model) == model
    only = results / "Trainer__nnUNetPlans__3d_fullres"
    assert find_model(results) == only
    shutil.copytree(only, results / "Other__nnUNetPlans__2d")
    with pytest.raises(UserError, match="holds 2 models, give one of them: Other__nnUNetPlans__2d; Trainer__"):
        find_model(results)


def test_an_exported_zip_is_unpacked_once(results, cache, tmp_path):
    file = tmp_path / "model.zip"
    with zipfile.ZipFile(file, "w") as content:
        for each in results.rglob("*.*"):
            content.write(each, each.relative_to(results.parent))
    found = find_model(file)
    assert found.is_relative_to(cache) and (found / "fold_0" / "checkpoint_final.pth").is_file()
    (found / "mark").touch()
    assert find_model(file) == found and (found / "mark").exists()
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(UserError, match="is damaged, or was not made by nnUNetv2_export_model_to_zip"):
        find_model(file)


def test_a_published_checkpoint_is_imported_once_for_each_window(published_file, cache):
    found = find_model(published_file)
    assert found.parent == cache and (found / "plans.json").is_file()
    (found / "mark").touch()
    assert find_model(published_file) == found and (found / "mark").exists()
    again = find_model(published_file, window=(-1000, 400))
    assert again != found
    shutil.rmtree(again)
    (cache / f"{again.name}.partial").mkdir()  # of a killed process
    (cache / f"{again.name}.partial" / "half").touch()
    assert find_model(published_file, window=(-1000, 400)) == again and not (again / "half").exists()


def test_what_is_no_model(model, tmp_path):
    with pytest.raises(UserError, match="there is no model"):
        find_model(tmp_path / "absent")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match="is neither a model folder"):
        find_model(tmp_path / "notes.txt")
    with pytest.raises(UserError, match="--window is for published checkpoints"):
        find_model(model, window=(-1000, 400))


def test_the_package_s_own_model_is_small_and_says_what_it_is():
    assert sum(file.stat().st_size for file in BUILT_IN.rglob("*.*")) <= 8e6
    weights = torch.load(BUILT_IN / "fold_all" / "checkpoint_final.pth", weights_only=False)["network_weights"]
    assert all(each.dtype == torch.float16 and each.isfinite().all() for each in weights.values())
    assert own_operating_point(BUILT_IN) != DEFAULT
    predictor = load_predictor(find_model(BUILT_IN), Settings())
    assert predictor.folds == ("all",)
    for name, value in predictor.network.state_dict().items():
        torch.testing.assert_close(value, weights[name].float(), rtol=0, atol=0)
    card = (BUILT_IN / "MODEL_CARD.md").read_text()
    notice = ("Copyright (c) 2022 Puzzled-Hui", "Permission is hereby granted")
    for words in ("Not for diagnosis", *notice, "CC BY 3.0", "## Where it fails"):
        assert words in card
