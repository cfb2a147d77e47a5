"""WingsNet alone: group supervision with Dice, random crops (Tang 2022's first phase; Zheng 2021's network)."""

from nnunetv2_airway.trainers.airway_trainer import AirwayTrainer


class nnUNetTrainerWings(AirwayTrainer):
    """Both groups supervised with Dice for 100 epochs."""


class nnUNetTrainerWingsDemo(nnUNetTrainerWings):
    """The same in minutes on two CPU cores: small patches, high learning rate; for ``nnUNetv2_airway_demo`` only."""

    plans_patch_size = (32, 32, 32)
    plans_batch_size = 6
    epochs = 26
    learning_rate = 3e-3
    learning_rate_decay = 0.9
    foreground_share = 0.67
    checkpoint_every = 2

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):  # noqa: N802
        """Mirror in training as nnU-Net does, but predict each patch once instead of eight times."""
        settings = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        self.inference_allowed_mirroring_axes = None
        return settings
