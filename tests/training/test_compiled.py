"""torch.compile, which nnU-Net uses on a GPU by default, on the CPU: the same results, in one graph.

Where there is a C++ compiler, PyTorch's own compiler works as on a GPU; else its graphs run as they are.
"""

import copy
import shutil
from functools import partial

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from fixtures.trainers import ONE_CONVOLUTION, compile_in_one_graph, drawn_batch, exercise, ready
from torch import nn
from torch._dynamo import OptimizedModule

from nnunetv2_airway.architectures.airway_network import FLOAT32_VARIABLE, AirwayNetwork
from nnunetv2_airway.architectures.convolution import use_conv3d
from nnunetv2_airway.architectures.wingsnet import WingsNet
from nnunetv2_airway.hounsfield import HounsfieldInput
from nnunetv2_airway.losses.rows import DICE, TANG
from nnunetv2_airway.losses.weights import LOCAL_IMBALANCE
from nnunetv2_airway.trainers.wings_lib import nnUNetTrainerWingsLIB
from nnunetv2_airway.training.micro_batch import MicroBatches
from nnunetv2_airway.training.schedule import HARD_SMALL_RANDOM, Phase

COMPILER = "inductor" if shutil.which("g++") or shutil.which("clang++") else "aot_eager"


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    monkeypatch.setenv(FLOAT32_VARIABLE, "1")
    torch.compiler.reset()


def planned(channels: int) -> nn.Module:
    """nnU-Net's network with few channels."""
    return use_conv3d(
        PlainConvUNet(
            channels, 3, (4, 8, 8), nn.Conv3d, 3, (1, 2, 2), 1, 1, (1, 1), conv_bias=True, norm_op=nn.InstanceNorm3d,
            norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True},
            deep_supervision=True,
        )
    )  # fmt: skip


NETWORKS = {"wings": partial(WingsNet, dropout=0.0), "planned": planned}


def airway_network(name: str) -> AirwayNetwork:
    torch.manual_seed(0)
    return AirwayNetwork(HounsfieldInput(("original", "tang")), NETWORKS[name](2), 2)


def compare(one: nn.Module, other: nn.Module, ct: torch.Tensor) -> None:
    """Hold outputs and gradients of two networks against each other."""
    outputs = [network(ct) for network in (one, other)]
    for ours, theirs in zip(*outputs, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    drawn = [torch.randn_like(output) for output in outputs[0]]
    for output in outputs:
        torch.autograd.backward(output, drawn)
    gradients = [
        [values.grad for values in network.parameters() if values.grad is not None] for network in (one, other)
    ]
    largest = max(values.abs().max() for values in gradients[0])
    assert len(gradients[0]) > 10
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5 * largest, rtol=1e-3)
    for network in (one, other):
        network.zero_grad()


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        pytest.param("wings", "aot_eager", marks=pytest.mark.slow),
        pytest.param("planned", COMPILER, marks=pytest.mark.slow),
        pytest.param("wings", COMPILER, marks=pytest.mark.long),  # two minutes of a C++ compiler
    ],
)
def test_every_network_is_one_graph_and_computes_the_same(name, backend):
    network = airway_network(name)
    compiled = torch.compile(copy.deepcopy(network), backend=backend, fullgraph=True)
    compare(compiled, network, torch.rand(2, 1, 16, 24, 8) * 1500 - 1000)
    for net in (network, compiled):
        net.eval()
    with torch.no_grad():
        ct = torch.rand(1, 1, 16, 24, 8) * 1500 - 1000
        for ours, theirs in zip(compiled(ct), network(ct), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


class Small(nnUNetTrainerWingsLIB):
    plans_patch_size = (16, 24, 32)
    plans_batch_size = 4
    phases = (Phase(1, DICE), Phase(1, TANG, (LOCAL_IMBALANCE,), HARD_SMALL_RANDOM))


class SmallConvolution(Small):
    network = ONE_CONVOLUTION


@pytest.mark.parametrize(
    ("cls", "backend"), [(SmallConvolution, "eager"), pytest.param(Small, "aot_eager", marks=pytest.mark.slow)]
)
def test_a_compiled_trainer_does_what_it_does_uncompiled(cls, backend, make, monkeypatch, without_pictures, tmp_path):
    plain = ready(make(cls))
    expected = exercise(plain)
    compile_in_one_graph(monkeypatch, backend)
    trainer = ready(make(cls))
    assert isinstance(trainer.network, OptimizedModule) and not isinstance(plain.network, OptimizedModule)
    for ours, theirs in zip(exercise(trainer), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)

    trainer.save_checkpoint(str(tmp_path / "checkpoint_latest.pth"))
    again = ready(make(cls))
    again.load_checkpoint(str(tmp_path / "checkpoint_latest.pth"))
    assert isinstance(again.network, OptimizedModule)
    losses = [one.train_step(drawn_batch(one, 6))["loss"] for one in (again, trainer)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    predicting = cls.build_network_architecture(trainer.plans_manager, trainer.configuration_manager, 1, 2, False)
    predicting.load_state_dict(torch.load(tmp_path / "checkpoint_latest.pth", weights_only=False)["network_weights"])


@pytest.mark.slow
def test_dropout_drops_the_same_when_a_part_is_computed_again():
    network = AirwayNetwork(HounsfieldInput(("original", "tang")), WingsNet(2, dropout=0.5), 2)
    ct = torch.rand(3, 1, 8, 16, 16) * 1200 - 1100
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)

    def gradients() -> list[torch.Tensor]:
        torch.manual_seed(1)
        sum(output.square().sum() for output in compiled(ct)).backward()
        found = [values.grad.clone() for values in network.parameters()]
        network.zero_grad()
        return found

    parts = MicroBatches(compiled, 1)
    in_parts = gradients()
    parts.whole, whole = lambda x: [torch.cat(o) for o in zip(*map(whole, x.split(1)), strict=True)], parts.whole
    parts.size = 3
    for ours, theirs in zip(in_parts, gradients(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)
