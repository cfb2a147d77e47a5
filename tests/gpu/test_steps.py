"""Steps of training and validation on a GPU, against those on the CPU in float32."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from fixtures.trainers import drawn_batch, first_epochs, images_of, losses_of_steps, ready, short_trainer
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as upstream

from nnunetv2_airway.architectures.airway_network import FLOAT32_VARIABLE
from nnunetv2_airway.nnunet_ext import airway_trainers
from nnunetv2_airway.training.airway_trainer import AirwayTrainer

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("name", airway_trainers.__all__)
def test_a_trainer_s_losses_are_those_on_the_cpu(name, device, make, tiny, without_pictures, monkeypatch):
    monkeypatch.setenv(FLOAT32_VARIABLE, "1")
    cls = short_trainer(name, plans_patch_size=(24, 32, 16), plans_batch_size=2)
    there, here = (make(cls, tiny, device=where) for where in (device, "cpu"))
    for epoch in first_epochs(ready(here)):
        ready(there, epoch).network.load_state_dict(ready(here, epoch).network.state_dict())
        if isinstance(there, AirwayTrainer):
            there.micro_batches.size = 1
        for step in ("validation_step", "train_step"):
            losses = [getattr(trainer, step)(drawn_batch(trainer, 0))["loss"] for trainer in (there, here)]
            assert losses[0] == pytest.approx(losses[1], rel=0.02), (epoch, step)


PRECISIONS = {
    "float32": lambda device, **_: nullcontext(),
    "float16": torch.autocast,
    "bfloat16": lambda device, **_: torch.autocast(device, torch.bfloat16),
}


def losses(precision: str, device: torch.device, make, monkeypatch) -> tuple[np.ndarray, int]:
    """Of the recommended trainer, in each phase."""
    side, steps = (32, 4) if device.type == "cpu" else (64, 50)
    context = PRECISIONS[precision]
    monkeypatch.setattr(upstream, "autocast", context)
    monkeypatch.setattr(upstream, "dummy_context", lambda: context("cpu"))
    cls = short_trainer("nnUNetTrainerWingsLIBRoot", plans_patch_size=(side, side, side), plans_batch_size=2)
    trainer = make(cls, images_of(side, side, side), device=device)
    if precision != "float16":
        trainer.grad_scaler = None
    return losses_of_steps(trainer, steps)


def test_half_precision_trains_as_float32_does(device, make, without_pictures, monkeypatch, capsys):
    monkeypatch.setenv(FLOAT32_VARIABLE, "1")
    expected, _ = losses("float32", device, make, monkeypatch)
    # float16 on a CPU takes forty times as long, see tests/trainers/test_float16.py
    for precision in ("bfloat16",) if device.type == "cpu" else ("float16", "bfloat16"):
        found, skipped = losses(precision, device, make, monkeypatch)
        apart = np.abs(found / expected - 1).max()
        with capsys.disabled():
            print(f"\n{precision}: {skipped} of {found.size} steps skipped, losses at most {apart:.2%} from float32's")
        assert np.isfinite(found).all() and skipped <= found.size // 10 and apart < 0.02
