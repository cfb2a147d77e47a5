import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

from nnunetv2_airway.demo import DATASET, MODEL, Demo
from nnunetv2_airway.io import commands as running

STEPS = [
    "nnUNetv2_airway_phantom",
    "nnUNetv2_plan_and_preprocess",
    "nnUNetv2_train",
    "nnUNetv2_airway_segment",
    "nnUNetv2_airway_evaluate",
    "nnUNetv2_airway_report",
]
SHOWN = STEPS[-3:]
"""What a finished demo does again: segment and evaluate what has changed, and show it."""


class Commands:
    """Stands in for the real commands: notes them."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.lines: list[list[str]] = []
        self.fail = ""

    def run(self, line, env, check):
        name = Path(line[0]).name
        self.lines.append([name, *line[1:]])
        assert env["nnUNet_results"] == str(self.folder / "nnUNet_results")
        return SimpleNamespace(returncode=3 if name == self.fail else 0)

    @property
    def names(self):
        return [line[0] for line in self.lines]


@pytest.fixture
def commands(tmp_path, monkeypatch):
    commands = Commands(tmp_path / "my demo")
    monkeypatch.setattr(running.subprocess, "run", commands.run)
    monkeypatch.setattr(running, "_find", lambda program: program)
    return commands


def test_every_command_is_printed_as_one_would_type_it_and_the_page_is_named(commands, capsys):
    Demo(commands.folder, "cpu").run()
    assert commands.names == STEPS
    printed = capsys.readouterr().out
    typed = [shlex.split(line[2:]) for line in printed.splitlines() if line.startswith("$ ")]
    assert typed == commands.lines
    assert f"export nnUNet_raw='{commands.folder}/nnUNet_raw'" in printed
    segmentation, evaluation, report = commands.lines[-3:]
    assert segmentation[segmentation.index("-m") + 1] == str(commands.folder / "nnUNet_results" / DATASET / MODEL)
    assert evaluation[evaluation.index("-ref") + 1] == str(commands.folder / "nnUNet_raw" / DATASET / "labelsTs")
    assert evaluation[evaluation.index("-pred") + 1] == segmentation[segmentation.index("-o") + 1]
    assert report[report.index("-i") + 1] == evaluation[evaluation.index("-o") + 1]
    page = report[report.index("-o") + 1]
    assert page == str(commands.folder / "report.html") and f"Open {page} in a browser" in printed.splitlines()[-1]


def test_a_finished_demo_only_shows_its_figures_again(commands):
    Demo(commands.folder, "cpu").run()
    Demo(commands.folder, "cpu").run()
    assert commands.names == [*STEPS, *SHOWN]


@pytest.mark.parametrize("step", STEPS)
def test_after_a_failure_the_demo_names_the_command_and_goes_on_from_there(commands, step):
    commands.fail = step
    with pytest.raises(ValueError, match=f"exit code 3: {step}"):
        Demo(commands.folder, "cpu").run()
    commands.fail = ""
    Demo(commands.folder, "cpu").run()
    position = STEPS.index(step)
    again = min(position, STEPS.index(SHOWN[0]))
    assert commands.names == STEPS[: position + 1] + STEPS[again:]


def test_an_interrupted_training_continues(commands):
    fold = commands.folder / "nnUNet_results" / DATASET / MODEL / "fold_0"
    fold.mkdir(parents=True)
    (fold / "checkpoint_latest.pth").touch()
    Demo(commands.folder, "cuda").run()
    training = next(line for line in commands.lines if line[0] == "nnUNetv2_train")
    assert training[-1] == "--c" and training[training.index("-device") + 1] == "cuda"
