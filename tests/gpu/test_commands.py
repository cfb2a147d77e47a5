"""nnU-Net's own commands on a GPU: three phases, killed in the second, resumed, predicted."""

import numpy as np
import pytest
import SimpleITK as sitk

pytestmark = pytest.mark.gpu

DATASET = "Dataset599_AirwayPhantom"
TRAINER = "nnUNetTrainerWingsOnAGpu"
USERS_TRAINER = f"""
from dataclasses import replace
from nnunetv2_airway.trainers.wings_lib import nnUNetTrainerWingsLIBRoot

class {TRAINER}(nnUNetTrainerWingsLIBRoot):
    plans_patch_size = (40, 64, 64)
    plans_batch_size = 2
    patches_per_case = 4
    initial_lr = 1e-3
    mining_step_size = 1.0
    phases = tuple(replace(phase, epochs=1) for phase in nnUNetTrainerWingsLIBRoot.phases)
"""


def test_training_is_killed_resumed_and_predicts(device, workspace, command, kill):
    extension = workspace / "my_trainers"
    extension.mkdir()
    (extension / "trainers.py").write_text(USERS_TRAINER)
    options = dict(workspace=workspace, nnUNet_extTrainer=str(extension))
    train = ("nnUNetv2_train", "599", "3d_fullres", "0", "-tr", TRAINER, "-device", device.type)
    kill("Mining hard regions", *train, **options)
    fold = workspace / "nnUNet_results" / DATASET / f"{TRAINER}__nnUNetPlans__3d_fullres" / "fold_0"
    assert (fold / "checkpoint_latest.pth").is_file()
    resumed = command(*train, "--c", **options)
    assert resumed.returncode == 0, resumed.stdout[-3000:] + resumed.stderr[-3000:]
    assert "Loaded checkpoint_latest.pth: 1 of 3 epochs are done" in resumed.stdout
    assert "Hard regions:" in resumed.stdout and "Mean Validation Dice" in resumed.stdout
    images, predictions = workspace / "nnUNet_raw" / DATASET / "imagesTs", workspace / "predictions"
    predicted = command(
        "nnUNetv2_predict", "-i", images, "-o", predictions, "-d", "599", "-c", "3d_fullres", "-f", "0", "-tr", TRAINER,
        "-device", device.type, "--disable_tta", "--save_probabilities", "-npp", "1", "-nps", "1", **options,
    )  # fmt: skip
    assert predicted.returncode == 0, predicted.stdout[-3000:] + predicted.stderr[-3000:]
    ct, tree = (sitk.ReadImage(str(file)) for file in (*images.glob("*.nii.gz"), *predictions.glob("*.nii.gz")))
    assert tree.GetSize() == ct.GetSize()
    (probabilities,) = predictions.glob("*.npz")
    airway = np.load(probabilities)["probabilities"][1]
    assert np.isfinite(airway).all() and airway.std() > 0
