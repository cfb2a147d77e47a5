"""WingsNet alone: group supervision with Dice, random crops (Tang 2022's first phase; Zheng 2021's network)."""

from nnunetv2_airway.losses.rows import DICE
from nnunetv2_airway.schedule import Phase
from nnunetv2_airway.trainers.networks import WingsNetTrainer


class nnUNetTrainerWings(WingsNetTrainer):
    """Both groups supervised with Dice for 100 epochs."""

    phases = (Phase(epochs=100, loss=DICE),)
