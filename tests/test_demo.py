import json
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_airway import demo
from nnunetv2_airway.demo import DATASET, MODEL, Demo

STEPS = [
    "nnUNetv2_airway_phantom",
    "nnUNetv2_plan_and_preprocess",
    "nnUNetv2_train",
    "nnUNetv2_predict",
    "nnUNetv2_airway_postprocess",
]


class Commands:
    """Stands in for the real commands: notes them, and copies the labels as the predictions."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.lines: list[list[str]] = []
        self.fail = ""

    def run(self, line, env, check):
        name = Path(line[0]).name
        self.lines.append([name, *line[1:]])
        assert env["nnUNet_results"] == str(self.folder / "nnUNet_results")
        labels = self.folder / "nnUNet_raw" / DATASET / "labelsTs"
        if name == STEPS[0] and name != self.fail:
            labels.mkdir(parents=True)
            mask = np.zeros((30, 20, 24), np.uint8)
            mask[4:26, 8:11, 9:12] = 1
            image = sitk.GetImageFromArray(mask)
            image.SetSpacing((1.0, 1.5, 2.0))
            sitk.WriteImage(image, str(labels / "phantom_008.nii.gz"))
        if name == STEPS[-1] and name != self.fail:
            shutil.copytree(labels, line[line.index("-o") + 1])
        return SimpleNamespace(returncode=3 if name == self.fail else 0)

    @property
    def names(self):
        return [line[0] for line in self.lines]


@pytest.fixture
def commands(tmp_path, monkeypatch):
    commands = Commands(tmp_path / "my demo")
    monkeypatch.setattr(demo.subprocess, "run", commands.run)
    monkeypatch.setattr(demo, "_find", lambda program: program)
    return commands


def test_every_command_is_printed_as_one_would_type_it_and_scores_and_picture_follow(commands, capsys):
    Demo(commands.folder, "cpu").run()
    assert commands.names == STEPS
    printed = capsys.readouterr().out
    typed = [shlex.split(line[2:]) for line in printed.splitlines() if line.startswith("$ ")]
    assert typed == commands.lines
    assert f"export nnUNet_raw='{commands.folder}/nnUNet_raw'" in printed
    assert "mean: Dice 1.000, centerline recall 1.000" in printed
    assert json.loads((commands.folder / "scores.json").read_text())["mean"] == {"Dice": 1, "centerline recall": 1}
    assert (commands.folder / "phantom_008.png").stat().st_size > 1000


def test_a_finished_demo_runs_no_command_again(commands):
    Demo(commands.folder, "cpu").run()
    Demo(commands.folder, "cpu").run()
    assert commands.names == STEPS


@pytest.mark.parametrize("step", STEPS)
def test_after_a_failure_the_demo_names_the_command_and_goes_on_from_there(commands, step):
    commands.fail = step
    with pytest.raises(ValueError, match=f"exit code 3: {step}"):
        Demo(commands.folder, "cpu").run()
    commands.fail = ""
    Demo(commands.folder, "cpu").run()
    position = STEPS.index(step)
    assert commands.names == STEPS[: position + 1] + STEPS[position:]


def test_an_interrupted_training_continues(commands):
    fold = commands.folder / "nnUNet_results" / DATASET / MODEL / "fold_0"
    fold.mkdir(parents=True)
    (fold / "checkpoint_latest.pth").touch()
    Demo(commands.folder, "cuda").run()
    training = next(line for line in commands.lines if line[0] == "nnUNetv2_train")
    assert training[-1] == "--c" and training[training.index("-device") + 1] == "cuda"


def test_a_missing_command_is_named(monkeypatch):
    with pytest.raises(ValueError, match="nnUNetv2_no_such_command is not installed"):
        demo._find("nnUNetv2_no_such_command")
