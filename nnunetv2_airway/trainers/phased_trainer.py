"""Training in phases: loss, weights and sampling follow a schedule.

Paper: Tang 2022. A phase is a function of the epoch alone, so a run that is continued is in the phase in which it was
stopped. Airway maps are computed before the first epoch, hard regions mined before the first epoch that samples them.
Nothing here knows the network.
"""

import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as upstream

from nnunetv2_airway.losses.group_supervision import GroupSupervisionLoss
from nnunetv2_airway.losses.rows import DICE
from nnunetv2_airway.sampling.dataset import AirwayDataset
from nnunetv2_airway.sampling.loader import AirwayDataLoader
from nnunetv2_airway.schedule import RANDOM, Phase, Sampling, check_schedule, first_epoch, phase_at
from nnunetv2_airway.trainers.carry_map import carry_map
from nnunetv2_airway.trainers.preparation import prepare_hard_regions, prepare_maps


class PhasedTrainer(upstream.nnUNetTrainer):
    """Trainer with a schedule; a variant sets these attributes."""

    phases: tuple[Phase, ...] = (Phase(epochs=100, loss=DICE),)
    validation_sampling: Sampling = RANDOM
    """The same in all phases, so that their figures can be compared."""
    mining_step_size: float = 0.5
    """Step between the windows of the prediction in which hard regions are mined, in window sizes."""
    checkpoint_every: int = 5
    """Epochs between checkpoints; one is also written at the end of each phase."""

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008, nnU-Net's signature
    ):
        check_schedule(self.phases)
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = first_epoch(self.phases, len(self.phases))
        self.loaded_sampling: Sampling | None = None  # of the loaders that are running
        self.announced_phase: int | None = None

    @property
    def phase_index(self) -> int:
        """Number of the phase that the current epoch belongs to, from 0; the last one when training has ended."""
        return phase_at(self.phases, min(self.current_epoch, self.num_epochs - 1))

    @property
    def phase(self) -> Phase:
        """Row of the schedule that the current epoch belongs to."""
        return self.phases[self.phase_index]

    def _build_loss(self):
        labels = self.label_manager
        return GroupSupervisionLoss(
            self.phase.loss,
            self.phase.weights,
            foreground_label=None if labels.has_regions else labels.foreground_labels[0],
            ignore_label=labels.ignore_label,
            ddp=self.is_ddp,
        )

    def get_training_transforms(self, *args, **kwargs) -> ComposeTransforms:
        """nnU-Net's augmentation, which the closeness map follows in space."""
        return carry_map(super().get_training_transforms(*args, **kwargs))

    def get_validation_transforms(self, *args, **kwargs) -> ComposeTransforms:
        """nnU-Net's, with the closeness map."""
        return carry_map(super().get_validation_transforms(*args, **kwargs))

    def get_dataloaders(self):
        """Load patches in the shares of the current phase, which begins here."""
        self._announce_phase()
        stock = upstream.nnUNetDataLoader
        upstream.nnUNetDataLoader = AirwayDataLoader
        try:
            return super().get_dataloaders()
        finally:
            upstream.nnUNetDataLoader = stock

    def get_tr_and_val_datasets(self):
        """Split as nnU-Net does; compute what the data sets lack of airway maps and mined voxels."""
        training, validation = super().get_tr_and_val_datasets()
        maps = prepare_maps(self, training, validation)
        sampling = self.phase.sampling
        mine = sampling.hard > 0
        hard = prepare_hard_regions(self, training, maps, step_size=self.mining_step_size) if mine else {}
        self.loaded_sampling = sampling
        return AirwayDataset(training, maps, sampling, hard), AirwayDataset(validation, maps, self.validation_sampling)

    def on_epoch_start(self):
        """Change the phase where the schedule does, then start as nnU-Net does."""
        self._announce_phase()
        if self.phase.sampling != self.loaded_sampling:
            for loader in (self.dataloader_train, self.dataloader_val):
                if isinstance(loader, NonDetMultiThreadedAugmenter):
                    loader._finish()  # its workers hold copies of the old phase's data set
            self.dataloader_train, self.dataloader_val = self.get_dataloaders()
        self.loss = self._build_loss()
        super().on_epoch_start()

    def _announce_phase(self) -> None:
        index = self.phase_index
        if index != self.announced_phase:
            self.announced_phase = index
            first, next_one = (first_epoch(self.phases, i) for i in (index, index + 1))
            self.print_to_log_file(
                f"\nPhase {index + 1} of {len(self.phases)}, epochs {first} to {next_one - 1}: {self.phase}"
            )

    def on_train_epoch_start(self):
        """Start as nnU-Net does; the loss draws what it draws at random."""
        super().on_train_epoch_start()
        self.loss.train()

    def on_validation_epoch_start(self):
        """Start as nnU-Net does; the loss draws nothing."""
        super().on_validation_epoch_start()
        self.loss.eval()

    def on_epoch_end(self):
        """End as nnU-Net does, with a checkpoint at the end of a phase."""
        ends = self.current_epoch + 1 == first_epoch(self.phases, self.phase_index + 1)
        self.save_every = 1 if ends else self.checkpoint_every
        super().on_epoch_end()
