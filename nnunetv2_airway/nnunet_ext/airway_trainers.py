"""The folder that ``nnUNet_extTrainer`` points to: nnU-Net imports every module in it and looks for trainers."""

from nnunetv2_airway.trainers.wings import nnUNetTrainerWings, nnUNetTrainerWingsDemo

__all__ = ["nnUNetTrainerWings", "nnUNetTrainerWingsDemo"]
