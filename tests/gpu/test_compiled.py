"""torch.compile on a GPU, as nnU-Net uses it by default."""

from functools import partial

import pytest
import torch
from fixtures.trainers import compile_in_one_graph, exercise, ready, short_trainer
from torch._dynamo import OptimizedModule

from nnunetv2_airway.architectures.airway_network import FLOAT32_VARIABLE
from nnunetv2_airway.hounsfield import HounsfieldInput

pytestmark = pytest.mark.gpu


@pytest.fixture
def compiling(device, monkeypatch):
    """The function after which nnU-Net compiles, in one graph."""
    torch.compiler.reset()
    monkeypatch.setenv(FLOAT32_VARIABLE, "1")
    backend = {"cuda": "inductor", "cpu": "aot_eager"}[device.type]  # a CPU compiles for minutes

    return partial(compile_in_one_graph, monkeypatch, backend)


def test_a_compiled_ct_that_is_not_in_hounsfield_units_is_warned_of(device, compiling):
    compiling()
    network = torch.compile(HounsfieldInput(("original",)).to(device)).eval()
    with pytest.warns(UserWarning, match="not to be in Hounsfield units"):
        network(torch.linspace(0, 2000, 512, device=device).view(1, 1, 8, 8, 8))


@pytest.mark.parametrize("name", ["nnUNetTrainerLIB", "nnUNetTrainerWingsLIBRoot"])
def test_a_compiled_trainer_does_what_it_does_uncompiled(name, device, make, tiny, compiling, without_pictures):
    cls = short_trainer(name, plans_patch_size=(32, 48, 32), plans_batch_size=4)
    expected = exercise(ready(make(cls, tiny, device=device)))
    compiling()
    trainer = ready(make(cls, tiny, device=device))
    assert isinstance(trainer.network, OptimizedModule)
    for ours, theirs in zip(exercise(trainer), expected, strict=True):
        torch.testing.assert_close(ours.float(), theirs.float(), atol=0.05, rtol=0.02)
