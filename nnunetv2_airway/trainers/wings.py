"""WingsNet alone: group supervision with Dice, random crops (Tang 2022's first phase; Zheng 2021's network)."""

from nnunetv2_airway.losses.rows import DICE
from nnunetv2_airway.training.airway_trainer import AirwayTrainer
from nnunetv2_airway.training.networks import WINGSNET
from nnunetv2_airway.training.schedule import Phase


class nnUNetTrainerWings(AirwayTrainer):
    """Both groups supervised with Dice for 100 epochs."""

    network = WINGSNET
    phases = (Phase(epochs=100, loss=DICE),)
