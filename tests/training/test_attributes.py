"""nnU-Net's own names in a trainer's class body and in its ``__init__``: obeyed, or refused before the first epoch."""

import inspect
from pathlib import Path

import pytest

from nnunetv2_airway.io.errors import UserError
from nnunetv2_airway.losses.rows import DICE
from nnunetv2_airway.trainers.airway import nnUNetTrainerAirway
from nnunetv2_airway.trainers.inverse_weighting import nnUNetTrainerInverseWeightedDice
from nnunetv2_airway.trainers.wings import nnUNetTrainerWings
from nnunetv2_airway.training.networks import PLANNED
from nnunetv2_airway.training.schedule import Phase


def variant(base: type, place: str, **values) -> type:
    """A trainer whose body, or whose ``__init__``, sets attributes."""
    if place == "body":
        return type("nnUNetTrainerMine", (base,), values)

    def init(self, plans, configuration, fold, dataset_json, device):
        base.__init__(self, plans, configuration, fold, dataset_json, device)
        for name, value in values.items():
            setattr(self, name, value)

    return type("nnUNetTrainerMine", (base,), {"__init__": init})


@pytest.mark.parametrize("place", ["body", "init"])
@pytest.mark.parametrize("base", [nnUNetTrainerWings, nnUNetTrainerInverseWeightedDice])
def test_nnunets_hyperparameters_are_obeyed(make, tiny, base, place):
    mine = variant(base, place, initial_lr=0.25, weight_decay=0.125, save_every=7)
    trainer = make(mine, tiny)
    trainer.initialize()
    (group,) = trainer.optimizer.param_groups
    assert (group["lr"], group["weight_decay"], trainer.save_every) == (0.25, 0.125, 7)
    trainer.lr_scheduler.step(0)
    assert group["lr"] == 0.25


def test_the_init_of_a_subclass_has_the_last_word(make):
    class First(nnUNetTrainerWings):
        initial_lr = 0.5

    trainer = make(variant(First, "init", initial_lr=0.25))
    trainer.initialize()
    assert trainer.optimizer.param_groups[0]["lr"] == 0.25


@pytest.mark.parametrize("place", ["body", "init"])
@pytest.mark.parametrize(
    ("name", "value", "instead"),
    [
        ("num_epochs", 300, "phases, which have 100 epochs: set that instead"),
        ("num_iterations_per_epoch", 100, "cases x patches_per_case / plans_batch_size"),
        ("num_val_iterations_per_epoch", 10, "cases x patches_per_case / plans_batch_size"),
        ("oversample_foreground_percent", 0.5, "the sampling of phases: set that instead"),
    ],
)
def test_what_contradicts_the_recipe_is_refused_before_the_first_epoch(make, place, name, value, instead):
    trainer = make(variant(nnUNetTrainerWings, place, **{name: value}))
    with pytest.raises(UserError, match=rf"nnUNetTrainerMine sets {name} = {value}.*{instead}"):
        trainer.initialize()
    assert not trainer.was_initialized


def test_what_agrees_with_the_recipe_is_not_refused(make):
    class Agreeing(nnUNetTrainerWings):
        num_epochs = 3
        phases = (Phase(3, DICE),)

    trainer = make(Agreeing)
    trainer.initialize()
    assert trainer.num_epochs == 3


def test_where_nnunet_samples_its_own_share_of_foreground_is_obeyed(make, tiny):
    mine = variant(nnUNetTrainerInverseWeightedDice, "body", oversample_foreground_percent=0.75)
    trainer = make(mine, tiny)
    trainer.initialize()
    assert trainer.oversample_foreground_percent == 0.75


@pytest.mark.parametrize("place", ["body", "init"])
@pytest.mark.parametrize(
    ("other", "right"),
    [
        ("learning_rate", "initial_lr"),
        ("regularization", "weight_decay"),
        ("checkpoint_every", "save_every"),
        ("lr", "initial_lr"),
        ("batch_size", "plans_batch_size"),
    ],
)
def test_other_names_are_refused_when_this_trainer_is_used(make, place, other, right):
    mine = variant(nnUNetTrainerWings, place, **{other: 1})  # nnU-Net imports all trainers, whichever is asked for
    trainer = make(mine)
    with pytest.raises(UserError, match=f"nnUNetTrainerMine sets {other}, which is not read: call it {right}"):
        trainer.initialize()


def test_a_schedule_by_the_name_of_one_phase_is_refused(make):
    trainer = make(variant(nnUNetTrainerWings, "body", phase=(Phase(4, DICE),)))
    with pytest.raises(UserError, match="sets phase, which is not read: call it phases"):
        trainer.initialize()


def test_a_name_that_nothing_could_replace_is_let_be(make, tiny):
    trainer = make(variant(nnUNetTrainerInverseWeightedDice, "body", patch_size=(64, 64, 64)), tiny)
    trainer.initialize()  # nnU-Net's plans decide about patches here


def test_what_looks_misspelt_stands_in_the_log(make):
    with pytest.warns(UserWarning, match="Is initial_lr meant"):
        trainer = make(variant(nnUNetTrainerWings, "body", inital_lr=1))
    trainer.initialize()
    words = "WARNING: nnUNetTrainerMine sets inital_lr, which nothing reads. Is initial_lr meant?"
    assert words in Path(trainer.log_file).read_text()


def test_the_log_says_who_decides_about_patch_and_batch(make):
    def edited(plans, dataset):
        plans["configurations"]["3d_fullres"] |= {"patch_size": [16, 24, 24], "batch_size": 5}

    trainer = make(nnUNetTrainerWings, edited)
    trainer.initialize()
    patch = trainer.configuration_manager.patch_size
    assert (
        f"Patches of {patch} voxels, 32 a batch: plans_patch_size = (128, 128, 128), fitted to the images, and "
        f"plans_batch_size = 32 of "
        f"nnUNetTrainerWings decide, not the plans, which say [16, 24, 24] and 5"
    ) in Path(trainer.log_file).read_text()
    # nnU-Net reads the arguments' names
    assert list(inspect.signature(nnUNetTrainerWings.__init__).parameters)[1:4] == ["plans", "configuration", "fold"]


@pytest.mark.parametrize("base", [nnUNetTrainerWings, nnUNetTrainerInverseWeightedDice])
def test_phases_may_be_set_in_init_and_the_epochs_follow(make, tiny, base):
    trainer = make(variant(base, "init", phases=(Phase(4, DICE),)), tiny)
    trainer.initialize()
    assert trainer.num_epochs == 4
    with pytest.raises(UserError, match="phases, which have 4 epochs"):
        make(variant(base, "init", phases=(Phase(4, DICE),), num_epochs=5), tiny).initialize()


@pytest.mark.parametrize(
    ("name", "value"),
    [("windows", ("zheng",)), ("plans_patch_size", (16, 16, 16)), ("plans_batch_size", 4), ("network", PLANNED)],
)
def test_what_is_read_before_init_has_ended_is_refused_there(make, name, value):
    with pytest.raises(UserError, match=f"nnUNetTrainerMine sets {name} in __init__.*in the class body"):
        make(variant(nnUNetTrainerWings, "init", **{name: value})).initialize()


def test_what_is_read_later_is_obeyed_in_init(make):
    trainer = make(variant(nnUNetTrainerWings, "init", patches_per_case=64, momentum=0.5))
    trainer.initialize()
    trainer.prepare_phase()
    assert trainer.num_iterations_per_epoch == 8 and trainer.optimizer.param_groups[0]["momentum"] == 0.5


def test_an_epoch_may_be_as_long_as_nnunets(make):
    trainer = make(variant(nnUNetTrainerAirway, "body", plans_patch_size=(24, 32, 32)))
    trainer.initialize()
    trainer.prepare_phase()
    assert (trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch) == (250, 50)
    shorter = make(variant(nnUNetTrainerAirway, "body", plans_patch_size=(24, 32, 32), num_iterations_per_epoch=7))
    shorter.initialize()
    shorter.prepare_phase()
    assert shorter.num_iterations_per_epoch == 7
