"""Every trainer in a short form, ``NAME_study``; ``benchmarks/study.py`` points nnU-Net to this folder.

What the study sets stands in the variable ``AIRWAY_STUDY``; without it there is nothing here.
"""

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunetv2_airway.losses import rows, weights
from nnunetv2_airway.training.schedule import Phase, Sampling

SETTINGS = json.loads(os.environ.get("AIRWAY_STUDY", "{}"))
FIRST_ITERATIONS = 8
"""Of a training with a budget of time: from them the length of the next epoch is estimated."""
ITERATIONS = "study_iterations"
"""Of each epoch, in nnU-Net's log."""


class Shortened:
    """What all trainers of the study share: budget, patch, seed, and no validation at the end."""

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008, nnU-Net's signature
    ):
        if SETTINGS["patch"]:
            all_rows = plans["configurations"]
            row = {**all_rows[configuration], "patch_size": SETTINGS["patch"], "batch_size": SETTINGS["batch"]}
            plans = {**plans, "configurations": {**all_rows, configuration: narrowed(row, SETTINGS["width"])}}
        super().__init__(plans, configuration, fold, dataset_json, device)
        for name, value in attributes().items():  # nnU-Net's own, such as initial_lr, are the instance's
            if not hasattr(super(), name) and name not in vars(self):
                raise ValueError(f"{type(self).__name__} has no attribute {name}, nothing would read it")
            setattr(self, name, value)
        self.num_epochs = SETTINGS["epochs"]
        self.save_every = SETTINGS["save_every"]
        self.logger.local_logger.my_fantastic_logging[ITERATIONS] = []
        np.random.seed(SETTINGS["seed"])
        torch.manual_seed(SETTINGS["seed"])

    def on_epoch_start(self):
        """Start as the trainer does; the epoch is as long as the budget allows, and mining is part of its time."""
        started = time.time()
        super().on_epoch_start()
        self.num_val_iterations_per_epoch = SETTINGS["validation"]
        self.num_iterations_per_epoch = self._iterations(time.time() - started)
        log = self.logger.local_logger.my_fantastic_logging
        log["epoch_start_timestamps"][-1] = started
        log[ITERATIONS].append(self.num_iterations_per_epoch)

    def _iterations(self, passed: float) -> int:
        left = self.num_epochs - self.current_epoch
        log = self.logger.local_logger.my_fantastic_logging
        if SETTINGS["patches"]:
            done = sum(log[ITERATIONS]) * self.batch_size
            return max(1, math.ceil((SETTINGS["patches"] - done) / self.batch_size / left))
        started, ended = log["epoch_start_timestamps"], log["epoch_end_timestamps"]
        seconds = [end - start for start, end in zip(started, ended, strict=False)]
        if not seconds:
            return FIRST_ITERATIONS
        # the quickest of the last epochs: the others mined, or started their loaders
        each = min(s / iterations for s, iterations in list(zip(seconds, log[ITERATIONS], strict=True))[-3:])
        return max(1, round(((60 * SETTINGS["minutes"] - sum(seconds) - passed) / left) / each))

    def perform_actual_validation(self, save_probabilities: bool = False):
        """Leave it out: the study predicts held-out cases itself."""


def narrowed(row: dict, share: float) -> dict:
    """Give the planned network of a configuration a share of its features, at least 8 in each stage."""
    architecture = row["architecture"]
    options = architecture["arch_kwargs"]
    features = [max(8, round(share * number)) for number in options["features_per_stage"]]
    return {**row, "architecture": {**architecture, "arch_kwargs": {**options, "features_per_stage": features}}}


def scaled(phases: Sequence[Phase], epochs: int) -> tuple[Phase, ...]:
    """Shorten or lengthen a schedule; each phase keeps its share, and at least one epoch."""
    total, end, shortened = sum(phase.epochs for phase in phases), 0, []
    for index, phase in enumerate(phases):
        wanted = round(epochs * sum(earlier.epochs for earlier in phases[: index + 1]) / total)
        last = epochs - (len(phases) - index - 1)
        length = min(max(wanted, end + 1), last) - end
        milestones = sorted({round(milestone * length / phase.epochs) for milestone in phase.lr_milestones})
        kept = tuple(milestone for milestone in milestones if 0 < milestone < length)
        shortened.append(replace(phase, epochs=length, lr_milestones=kept))
        end += length
    return tuple(shortened)


OF_A_PHASE = {
    "loss": lambda name: getattr(rows, name),
    "weights": lambda names: tuple(getattr(weights, name) for name in names),
    "sampling": lambda shares: shares and Sampling(**shares),
}
"""What stands in text for no literal: names of ``losses.rows`` and ``losses.weights``, shares of a batch."""


def changed(phases: Sequence[Phase], changes: Mapping[str, Any]) -> tuple[Phase, ...]:
    """Change a schedule.

    Args:
        phases: the schedule.
        changes: values by "phases.1.sampling", the number of a phase from 0 and one of its fields.
    """
    phases = list(phases)
    for key, value in changes.items():
        _, number, field = key.split(".")
        index = int(number)
        phases[index] = replace(phases[index], **{field: OF_A_PHASE.get(field, lambda value: value)(value)})
    return tuple(phases)


def attributes() -> dict[str, Any]:
    """Return what the study changes in a trainer, beside its schedule."""
    return {key: value for key, value in SETTINGS["attributes"].items() if not key.startswith("phases.")}


def short_form(trainer: type) -> type:
    """Derive a trainer's short form."""
    members = {"__module__": __name__, **attributes()}
    changes = {key: value for key, value in SETTINGS["attributes"].items() if key not in members}
    if hasattr(trainer, "phases"):
        members["phases"] = scaled(changed(trainer.phases, changes), SETTINGS["epochs"])
        if SETTINGS["patch"]:
            members |= {"plans_patch_size": tuple(SETTINGS["patch"]), "plans_batch_size": SETTINGS["batch"]}
    elif changes:
        raise ValueError(f"{trainer.__name__} has no phases, nothing would read {', '.join(changes)}")
    return type(f"{trainer.__name__}_study", (Shortened, trainer), members)


def __getattr__(name: str) -> type:
    """Make the short form that nnU-Net looks for here."""
    if not SETTINGS or not name.endswith("_study"):
        raise AttributeError(name)
    globals()[name] = short_form(recursive_find_trainer_class_by_name(name.removesuffix("_study")))
    return globals()[name]
