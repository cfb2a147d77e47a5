"""Rows of networks: training steps and sliding-window prediction."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from unittest.mock import patch

import torch
import torch.nn.functional as F
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from measure import Row, peak_memory, seconds
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from plain_wingsnet import PlainWingsNet
from torch import nn

from nnunetv2_airway.architectures import baseline_unet
from nnunetv2_airway.architectures.airway_network import AirwayNetwork, cpu_has_bfloat16
from nnunetv2_airway.architectures.baseline_unet import BaselineUNet
from nnunetv2_airway.architectures.wingsnet import WingsNet
from nnunetv2_airway.hounsfield import HounsfieldInput
from nnunetv2_airway.losses.functional import union_loss
from nnunetv2_airway.training.micro_batch import MicroBatches

PLAIN = "plain WingsNet"
PAPER_BATCH, PAPER_PATCH = 32, 128


def rows(device: str, *, short: bool = False) -> Iterator[Row]:
    """List the rows of a device; ``short`` leaves out those that say little more, and repeats the others less."""
    if device == "cpu":
        found = _on_cpu((64,) if short else (64, 96), prediction=not short)
    else:
        found = _on_gpu(box=(128, 256, 256) if short else (320, 320, 384))
    yield from (replace(row, repeats=min(row.repeats, 2)) if short else row for row in found)


def _on_cpu(sizes: tuple[int, ...], *, prediction: bool) -> Iterator[Row]:
    precisions = [precision for precision in ("bfloat16", "float32") if precision == "float32" or cpu_has_bfloat16()]
    for size in sizes:
        shape = (1, 2, size, size, size)
        for precision in precisions:
            name = f"training step, {size}^3, {precision}"
            arguments = {"ours": (WingsNet, shape, precision), "theirs": (PlainWingsNet, shape, "float32")}
            timed = {key: partial(_timed_step, *values) for key, values in arguments.items()}
            memory = {key: partial(peak_memory, training_step, *values) for key, values in arguments.items()}
            reach = {"bfloat16": 2.6, "float32": 1.25}[precision]
            yield Row(name, f"{PLAIN}, float32", f">= {reach}", **timed)
            yield Row(f"{name}, memory", f"{PLAIN}, float32", "<= 0.7", **memory, repeats=3, unit="GiB")
    for precision in precisions if prediction else ():
        reach = {"bfloat16": 0.45, "float32": 0.95}[precision]
        yield _prediction("cpu", (128, 128, 256), (128, 128, 128), precision, f"<= {reach}")
    if prediction:
        timed = {
            key: partial(_timed_window, partial(network, 2), 2, "float32")
            for key, network in (("ours", WingsNet), ("theirs", PlainWingsNet))
        }
        yield Row("prediction of a window of 128^3, float32", f"{PLAIN}, float32", ">= 1.5", **timed, repeats=3)
    if prediction and cpu_has_bfloat16():
        timed = {
            key: partial(_timed_window, network, 1, "bfloat16")
            for key, network in (("ours", BaselineUNet), ("theirs", UNetWithPReLU))
        }
        name = "prediction of a window of 128^3 by the model of the package, bfloat16"
        yield Row(name, "PyTorch's PReLU in it", ">= 1.2", **timed)


def _on_gpu(box: tuple[int, int, int]) -> Iterator[Row]:
    batch = _largest_batch()
    yield from _steps_on_gpu(batch, compiled=False)
    yield _prediction("cuda", box, (128, 128, 128), "float16", "<= 0.7")
    shape = (PAPER_BATCH, 2, *(PAPER_PATCH,) * 3)
    yield Row(
        f"training step, {PAPER_BATCH} x {PAPER_PATCH}^3, one patch at a time, memory",
        "a GPU of 12 GiB",
        "<= 1",
        ours=partial(peak_memory, training_step, WingsNet, shape, "float16", "cuda", False, 1, device="cuda"),
        theirs=lambda: lambda: 12.0,
        repeats=1,
        unit="GiB",
    )
    yield from _steps_on_gpu(max(1, batch // 2), compiled=True)  # last, since a compiler takes minutes


def _steps_on_gpu(batch: int, *, compiled: bool) -> Iterator[Row]:
    shape = (batch, 2, *(PAPER_PATCH,) * 3)
    name = f"training step, {batch} x {PAPER_PATCH}^3, autocast" + (", compiled" if compiled else "")
    networks = {"ours": WingsNet, "theirs": PlainWingsNet}
    arguments = {key: (network, shape, "float16", "cuda", compiled) for key, network in networks.items()}
    timed = {key: partial(_timed_step, *values) for key, values in arguments.items()}
    memory = {key: partial(peak_memory, training_step, *values, device="cuda") for key, values in arguments.items()}
    yield Row(name, PLAIN, ">= 1.5", **timed)
    yield Row(f"{name}, memory", PLAIN, "<= 0.6", **memory, repeats=1, unit="GiB")


def training_step(
    network: type[nn.Module],
    shape: tuple[int, ...],
    precision: str,
    device: str = "cpu",
    compiled: bool = False,
    part: int | None = None,
) -> Callable[[], None]:
    """Make one training step: forward, Dice of each group, backward, AdamW.

    Args:
        network: its class, called with the number of input channels.
        shape: of the batch, (N, C, Z, Y, X).
        precision: "float32", or the type of autocast.
        device: where.
        compiled: by ``torch.compile``.
        part: patches at a time; by default the whole batch.
    """
    torch.manual_seed(0)
    model = network(shape[1]).to(device).train()
    if part:
        MicroBatches(model, part)
    run = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    scaler = torch.amp.GradScaler(device, enabled=precision == "float16")
    x = torch.rand(shape, device=device)
    target = (torch.rand((shape[0], 1, *shape[2:]), device=device) < 0.05).float()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(precision, device):
            outputs = run(x)
        loss = sum(union_loss(torch.sigmoid(z.float()), target, alpha=0.5, beta=0.5) for z in outputs)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


def _timed_step(network, shape, precision, device="cpu", compiled=False) -> Callable[[], float]:
    return seconds(training_step(network, shape, precision, device, compiled), device)


class UNetWithPReLU(BaselineUNet):
    """The model's network, calling PyTorch's PReLU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Segment a patch."""
        with patch.object(baseline_unet, "_prelu_in_rows", lambda x, slopes: F.prelu(x, slopes.to(x.dtype))):
            return super().forward(x)


def _timed_window(network: Callable[[], nn.Module], channels: int, precision: str) -> Callable[[], float]:
    model, x = network().eval(), torch.rand(1, channels, 128, 128, 128)

    def predict() -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            model(x)

    return seconds(predict, "cpu")


def _largest_batch() -> int:
    """Find the largest power of two up to the paper's batch with which both networks can be trained side by side."""
    batch = PAPER_BATCH
    while batch > 1:
        shape = (batch, 2, *(PAPER_PATCH,) * 3)
        try:
            steps = [training_step(network, shape, "float16", "cuda") for network in (PlainWingsNet, WingsNet)]
            for step in steps:
                step()
            break
        except RuntimeError:  # of many kinds where there is no memory
            batch //= 2
        steps = None
        torch.cuda.empty_cache()
    torch.cuda.empty_cache()
    return batch


def stock_network() -> nn.Module:
    """Make the network that nnU-Net 2.8 plans for patches of 128^3 (``ExperimentPlanner``, 3d_fullres)."""
    return PlainConvUNet(
        1, 6, (32, 64, 128, 256, 320, 320), nn.Conv3d, 3, (1, 2, 2, 2, 2, 2), 2, 2, (2,) * 5, conv_bias=True,
        norm_op=nn.InstanceNorm3d, norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True}, deep_supervision=False,
    )  # fmt: skip


def airway_network(precision: str) -> nn.Module:
    """Make what the WingsNet trainers predict with."""
    network = AirwayNetwork(HounsfieldInput(("original", "tang")), WingsNet(2, deep_supervision=False), 2)
    network.cpu_bfloat16 = network.predicts_in_bfloat16 = precision == "bfloat16"
    return network


def _prediction(device, box, patch, precision, reach) -> Row:
    ct = torch.randn((1, *box)) * 100 - 800
    return Row(
        f"prediction of a box of {' x '.join(map(str, box))}, patch {patch[0]}^3, {precision}",
        f"nnU-Net's PlainConvUNet, {'float16' if device == 'cuda' else 'float32'}",
        reach,
        ours=lambda: seconds(predictor(airway_network(precision), ct, patch, device), device),
        theirs=lambda: seconds(predictor(stock_network(), ct, patch, device), device),
        repeats=3,
    )


def predictor(network: nn.Module, ct: torch.Tensor, patch: tuple[int, ...], device: str) -> Callable[[], torch.Tensor]:
    """Make nnU-Net's sliding-window prediction of a CT (1, Z, Y, X), without mirroring."""
    made = nnUNetPredictor(
        use_mirroring=False,
        perform_everything_on_device=device == "cuda",
        device=torch.device(device),
        allow_tqdm=False,
    )
    labels = LabelManager({"background": 0, "airway": 1}, None)
    plans = SimpleNamespace(get_label_manager=lambda _: labels)
    configuration = SimpleNamespace(patch_size=patch)
    made.manual_initialization(network.to(device).eval(), plans, configuration, None, {}, "", None)
    return lambda: made.predict_sliding_window_return_logits(ct)


def autocast(precision: str, device: str) -> torch.autocast:
    """Make the context of a precision; "float32" is none."""
    return torch.autocast(device, getattr(torch, precision), enabled=precision != "float32")
