"""Zheng 2021: General Union loss in two stages, on WingsNet or on nnU-Net's own network; the losses of its fig. 7.

The paper trains with Dice until false negatives can be mined; how long it does not say. Here it is the first phase of
Tang 2022, 100 epochs of random patches, with the learning rate and the label cut of the first stage. Batch size and
patches are those of all airway trainers. Deviation: the paper sets voxels outside the chest to the window's maximum; a
raw data set of ours has 0 HU outside the lungs' box. A voxel is chosen before its patch is rotated, which takes about
one in eight out of the final patch.
"""

from collections.abc import Callable

from nnunetv2_airway.losses.rows import DICE, DICE_AND_WEIGHTED_CROSS_ENTROPY, Loss, UnionLoss
from nnunetv2_airway.losses.weights import DistanceDecay, Weight
from nnunetv2_airway.training.airway_trainer import AirwayTrainer
from nnunetv2_airway.training.networks import PLANNED, WINGSNET
from nnunetv2_airway.training.schedule import HARD_RANDOM, Phase

LossAndWeights = tuple[Loss, tuple[Weight, ...]]
OfAlpha = Callable[[float], LossAndWeights]
"""From alpha, which differs between the stages, to a loss and the weights of its voxels."""


def general_union(alpha: float) -> LossAndWeights:
    """Eq. 16: root and distance weight."""
    return _union("general union", alpha, root=0.7), (DistanceDecay(alpha),)


def root_tversky(alpha: float) -> LossAndWeights:
    """Eq. 12: without the distance weight."""
    return _union("root Tversky", alpha, root=0.7), ()


def prior_tversky(alpha: float) -> LossAndWeights:
    """Fig. 7: without the root."""
    return _union("prior Tversky", alpha), (DistanceDecay(alpha),)


def tversky(alpha: float) -> LossAndWeights:
    """Eq. 10: without either."""
    return _union("Tversky", alpha), ()


def dice(alpha: float) -> LossAndWeights:
    """Eq. 19, whatever alpha."""
    return DICE, ()


def dice_and_weighted_cross_entropy(alpha: float) -> LossAndWeights:
    """Fig. 7: Dice and cross-entropy weighted by class, whatever alpha."""
    return DICE_AND_WEIGHTED_CROSS_ENTROPY, ()


def _union(name: str, alpha: float, root: float = 1.0) -> UnionLoss:
    return UnionLoss(f"{name}, alpha {alpha}", alpha, round(1 - alpha, 10), root, epsilon=1e-4 if root < 1 else 0.0)


def zheng_phases(first: OfAlpha = general_union, second: OfAlpha | None = None) -> tuple[Phase, ...]:
    """Return Zheng 2021's schedule (section IV-B) with a loss of choice.

    Args:
        first: loss of the first stage, where alpha is 0.1.
        second: loss of the second stage, where alpha is 0.2; None is that of the first.
    """
    return (
        Phase(100, DICE, lr_milestones=(60, 90), label_cut=0.8),
        Phase(100, *first(0.1), HARD_RANDOM, lr_milestones=(60, 90), label_cut=0.8),
        Phase(30, *(second or first)(0.2), HARD_RANDOM, lr_milestones=(15, 25), label_cut=0.9),
    )


class nnUNetTrainerWingsGUL(AirwayTrainer):
    """Zheng 2021 whole (sections IV-A and IV-B)."""

    network = WINGSNET
    windows = ("zheng",)
    initial_lr = 1e-2
    momentum = 0.9
    weight_decay = 1e-4
    rotation = 15.0
    phases = zheng_phases()


class nnUNetTrainerWingsGULRoot(nnUNetTrainerWingsGUL):
    """The same with Root Tversky in the second stage, as in the experiments of the supplement."""

    phases = zheng_phases(general_union, root_tversky)


class nnUNetTrainerGUL(nnUNetTrainerWingsGUL):
    """Zheng 2021's recipe on nnU-Net's own network, to tell loss and network apart."""

    network = PLANNED
