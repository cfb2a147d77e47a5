"""Short forms of the study, ``benchmarks/study_trainers``, with nnU-Net's real trainer and logger."""

import time

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from study_trainers import shortened

SETTINGS = {
    "attributes": {}, "seed": 5, "patches": 100, "minutes": None, "epochs": 7, "patch": [32, 32, 32], "batch": 4,
    "width": 0.5, "save_every": 2, "validation": 3,
}  # fmt: skip


@pytest.fixture
def short(make, monkeypatch):
    """Make the short form of nnU-Net's trainer with some settings."""

    def short(**settings):
        monkeypatch.setattr(shortened, "SETTINGS", {**SETTINGS, **settings})
        return make(shortened.short_form(nnUNetTrainer))

    return short


def test_stock_nnunet_gets_patch_budget_width_and_seed(short, make):
    trainer = short(attributes={"initial_lr": 0.5})
    draws = np.random.rand(), float(torch.rand(1))
    trainer._set_batch_size_and_oversample()  # as nnU-Net does when it initialises
    assert list(trainer.configuration_manager.patch_size) == [32, 32, 32] and trainer.batch_size == 4
    planned = make(nnUNetTrainer).configuration_manager.network_arch_init_kwargs["features_per_stage"]
    own = trainer.configuration_manager.network_arch_init_kwargs["features_per_stage"]
    assert own == [max(8, features // 2) for features in planned]
    assert (trainer.num_epochs, trainer.save_every, trainer.initial_lr) == (7, 2, 0.5)
    for epoch, iterations in ((0, 4), (1, 4)):  # 25 batches are left for 7 epochs, then 21 for 6
        trainer.current_epoch = epoch
        trainer.on_epoch_start()
        assert (trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch) == (iterations, 3)
        trainer.logger.log("epoch_end_timestamps", time.time(), epoch)
    short(seed=6)
    assert (np.random.rand(), float(torch.rand(1))) != draws
    short()
    assert (np.random.rand(), float(torch.rand(1))) == draws


def test_a_budget_of_time_is_measured_in_nnunets_log(short):
    trainer = short(patches=None, minutes=2)
    started = time.time()
    trainer.on_epoch_start()
    assert trainer.num_iterations_per_epoch == shortened.FIRST_ITERATIONS
    # 8 iterations took 16 s; 104 s are left for 6 epochs
    trainer.logger.log("epoch_end_timestamps", started + 16, 0)
    trainer.current_epoch = 1
    trainer.on_epoch_start()
    assert trainer.num_iterations_per_epoch == round(104 / 6 / 2)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"learnin_rate": 0.003}, r"nnUNetTrainer_study has no attribute learnin_rate, nothing would read it"),
        ({"phases.1.weights": []}, r"nnUNetTrainer has no phases, nothing would read phases\.1\.weights"),
    ],
)
def test_settings_that_nothing_would_read_are_refused(short, attributes, message):
    with pytest.raises(ValueError, match=message):
        short(attributes=attributes)
