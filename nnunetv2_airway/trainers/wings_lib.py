"""The recipe of the team that won the ATM'22 airway challenge (Tang 2022): three phases, two weights, hard regions."""

from nnunetv2_airway.losses.rows import DICE, TANG, TANG_ROOT, Loss
from nnunetv2_airway.losses.weights import CENTERLINE_DISTANCE, LOCAL_IMBALANCE
from nnunetv2_airway.trainers.wings import nnUNetTrainerWings
from nnunetv2_airway.training.networks import PLANNED
from nnunetv2_airway.training.schedule import HARD_SMALL_RANDOM, RANDOM, Phase, Sampling


def tang_phases(loss: Loss) -> tuple[Phase, ...]:
    """Return Tang 2022's schedule (section 2.1) with a loss in its second and third phase."""
    return (
        Phase(100, DICE, sampling=RANDOM),
        Phase(5, loss, (LOCAL_IMBALANCE,), HARD_SMALL_RANDOM),
        Phase(45, loss, (LOCAL_IMBALANCE, CENTERLINE_DISTANCE), HARD_SMALL_RANDOM),
    )


class nnUNetTrainerWingsLIB(nnUNetTrainerWings):
    """Tang 2022 as printed: p^2 in the loss (eq. 2)."""

    phases = tang_phases(TANG)


class nnUNetTrainerWingsLIBRoot(nnUNetTrainerWings):
    """The same with the loss of the entry's public code: p^0.7 and alpha = 0.2."""

    phases = tang_phases(TANG_ROOT)


class nnUNetTrainerLIB(nnUNetTrainerWingsLIB):
    """The recipe of nnUNetTrainerWingsLIB on nnU-Net's own network, to tell loss and network apart."""

    network = PLANNED


SMALL_PATCHES = Sampling(centerline=0.67, random=0.33)
"""Random patches of 32 voxels would hardly ever hold an airway."""


class nnUNetTrainerWingsLIB_demo(nnUNetTrainerWingsLIB):
    """The same in minutes on two CPU cores: small patches, high learning rate; for ``nnUNetv2_airway_demo`` only."""

    plans_patch_size = (32, 32, 32)
    plans_batch_size = 2
    patches_per_case = 12
    initial_lr = 3e-3
    learning_rate_decay = 0.9
    save_every = 2
    mining_step_size = 1.0
    validation_sampling = SMALL_PATCHES
    phases = (
        Phase(8, DICE, sampling=SMALL_PATCHES),
        Phase(1, TANG, (LOCAL_IMBALANCE,), HARD_SMALL_RANDOM),
        Phase(3, TANG, (LOCAL_IMBALANCE, CENTERLINE_DISTANCE), HARD_SMALL_RANDOM),
    )

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):  # noqa: N802
        """Mirror in training as nnU-Net does, but predict each patch once instead of eight times."""
        settings = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        self.inference_allowed_mirroring_axes = None
        return settings
