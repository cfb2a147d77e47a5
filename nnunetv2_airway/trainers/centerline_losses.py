"""Losses on centerlines that others have published, in stock nnU-Net, to be compared with.

Papers: Shit et al., "clDice", CVPR 2021; Kirchhoff et al., "Skeleton Recall Loss", ECCV 2024. As the latter compares
them: nnU-Net's own Dice and cross-entropy, with the loss added to both.
"""

from nnunetv2_airway.losses.rows import DICE_CROSS_ENTROPY_AND_CL_DICE, SKELETON_RECALL
from nnunetv2_airway.trainers.inverse_weighting import LesionTrainer, as_nnunet


class nnUNetTrainerClDice(LesionTrainer):
    """Dice + cross-entropy + clDice."""

    phases = as_nnunet(DICE_CROSS_ENTROPY_AND_CL_DICE)


class nnUNetTrainerSkeletonRecall(LesionTrainer):
    """Dice + cross-entropy + skeleton recall."""

    phases = as_nnunet(SKELETON_RECALL)
