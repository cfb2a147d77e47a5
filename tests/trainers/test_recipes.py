"""What each trainer is made of, as its paper has it. That it trains is shown in ``test_every_trainer``."""

import pytest

from nnunetv2_airway.nnunet_ext import airway_trainers
from nnunetv2_airway.training.airway_trainer import AirwayTrainer
from nnunetv2_airway.training.networks import BASELINE_UNET, PLANNED, WINGSNET
from nnunetv2_airway.training.phased_trainer import PhasedTrainer

ADAMW, SGD, NNUNET = (1e-4, 1e-2, None), (1e-2, 1e-4, 0.9), (1e-2, 3e-5, 0.99)
"""Learning rate, weight decay, momentum."""
TANG, ZHENG = ("original", "tang"), ("zheng",)
"""Windows."""
LIB = [
    (100, "Dice", "none", "100% random", ()),
    (5, "union with p^2", "local imbalance", "50% hard, 25% small, 25% random", ()),
    (45, "union with p^2", "local imbalance + centerline distance", "50% hard, 25% small, 25% random", ()),
]
GUL = [
    (100, "Dice", "none", "100% random", (60, 90)),
    (100, "general union, alpha 0.1", "distance decay", "50% hard, 50% random", (60, 90)),
    (30, "general union, alpha 0.2", "distance decay", "50% hard, 50% random", (15, 25)),
]
DICE_CE = "Dice + cross-entropy"
AIRWAY = [(1000, f"{DICE_CE} + Dice of thin airways", "thin airways", "None", ())]
AIRWAY_LIB = [
    (100, DICE_CE, "none", "None", ()),
    (50, DICE_CE, LIB[2][2], "25% small, 25% centerline, 50% random", ()),
]
ROOT = [LIB[0], *((n, "union with p^0.7", *row) for n, _, *row in LIB[1:])]
AIRWAYS = {
    "Airway": (PLANNED, ("narrow",), NNUNET, None, AIRWAY),
    "AirwayLIB": (PLANNED, ("narrow",), NNUNET, None, AIRWAY_LIB),
    "WingsAirway": (WINGSNET, ("narrow",), NNUNET, None, AIRWAY),
    "ATM22Airway": (BASELINE_UNET, ("zheng_published",), NNUNET, None, AIRWAY),
    "LIBRootSGD": (PLANNED, TANG, NNUNET, None, ROOT),
    "Wings": (WINGSNET, TANG, ADAMW, None, LIB[:1]),
    "WingsLIB": (WINGSNET, TANG, ADAMW, None, LIB),
    "WingsLIBRoot": (WINGSNET, TANG, ADAMW, None, ROOT),
    "LIB": (PLANNED, TANG, ADAMW, None, LIB),
    "WingsGUL": (WINGSNET, ZHENG, SGD, 15.0, GUL),
    "WingsGULRoot": (WINGSNET, ZHENG, SGD, 15.0, [*GUL[:2], (30, "root Tversky, alpha 0.2", "none", *GUL[2][3:])]),
    "GUL": (PLANNED, ZHENG, SGD, 15.0, GUL),
    "WingsLIBPublished": (
        WINGSNET, ("original", "tang_published"), ADAMW, None, ROOT
    ),
    "WingsGULPublished": (WINGSNET, ("zheng_published",), SGD, 15.0, GUL),
    "WingsGULWide": (WINGSNET, ("zheng_wide",), SGD, 15.0, GUL),
    "ATM22Baseline": (BASELINE_UNET, ("zheng_published",), ADAMW, None, LIB),
    "WingsBranchWeighted": (
        WINGSNET, TANG, ADAMW, None, [LIB[0], (50, "Dice", "inverse branch size", *LIB[1][3:])]
    ),
    "WingsAIIB23": (
        WINGSNET, TANG, ADAMW, None,
        [LIB[0], (50, "AIIB23", "local imbalance + missed centerline + breakage", *LIB[1][3:])],
    ),
}  # fmt: skip
LESIONS = {
    "ClDice": ("Dice + cross-entropy + clDice", "none"),
    "SkeletonRecall": ("Dice + cross-entropy + skeleton recall", "none"),
    "InverseWeightedDice": ("Dice", "inverse component size"),
    "InverseWeightedBCE": ("cross-entropy", "inverse component size"),
    "InverseWeightedFocal": ("focal", "inverse component size"),
    "InverseWeightedAsymmetricSimilarity": ("asymmetric similarity", "inverse component size"),
    "WeightedCE": ("weighted cross-entropy", "none"),
    "GeneralizedDice": ("generalized Dice", "none"),
    "Focal": ("focal", "none"),
    "AsymmetricSimilarity": ("asymmetric similarity", "none"),
}


def schedule(trainer) -> list[tuple]:
    return [
        (
            phase.epochs,
            phase.loss.name,
            " + ".join(weight.name for weight in phase.weights) or "none",
            str(phase.sampling),
            phase.lr_milestones,
        )
        for phase in trainer.phases
    ]


def test_none_is_left_out():
    names = {f"nnUNetTrainer{name}" for name in (*AIRWAYS, *LESIONS)}
    assert names | {"nnUNetTrainerWingsLIB_demo"} == set(airway_trainers.__all__)


@pytest.mark.parametrize("name", AIRWAYS)
def test_an_airway_recipe_is_its_paper_s(make, tiny, name):
    trainer = make(getattr(airway_trainers, f"nnUNetTrainer{name}"), tiny)
    trainer.initialize()
    network, windows, (learning_rate, weight_decay, momentum), rotation, rows = AIRWAYS[name]
    assert isinstance(trainer, AirwayTrainer) and type(trainer).network == network
    assert trainer.windows == windows and trainer.network.hounsfield.factor.shape[1] == len(windows)
    (group,) = trainer.optimizer.param_groups
    assert (group["lr"], group["weight_decay"], group.get("momentum")) == (learning_rate, weight_decay, momentum)
    planned = trainer.plans_manager.get_configuration("3d_fullres").batch_size
    batch = 32 if network is not PLANNED or momentum != 0.99 else planned
    batch = {"WingsAIIB23": 20, "WingsAirway": 2, "ATM22Airway": 2}.get(name, batch)
    assert group.get("nesterov", False) == (momentum == 0.99)
    assert (trainer.rotation, trainer.batch_size) == (rotation, batch)
    assert trainer.patches_per_case == (None if schedule(trainer) == AIRWAY else 16)
    assert [phase.label_cut for phase in trainer.phases] == ([0.8, 0.8, 0.9] if rotation else [0.5] * len(rows))
    assert schedule(trainer) == rows and trainer.num_epochs == sum(row[0] for row in rows)
    assert trainer.loss.loss == trainer.phases[0].loss and trainer.monitors_tree


@pytest.mark.parametrize("name", LESIONS)
def test_a_lesion_recipe_differs_from_nnunets_in_the_loss_alone(make, tiny, name):
    trainer = make(getattr(airway_trainers, f"nnUNetTrainer{name}"), tiny)
    trainer.initialize()
    assert isinstance(trainer, PhasedTrainer) and not isinstance(trainer, AirwayTrainer)
    assert schedule(trainer) == [(1000, *LESIONS[name], "None", ())]
    (group,) = trainer.optimizer.param_groups
    assert (group["lr"], group["weight_decay"], group["momentum"], group["nesterov"]) == (1e-2, 3e-5, 0.99, True)
    assert (trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch) == (
        1000,
        250,
        50,
    )
    assert type(trainer.network).__name__ == "PlainConvUNet" and not trainer.monitors_tree
