"""The training of the package's model: in each batch a patch of a patient's CT and one of a synthetic CT.

``benchmarks/model.sh`` points nnU-Net to this folder.
"""

import re
from dataclasses import replace
from unittest.mock import patch

import numpy as np

from nnunetv2_airway.trainers.airway import nnUNetTrainerATM22Airway
from nnunetv2_airway.training import phased_trainer
from nnunetv2_airway.training.sampling.loader import PatchLoader

SYNTHETIC = re.compile(r"\d+_")
"""How the names of synthetic cases begin: with the number of their data set, or their own."""


class PairedLoader(PatchLoader):
    """Load one patch of each kind, in any order, since nnU-Net centres the second on an airway."""

    def get_indices(self):
        """Choose the cases of a batch."""
        kinds = {True: [], False: []}
        for case in self.indices:
            kinds[bool(SYNTHETIC.match(case))].append(case)
        return [np.random.choice(kinds[kind]) for kind in np.random.permutation([True, False])]


class nnUNetTrainerATM22AirwayPaired(nnUNetTrainerATM22Airway):
    """Short, on small patches, and at the learning rate of a network that has been trained before."""

    plans_patch_size = (64, 64, 64)
    initial_lr = 2e-3
    phases = (replace(nnUNetTrainerATM22Airway.phases[0], epochs=22),)
    num_iterations_per_epoch = 125
    num_val_iterations_per_epoch = 10
    save_every = 2

    def get_dataloaders(self):
        """Load pairs."""
        with patch.object(phased_trainer, "PatchLoader", PairedLoader):
            return super().get_dataloaders()

    def perform_actual_validation(self, save_probabilities: bool = False):
        """Leave it out: all cases are training cases."""
