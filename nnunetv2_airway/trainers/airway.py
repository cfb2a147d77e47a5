"""nnU-Net's own training for airways: with a window made for them, and a loss that thin ones count in.

In no paper; the other parts are those of nnU-Net (network, patch and batch size, optimiser, sampling, length) and, in
the variants, of Tang 2022 (weights, small airways). What each part is worth is in ``documentation/benchmarks.md``.
"""

from nnunetv2_airway.losses.rows import DICE_AND_CROSS_ENTROPY, DICE_CROSS_ENTROPY_AND_THIN_DICE, TANG_ROOT
from nnunetv2_airway.losses.weights import CENTERLINE_DISTANCE, LOCAL_IMBALANCE, THIN_AIRWAYS
from nnunetv2_airway.trainers.inverse_weighting import as_nnunet
from nnunetv2_airway.trainers.wings_lib import tang_phases
from nnunetv2_airway.training.airway_trainer import AirwayTrainer
from nnunetv2_airway.training.networks import BASELINE_UNET, PLANNED, WINGSNET
from nnunetv2_airway.training.schedule import RANDOM, Phase, Sampling


class nnUNetTrainerAirway(AirwayTrainer):
    """nnU-Net on one narrow window, with the Dice of thin airways in its loss."""

    network = PLANNED
    windows = ("narrow",)
    plans_patch_size = None
    plans_batch_size = None
    patches_per_case = None
    initial_lr = 1e-2
    learning_rate_decay = 0.9
    momentum = 0.99
    nesterov = True
    weight_decay = 3e-5
    validation_sampling = None
    phases = as_nnunet(DICE_CROSS_ENTROPY_AND_THIN_DICE, THIN_AIRWAYS)


class nnUNetTrainerAirwayLIB(nnUNetTrainerAirway):
    """The last third with patches of small airways, and Tang's weights in the cross-entropy."""

    patches_per_case = 16
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
    """``nnUNetTrainerAirway`` on WingsNet."""

    network = WINGSNET
    plans_patch_size = (128, 128, 128)
    plans_batch_size = 2


class nnUNetTrainerATM22Airway(nnUNetTrainerAirway):
    """``nnUNetTrainerAirway`` on network and window of the ATM'22 organisers' baseline: that of the package's model."""

    network = BASELINE_UNET
    windows = ("zheng_published",)
    plans_patch_size = (128, 128, 128)
    plans_batch_size = 2


class nnUNetTrainerLIBRootSGD(nnUNetTrainerAirway):
    """Tang 2022 as in the entry's public code, on nnU-Net's network with nnU-Net's optimiser, to tell causes apart."""

    windows = ("original", "tang")
    patches_per_case = 16
    validation_sampling = RANDOM
    phases = tang_phases(TANG_ROOT)
