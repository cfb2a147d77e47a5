"""The device of these tests: a GPU, or the CPU, on which a run of them is rehearsed in small."""

import os

import pytest
import torch

VARIABLE = "NNUNETV2_AIRWAY_TEST_DEVICE"


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where to compute; skips where there is no GPU."""
    if os.environ.get(VARIABLE) == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip(f"PyTorch sees no GPU; {VARIABLE}=cpu rehearses these tests on the CPU")
    return torch.device("cuda", 0)


@pytest.fixture
def gpu(device) -> torch.device:
    """A GPU, for what has no like on the CPU."""
    if device.type == "cpu":
        pytest.skip("a GPU is needed, this is a rehearsal on the CPU")
    return device


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch):
    """What is compiled says so."""
    monkeypatch.setenv("nnUNet_compile", "f")
    yield
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
