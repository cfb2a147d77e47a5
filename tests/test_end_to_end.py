"""The real commands, one after the other, on a small phantom data set."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

DATASET = "Dataset599_AirwayPhantom"
TRAINER = "nnUNetTrainerWingsOfATest"
MODEL = Path("nnUNet_results", DATASET, f"{TRAINER}__nnUNetPlans__3d_fullres")

USERS_TRAINER = f"""
from dataclasses import replace
from nnunetv2_airway.trainers.wings_lib import nnUNetTrainerWingsLIB

class {TRAINER}(nnUNetTrainerWingsLIB):
    plans_patch_size = (24, 32, 32)
    plans_batch_size = 2
    patches_per_case = 2
    mining_step_size = 1.0
    phases = tuple(replace(phase, epochs=1) for phase in nnUNetTrainerWingsLIB.phases)

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):
        settings = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        self.inference_allowed_mirroring_axes = None  # each window once instead of eight times
        return settings
"""
TRAIN = ("nnUNetv2_train", "599", "3d_fullres", "0", "-tr", TRAINER, "-device", "cpu")


@pytest.fixture(scope="module")
def extension(workspace):
    """A user's own trainer folder: it must work beside ours."""
    folder = workspace / "my_trainers"
    folder.mkdir(exist_ok=True)
    (folder / "trainers.py").write_text(USERS_TRAINER)
    return folder


@pytest.fixture(scope="module")
def run(command, workspace, extension):
    def run(*line, expected=0):
        result = command(*line, workspace=workspace, nnUNet_extTrainer=str(extension))
        assert result.returncode == expected, result.stdout[-3000:] + result.stderr[-3000:]
        return result.stdout + result.stderr

    return run


@pytest.fixture(scope="module")
def trained(run, kill, workspace, extension):
    """One epoch in each phase of the recipe, killed in the third; the output of the last part."""
    kill("Epoch 2", *TRAIN, workspace=workspace, nnUNet_extTrainer=str(extension))
    return run(*TRAIN, "--c")


@pytest.fixture(scope="module")
def predicted(trained, run, workspace):
    images = workspace / "nnUNet_raw" / DATASET / "imagesTs"
    folder = workspace / "predictions"
    run("nnUNetv2_predict", "-i", images, "-o", folder, "-d", "599", "-c", "3d_fullres", "-f", "0", "-tr", TRAINER,
        "-device", "cpu", "--disable_tta", "-npp", "1", "-nps", "1")  # fmt: skip
    return folder


def test_training_resumes_in_the_phase_where_it_was_killed(trained, workspace):
    assert "Loaded checkpoint_latest.pth: 2 of 3 epochs are done" in trained
    assert "Phase 3 of 3, epochs 2 to 2: loss union with p^2; weights local imbalance + centerline distance" in trained
    assert "Epoch 2" in trained and "Epoch 0" not in trained and "Epoch 1" not in trained
    assert "(0 cases mined now)" in trained
    fold = workspace / MODEL / "fold_0"
    assert (fold / "checkpoint_final.pth").is_file() and (fold / "checkpoint_best.pth").is_file()
    assert (fold / "progress_airway.png").is_file() and len(list((fold / "hard_regions").glob("*.npz"))) == 4
    assert "Pseudo tree length detected" in trained and "Mean Validation Dice" in trained


def test_the_recipe_s_patch_is_written_into_the_plans(trained, workspace):
    plans = json.loads((workspace / MODEL / "plans.json").read_text())
    assert plans["configurations"]["3d_fullres"]["patch_size"] == [24, 32, 32]
    assert plans["configurations"]["3d_fullres"]["batch_size"] == 2


def test_our_own_trainers_are_found_without_any_variable(command, workspace):
    result = command("nnUNetv2_train", "599", "2d", "0", "-tr", "nnUNetTrainerWings", "-device", "cpu",
                     workspace=workspace)  # fmt: skip
    assert "Found class nnUNetTrainerWings in airway_trainers" in result.stdout
    # the workspace has a 2d configuration, which the trainer refuses at once and says why
    assert result.returncode != 0 and "use 3d_fullres" in result.stderr
    assert "Epoch 0" not in result.stdout


def test_prediction_is_in_the_geometry_of_the_ct(predicted, workspace):
    ct = sitk.ReadImage(str(workspace / "nnUNet_raw" / DATASET / "imagesTs" / "phantom_005_0000.nii.gz"))
    prediction = sitk.ReadImage(str(predicted / "phantom_005.nii.gz"))
    assert prediction.GetSize() == ct.GetSize() and prediction.GetSpacing() == pytest.approx(ct.GetSpacing())
    assert set(np.unique(sitk.GetArrayFromImage(prediction))) <= {0, 1}


def test_postprocessing_by_our_command_and_by_nnunets(predicted, run, workspace):
    # a trained network would predict a tree; here one is put in its place, with an island and a hole
    file = predicted / "phantom_005.nii.gz"
    labels = workspace / "nnUNet_raw" / DATASET / "labelsTs"
    image = sitk.ReadImage(str(labels / file.name))
    tree = sitk.GetArrayFromImage(image)
    expected = tree.copy()
    inside = np.argwhere(expected[1:-1, 1:-1, 1:-1])[0] + 1
    expected[tuple(slice(i - 1, i + 2) for i in inside)] = 1
    tree = expected.copy()
    tree[tuple(inside)] = 0
    tree[0, 0, 0] = 1
    broken = sitk.GetImageFromArray(tree)
    broken.CopyInformation(image)
    sitk.WriteImage(broken, str(file))

    pkl = workspace / "postprocessing.pkl"
    output = run("nnUNetv2_airway_postprocess", "-i", predicted, "-o", workspace / "ours", "--pkl", pkl)
    assert "removed 1 voxels in other pieces, filled 1" in output
    assert len(pickle.loads(pkl.read_bytes())) == 2
    run("nnUNetv2_apply_postprocessing", "-i", predicted, "-o", workspace / "stock", "-pp_pkl_file", pkl, "-np", "1")
    # what the two did is the same tree, which our evaluation compares with the label
    run("nnUNetv2_airway_evaluate", "-ref", labels, "-pred", workspace / "ours", "-o", workspace / "evaluation")
    metrics = json.loads((workspace / "evaluation" / "summary.json").read_text())["metric_per_case"][0]["metrics"]
    label = sitk.GetArrayFromImage(image)
    assert metrics["tree_length_detected"] == 100
    assert metrics["dice"] == pytest.approx(200 * label.sum() / (label.sum() + expected.sum()), abs=0.5)
    page = workspace / "report.html"
    run("nnUNetv2_airway_report", "-i", workspace / "evaluation", "-o", page, "--ct", labels.with_name("imagesTs"))
    assert "data:image/webp" in page.read_text()
    for folder in ("ours", "stock"):
        result = sitk.GetArrayFromImage(sitk.ReadImage(str(workspace / folder / file.name)))
        assert np.array_equal(result, expected), folder
