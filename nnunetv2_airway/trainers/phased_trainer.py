"""Training in phases: loss, weights and sampling follow a schedule.

Papers: Tang 2022, Zheng 2021. A phase is a function of the epoch alone, so a run that is continued is in the phase in
which it was stopped. The maps that weights and sampling need are computed before the first epoch, hard regions mined
before the first epoch that samples them. Nothing here knows the network or what it segments.
"""

import warnings
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as upstream

from nnunetv2_airway.evaluation.patch_picture import write_patches
from nnunetv2_airway.losses.rows import DICE
from nnunetv2_airway.losses.supervision import SupervisionLoss
from nnunetv2_airway.maps.kinds import MAPS
from nnunetv2_airway.sampling.dataset import MappedDataset
from nnunetv2_airway.sampling.loader import PatchLoader
from nnunetv2_airway.schedule import (
    RANDOM,
    Phase,
    Sampling,
    check_schedule,
    first_epoch,
    learning_rate_factor,
    phase_at,
)
from nnunetv2_airway.trainers.careful_trainer import CarefulTrainer, replaced
from nnunetv2_airway.trainers.carry_maps import carry_maps
from nnunetv2_airway.trainers.preparation import foreground_values, prepare_hard_regions, prepare_maps


class PhasedTrainer(CarefulTrainer):
    """Trainer with a schedule; a variant sets these attributes."""

    phases: tuple[Phase, ...] = (Phase(epochs=100, loss=DICE),)
    validation_sampling: Sampling | None = RANDOM
    """The same in all phases, so that their figures can be compared; None leaves it to nnU-Net."""
    always_carried: tuple[str, ...] = ()
    """Maps that are wanted beside those that the schedule needs."""
    mining_step_size: float = 0.5
    """Step between the windows of the prediction in which hard regions are mined, in window sizes."""
    checkpoint_every: int = 5
    """Epochs between checkpoints; one is also written at the end of each phase."""

    def __init_subclass__(cls, **kwargs):
        """Point out what looks like a misspelt attribute: nothing would read it."""
        super().__init_subclass__(**kwargs)
        known = {name for base in cls.__mro__[1:] for name in vars(base)}
        for name, value in vars(cls).items():
            close = [] if name in known or callable(value) else get_close_matches(name, known, 1, 0.85)
            if close:
                warnings.warn(f"{cls.__name__} sets {name}, which nothing reads. Is {close[0]} meant?", stacklevel=2)

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008, nnU-Net's signature
    ):
        check_schedule(self.phases)
        _ = self.map_names  # before nnU-Net creates folders: refuses maps that are not known
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = first_epoch(self.phases, len(self.phases))
        self.loaded: tuple | None = None  # what the loaders that are running were made for
        self.announced_phase: int | None = None
        self.pictured_phase: int | None = None

    @property
    def phase_index(self) -> int:
        """Number of the phase that the current epoch belongs to, from 0; the last one when training has ended."""
        return phase_at(self.phases, min(self.current_epoch, self.num_epochs - 1))

    @property
    def phase(self) -> Phase:
        """Row of the schedule that the current epoch belongs to."""
        return self.phases[self.phase_index]

    @property
    def map_names(self) -> tuple[str, ...]:
        """The maps that are carried through augmentation, in this order; the same in all phases."""
        needed = {*self.always_carried, *(row.map_name for phase in self.phases for row in phase.weights)}
        samplings = (self.validation_sampling, *(phase.sampling for phase in self.phases))
        if any(sampling is not None and sampling.random < 1 for sampling in samplings):
            needed.add("centerline")
        unknown = needed - {*MAPS, None}
        if unknown:
            raise ValueError(f"the schedule's weights need maps called {unknown}, known are {', '.join(MAPS)}")
        return tuple(name for name in MAPS if name in needed)

    def initialize(self):
        """Initialise as nnU-Net does; the schedule's steps act on the learning rate."""
        if not self.enable_deep_supervision:
            raise NotImplementedError(
                f"{type(self).__name__} supervises several outputs of the network and needs enable_deep_supervision = "
                f"True"
            )
        super().initialize()
        self.lr_scheduler = StepsInPhases(self.lr_scheduler, self.optimizer, self.phases)

    def _build_loss(self):
        labels = self.label_manager
        return SupervisionLoss(
            self.phase.loss,
            self.phase.weights,
            foreground_label=None if labels.has_regions else labels.foreground_labels[0],
            ignore_label=labels.ignore_label,
            ddp=self.is_ddp,
            maps=self.map_names,
            output_weights=self.output_weights(),
        )

    def output_weights(self) -> list[float] | None:
        """Weigh the resolutions as nnU-Net does: half as much at each lower one, 0 at the lowest; they sum to 1."""
        outputs = len(self._get_deep_supervision_scales())
        weights = [0.5**index for index in range(outputs)]
        if outputs > 1:
            # DDP without compilation wants every parameter to have a gradient
            weights[-1] = 1e-6 if self.is_ddp and not self._do_i_compile() else 0.0
        return [weight / sum(weights) for weight in weights]

    def adapt_augmentation(self, pipeline: ComposeTransforms) -> ComposeTransforms:
        """Change nnU-Net's augmentation for training, before maps follow it; nothing here."""
        return pipeline

    def get_training_transforms(self, *args, **kwargs) -> ComposeTransforms:
        """nnU-Net's augmentation, which the maps follow in space."""
        pipeline = self.adapt_augmentation(super().get_training_transforms(*args, **kwargs))
        return carry_maps(
            pipeline, self.map_names, foreground=foreground_values(self.label_manager), cut=self.phase.label_cut
        )

    def get_validation_transforms(self, *args, **kwargs) -> ComposeTransforms:
        """nnU-Net's, with the maps."""
        pipeline = super().get_validation_transforms(*args, **kwargs)
        return carry_maps(pipeline, self.map_names, foreground=foreground_values(self.label_manager))

    def get_dataloaders(self):
        """Load patches as the current phase, which begins here, wants them."""
        self._announce_phase()
        self.loaded = (self.phase.sampling, self.phase.label_cut)
        with replaced(upstream, "nnUNetDataLoader", PatchLoader):
            return super().get_dataloaders()

    def get_tr_and_val_datasets(self):
        """Split as nnU-Net does; compute what the data sets lack of maps and mined voxels."""
        training, validation = super().get_tr_and_val_datasets()
        maps = {name: prepare_maps(self, name, training, validation) for name in self.map_names}
        sampling = self.phase.sampling
        hard = {}
        if sampling is not None and sampling.hard:
            hard = prepare_hard_regions(self, training, maps["centerline"], step_size=self.mining_step_size)
        return MappedDataset(training, maps, sampling, hard), MappedDataset(validation, maps, self.validation_sampling)

    def on_epoch_start(self):
        """Change the phase where the schedule does, then start as nnU-Net does."""
        self._announce_phase()
        if (self.phase.sampling, self.phase.label_cut) != self.loaded:
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

    def train_step(self, batch: dict) -> dict:
        """Train as nnU-Net does, and draw the first batch of a phase in ``patches_phase_N.png``."""
        number = self.phase_index + 1
        if number != self.pictured_phase and self.local_rank == 0:
            self.pictured_phase = number
            labels, maps = self.loss.unpack(batch["target"])
            target, annotated = self.loss.split(labels[0])
            write_patches(
                Path(self.output_folder, f"patches_phase_{number}.png"),
                batch["data"],
                target,
                self.loss.terms(target, annotated, maps),
                title=f"First batch of phase {number}: {self.phase}",
            )
        return super().train_step(batch)

    def on_validation_epoch_start(self):
        """Start as nnU-Net does; the loss draws nothing."""
        super().on_validation_epoch_start()
        self.loss.eval()

    def on_epoch_end(self):
        """End as nnU-Net does, with a checkpoint at the end of a phase."""
        ends = self.current_epoch + 1 == first_epoch(self.phases, self.phase_index + 1)
        self.save_every = 1 if ends else self.checkpoint_every
        super().on_epoch_end()


class StepsInPhases:
    """A scheduler of the learning rate, followed by the steps of the schedule."""

    def __init__(self, scheduler: PolyLRScheduler, optimizer: torch.optim.Optimizer, phases: Sequence[Phase]):
        self.scheduler = scheduler
        self.optimizer = optimizer
        self.phases = phases

    def step(self, epoch: int) -> None:
        """Set the learning rate of an epoch, counted from 0."""
        self.scheduler.step(epoch)
        for group in self.optimizer.param_groups:
            group["lr"] *= learning_rate_factor(self.phases, epoch)
