"""Kill -9 at random moments: what is run again ends as if nothing had happened."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

JOBS = ("conversion", "maps", "post-processing", "evaluation")
RUNS = [
    pytest.param(job, times, marks=mark)
    for times, mark in ((1, pytest.mark.slow), (20, pytest.mark.long))
    for job in JOBS
]


@pytest.mark.parametrize(("job", "times"), RUNS)
def test_the_results_are_those_of_an_undisturbed_run(site, job, times):
    started = time.monotonic()
    undisturbed = site.run(job)
    duration = time.monotonic() - started
    assert undisturbed.returncode == 0, undisturbed.stderr
    expected = site.results()
    assert len(expected) >= 3
    moments = random.Random(job)
    for number in range(times):
        site.clear()
        # most of a short run is start-up: the later half is where files are written
        after = moments.uniform(0.5, 1) * duration
        site.kill(job, after, alone=number % 2 == 0)
        again = site.run(job)
        assert again.returncode == 0, (after, again.stderr)
        found = site.results()
        assert set(found) == set(expected), after
        assert {name for name in expected if found[name] != expected[name]} == set(), after


TRAINER = """
from dataclasses import replace
from nnunetv2_airway.trainers.wings_lib import nnUNetTrainerLIB

class nnUNetTrainerLIBOfAKilledRun(nnUNetTrainerLIB):
    plans_patch_size, plans_batch_size, patches_per_case = (24, 32, 32), 2, 4
    phases = tuple(replace(phase, epochs=2) for phase in nnUNetTrainerLIB.phases)
"""
"""Its short form is ``tests/test_end_to_end.py``, which kills a training in its last phase."""


@pytest.mark.long
@pytest.mark.parametrize("word", ["", "Mining hard regions"])
def test_a_training_ends_in_its_last_phase_with_all_its_epochs(workspace, variables, tmp_path, word):
    """Killed after a random time, or within seconds of a word in its output."""
    (tmp_path / "trainers.py").write_text(TRAINER)
    shutil.copytree(workspace / "nnUNet_preprocessed", tmp_path / "nnUNet_preprocessed")
    plans_file = tmp_path / "nnUNet_preprocessed" / "Dataset599_AirwayPhantom" / "nnUNetPlans.json"
    plans = json.loads(plans_file.read_text())
    options = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    options["features_per_stage"] = [4] * options["n_stages"]
    plans_file.write_text(json.dumps(plans))
    environment = {**variables(tmp_path), "nnUNet_extTrainer": str(tmp_path), "nnUNet_def_n_proc": "1"}
    environment["nnUNet_raw"] = str(workspace / "nnUNet_raw")
    name = "nnUNetTrainerLIBOfAKilledRun"
    program = str(Path(sys.executable).parent / "nnUNetv2_train")
    line = [program, "599", "3d_fullres", "0", "-tr", name, "-device", "cpu"]
    fold = tmp_path / "nnUNet_results" / "Dataset599_AirwayPhantom" / f"{name}__nnUNetPlans__3d_fullres" / "fold_0"

    def train(*flags, after=None):
        log = tmp_path / "log.txt"
        with log.open("w") as stream:
            command = [*line, *flags]
            process = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream, start_new_session=True)
            while word and after is not None and process.poll() is None and word not in log.read_text():
                time.sleep(0.05)
            try:
                process.wait(after)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return process.returncode, log.read_text()

    started = time.monotonic()
    code, output = train()
    assert code == 0, output[-3000:]
    duration = 3 if word else time.monotonic() - started
    moments = random.Random(word)
    killed = 0
    for _ in range(20):
        shutil.rmtree(fold.parent)
        after = moments.uniform(0 if word else 0.2, 1) * duration
        killed += train(after=after)[0] != 0
        code, output = train("--c")
        assert code == 0, (after, output[-3000:])
        content = torch.load(fold / "checkpoint_final.pth", weights_only=False)
        assert content["current_epoch"] == 6 and len(content["logging"]["train_losses"]) == 6, after
        assert np.isfinite(content["logging"]["train_losses"]).all(), after
        # killed in its validation, it has trained before
        assert "Phase 3 of 3" in output and "Validation complete" in output, after
        assert len(list((fold / "hard_regions").glob("*.npz"))) == 4, after
        assert not [file for file in fold.rglob(".*")], after
    assert killed >= 15
