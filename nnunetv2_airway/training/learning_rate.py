"""The learning rate of an epoch: nnU-Net's scheduler, followed by the milestones of the schedule."""

from collections.abc import Sequence

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler

from nnunetv2_airway.training.schedule import Phase, learning_rate_factor


class MilestonesOfPhases:
    """A scheduler whose learning rate the milestones of each phase lower further."""

    def __init__(self, scheduler: PolyLRScheduler, optimizer: torch.optim.Optimizer, phases: Sequence[Phase]):
        self.scheduler = scheduler
        self.optimizer = optimizer
        self.phases = phases

    def step(self, epoch: int) -> None:
        """Set the learning rate of an epoch, counted from 0."""
        self.scheduler.step(epoch)
        for group in self.optimizer.param_groups:
            group["lr"] *= learning_rate_factor(self.phases, epoch)
