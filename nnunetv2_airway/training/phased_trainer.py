"""nnUNetTrainer in phases: schedule, maps beside labels, crash-safe checkpoints, a folder lock, progress, time to go.

Papers: Tang 2022, Zheng 2021. A phase is a function of the epoch alone, so a run that is continued is in the phase in
which it was stopped. Nothing here knows the network or what it segments, but for the figures of trees that a subclass
may ask for with ``monitors_tree``.
"""

import math
import time
import warnings
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn
from tqdm import tqdm

from nnunetv2_airway.io.errors import UserError
from nnunetv2_airway.io.files import alone_in, atomic_path
from nnunetv2_airway.io.progress import in_words, progress_bar
from nnunetv2_airway.losses.rows import DICE
from nnunetv2_airway.losses.supervision import SupervisionLoss, resolution_weights
from nnunetv2_airway.training import monitoring, schedule
from nnunetv2_airway.training.attributes import apply_class_attributes, misspelt, refuse_contradictions
from nnunetv2_airway.training.carry_maps import carry_maps
from nnunetv2_airway.training.check_cases import structure_values
from nnunetv2_airway.training.checkpoints import keep_earlier, require_whole
from nnunetv2_airway.training.learning_rate import MilestonesOfPhases
from nnunetv2_airway.training.maps.kinds import known_maps
from nnunetv2_airway.training.pictures import draw_patches, draw_progress
from nnunetv2_airway.training.plans import check_binary
from nnunetv2_airway.training.preparation import prepare_datasets
from nnunetv2_airway.training.sampling.dataset import MappedDataset
from nnunetv2_airway.training.sampling.loader import PatchLoader
from nnunetv2_airway.training.schedule import RANDOM, Phase, Sampling
from nnunetv2_airway.training.splits import check_splits
from nnunetv2_airway.training.upstream import replaced, save_json


class PhasedTrainer(nnUNetTrainer):
    """Trainer of one structure with a schedule; a variant sets these attributes, or any of nnU-Net's."""

    phases: tuple[Phase, ...] = (Phase(epochs=100, loss=DICE),)
    validation_sampling: Sampling | None = RANDOM
    """The same in all phases, so that their figures can be compared; None leaves it to nnU-Net."""
    monitors_tree: bool = False
    """Watch tree length detected and leakage, and choose ``checkpoint_best.pth`` by them instead of Dice alone."""
    every_case_has_structure: bool = False
    """Refuse cases whose label is empty; at least one has to hold some of the structure in any case."""
    mining_step_size: float = 0.5
    """Step between the windows of the prediction in which hard regions are mined, in window sizes."""
    save_every: int = 5
    """Epochs between checkpoints; one is also written at the end of each phase."""
    of_the_class: tuple[str, ...] = ()
    """Attributes that are read before ``__init__`` has ended."""

    def __init_subclass__(cls, **kwargs):
        """Point out attributes that look misspelt."""
        super().__init_subclass__(**kwargs)
        for words in misspelt(cls):
            warnings.warn(words, stacklevel=2)

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008, nnU-Net's signature
    ):
        # before nnU-Net creates folders: what cannot be trained ends here
        schedule.check_schedule(self.phases)
        _ = self.map_names
        plans = self.adapt_plans(plans, configuration, dataset_json)
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = schedule.first_epoch(self.phases, len(self.phases))
        self.stock = {name: value for name, value in vars(self).items() if isinstance(value, int | float)}
        apply_class_attributes(self)
        if self.monitors_tree:
            self._log_of_epochs.update({name: [] for name in monitoring.FIGURES})
        self.datasets: tuple[MappedDataset, MappedDataset] | None = None  # -> prepare_phase
        self.loaded: tuple | None = None  # what the loaders that are running were made for
        self.announced_phase: int | None = None
        self.pictured_phase: int | None = None
        self.progress: tqdm | None = None  # -> on_train_epoch_start
        self.loaded_checkpoint = False

    def adapt_plans(self, plans: dict, configuration: str, dataset_json: dict) -> dict:
        """Refuse plans that cannot be trained, and return those to train with."""
        check_binary(plans, configuration, dataset_json, trainer=type(self).__name__)
        return plans

    def doubt_about(self, voxels: np.ndarray) -> str:
        """Say why intensities (N,) inside a preprocessed case's label cannot be the structure's; empty, they can."""
        return ""

    def decided_by(self) -> dict[str, str]:
        """Name hyperparameters of nnU-Net's that another attribute of this trainer decides, and which one does."""
        decided = {"num_epochs": f"phases, which have {schedule.first_epoch(self.phases, len(self.phases))} epochs"}
        if all(phase.sampling is not None for phase in self.phases):
            names = ("oversample_foreground_percent", "probabilistic_oversampling")
            decided |= dict.fromkeys(names, "the sampling of phases")
        return decided

    @property
    def phase_index(self) -> int:
        """Number of the phase that the current epoch belongs to, from 0; the last one when training has ended."""
        return schedule.phase_at(self.phases, min(self.current_epoch, self.num_epochs - 1))

    @property
    def phase(self) -> Phase:
        """Row of the schedule that the current epoch belongs to."""
        return self.phases[self.phase_index]

    @property
    def map_names(self) -> tuple[str, ...]:
        """The maps that are carried through augmentation, in this order; the same in all phases."""
        needed = schedule.needed_maps(self.phases, self.validation_sampling)
        return known_maps({*needed, "centerline"} if self.monitors_tree else needed)

    @property
    def bare_network(self) -> nn.Module:
        """The network without DDP around it."""
        return self.network.module if self.is_ddp else self.network

    @property
    def _log_of_epochs(self) -> dict[str, list]:
        return self.logger.local_logger.my_fantastic_logging

    def initialize(self):
        """Initialise as nnU-Net does; the schedule's milestones act on the learning rate."""
        schedule.check_schedule(self.phases)  # a subclass may have set them in its __init__
        epochs = schedule.first_epoch(self.phases, len(self.phases))
        if self.num_epochs == self.stock["num_epochs"]:
            self.num_epochs = epochs
        self.stock["num_epochs"] = epochs
        refuse_contradictions(self, self.stock, self.decided_by(), self.of_the_class)
        if not self.enable_deep_supervision:
            raise NotImplementedError(
                f"{type(self).__name__} supervises several outputs of the network and needs enable_deep_supervision = "
                f"True"
            )
        super().initialize()
        for words in misspelt(type(self)):
            self.print_to_log_file(f"WARNING: {words}")
        self.lr_scheduler = MilestonesOfPhases(self.lr_scheduler, self.optimizer, self.phases)

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
        # DDP without compilation wants every parameter to have a gradient
        lowest = 1e-6 if self.is_ddp and not self._do_i_compile() else 0.0
        return resolution_weights(len(self._get_deep_supervision_scales()), lowest=lowest)

    def adapt_augmentation(self, pipeline: ComposeTransforms) -> ComposeTransforms:
        """Change nnU-Net's augmentation for training, before maps follow it; nothing here."""
        return pipeline

    def get_training_transforms(self, *args, **kwargs) -> ComposeTransforms:
        """nnU-Net's augmentation, which the maps follow in space."""
        pipeline = self.adapt_augmentation(super().get_training_transforms(*args, **kwargs))
        return carry_maps(
            pipeline, self.map_names, foreground=structure_values(self.label_manager), cut=self.phase.label_cut
        )

    def get_validation_transforms(self, *args, **kwargs) -> ComposeTransforms:
        """nnU-Net's, with the maps."""
        pipeline = super().get_validation_transforms(*args, **kwargs)
        return carry_maps(pipeline, self.map_names, foreground=structure_values(self.label_manager))

    def do_split(self):
        """Split as nnU-Net does.

        Raises:
            UserError: ``splits_final.json`` cannot be used, or there are fewer cases than folds.
        """
        if self.fold != "all":
            known = infer_dataset_class(self.preprocessed_dataset_folder).get_identifiers(
                self.preprocessed_dataset_folder
            )
            check_splits(Path(self.preprocessed_dataset_folder_base, "splits_final.json"), self.fold, known)
        return super().do_split()

    def prepare_phase(self) -> None:
        """Bring to disk what the current phase needs, maps and hard regions, and make its data sets.

        Cases are split as nnU-Net does. ``get_dataloaders`` loads from the data sets that were prepared last.

        Raises:
            RuntimeError, UserError: preprocessed cases cannot be trained on, see ``check_cases``.
        """
        with replaced("save_json", save_json):  # the splits, which another fold may read at any moment
            split = super().get_tr_and_val_datasets()
        self.datasets = prepare_datasets(self, *split)

    def get_tr_and_val_datasets(self) -> tuple[MappedDataset, MappedDataset]:
        """Return what ``prepare_phase`` has made; who asks for loaders without a training has it made here."""
        if self.datasets is None:
            self.prepare_phase()
        return self.datasets

    def get_dataloaders(self):
        """Load patches as the current phase wants them."""
        self.loaded = (self.phase.sampling, self.phase.label_cut, self.phase.mines)
        with replaced("nnUNetDataLoader", PatchLoader):
            return super().get_dataloaders()

    def run_training(self):
        """Train as nnU-Net does; a second process in the same folder would overwrite what this one writes."""
        with alone_in(Path(self.output_folder), wait=False) if self.local_rank == 0 else nullcontext():
            super().run_training()

    def on_train_start(self):
        """Prepare the phase and start as nnU-Net does; the checkpoints of an earlier training are kept."""
        if not self.was_initialized:
            self.initialize()
        self._announce_phase()
        self.prepare_phase()
        with replaced("save_json", save_json):
            super().on_train_start()
        if self.local_rank == 0 and not (self.loaded_checkpoint or self.disable_checkpointing):
            folder = Path(self.output_folder)
            if kept := keep_earlier(folder):
                self.print_to_log_file(
                    f"This training starts from the beginning. The checkpoints of the one before are in {kept}; to go "
                    f"on with it, move them back to {folder} and train with --c"
                )

    def on_epoch_start(self):
        """Change the phase where the schedule does, then start as nnU-Net does."""
        self._announce_phase()
        if (self.phase.sampling, self.phase.label_cut, self.phase.mines) != self.loaded:
            for loader in (self.dataloader_train, self.dataloader_val):
                if isinstance(loader, NonDetMultiThreadedAugmenter):
                    loader._finish()  # its workers hold copies of the old phase's data set
            self.prepare_phase()
            self.dataloader_train, self.dataloader_val = self.get_dataloaders()
        self.loss = self._build_loss()
        super().on_epoch_start()

    def _announce_phase(self) -> None:
        if self.phase_index != self.announced_phase:
            self.announced_phase = self.phase_index
            self.print_to_log_file(f"\n{schedule.describe(self.phases, self.phase_index)}")

    def on_train_epoch_start(self):
        """Start as nnU-Net does; the loss samples what it samples at random. Show the epoch's progress."""
        super().on_train_epoch_start()
        self.loss.train()
        self.progress = progress_bar(
            description=f"epoch {self.current_epoch}",
            unit="batch",
            total=self.num_iterations_per_epoch,
            show=self.local_rank == 0,
        )

    def train_step(self, batch: dict) -> dict:
        """Train as nnU-Net does, and draw the first batch of a phase in ``patches_phase_N.png``."""
        number = self.phase_index + 1
        if number != self.pictured_phase and self.local_rank == 0:
            self.pictured_phase = number
            file = Path(self.output_folder, f"patches_phase_{number}.png")
            target, terms = self.loss.target_and_terms(batch["target"])
            draw_patches(file, batch["data"], target, terms, title=f"First batch of phase {number}: {self.phase}")
        result = super().train_step(batch)
        if self.progress is not None:
            self.progress.update()
        return result

    def on_train_epoch_end(self, train_outputs: list[dict]):
        """End the progress bar, then the epoch as nnU-Net does.

        Raises:
            UserError: the loss is not finite, so that nothing more would be learned.
        """
        self.progress.close()
        super().on_train_epoch_end(train_outputs)
        loss = self._log_of_epochs["train_losses"][-1]
        if not math.isfinite(loss):
            raise UserError(
                f"training has diverged: the loss of epoch {self.current_epoch} is {loss}. The checkpoints in "
                f"{self.output_folder} are of earlier epochs and stay. Train again with a lower initial_lr; where the "
                f"loss was falling before, look for damaged CTs or labels"
            )

    def on_validation_epoch_start(self):
        """Start as nnU-Net does; the loss samples nothing."""
        super().on_validation_epoch_start()
        self.loss.eval()

    def validation_step(self, batch: dict) -> dict:
        """Validate as nnU-Net does, and count centerline voxels where they are watched: all, and those found."""
        if not self.monitors_tree:
            return super().validation_step(batch)
        with monitoring.outputs_of(self.network) as outputs:
            result = super().validation_step(batch)
        return {**result, **monitoring.count_line(outputs[0][0], self.loss.unpack(batch["target"])[1]["centerline"])}

    def on_validation_epoch_end(self, val_outputs: list[dict]):
        """End as nnU-Net does, and log the figures of all ranks' patches."""
        super().on_validation_epoch_end(val_outputs)
        if self.monitors_tree:
            for name, value in monitoring.figures_of_epoch(val_outputs).items():
                self.logger.log(name, value, self.current_epoch)

    def on_epoch_end(self):
        """End as nnU-Net does, with a checkpoint at the end of a phase, and say how long the rest will take."""
        log = self._log_of_epochs
        started = log["epoch_start_timestamps"][-1]
        end_of_phase = schedule.first_epoch(self.phases, self.phase_index + 1)
        if self.monitors_tree:
            self._best_ema = math.inf  # nnU-Net's own choice, by Dice alone, never comes to pass
            self.print_to_log_file(monitoring.in_a_line(log))
        super().on_epoch_end()
        done = self.current_epoch
        if done == end_of_phase < self.num_epochs and done % self.save_every:
            self._save_finished_epoch("checkpoint_latest.pth")
        if done < self.num_epochs:
            self.print_to_log_file(f"About {in_words((time.time() - started) * (self.num_epochs - done))} to go")
        if self.monitors_tree and (words := monitoring.best_so_far(log)):
            self.print_to_log_file(f"New best: {words}; saved as checkpoint_best.pth")
            self._save_finished_epoch("checkpoint_best.pth")
        if self.monitors_tree and self.local_rank == 0:
            draw_progress(Path(self.output_folder, "progress_airway.png"), log, self.phases)

    def _save_finished_epoch(self, name: str) -> None:
        self.current_epoch -= 1  # as in nnU-Net's on_train_end: saving counts the epoch as done
        self.save_checkpoint(str(Path(self.output_folder, name)))
        self.current_epoch += 1

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        """Load as nnU-Net does, and say what was loaded.

        Raises:
            RuntimeError: the file is damaged; it is named, and what else there is.
        """
        file = Path(filename_or_checkpoint) if isinstance(filename_or_checkpoint, str) else None
        if file:
            require_whole(file)
        super().load_checkpoint(filename_or_checkpoint)
        self.loaded_checkpoint = True
        if file:
            self.print_to_log_file(f"Loaded {file.name}: {self.current_epoch} of {self.num_epochs} epochs are done.")

    def save_checkpoint(self, filename: str) -> None:
        """Save under a temporary name and rename, so that a crash never leaves half a checkpoint."""
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        with atomic_path(Path(filename)) as temporary:
            super().save_checkpoint(str(temporary))
