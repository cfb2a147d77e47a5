"""Training in float16 with a gradient scaler, as nnU-Net does on a GPU, on the CPU.

PyTorch's own float16 convolution on a CPU takes forty times as long as that in float32. Here input, weights and result
are rounded to float16, and sums run in float32, as on a GPU.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fixtures.trainers import drawn_batch, images_of, losses_of_steps, short_trainer
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as upstream

from nnunetv2_airway.architectures.airway_network import FLOAT32_VARIABLE
from nnunetv2_airway.losses import rows
from nnunetv2_airway.losses.supervision import SupervisionLoss
from nnunetv2_airway.losses.weights import CENTERLINE_DISTANCE, INVERSE_COMPONENT, LOCAL_IMBALANCE

STEPS = 50
"""Shared out over the phases."""
CONVOLUTIONS = ("conv3d", "conv_transpose3d")


def rounded(convolution):
    """Make of a float32 convolution one that is float16 on the outside."""

    def compute(x, weight, bias=None, *args, **options):
        if not torch.is_autocast_enabled("cpu"):
            return convolution(x, weight, bias, *args, **options)
        with torch.autocast("cpu", enabled=False):
            x, weight, bias = (values if values is None else values.half().float() for values in (x, weight, bias))
            return convolution(x, weight, bias, *args, **options).half()

    return compute


@pytest.fixture
def float16(monkeypatch):
    """The function after which nnU-Net trains on the CPU as on a GPU: under float16 autocast."""
    monkeypatch.setenv(FLOAT32_VARIABLE, "1")  # else our networks turn to bfloat16

    def turn_on():
        monkeypatch.setattr(upstream, "dummy_context", lambda: torch.autocast("cpu", torch.float16))
        for name in CONVOLUTIONS:
            monkeypatch.setattr(F, name, rounded(getattr(F, name)))

    return turn_on


SLOW = ("nnUNetTrainerGUL", "nnUNetTrainerInverseWeightedBCE")
LONG = (
    "nnUNetTrainerWingsLIB",
    "nnUNetTrainerWingsLIBRoot",
    "nnUNetTrainerWingsGUL",
    "nnUNetTrainerWingsBranchWeighted",
)


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW),
        *(pytest.param(name, marks=pytest.mark.long) for name in LONG),
    ],
)
def test_float16_trains_as_float32_does(name, make, tiny, float16, without_pictures):
    cls = short_trainer(name, plans_patch_size=(24, 32, 16), plans_batch_size=2)

    def change(plans, dataset):
        tiny(plans, dataset)
        images_of(24, 32, 32)(plans, dataset)

    expected, _ = losses_of_steps(make(cls, change), STEPS)
    float16()
    trainer = make(cls, change)
    trainer.grad_scaler = torch.amp.GradScaler("cpu")
    losses, skipped = losses_of_steps(trainer, STEPS)
    assert np.isfinite(losses).all() and skipped <= losses.size // 10, f"the scaler skipped {skipped} steps"
    assert np.abs(losses / expected - 1).max() < 0.02
    assert (expected[:, -2:].mean(1) < expected[:, :2].mean(1)).all(), "nothing was learned"


def spike(ct: torch.Tensor) -> torch.Tensor:
    """Metal in air without noise: the largest value that an instance norm can make."""
    ct = torch.full_like(ct, -1024)
    ct[..., 8, 8, 8] = 3071
    return ct


@pytest.mark.parametrize(
    ("size", "change"),
    [
        ((32, 48, 24), torch.clone),
        ((32, 48, 24), spike),
        pytest.param((128, 128, 128), spike, marks=pytest.mark.slow),
        pytest.param((128, 128, 128), torch.clone, marks=pytest.mark.long),
    ],
)
def test_no_feature_or_logit_overflows(size, change, make, float16):
    trainer = make(short_trainer("nnUNetTrainerWings", plans_patch_size=size, plans_batch_size=1), images_of(*size))
    trainer.initialize()
    float16()
    largest = {}

    def look(name):
        def hook(module, inputs, outputs):
            found = [values for values in outputs if values is not None] if isinstance(outputs, tuple) else outputs
            found = found if isinstance(found, list) else [found]
            largest[name] = max(values.abs().max().item() for values in found)

        return hook

    for name, module in trainer.network.named_modules():
        module.register_forward_hook(look(name))
    with torch.autocast("cpu", torch.float16), torch.no_grad():
        outputs = trainer.network(change(drawn_batch(trainer, 0)["data"]))
    assert all(output.shape[2:] == size and output.isfinite().all() for output in outputs)
    assert len(largest) > 30 and max(largest.values()) < torch.finfo(torch.float16).max / 4


LOSSES = {name: row for name, row in vars(rows).items() if name.isupper() and hasattr(row, "sums")}
WEIGHTS = (LOCAL_IMBALANCE, CENTERLINE_DISTANCE, INVERSE_COMPONENT)


@pytest.mark.parametrize("name", LOSSES)
def test_the_sums_of_a_loss_stay_in_float32(name):
    drawn = torch.Generator().manual_seed(0)
    shape = (2, 1, 48, 64, 40)
    logits = (torch.randn(shape, generator=drawn) * 4).half()
    target = (torch.rand(shape, generator=drawn) < 0.4).float()
    maps = [(target * torch.rand(shape, generator=drawn) * 255).byte(), target.short()]
    assert target.sum() > torch.finfo(torch.float16).max
    options = dict(foreground_label=1, ignore_label=None, ddp=False, maps=("centerline", "components"))
    for weights in ((), WEIGHTS):
        loss = SupervisionLoss(LOSSES[name], weights, **options).eval()
        expected = loss(logits.double(), [target, *maps])
        with torch.autocast("cpu", torch.float16):
            found = loss(logits, [target, *maps])
        assert found.dtype == torch.float32
        assert found.item() == pytest.approx(expected.item(), rel=1e-4)
