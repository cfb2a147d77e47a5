"""The frame of all airway trainers: a network on Hounsfield units inside nnU-Net's own training.

Papers: Zheng 2021 (16 patches per case and epoch), Tang 2022 (two windows, AdamW, patch and batch size). Tang's weight
decay is not published; PyTorch's default for AdamW is used.
"""

import math
from collections.abc import Sequence

import torch
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.utilities.helpers import empty_cache
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn
from torch._dynamo import OptimizedModule

from nnunetv2_airway.architectures.airway_network import FLOAT32_VARIABLE, AirwayNetwork
from nnunetv2_airway.hounsfield import HounsfieldInput, HounsfieldScale
from nnunetv2_airway.trainers.augmentation import augment_in_range, rotate_only
from nnunetv2_airway.trainers.micro_batch import MicroBatches, rehearse
from nnunetv2_airway.trainers.monitored_trainer import MonitoredTrainer
from nnunetv2_airway.trainers.plans import fit_plans

CPU_VOXELS = 128**3
"""Voxels of a micro-batch on the CPU, whose memory gives no warning before the process is killed."""


class AirwayTrainer(MonitoredTrainer):
    """Base of the airway trainers: a network fills in the methods below, a variant sets these attributes."""

    windows: tuple[str, ...] = ("original", "tang")
    plans_patch_size: tuple[int, int, int] = (128, 128, 128)
    plans_batch_size: int = 32
    patches_per_case: int = 16
    learning_rate: float = 1e-4
    learning_rate_decay: float = 0.0
    """Exponent of nnU-Net's polynomial decay; 0 keeps the learning rate constant."""
    regularization: float = 1e-2
    """Weight decay."""
    momentum: float | None = None
    """Of SGD; None is AdamW."""
    rotation: float | None = None
    """Rotate every patch within this angle, in degrees, and augment in no other way; None is nnU-Net's augmentation."""

    @staticmethod
    def patch_divisor(configuration_manager: ConfigurationManager) -> Sequence[int]:
        """Return what each axis of a patch must be a multiple of."""
        raise NotImplementedError

    @classmethod
    def build_body(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        enable_deep_supervision: bool,
    ) -> nn.Module:
        """Build a network that takes the windows and returns one logit per voxel, or a list of such."""
        raise NotImplementedError

    @staticmethod
    def switch_deep_supervision(body: nn.Module, enabled: bool) -> None:
        """Let the network return the logits of all outputs, or the prediction alone."""
        raise NotImplementedError

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008, nnU-Net's signature
    ):
        plans = fit_plans(
            plans,
            configuration,
            dataset_json,
            patch_size=self.plans_patch_size,
            batch_size=self.plans_batch_size,
            divisor_of=self.patch_divisor,
        )
        manager = PlansManager(plans)
        # before nnU-Net creates folders: plans that cannot be interpreted end here
        scale = _hounsfield_scale(manager, manager.get_configuration(configuration))
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.hounsfield_scale = scale
        self.initial_lr = self.learning_rate
        self.weight_decay = self.regularization
        self.micro_batches: MicroBatches | None = None  # -> initialize

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
        body = cls.build_body(plans_manager, configuration_manager, len(cls.windows), enable_deep_supervision)
        return AirwayNetwork(HounsfieldInput(cls.windows, scale), body, num_output_channels)

    def initialize(self):
        """Initialise as nnU-Net does, then let the network work in micro-batches."""
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
        """AdamW or SGD, by default at a constant learning rate (Tang 2022, section 2.1)."""
        options = {"lr": self.initial_lr, "weight_decay": self.weight_decay}
        if self.momentum is None:
            optimizer = torch.optim.AdamW(self.network.parameters(), **options)
        else:
            optimizer = torch.optim.SGD(self.network.parameters(), momentum=self.momentum, **options)
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs, self.learning_rate_decay)

    def set_deep_supervision_enabled(self, enabled: bool):
        """Let the network return the logits of all outputs, or the prediction alone."""
        network = self.network.module if self.is_ddp else self.network
        if isinstance(network, OptimizedModule):
            network = network._orig_mod
        self.switch_deep_supervision(network.body, enabled)

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):  # noqa: N802, nnU-Net's name
        """As nnU-Net does, or within ``rotation`` and without mirroring, in training and in prediction."""
        settings = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        if self.rotation is None:
            return settings
        angle = math.radians(self.rotation)
        patch = self.configuration_manager.patch_size
        self.inference_allowed_mirroring_axes = None
        return (-angle, angle), False, get_patch_size(patch, *[(-angle, angle)] * 3, (1, 1)), ()

    def adapt_augmentation(self, pipeline: ComposeTransforms) -> ComposeTransforms:
        """nnU-Net's augmentation, its intensity transforms in a range made for Hounsfield units; or rotation alone."""
        return rotate_only(pipeline) if self.rotation is not None else augment_in_range(pipeline, self.hounsfield_scale)

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

    def train_step(self, batch: dict) -> dict:
        """Train on one batch; where it does not fit into the device's memory, halve the micro-batch and try again."""
        while True:
            try:
                return super().train_step(batch)
            except torch.OutOfMemoryError as error:
                if self.is_ddp or not self.micro_batches.halve():
                    raise RuntimeError(
                        f"the GPU's memory does not hold {self.micro_batches.size} patch(es) of "
                        f"{tuple(self.configuration_manager.patch_size)} voxels. Free memory that other processes "
                        f"use on it, or choose a smaller plans_batch_size or plans_patch_size in a trainer of your "
                        f"own; continue with --c."
                    ) from error
            # outside the handler, so that the failed attempt's tensors are no longer referenced
            self.optimizer.zero_grad(set_to_none=True)
            empty_cache(self.device)
            self.print_to_log_file(
                f"Out of memory: the batch of {self.batch_size} now runs {self.micro_batches.size} patch(es) at a "
                f"time. The result is the same, an epoch takes longer."
            )


def _hounsfield_scale(plans: PlansManager, configuration: ConfigurationManager) -> HounsfieldScale:
    return HounsfieldScale.from_plans(
        configuration.normalization_schemes, plans.foreground_intensity_properties_per_channel
    )
