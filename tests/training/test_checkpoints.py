"""What must not happen to a training: lost checkpoints, half files, two processes in one folder, damaged inputs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.run.run_training import maybe_load_checkpoint
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as upstream

from nnunetv2_airway.io.errors import UserError
from nnunetv2_airway.losses.rows import DICE
from nnunetv2_airway.training.airway_trainer import AirwayTrainer
from nnunetv2_airway.training.networks import PLANNED
from nnunetv2_airway.training.schedule import Phase

DATASET = "Dataset599_AirwayPhantom"
pytestmark = pytest.mark.usefixtures("without_pictures")


class Short(AirwayTrainer):
    network = PLANNED
    plans_patch_size = (24, 32, 32)
    plans_batch_size = 2
    patches_per_case = 1
    phases = (Phase(2, DICE),)


@pytest.fixture
def start(make, tiny):
    """The function that makes a trainer, loads what ``--c`` would load, and trains."""

    def start(*, continued=False, until=None):
        trainer = make(Short, tiny, continued=continued)
        maybe_load_checkpoint(trainer, continued, False)
        if until is not None:
            trainer.num_epochs = until
        trainer.run_training()
        return trainer

    return start


def test_a_loss_that_is_not_finite_ends_the_training_and_keeps_the_checkpoints_before(make, tiny, monkeypatch):
    trainer = make(Short, tiny)
    steps = trainer.train_step

    def diverge(batch):
        return steps(batch) if trainer.current_epoch == 0 else {"loss": np.array(np.nan, np.float32)}

    monkeypatch.setattr(trainer, "train_step", diverge)
    with pytest.raises(UserError, match=r"diverged: the loss of epoch 1 is nan.*lower initial_lr"):
        trainer.run_training()
    best = torch.load(Path(trainer.output_folder, "checkpoint_best.pth"), weights_only=False)
    assert best["current_epoch"] == 1 and np.isfinite(best["logging"]["train_losses"]).all()
    assert checkpoints(trainer.output_folder) == ["checkpoint_best.pth"]


def test_splits_that_name_no_preprocessed_case_are_refused_before_the_first_epoch(make, tiny):
    trainer = make(Short, tiny)
    file = Path(trainer.preprocessed_dataset_folder_base, "splits_final.json")
    before = file.read_text() if file.exists() else None
    file.write_text(json.dumps([{"train": ["phantom_000.nii.gz", "phantom_001"], "val": ["phantom_002"]}]))
    try:
        with pytest.raises(UserError, match=r"splits_final.json, fold 0, train: .*phantom_000.nii.gz; names have no"):
            trainer.run_training()
    finally:
        file.unlink() if before is None else file.write_text(before)


def checkpoints(folder) -> list[str]:
    return sorted(file.name for file in Path(folder).glob("checkpoint_*.pth"))


def test_a_training_that_starts_anew_keeps_the_checkpoints_of_the_one_before(start, make, tiny):
    folder = Path(start().output_folder)
    final = (folder / "checkpoint_final.pth").read_bytes()
    trainer = make(Short, tiny)
    trainer.initialize()
    trainer.on_train_start()
    assert checkpoints(folder) == []
    kept = folder / "earlier_training_1"
    assert checkpoints(kept) == ["checkpoint_best.pth", "checkpoint_final.pth"]
    assert (kept / "checkpoint_final.pth").read_bytes() == final
    assert f"are in {kept}; to go on" in Path(trainer.log_file).read_text()
    # a run that is killed now goes on from its beginning, not from the earlier one's end
    again = start(continued=True)
    assert again.loaded_checkpoint is False
    assert f"are in {kept}; to go on" in Path(again.log_file).read_text()
    assert not (folder / "earlier_training_2").exists()
    # one that is continued moves nothing, and one that writes none leaves all where it is
    start(continued=True)
    without = make(Short, tiny)
    without.disable_checkpointing = True
    without.initialize()
    without.on_train_start()
    assert checkpoints(folder) == ["checkpoint_best.pth", "checkpoint_final.pth"]
    again = make(Short, tiny)
    again.on_train_start()
    assert checkpoints(folder / "earlier_training_2") == ["checkpoint_best.pth", "checkpoint_final.pth"]


def test_a_training_that_cannot_start_leaves_the_checkpoints_of_the_one_before_where_they_are(start, make, tiny):
    folder = Path(start().output_folder)
    trainer = make(Short, tiny)
    trainer.preprocessed_dataset_folder = "/no/such/folder"
    with pytest.raises(OSError, match="no/such/folder"):
        trainer.run_training()
    assert checkpoints(folder) == ["checkpoint_best.pth", "checkpoint_final.pth"]
    assert not (folder / "earlier_training_1").exists()


@pytest.mark.parametrize("damage", ["cut", "empty", "one byte"])
def test_a_damaged_checkpoint_is_refused_and_named(start, damage):
    folder = Path(start().output_folder)
    file = folder / "checkpoint_final.pth"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes({"cut": content[: len(content) // 3], "empty": b"", "one byte": content}[damage])
    if damage == "one byte":
        torch.load(file, weights_only=False)  # torch does not notice
    with pytest.raises(RuntimeError, match=r"checkpoint .*checkpoint_final\.pth is damaged.*checkpoint_best\.pth"):
        start(continued=True)
    file.unlink()
    assert start(continued=True).current_epoch == 2


def test_two_processes_do_not_train_in_one_folder(start, make, tiny):
    trainer = make(Short, tiny)
    script = (
        "import sys; from pathlib import Path; from nnunetv2_airway.io.files import alone_in\n"
        "with alone_in(Path(sys.argv[1])):\n    print('in', flush=True); sys.stdin.read()"
    )
    line = [sys.executable, "-c", script, trainer.output_folder]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"in\n"
        with pytest.raises(RuntimeError, match=r"another process works in .*fold_0"):
            start()
        assert checkpoints(trainer.output_folder) == []
        other.kill()
    answers = []

    class Asking(Short):
        def on_epoch_start(self):
            super().on_epoch_start()
            answers.append(subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False))

    asking = make(Asking, tiny)
    line[2:] = [script.replace("sys.argv[1])", "sys.argv[1]), wait=False"), asking.output_folder]
    asking.run_training()
    assert ["another process works in" in answer.stderr for answer in answers] == [True, True]
    assert checkpoints(asking.output_folder) == ["checkpoint_best.pth", "checkpoint_final.pth"]
    assert not list(Path(asking.output_folder).glob(".*"))


@pytest.mark.parametrize("name", ["phantom_001.b2nd", "phantom_001_seg.b2nd", "phantom_001.pkl"])
@pytest.mark.parametrize("keep", [0, 0.5])
def test_a_preprocessed_case_that_is_damaged_is_named_before_the_first_epoch(
    make, tiny, workspace, tmp_path, monkeypatch, name, keep
):
    folder = workspace / "nnUNet_preprocessed" / DATASET
    trainer = make(Short, tiny)
    copy = tmp_path / "preprocessed"
    shutil.copytree(folder / "nnUNetPlans_3d_fullres", copy)
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[: int(len(content) * keep)])
    trainer.preprocessed_dataset_folder = str(copy)
    with pytest.raises(RuntimeError, match=r"preprocessed cases in .*preprocessed are damaged.*phantom_001"):
        trainer.run_training()


def test_what_folds_share_is_never_half_written(make, tiny, workspace, monkeypatch):
    """Two folds started together find no splits; what one writes, the other may read at any moment."""
    splits = workspace / "nnUNet_preprocessed" / DATASET / "splits_final.json"
    before = splits.read_text() if splits.exists() else None
    splits.unlink(missing_ok=True)
    stock = upstream.save_json
    named = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: named.append(Path(new).name) or replace(old, new))
    trainer = make(Short, tiny)
    trainer.initialize()

    def never(*arguments, **options):
        raise AssertionError("written in place")

    monkeypatch.setattr(upstream, "save_json", never)
    trainer.on_train_start()
    assert upstream.save_json is never and stock is not never
    assert {"splits_final.json", "plans.json", "dataset.json"} <= set(named)
    assert len(json.loads(splits.read_text())) == 5
    assert before is None or json.loads(splits.read_text()) == json.loads(before)
    plans = json.loads((Path(trainer.output_folder_base) / "plans.json").read_text())
    assert plans["configurations"]["3d_fullres"]["patch_size"] == [24, 32, 32]
