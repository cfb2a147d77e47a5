"""Trainers in this process, on the phantom data set of the workspace."""

import json

import pytest
import torch
from nnunetv2.training.logging.nnunet_logger import LocalLogger

DATASET = "Dataset599_AirwayPhantom"


@pytest.fixture
def make(workspace, tmp_path, monkeypatch):
    """Make a trainer of the phantom data set, with results in a folder of the test's own and no worker processes."""
    monkeypatch.setenv("nnUNet_raw", str(workspace / "nnUNet_raw"))
    monkeypatch.setenv("nnUNet_preprocessed", str(workspace / "nnUNet_preprocessed"))
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    # its picture, drawn in a second or two after each epoch, is not what these tests are about
    monkeypatch.setattr(LocalLogger, "plot_progress_png", lambda self, folder: None)
    folder = workspace / "nnUNet_preprocessed" / DATASET

    def make(cls, change=lambda plans, dataset: None, *, continued=False):
        plans, dataset = (json.loads((folder / name).read_text()) for name in ("nnUNetPlans.json", "dataset.json"))
        change(plans, dataset)
        return cls({**plans, "continue_training": continued}, "3d_fullres", 0, dataset, torch.device("cpu"))

    return make


@pytest.fixture
def tiny():
    """A change of plans for ``make``: nnU-Net's network with a few channels."""

    def change(plans, dataset):
        options = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
        options["features_per_stage"] = [4] * options["n_stages"]

    return change
