"""Inverse weighting for lesions of unequal size, and the losses it is compared with, in stock nnU-Net.

Paper: Shirokikh et al., "Universal Loss Reweighting to Balance Lesion Size Inequality in 3D Medical Image
Segmentation", MICCAI 2020. For any data set with one foreground class, whatever its modalities: network, plans,
augmentation, sampling, optimiser and length are nnU-Net's, the loss alone is another. Plain Dice and plain
cross-entropy are nnU-Net's own ``nnUNetTrainerDiceLoss`` and ``nnUNetTrainerCELoss``.
"""

from nnunetv2_airway.losses import rows
from nnunetv2_airway.losses.rows import Loss
from nnunetv2_airway.losses.weights import INVERSE_COMPONENT, Weight
from nnunetv2_airway.training.phased_trainer import PhasedTrainer
from nnunetv2_airway.training.schedule import Phase


def as_nnunet(loss: Loss, *weights: Weight) -> tuple[Phase, ...]:
    """Return nnU-Net's schedule with a loss and weights: 1000 epochs, its own sampling."""
    return (Phase(1000, loss, weights, sampling=None),)


class LesionTrainer(PhasedTrainer):
    """nnU-Net's trainer for one foreground class with a loss of ours; a variant sets ``phases``."""

    validation_sampling = None


class nnUNetTrainerInverseWeightedDice(LesionTrainer):
    """Dice, each lesion weighted by the inverse of its size."""

    phases = as_nnunet(rows.DICE, INVERSE_COMPONENT)


class nnUNetTrainerInverseWeightedBCE(LesionTrainer):
    """Cross-entropy, each lesion weighted by the inverse of its size."""

    phases = as_nnunet(rows.CROSS_ENTROPY, INVERSE_COMPONENT)


class nnUNetTrainerInverseWeightedFocal(LesionTrainer):
    """Focal loss, each lesion weighted by the inverse of its size."""

    phases = as_nnunet(rows.FOCAL, INVERSE_COMPONENT)


class nnUNetTrainerInverseWeightedAsymmetricSimilarity(LesionTrainer):
    """Asymmetric similarity loss, each lesion weighted by the inverse of its size."""

    phases = as_nnunet(rows.ASYMMETRIC_SIMILARITY, INVERSE_COMPONENT)


class nnUNetTrainerWeightedCE(LesionTrainer):
    """Cross-entropy, foreground and background weighted by the inverse of their size."""

    phases = as_nnunet(rows.WEIGHTED_CROSS_ENTROPY)


class nnUNetTrainerGeneralizedDice(LesionTrainer):
    """Generalized Dice (Sudre et al., 2017)."""

    phases = as_nnunet(rows.GENERALIZED_DICE)


class nnUNetTrainerFocal(LesionTrainer):
    """Focal loss (Lin et al., 2017)."""

    phases = as_nnunet(rows.FOCAL)


class nnUNetTrainerAsymmetricSimilarity(LesionTrainer):
    """Asymmetric similarity loss (Hashemi et al., 2019)."""

    phases = as_nnunet(rows.ASYMMETRIC_SIMILARITY)
