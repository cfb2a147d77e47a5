"""Every trainer that the package ships, through nnU-Net's own command: started by name, stopped, and resumed.

The command runs in this process, on a tiny network and without the prediction of whole cases after training, which
saves minutes; ``tests/test_end_to_end.py`` drives one recipe through real processes.
"""

import json
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.run_training import run_training_entry
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as upstream

from nnunetv2_airway.nnunet_ext import airway_trainers
from nnunetv2_airway.training import phased_trainer

DATASET = "Dataset599_AirwayPhantom"
DOCUMENTATION = Path(__file__).parents[2] / "documentation"
TRAINERS = [name for name in airway_trainers.__all__ if not name.endswith("_demo")]

USERS_TRAINERS = """
from dataclasses import replace

from nnunetv2_airway.nnunet_ext import airway_trainers
from nnunetv2_airway.training.airway_trainer import AirwayTrainer

SMALL = dict(plans_patch_size=(24, 32, 32), plans_batch_size=2, patches_per_case=1, mining_step_size=1.0)

def initialize(self):
    super(type(self), self).initialize()
    self.num_iterations_per_epoch = self.num_val_iterations_per_epoch = 2

for name in airway_trainers.__all__:
    trainer = getattr(airway_trainers, name)
    rows = trainer.phases if len(trainer.phases) > 1 else trainer.phases * 2
    own = dict(phases=tuple(replace(row, epochs=1, lr_milestones=()) for row in rows))
    own |= SMALL if issubclass(trainer, AirwayTrainer) else dict(initialize=initialize)
    globals()[name + "_short"] = type(name + "_short", (trainer,), own)
"""


class Stopped(BaseException):
    """As a signal would end a process: nothing catches it."""


@pytest.fixture(scope="module")
def tiny_plans(workspace) -> str:
    """Name of plans with a network of a few channels, on the same preprocessed data."""
    folder = workspace / "nnUNet_preprocessed" / DATASET
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    plans["plans_name"] = "Tiny"
    configuration = plans["configurations"]["3d_fullres"]
    configuration["patch_size"] = [24, 32, 32]
    options = configuration["architecture"]["arch_kwargs"]
    options["features_per_stage"] = [4] * options["n_stages"]
    (folder / "Tiny.json").write_text(json.dumps(plans))
    return "Tiny"


@pytest.fixture
def train(workspace, tiny_plans, tmp_path, monkeypatch):
    """Run nnUNetv2_train on the phantoms; a number stops it when that epoch begins."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "trainers.py").write_text(USERS_TRAINERS)
    for name in ("nnUNet_raw", "nnUNet_preprocessed"):
        monkeypatch.setenv(name, str(workspace / name))
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path / "mine"))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setenv("nnUNet_compile", "f")
    monkeypatch.setattr(upstream.nnUNetTrainer, "perform_actual_validation", lambda self, save_probabilities: None)
    monkeypatch.setattr(LocalLogger, "plot_progress_png", lambda self, folder: None)
    monkeypatch.setattr(phased_trainer, "draw_progress", lambda file, log, phases: None)
    start = upstream.nnUNetTrainer.on_epoch_start

    def run(*arguments, stop_at=None):
        def on_epoch_start(self):
            if self.current_epoch == stop_at:
                raise Stopped
            start(self)

        line = ["nnUNetv2_train", "599", "3d_fullres", "0", "-p", tiny_plans, "-device", "cpu", *arguments]
        monkeypatch.setattr(upstream.nnUNetTrainer, "on_epoch_start", on_epoch_start)
        monkeypatch.setattr(sys, "argv", line)
        run_training_entry()

    return run


def test_the_documentation_lists_them_all():
    table = (DOCUMENTATION / "trainers.md").read_text().split("## Trainers")[1].split("\n\n| ")[1].split("\n\n")[0]
    listed = [line.split("`")[1] for line in table.splitlines()[2:]]
    assert sorted(f"nnUNetTrainer{name}" for name in listed) == sorted(TRAINERS)


def test_the_documentation_s_trainers_can_be_built(make):
    blocks = (DOCUMENTATION / "how_to_write_a_trainer.md").read_text().split("```python\n")[1:]
    found = {"__name__": "mine"}
    for block in blocks:
        exec(block.split("```")[0], found)
    names = [name for name in found if name.endswith(("Mine", "AirwayShort", "WingsPriorTversky", "WingsFourCrossed"))]
    assert len(names) == 4
    for name in names:
        found[name].plans_patch_size = (32, 48, 48)
        trainer = make(found[name])
        trainer.initialize()
        assert trainer.num_epochs in (80, 100, 230)
        assert trainer.num_iterations_per_epoch == (125 if name.endswith("AirwayShort") else 250)


QUICK = "nnUNetTrainerWings"
"""Tested each time; the others are slow."""


@pytest.mark.parametrize(
    "name", [name if name == QUICK else pytest.param(name, marks=pytest.mark.slow) for name in TRAINERS]
)
def test_starts_by_name_resumes_and_predicts(name, train, tmp_path, capsys):
    shipped = getattr(airway_trainers, name)
    short = f"{name}_short"
    with pytest.raises(Stopped):
        train("-tr", short, stop_at=1)
    assert "Phase 1 of" in capsys.readouterr().out
    train("-tr", short, "--c")
    printed = capsys.readouterr().out
    epochs = max(2, len(shipped.phases))
    assert f"1 of {epochs} epochs are done" in printed and f"Phase {epochs} of {epochs}" in printed
    assert "Epoch 0" not in printed and "Training done." in printed
    model = tmp_path / DATASET / f"{short}__Tiny__3d_fullres"
    content = torch.load(model / "fold_0" / "checkpoint_final.pth", weights_only=False)
    assert (model / "fold_0" / "checkpoint_best.pth").is_file()
    assert content["current_epoch"] == epochs and np.isfinite(content["logging"]["train_losses"]).all()
    for number in range(1, epochs + 1):
        assert matplotlib.image.imread(model / "fold_0" / f"patches_phase_{number}.png").std() > 0.05
    # the network that nnUNetv2_predict would build
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), (0,), "checkpoint_final.pth")
    logits = predictor.predict_sliding_window_return_logits(torch.full((1, 24, 40, 32), -800.0))
    assert logits.shape == (2, 24, 40, 32) and logits.isfinite().all()
