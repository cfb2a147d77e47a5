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

USERS_TRAINER = """
from nnunetv2_airway.trainers.wings import nnUNetTrainerWings

class {name}(nnUNetTrainerWings):
    plans_patch_size = (24, 32, 32)
    plans_batch_size = 2
    patches_per_case = 2
    epochs = {epochs}
    checkpoint_every = 1
"""


@pytest.fixture(scope="module")
def extension(workspace):
    """A user's own trainer folder: it must work beside ours."""
    folder = workspace / "my_trainers"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def run(command, workspace, extension):
    def run(*line, expected=0):
        result = command(*line, workspace=workspace, nnUNet_extTrainer=str(extension))
        assert result.returncode == expected, result.stdout[-3000:] + result.stderr[-3000:]
        return result.stdout + result.stderr

    return run


@pytest.fixture(scope="module")
def trained(run, workspace, extension):
    """Two epochs, of which the second after an interruption."""
    write = (extension / "trainers.py").write_text
    write(USERS_TRAINER.format(name=TRAINER, epochs=1))
    train = ("nnUNetv2_train", "599", "3d_fullres", "0", "-tr", TRAINER, "-device", "cpu")
    run(*train)
    fold = workspace / MODEL / "fold_0"
    # as if the run had been stopped after its first epoch of two
    (fold / "checkpoint_final.pth").rename(fold / "checkpoint_latest.pth")
    write(USERS_TRAINER.format(name=TRAINER, epochs=2))
    return run(*train, "--c")


@pytest.fixture(scope="module")
def predicted(trained, run, workspace):
    images = workspace / "nnUNet_raw" / DATASET / "imagesTs"
    folder = workspace / "predictions"
    run("nnUNetv2_predict", "-i", images, "-o", folder, "-d", "599", "-c", "3d_fullres", "-f", "0", "-tr", TRAINER,
        "-device", "cpu", "--disable_tta")  # fmt: skip
    return folder


def test_training_resumes_where_it_stopped(trained, workspace):
    assert "Loaded checkpoint_latest.pth: 1 of 2 epochs are done" in trained
    assert "Epoch 1" in trained and "Epoch 0" not in trained
    assert (workspace / MODEL / "fold_0" / "checkpoint_final.pth").is_file()
    assert "Mean Validation Dice" in trained


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
    image = sitk.ReadImage(str(workspace / "nnUNet_raw" / DATASET / "labelsTs" / file.name))
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
    assert "removed 1 voxels in smaller pieces, filled 1" in output
    assert len(pickle.loads(pkl.read_bytes())) == 2
    run("nnUNetv2_apply_postprocessing", "-i", predicted, "-o", workspace / "stock", "-pp_pkl_file", pkl, "-np", "1")
    for folder in ("ours", "stock"):
        result = sitk.GetArrayFromImage(sitk.ReadImage(str(workspace / folder / file.name)))
        assert np.array_equal(result, expected), folder
