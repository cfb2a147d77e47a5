"""What nnU-Net offers, with our trainers: every command of the table in documentation/nnunet_options.md, once.

The commands run in this process and in threads instead of processes of their own, each of which takes seconds to start,
and with nnU-Net's network of a few channels. ``tests/test_end_to_end.py`` drives WingsNet through real processes.
"""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as upstream

from nnunetv2_airway.io.images import Grid
from nnunetv2_airway.training import phased_trainer
from nnunetv2_airway.training.maps.store import MapStore

DATASET = "Dataset599_AirwayPhantom"
SPACING = (2.0, 1.0, 1.2)
TRAINERS = """
from dataclasses import replace
from nnunetv2_airway.trainers.wings_lib import nnUNetTrainerLIB

class nnUNetTrainerLIB_features(nnUNetTrainerLIB):
    plans_patch_size, plans_batch_size, patches_per_case, mining_step_size = (40, 64, 64), 2, 1, 1.0
    phases = tuple(replace(row, epochs=1) for row in nnUNetTrainerLIB.phases[:2])
"""


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def here():
    """monkeypatch for a module."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def trainer() -> str:
    return "nnUNetTrainerLIB_features"


@pytest.fixture(scope="module")
def root(workspace, tmp_path_factory, here, in_one_process, trainer) -> Path:
    """The workspace with results of its own, and plans with a network of a few channels."""
    folder = tmp_path_factory.mktemp("features")
    (folder / "mine").mkdir()
    (folder / "mine" / "trainers.py").write_text(TRAINERS)
    shutil.copytree(workspace / "nnUNet_raw", folder / "nnUNet_raw")
    shutil.copytree(workspace / "nnUNet_preprocessed", folder / "nnUNet_preprocessed")
    in_one_process(here, folder)
    here.setenv("nnUNet_extTrainer", str(folder / "mine"))
    here.setattr(phased_trainer, "draw_progress", lambda file, log, phases: None)
    narrow(folder / "nnUNet_preprocessed" / DATASET)
    return folder


def narrow(preprocessed: Path) -> None:
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    options = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    options["features_per_stage"] = [4] * options["n_stages"]
    (preprocessed / "nnUNetPlans.json").write_text(json.dumps(plans))


@pytest.fixture
def run(root, capsys, entry_point):
    """The function that runs a console command; returns its output."""

    def run(line: str, *paths: object, **variables: str) -> str:
        entry_point(line.format(*paths), **variables)
        captured = capsys.readouterr()
        return captured.out + captured.err

    return run


@pytest.fixture
def model(root, trainer) -> Path:
    return root / "nnUNet_results" / DATASET / f"{trainer}__nnUNetPlans__3d_fullres"


@pytest.fixture
def trained(run, model, trainer) -> Path:
    """The model with folds 0 and 1 trained, their validation cases predicted with probabilities."""
    for fold in (0, 1):
        if not (model / f"fold_{fold}" / "validation" / "summary.json").exists():
            output = run(f"nnUNetv2_train 599 3d_fullres {fold} -tr {trainer} -device cpu --npz")
            assert "Validation complete" in output
    return model


PREDICT = "nnUNetv2_predict -i {} -o {} -d 599 -c 3d_fullres -device cpu -npp 1 -nps 1 --disable_tta -step_size 1 -tr "


def test_npz(trained):
    for fold in (0, 1):
        files = list((trained / f"fold_{fold}" / "validation").glob("*.npz"))
        assert len(files) == 1
        with np.load(files[0]) as content:
            probabilities = content["probabilities"]
        assert probabilities.shape[0] == 2 and np.allclose(probabilities.sum(0), 1, atol=1e-3)


@pytest.mark.parametrize(("flag", "checkpoint"), [("--val", "final"), ("--val --val_best", "best")])
def test_val(trained, run, trainer, flag, checkpoint):
    summary = trained / "fold_0" / "validation" / "summary.json"
    summary.unlink()
    before = (trained / "fold_0" / "checkpoint_final.pth").read_bytes()
    output = run(f"nnUNetv2_train 599 3d_fullres 0 -tr {trainer} -device cpu {flag}")
    assert f"Loaded checkpoint_{checkpoint}.pth" in output and "Epoch" not in output and summary.exists()
    assert (trained / "fold_0" / "checkpoint_final.pth").read_bytes() == before


def test_pretrained_weights(trained, run, trainer, monkeypatch):
    first = trained / "fold_0" / "checkpoint_final.pth"
    weights = torch.load(first, weights_only=False)["network_weights"]
    seen = {}

    def look(self):
        seen.update({name: value.clone() for name, value in self.network.state_dict().items()})
        raise KeyboardInterrupt

    monkeypatch.setattr(upstream.nnUNetTrainer, "on_epoch_start", look)
    with pytest.raises(KeyboardInterrupt):
        run(f"nnUNetv2_train 599 3d_fullres 2 -tr {trainer} -device cpu -pretrained_weights {first}")
    kept = [name for name in weights if ".seg_layers." not in name]
    assert set(seen) == set(weights) and len(kept) > 10
    assert all(torch.equal(seen[name], weights[name]) for name in kept)


def test_fold_all(run, model, trainer):
    output = run(f"nnUNetv2_train 599 3d_fullres all -tr {trainer} -device cpu")
    assert "in 5 training cases were missed" in output and "Validation complete" in output
    assert len(list((model / "fold_all" / "validation").glob("*.nii.gz"))) == 5


def test_find_best_configuration_and_apply_postprocessing(trained, run, root, trainer):
    run(f"nnUNetv2_find_best_configuration 599 -c 3d_fullres -tr {trainer} -f 0 1 -np 1 --disable_ensembling")
    chosen = json.loads((root / "nnUNet_results" / DATASET / "inference_information.json").read_text())
    assert chosen["best_model_or_ensemble"]["selected_model_or_models"][0]["trainer"] == trainer
    pkl = trained / "crossval_results_folds_0_1" / "postprocessing.pkl"
    source = trained / "crossval_results_folds_0_1"
    run(f"nnUNetv2_apply_postprocessing -i {{}} -o {{}} -pp_pkl_file {pkl} -np 1", source, root / "postprocessed")
    assert len(list((root / "postprocessed").glob("*.nii.gz"))) == 2


def test_tune_on_the_validation_of_the_folds(trained, run, trainer):
    # a test before may have validated fold 0 again, with other weights and without probabilities
    run(f"nnUNetv2_train 599 3d_fullres 0 -tr {trainer} -device cpu --val --npz")
    said = run(f"nnUNetv2_airway_tune -m {trained} -np 1")
    assert "over 2 cases" in said and (trained / "operating_points.png").exists()
    assert json.loads((trained / "operating_point.json").read_text())["cases"]
    for name in ("operating_point.json", "postprocessing.pkl"):
        (trained / name).unlink()


def test_predictions_in_parts_from_several_folds_with_probabilities(trained, run, root, trainer):
    images = root / "nnUNet_raw" / DATASET / "imagesTr"
    for part in (0, 1):
        options = f"-f 0 1 -chk checkpoint_best.pth --save_probabilities -num_parts 2 -part_id {part}"
        run(f"{PREDICT}{trainer} {options}", images, root / f"part{part}")
    parts = [{file.name for file in (root / f"part{part}").glob("*.nii.gz")} for part in (0, 1)]
    assert len(parts[0]) == 3 and len(parts[1]) == 2 and not parts[0] & parts[1]
    assert len(list((root / "part0").glob("*.npz"))) == 3
    run("nnUNetv2_ensemble -i {} {} -o {} -np 1", root / "part0", root / "part0", root / "ensemble")
    for name in parts[0]:
        one, both = (sitk.GetArrayFromImage(sitk.ReadImage(str(root / part / name))) for part in ("part0", "ensemble"))
        assert np.array_equal(one, both)


def test_a_model_goes_elsewhere_as_a_zip(trained, run, root, trainer, monkeypatch):
    archive = root / "model.zip"
    run(f"nnUNetv2_export_model_to_zip -d 599 -o {archive} -c 3d_fullres -tr {trainer} -f 0")
    names = zipfile.ZipFile(archive).namelist()
    assert any(name.endswith("fold_0/checkpoint_final.pth") for name in names)
    assert not any(part.startswith(".") for name in names for part in Path(name).parts)
    images = root / "nnUNet_raw" / DATASET / "imagesTs"
    run(f"{PREDICT}{trainer} -f 0", images, root / "here")
    monkeypatch.setenv("nnUNet_results", str(root / "elsewhere"))
    run("nnUNetv2_install_pretrained_model_from_zip {}", archive)
    run(f"{PREDICT}{trainer} -f 0", images, root / "there")
    here, there = (
        sitk.GetArrayFromImage(sitk.ReadImage(str(root / folder / "phantom_005.nii.gz")))
        for folder in ("here", "there")
    )
    assert np.array_equal(here, there)


def test_several_gpus_need_gpus(run, trainer):
    with pytest.raises(AssertionError, match="only implemented for cuda"):
        run(f"nnUNetv2_train 599 3d_fullres 0 -tr {trainer} -device cpu -num_gpus 2")


def test_a_region_of_several_labels_beside_an_ignore_label(run, root, trainer):
    """Airways are the labels 1 and 3 together; what has label 4 is not annotated."""
    name = "Dataset598_Regions"
    raw = root / "nnUNet_raw" / name
    shutil.copytree(root / "nnUNet_raw" / DATASET, raw)
    for file in (raw / "labelsTr").iterdir():
        image = sitk.ReadImage(str(file))
        label = sitk.GetArrayFromImage(image)
        label[:20][label[:20] == 1] = 3
        label[:, :, 40:] = 4
        sitk.WriteImage(Grid.of(image).image(label), str(file))
    dataset = json.loads((raw / "dataset.json").read_text())
    labels = {"background": 0, "airway": [1, 3], "ignore": 4}
    (raw / "dataset.json").write_text(json.dumps(dataset | {"labels": labels, "regions_class_order": [1]}))
    run("nnUNetv2_plan_and_preprocess -d 598 -c 3d_fullres -npfp 1 -np 1", nnUNet_n_proc_DA="1")
    preprocessed = root / "nnUNet_preprocessed" / name
    narrow(preprocessed)
    assert "Validation complete" in run(f"nnUNetv2_train 598 3d_fullres 0 -tr {trainer} -device cpu")
    fold = root / "nnUNet_results" / name / f"{trainer}__nnUNetPlans__3d_fullres" / "fold_0"
    losses = torch.load(fold / "checkpoint_final.pth", weights_only=False)["logging"]["train_losses"]
    assert len(losses) == 2 and np.isfinite(losses).all()
    (predicted,) = (fold / "validation").glob("*.nii.gz")
    assert set(np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(predicted))))) <= {0, 1}
    dataset = nnUNetDatasetBlosc2(str(preprocessed / "nnUNetPlans_3d_fullres"))
    maps = MapStore(preprocessed / "nnUNetPlans_3d_fullres", SPACING, (1, 3), "centerline")
    mined = list((fold / "hard_regions").glob("*.npz"))
    assert len(mined) == 4
    for case in dataset.identifiers:
        label = dataset.load_case(case)[1][0]
        airway = np.isin(label, (1, 3))
        assert (label == 3).any() and (label == 4).any()
        assert airway[tuple(maps.read(case).points["centerline"].T)].all()
