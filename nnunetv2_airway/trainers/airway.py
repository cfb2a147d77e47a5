"""nnU-Net's own training turned to small airways: what its optimiser and loss reach with a window, weights and patches.

In no paper; the parts are those of Tang 2022 (weights, small airways) and of nnU-Net (network, patch and batch size,
optimiser, loss, sampling of the first phase). What each part is worth is in ``documentation/benchmarks.md``.
"""

from nnunetv2_airway.losses.rows import CENTERLINE_DISTANCE, DICE_AND_CROSS_ENTROPY, LOCAL_IMBALANCE, TANG_ROOT
from nnunetv2_airway.trainers.wings_lib import tang_phases
from nnunetv2_airway.training.airway_trainer import AirwayTrainer
from nnunetv2_airway.training.networks import PLANNED, WINGSNET
from nnunetv2_airway.training.schedule import RANDOM, Phase, Sampling


class nnUNetTrainerAirway(AirwayTrainer):
    """Two thirds as nnU-Net, on a narrow window; then patches of small airways, and weights in the cross-entropy."""

    network = PLANNED
    windows = ("narrow",)
    plans_patch_size = None
    plans_batch_size = None
    initial_lr = 1e-2
    learning_rate_decay = 0.9
    momentum = 0.99
    nesterov = True
    weight_decay = 3e-5
    validation_sampling = None
    phases = (
        Phase(100, DICE_AND_CROSS_ENTROPY, sampling=None),
        Phase(
            50,
            DICE_AND_CROSS_ENTROPY,
            (LOCAL_IMBALANCE, CENTERLINE_DISTANCE),
            Sampling(small=0.25, centerline=0.25, random=0.5),
        ),
    )


class nnUNetTrainerWingsAirway(nnUNetTrainerAirway):
    """The same on WingsNet."""

    network = WINGSNET
    plans_patch_size = (128, 128, 128)
    plans_batch_size = 2


class nnUNetTrainerLIBRootSGD(nnUNetTrainerAirway):
    """Tang 2022 as in the entry's public code, on nnU-Net's network with nnU-Net's optimiser, to tell causes apart."""

    windows = ("original", "tang")
    validation_sampling = RANDOM
    phases = tang_phases(TANG_ROOT)
