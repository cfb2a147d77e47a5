"""Trainers of published networks: what ``nnUNetv2_airway_import`` names in a model, and what fine-tunes it.

Network and windows are those of the files, see ``inference.published``. The files tell nothing of a recipe: here it is
that of the paper, and for the ATM'22 organisers' baseline, which has none, that of the challenge's winner.
"""

from nnunetv2_airway.trainers.wings_lib import nnUNetTrainerWingsLIB, nnUNetTrainerWingsLIBRoot
from nnunetv2_airway.trainers.zheng import nnUNetTrainerWingsGUL
from nnunetv2_airway.training.networks import BASELINE_UNET


class nnUNetTrainerWingsLIBPublished(nnUNetTrainerWingsLIBRoot):
    """Tang 2022 with loss and windows of the entry's public code."""

    windows = ("original", "tang_published")


class nnUNetTrainerWingsGULPublished(nnUNetTrainerWingsGUL):
    """Zheng 2021 with a window of the public code."""

    windows = ("zheng_published",)


class nnUNetTrainerWingsGULWide(nnUNetTrainerWingsGUL):
    """Zheng 2021 with the other window of the public code, with which others run it."""

    windows = ("zheng_wide",)


class nnUNetTrainerATM22Baseline(nnUNetTrainerWingsLIB):
    """The U-Net of the ATM'22 organisers' baseline."""

    network = BASELINE_UNET
    windows = ("zheng_published",)
