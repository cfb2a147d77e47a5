"""Steps of every trainer on a GPU that is not there: PyTorch's fake tensors have a device, but no values.

A tensor that was left on the CPU, or whose type does not suit autocast, fails here as it would on a GPU.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from fixtures.trainers import ONE_CONVOLUTION, drawn_batch, first_epochs, short_trainer
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from nnunetv2_airway.losses.rows import DICE
from nnunetv2_airway.nnunet_ext import airway_trainers
from nnunetv2_airway.training.airway_trainer import AirwayTrainer
from nnunetv2_airway.training.schedule import Phase

REPRESENTATIVES = ("nnUNetTrainerWings", "nnUNetTrainerLIB", "nnUNetTrainerInverseWeightedBCE")
"""One of each network; the others are slow together."""


def to(module, device):
    """Stand in for ``nn.Module.to``, which cannot swap fake tensors."""
    for part in module.modules():
        for name, values in part._parameters.items():
            part._parameters[name] = None if values is None else nn.Parameter(values.detach().to(device))
        for name, values in part._buffers.items():
            part._buffers[name] = None if values is None else values.to(device)
    return module


def backward(root, *args, **kwargs):
    """Stand in for ``Tensor.backward``: call the nodes of the graph, since the engine asks for a real device."""
    order, seen = [], set()

    def visit(node):
        if node not in seen:
            seen.add(node)
            for after, _ in node.next_functions:
                if after is not None:
                    visit(after)
            order.append(node)

    visit(root.grad_fn)
    gradients = {root.grad_fn: {0: torch.ones_like(root)}}
    for node in reversed(order):
        given = gradients.pop(node)
        if hasattr(node, "variable"):
            node.variable.grad = given[0]
            continue
        values = [
            given[index].sum_to_size(one.shape).to(one.dtype)
            if index in given
            else torch.zeros(one.shape, dtype=one.dtype, device=one.device)
            for index, one in enumerate(node._input_metadata)
        ]
        run = node if callable(node) else node.apply
        for (after, index), gradient in zip(node.next_functions, as_tuple(run(*values)), strict=False):
            if after is not None and gradient is not None:
                of_node = gradients.setdefault(after, {})
                of_node[index] = of_node[index] + gradient if index in of_node else gradient


def as_tuple(values):
    return values if isinstance(values, tuple) else (values,)


def numpy(values):
    """Stand in for ``Tensor.numpy``, of which fake tensors have none."""
    if values.device.type != "cpu":
        raise TypeError(f"can't convert {values.device} device type tensor to numpy")
    return np.zeros(values.shape)


@pytest.fixture
def cuda(monkeypatch):
    """Let tensors be made on "cuda"; what asks for their values gets zeros."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setenv("nnUNet_compile", "f")
    monkeypatch.setattr(nn.Module, "to", to)
    monkeypatch.setattr(torch.Tensor, "numpy", numpy)
    monkeypatch.setattr(torch.Tensor, "item", lambda self: float(self.device.type == "cpu"))  # AdamW counts steps there
    monkeypatch.setattr(torch.Tensor, "__int__", lambda self: 0)
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda self: False)
    monkeypatch.setattr(torch._C, "_current_graph_task_id", lambda: 0)
    monkeypatch.setattr(torch, "bincount", lambda numbers, minlength: numbers.new_zeros(5))
    monkeypatch.setattr(torch.Tensor, "backward", backward)
    with FakeTensorMode():
        yield torch.device("cuda", 0)


SMALL = dict(plans_patch_size=(32, 48, 32), plans_batch_size=2)


def steps(trainer) -> None:
    """Train and validate on one batch in each phase."""
    trainer.initialize()
    if isinstance(trainer, AirwayTrainer):
        trainer.micro_batches.halve()
    for epoch in first_epochs(trainer):
        trainer.current_epoch = epoch
        trainer.loss = trainer._build_loss()
        for training, step in ((True, trainer.train_step), (False, trainer.validation_step)):
            trainer.network.train(training)
            trainer.loss.train(training)
            assert "loss" in step(drawn_batch(trainer, 0))


@pytest.mark.parametrize(
    "name",
    [
        name if name in REPRESENTATIVES else pytest.param(name, marks=pytest.mark.slow)
        for name in airway_trainers.__all__
    ],
)
def test_a_step_leaves_nothing_on_the_cpu(name, make, tiny, cuda, without_pictures):
    trainer = make(short_trainer(name, **SMALL), tiny, device="cuda")
    steps(trainer)
    for values in trainer.network.parameters():
        assert values.device == cuda and (values.grad is None or values.grad.device == cuda)
    assert sum(values.grad is not None for values in trainer.network.parameters()) > 10


@dataclass(frozen=True)
class WeightOnTheCpu:
    """A weight as somebody might write it."""

    name: str = "forgotten"
    map_name: ClassVar[None] = None

    def weigh(self, target, maps, *, sample):
        return torch.ones(target.shape)


@dataclass(frozen=True)
class WeightInNumpy(WeightOnTheCpu):
    """Another one."""

    def weigh(self, target, maps, *, sample):
        return torch.from_numpy(target.numpy()).to(target.device)


@pytest.mark.parametrize(
    ("weight", "error", "words"),
    [
        (WeightOnTheCpu(), RuntimeError, r"devices.* cuda:0.* cpu"),
        (WeightInNumpy(), TypeError, "convert cuda:0 device type tensor to numpy"),
    ],
)
def test_what_is_not_on_the_gpu_is_noticed(weight, error, words, make, cuda, without_pictures):
    cls = short_trainer("nnUNetTrainerWings", network=ONE_CONVOLUTION, **SMALL)
    steps(make(cls, device="cuda"))
    cls.phases = (Phase(1, DICE, (weight,)),)
    with pytest.raises(error, match=words):
        steps(make(cls, device="cuda"))
