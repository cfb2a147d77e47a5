import pytest
import torch
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_airway.losses.rows import DICE, DICE_AND_WEIGHTED_CROSS_ENTROPY, UnionLoss
from nnunetv2_airway.losses.weights import DistanceDecay
from nnunetv2_airway.trainers.zheng import (
    dice,
    dice_and_weighted_cross_entropy,
    general_union,
    nnUNetTrainerGUL,
    nnUNetTrainerWingsGUL,
    nnUNetTrainerWingsGULRoot,
    prior_tversky,
    root_tversky,
    tversky,
    zheng_phases,
)
from nnunetv2_airway.training.carry_maps import SpatialWithMaps
from nnunetv2_airway.training.schedule import HARD_RANDOM, RANDOM, first_epoch


def symbols(loss: UnionLoss) -> tuple:
    return loss.alpha, loss.beta, loss.root, loss.epsilon


@pytest.mark.parametrize("trainer", [nnUNetTrainerWingsGUL, nnUNetTrainerGUL])
def test_the_paper_s_schedule(trainer):
    before, first, second = trainer.phases
    assert (before.epochs, before.loss, before.weights, before.sampling) == (100, DICE, (), RANDOM)
    assert (first.epochs, first.sampling, first.lr_milestones, first.label_cut) == (100, HARD_RANDOM, (60, 90), 0.8)
    assert symbols(first.loss) == (0.1, 0.9, 0.7, 1e-4) and first.weights == (DistanceDecay(0.1, exponent=0.5),)
    assert (second.epochs, second.sampling, second.lr_milestones, second.label_cut) == (30, HARD_RANDOM, (15, 25), 0.9)
    assert symbols(second.loss) == (0.2, 0.8, 0.7, 1e-4) and second.weights == (DistanceDecay(0.2, exponent=0.5),)


def test_root_tversky_in_the_second_stage():
    assert nnUNetTrainerWingsGULRoot.phases[:2] == nnUNetTrainerWingsGUL.phases[:2]
    second = nnUNetTrainerWingsGULRoot.phases[2]
    assert symbols(second.loss) == (0.2, 0.8, 0.7, 1e-4) and second.weights == () and second.label_cut == 0.9


@pytest.mark.parametrize(
    ("family", "root", "weighted"),
    [(general_union, 0.7, True), (root_tversky, 0.7, False), (prior_tversky, 1, True), (tversky, 1, False)],
)
def test_the_losses_of_fig_7_by_one_argument(family, root, weighted):
    _, first, second = zheng_phases(family)
    for phase, alpha in ((first, 0.1), (second, 0.2)):
        assert (phase.loss.alpha, phase.loss.beta, phase.loss.root) == (alpha, 1 - alpha, root)
        assert phase.weights == ((DistanceDecay(alpha),) if weighted else ())
    assert len({row.loss.name for row in (first, second)}) == 2, "named with their alpha in log and pictures"


def test_the_losses_of_fig_7_without_alpha():
    assert [row.loss for row in zheng_phases(dice)] == [DICE] * 3
    assert [row.loss for row in zheng_phases(dice_and_weighted_cross_entropy)[1:]] == [
        DICE_AND_WEIGHTED_CROSS_ENTROPY
    ] * 2


class Small(nnUNetTrainerWingsGUL):
    plans_patch_size = (24, 32, 32)
    plans_batch_size = 2
    patches_per_case = 1


def test_sgd_whose_steps_restart(make):
    trainer = make(Small)
    trainer.initialize()
    assert type(trainer.optimizer) is torch.optim.SGD
    (group,) = trainer.optimizer.param_groups
    assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.9, 1e-4, False)
    rates = []
    for epoch in (0, 100, 159, 160, 190, 200, 214, 215, 225, 229):
        trainer.lr_scheduler.step(epoch)
        rates.append(group["lr"])
    assert rates == pytest.approx([1e-2, 1e-2, 1e-2, 1e-3, 1e-4, 1e-2, 1e-2, 1e-3, 1e-4, 1e-4])
    assert trainer.num_epochs == 230


def test_one_window_and_nothing_but_rotation(make):
    trainer = make(Small)
    trainer.initialize()
    air, bone = (trainer.network.hounsfield(torch.full((1, 1, 8, 8, 8), hu)) for hu in (-1000.0, 600.0))
    assert air.shape[1] == 1 and (air == 0).all() and (bone == 1).all()
    angles, dummy_2d, initial, mirror = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    assert torch.rad2deg(torch.tensor(angles)).tolist() == pytest.approx([-15, 15]) and not dummy_2d and mirror == ()
    assert trainer.inference_allowed_mirroring_axes is None, "a network that has seen no mirrored patch predicts none"
    trainer.prepare_phase()
    steps = trainer.get_dataloaders()[0].data_loader.transforms.transforms
    assert not any(isinstance(step, RandomTransform) for step in steps)
    (spatial,) = (step.spatial for step in steps if isinstance(step, SpatialWithMaps))
    assert (spatial.p_rotation, spatial.p_scaling) == (1, 0)
    # the initial patch holds the final one turned by 15 degrees about each axis, and is smaller than nnU-Net's for 30
    stock = nnUNetTrainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size(trainer)[2]
    assert all(final < size < of_30 for final, size, of_30 in zip((24, 32, 32), initial, stock, strict=True))


def test_the_cut_changes_with_the_stage(make, monkeypatch):
    trainer = make(Small)
    trainer.initialize()
    cuts = []
    for index in range(3):
        trainer.current_epoch = first_epoch(trainer.phases, index)
        steps = trainer.get_training_transforms(
            (24, 32, 32), (-0.26, 0.26), [[1.0] * 3], (), False, use_mask_for_norm=[False]
        ).transforms
        cuts += [step.cut for step in steps if type(step).__name__ == "SpatialWithMaps"]
    assert cuts == [0.8, 0.8, 0.9]


def test_loaders_are_rebuilt_where_the_cut_alone_changes(make, monkeypatch):
    trainer = make(Small)
    trainer.phases = trainer.phases[:1] * 2 + (type(trainer.phases[0])(1, DICE, label_cut=0.9),)
    trainer.num_epochs = 201
    trainer.initialize()
    trainer.on_train_start()
    loaders = []
    for epoch in (0, 100, 200):
        trainer.current_epoch = epoch
        monkeypatch.setattr(trainer.logger, "log", lambda *args: None)
        trainer.on_epoch_start()
        loaders.append(trainer.dataloader_train)
    assert loaders[0] is loaders[1] is not loaders[2]
