"""Inverse weighting over airway branches: every branch counts alike. In no paper; see Shirokikh 2020 for components."""

from nnunetv2_airway.losses.rows import DICE, INVERSE_BRANCH
from nnunetv2_airway.schedule import HARD_SMALL_RANDOM, RANDOM, Phase
from nnunetv2_airway.trainers.wings import nnUNetTrainerWings


class nnUNetTrainerWingsBranchWeighted(nnUNetTrainerWings):
    """Tang 2022's schedule and sampling, with Dice whose voxels weigh the inverse of their branch's size."""

    phases = (
        Phase(100, DICE, sampling=RANDOM),
        Phase(50, DICE, (INVERSE_BRANCH,), HARD_SMALL_RANDOM),
    )
