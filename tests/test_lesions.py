"""Inverse weighting on lesions of two MR channels, by nnU-Net's own commands: nothing of it is about airways."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

DATASET = "Dataset598_Lesions"
TRAINER = "nnUNetTrainerInverseWeightedFocalOfATest"
SPACING = (0.9, 0.8, 2.0)
SHAPE = (24, 40, 48)

USERS_TRAINER = f"""
from dataclasses import replace
from nnunetv2_airway.trainers.inverse_weighting import nnUNetTrainerInverseWeightedFocal

class {TRAINER}(nnUNetTrainerInverseWeightedFocal):
    phases = (replace(nnUNetTrainerInverseWeightedFocal.phases[0], epochs=1),)

    def initialize(self):
        super().initialize()
        self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 2, 1
"""


def write_case(folder: Path, seed: int) -> None:
    """Two noisy channels in which a large and three small lesions are bright, and their mask."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(SHAPE, np.uint8)
    mask[4:14, 5:20, 6:20] = 1
    for low in ((18, 25, 30), (5, 30, 8 + seed), (12, 28, 40)):
        mask[tuple(slice(a, a + 3) for a in low)] = 1
    arrays = {f"imagesTr/case{seed}_{channel:04d}": 100 * channel + 50 * mask + rng.normal(100, 10, SHAPE)
              for channel in range(2)}  # fmt: skip
    for name, array in {**arrays, f"labelsTr/case{seed}": mask}.items():
        image = sitk.GetImageFromArray(array.astype(np.uint8 if "labels" in name else np.float32))
        image.SetSpacing(SPACING)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image, str(folder / f"{name}.nii.gz"))


@pytest.fixture
def workspace(tmp_path, in_one_process, entry_point, monkeypatch):
    """A planned and preprocessed data set, with a network of a few channels, and a trainer of the user's."""
    workspace = tmp_path
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "mine"):
        (workspace / name).mkdir()
    (workspace / "mine" / "trainers.py").write_text(USERS_TRAINER)
    raw = workspace / "nnUNet_raw" / DATASET
    for seed in range(5):
        write_case(raw, seed)
    dataset = {"channel_names": {"0": "T1", "1": "FLAIR"}, "labels": {"background": 0, "lesion": 1},
               "numTraining": 5, "file_ending": ".nii.gz"}  # fmt: skip
    (raw / "dataset.json").write_text(json.dumps(dataset))

    in_one_process(monkeypatch, workspace)
    monkeypatch.setenv("nnUNet_extTrainer", str(workspace / "mine"))
    entry_point("nnUNetv2_plan_and_preprocess -d 598 -c 3d_fullres -npfp 1 -np 1", nnUNet_n_proc_DA="1")
    file = workspace / "nnUNet_preprocessed" / DATASET / "nnUNetPlans.json"
    plans = json.loads(file.read_text())
    options = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    options["features_per_stage"] = [4] * options["n_stages"]
    file.write_text(json.dumps(plans))
    return workspace


@pytest.mark.slow
def test_any_binary_data_set_trains_and_predicts(workspace, entry_point, capsys):
    entry_point(f"nnUNetv2_train 598 3d_fullres 0 -tr {TRAINER} -device cpu")
    log = capsys.readouterr().out
    assert "Computing the component maps of 5 cases" in log and "airway maps" not in log
    assert "loss focal; weights inverse component size; patches as nnU-Net" in log
    assert "tree length" not in log and "Mean Validation Dice" in log
    preprocessed = workspace / "nnUNet_preprocessed" / DATASET
    assert len(list((preprocessed / "nnUNetPlans_3d_fullres_component_maps").glob("*.b2nd"))) == 5
    assert not (preprocessed / "nnUNetPlans_3d_fullres_airway_maps").exists()
    images = workspace / "nnUNet_raw" / DATASET / "imagesTr"
    out = workspace / "predictions"
    options = f"-d 598 -c 3d_fullres -f 0 -tr {TRAINER} -device cpu --disable_tta -npp 1 -nps 1"
    entry_point(f"nnUNetv2_predict -i {images} -o {out} {options}")
    prediction = sitk.ReadImage(str(out / "case0.nii.gz"))
    assert prediction.GetSize() == SHAPE[::-1] and prediction.GetSpacing() == pytest.approx(SPACING)
