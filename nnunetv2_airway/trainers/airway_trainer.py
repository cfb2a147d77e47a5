"""The frame of all airway trainers: WingsNet on Hounsfield units inside nnU-Net's own training.

Papers: Zheng 2021 (network, 16 patches per case and epoch), Tang 2022 (two windows, AdamW, patch and batch size).
Weight decay is not published; PyTorch's default for AdamW is used.
"""

import math
import time
from pathlib import Path

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.utilities.helpers import empty_cache
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn
from torch._dynamo import OptimizedModule
from tqdm import tqdm

from nnunetv2_airway.architectures.airway_network import FLOAT32_VARIABLE, AirwayNetwork
from nnunetv2_airway.architectures.wingsnet import WingsNet
from nnunetv2_airway.files import atomic_path
from nnunetv2_airway.hounsfield import HounsfieldInput, HounsfieldScale
from nnunetv2_airway.progress import progress_bar
from nnunetv2_airway.trainers.augmentation import augment_in_range
from nnunetv2_airway.trainers.micro_batch import MicroBatches, rehearse
from nnunetv2_airway.trainers.monitored_trainer import MonitoredTrainer
from nnunetv2_airway.trainers.plans import fit_plans

CPU_VOXELS = 128**3
"""Voxels of a micro-batch on the CPU, whose memory gives no warning before the process is killed."""


class AirwayTrainer(MonitoredTrainer):
    """Base of the airway trainers; a variant sets these attributes."""

    windows: tuple[str, ...] = ("original", "tang")
    plans_patch_size: tuple[int, int, int] = (128, 128, 128)
    plans_batch_size: int = 32
    patches_per_case: int = 16
    learning_rate: float = 1e-4
    learning_rate_decay: float = 0.0
    """Exponent of nnU-Net's polynomial decay; 0 keeps the learning rate constant."""

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008, nnU-Net's signature
    ):
        plans = fit_plans(
            plans, configuration, dataset_json, patch_size=self.plans_patch_size, batch_size=self.plans_batch_size
        )
        manager = PlansManager(plans)
        # before nnU-Net creates folders: plans that cannot be interpreted end here
        scale = _hounsfield_scale(manager, manager.get_configuration(configuration))
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.hounsfield_scale = scale
        self.initial_lr = self.learning_rate
        self.weight_decay = 1e-2
        self.micro_batches: MicroBatches | None = None  # -> initialize
        self.progress: tqdm | None = None  # -> on_train_epoch_start

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Build the network for training, and for ``nnUNetv2_predict`` without deep supervision."""
        scale = _hounsfield_scale(plans_manager, configuration_manager)
        body = WingsNet(len(cls.windows), deep_supervision=enable_deep_supervision)
        return AirwayNetwork(HounsfieldInput(cls.windows, scale), body, num_output_channels)

    def initialize(self):
        """Initialise as nnU-Net does, then let the network work in micro-batches."""
        if not self.enable_deep_supervision:
            raise NotImplementedError(
                "airway trainers supervise each group of the network and need enable_deep_supervision = True"
            )
        super().initialize()
        warning = self.hounsfield_scale.warning()
        if warning:
            self.print_to_log_file(warning)
        network = self.network.module if self.is_ddp else self.network
        size = self.batch_size
        if self.device.type == "cpu":
            size = min(size, max(1, CPU_VOXELS // math.prod(self.configuration_manager.patch_size)))
        self.micro_batches = MicroBatches(network, size)

    def configure_optimizers(self):
        """AdamW, by default at a constant learning rate (Tang 2022, section 2.1)."""
        optimizer = torch.optim.AdamW(self.network.parameters(), self.initial_lr, weight_decay=self.weight_decay)
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs, self.learning_rate_decay)

    def _get_deep_supervision_scales(self):
        """Every group is supervised at full size: one target."""
        return [[1.0, 1.0, 1.0]]

    def set_deep_supervision_enabled(self, enabled: bool):
        """Let the network return all groups' logits, or the prediction alone."""
        network = self.network.module if self.is_ddp else self.network
        if isinstance(network, OptimizedModule):
            network = network._orig_mod
        network.body.deep_supervision = enabled

    def get_training_transforms(self, *args, **kwargs):
        """nnU-Net's augmentation, its intensity transforms in a range made for Hounsfield units."""
        return augment_in_range(super().get_training_transforms(*args, **kwargs), self.hounsfield_scale)

    def get_tr_and_val_datasets(self):
        """Split as nnU-Net does; an epoch is ``patches_per_case`` patches of each training case (Zheng IV-B)."""
        training, validation = super().get_tr_and_val_datasets()
        batch_size = self.configuration_manager.batch_size
        self.num_iterations_per_epoch = math.ceil(self.patches_per_case * len(training.identifiers) / batch_size)
        self.num_val_iterations_per_epoch = math.ceil(self.patches_per_case * len(validation.identifiers) / batch_size)
        return training, validation

    def on_train_start(self):
        """Start as nnU-Net does; DDP ranks then agree on a micro-batch that fits all of them."""
        super().on_train_start()
        self.print_to_log_file(
            f"An epoch has {self.num_iterations_per_epoch} training and {self.num_val_iterations_per_epoch} validation "
            f"batches of {self.configuration_manager.batch_size} patches, {self.micro_batches.size} at a time."
        )
        if self.device.type == "cpu":
            precision = "bfloat16" if self.network.cpu_bfloat16 else "float32"
            self.print_to_log_file(f"The CPU computes in {precision} ({FLOAT32_VARIABLE}=1 asks for float32).")
        if self.is_ddp:
            shape = (self.batch_size, self.num_input_channels, *self.configuration_manager.patch_size)
            rehearse(self.network, self.micro_batches, shape, self.device)

    def on_train_epoch_start(self):
        """Start as nnU-Net does, and show the epoch's progress; in a log file once in half a minute."""
        super().on_train_epoch_start()
        self.progress = progress_bar(
            description=f"epoch {self.current_epoch}",
            unit="batch",
            total=self.num_iterations_per_epoch,
            show=self.local_rank == 0,
        )

    def on_train_epoch_end(self, train_outputs: list[dict]):
        """End the progress bar, then the epoch as nnU-Net does."""
        self.progress.close()
        super().on_train_epoch_end(train_outputs)

    def on_epoch_end(self):
        """End as nnU-Net does, and say how long the rest will take."""
        started = self.logger.get_value("epoch_start_timestamps", step=-1)
        super().on_epoch_end()
        hours = (time.time() - started) * (self.num_epochs - self.current_epoch) / 3600
        if hours > 0:
            self.print_to_log_file(
                f"About {hours:.1f} hours to go" if hours > 1 else f"About {hours * 60:.0f} minutes to go"
            )

    def train_step(self, batch: dict) -> dict:
        """Train on one batch; where it does not fit into the device's memory, halve the micro-batch and try again."""
        while True:
            try:
                result = super().train_step(batch)
                if self.progress is not None:
                    self.progress.update()
                return result
            except torch.OutOfMemoryError as error:
                if self.is_ddp or not self.micro_batches.halve():
                    raise RuntimeError(
                        f"the GPU's memory does not hold {self.micro_batches.size} patch(es) of "
                        f"{tuple(self.configuration_manager.patch_size)} voxels. Free memory that other processes "
                        f"use on it, or choose a smaller plans_patch_size in a trainer of your own; continue with --c."
                    ) from error
            # outside the handler, so that the failed attempt's tensors are no longer referenced
            self.optimizer.zero_grad(set_to_none=True)
            empty_cache(self.device)
            self.print_to_log_file(
                f"Out of memory: the batch of {self.batch_size} now runs {self.micro_batches.size} patch(es) at a "
                f"time. The result is the same, an epoch takes longer."
            )

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        """Load as nnU-Net does, and say what was loaded."""
        super().load_checkpoint(filename_or_checkpoint)
        if isinstance(filename_or_checkpoint, str):
            name = Path(filename_or_checkpoint).name
            self.print_to_log_file(f"Loaded {name}: {self.current_epoch} of {self.num_epochs} epochs are done.")

    def save_checkpoint(self, filename: str) -> None:
        """Save under a temporary name and rename, so that a crash never leaves half a checkpoint."""
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        with atomic_path(Path(filename)) as temporary:
            super().save_checkpoint(str(temporary))


def _hounsfield_scale(plans: PlansManager, configuration: ConfigurationManager) -> HounsfieldScale:
    return HounsfieldScale.from_plans(
        configuration.normalization_schemes, plans.foreground_intensity_properties_per_channel
    )
