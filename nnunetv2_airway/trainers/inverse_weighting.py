"""Inverse weighting for lesions of unequal size, and the losses it is compared with, in stock nnU-Net.

Paper: Shirokikh et al., "Universal Loss Reweighting to Balance Lesion Size Inequality in 3D Medical Image
Segmentation", MICCAI 2020. For any data set with one foreground class, whatever its modalities: network, plans,
augmentation, sampling, optimiser and length are nnU-Net's, the loss alone is another. Plain Dice and plain
cross-entropy are nnU-Net's own ``nnUNetTrainerDiceLoss`` and ``nnUNetTrainerCELoss``.
"""

import torch

from nnunetv2_airway.losses.rows import (
    ASYMMETRIC_SIMILARITY,
    CROSS_ENTROPY,
    DICE,
    FOCAL,
    GENERALIZED_DICE,
    INVERSE_COMPONENT,
    WEIGHTED_CROSS_ENTROPY,
    Loss,
    Weight,
)
from nnunetv2_airway.schedule import Phase
from nnunetv2_airway.trainers.phased_trainer import PhasedTrainer
from nnunetv2_airway.trainers.plans import check_binary


def as_nnunet(loss: Loss, *weights: Weight) -> tuple[Phase, ...]:
    """Return nnU-Net's schedule with a loss and weights: 1000 epochs, its own sampling."""
    return (Phase(1000, loss, weights, sampling=None),)


class LesionTrainer(PhasedTrainer):
    """nnU-Net's trainer for one foreground class with a loss of ours; a variant sets ``phases``."""

    validation_sampling = None

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008, nnU-Net's signature
    ):
        check_binary(plans, configuration, dataset_json, trainer=type(self).__name__)
        super().__init__(plans, configuration, fold, dataset_json, device)


class nnUNetTrainerInverseWeightedDice(LesionTrainer):
    """Dice, each lesion weighted by the inverse of its size."""

    phases = as_nnunet(DICE, INVERSE_COMPONENT)


class nnUNetTrainerInverseWeightedBCE(LesionTrainer):
    """Cross-entropy, each lesion weighted by the inverse of its size."""

    phases = as_nnunet(CROSS_ENTROPY, INVERSE_COMPONENT)


class nnUNetTrainerInverseWeightedFocal(LesionTrainer):
    """Focal loss, each lesion weighted by the inverse of its size."""

    phases = as_nnunet(FOCAL, INVERSE_COMPONENT)


class nnUNetTrainerInverseWeightedAsymmetricSimilarity(LesionTrainer):
    """Asymmetric similarity loss, each lesion weighted by the inverse of its size."""

    phases = as_nnunet(ASYMMETRIC_SIMILARITY, INVERSE_COMPONENT)


class nnUNetTrainerWeightedCE(LesionTrainer):
    """Cross-entropy, foreground and background weighted by the inverse of their size."""

    phases = as_nnunet(WEIGHTED_CROSS_ENTROPY)


class nnUNetTrainerGeneralizedDice(LesionTrainer):
    """Generalized Dice (Sudre et al., 2017)."""

    phases = as_nnunet(GENERALIZED_DICE)


class nnUNetTrainerFocal(LesionTrainer):
    """Focal loss (Lin et al., 2017)."""

    phases = as_nnunet(FOCAL)


class nnUNetTrainerAsymmetricSimilarity(LesionTrainer):
    """Asymmetric similarity loss (Hashemi et al., 2019)."""

    phases = as_nnunet(ASYMMETRIC_SIMILARITY)
