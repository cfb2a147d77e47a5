"""Inverse weighting over airway branches, so that every branch counts alike. In no paper; see Shirokikh 2020.

Two things differ from the paper beside the branches. The background is no branch among others: it would weigh so little
that a network predicts everything around the airways (on phantoms its precision fell to a fifth). And no weight is
raised to 1, since the trachea would then count more than the rest.
"""

from nnunetv2_airway.losses.rows import DICE
from nnunetv2_airway.losses.weights import INVERSE_BRANCH
from nnunetv2_airway.trainers.wings import nnUNetTrainerWings
from nnunetv2_airway.training.schedule import HARD_SMALL_RANDOM, RANDOM, Phase


class nnUNetTrainerWingsBranchWeighted(nnUNetTrainerWings):
    """Tang 2022's length and sampling, with Dice whose voxels weigh the inverse of their branch's size."""

    phases = (
        Phase(100, DICE, sampling=RANDOM),
        Phase(50, DICE, (INVERSE_BRANCH,), HARD_SMALL_RANDOM),
    )
