"""nnUNetTrainer for airways: a network on Hounsfield units, patches by the case, batches of any size on any GPU.

Papers: Zheng 2021 (16 patches per case and epoch), Tang 2022 (two windows, AdamW, patch and batch size). Tang's weight
decay is not published; PyTorch's default for AdamW is used.
"""

import math

import numpy as np
import torch
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn
from torch._dynamo import OptimizedModule

from nnunetv2_airway.architectures.airway_network import FLOAT32_VARIABLE, AirwayNetwork
from nnunetv2_airway.hounsfield import HounsfieldInput, HounsfieldScale
from nnunetv2_airway.training.augmentation import augment_in_range, rotate_only
from nnunetv2_airway.training.check_cases import why_no_air
from nnunetv2_airway.training.micro_batch import MicroBatches, fresh_after_out_of_memory, is_out_of_memory, rehearse
from nnunetv2_airway.training.networks import WINGSNET, Network
from nnunetv2_airway.training.phased_trainer import PhasedTrainer
from nnunetv2_airway.training.plans import fit_patches

CPU_VOXELS = 128**3
"""Voxels of a micro-batch on the CPU, whose memory gives no warning before the process is killed."""


class AirwayTrainer(PhasedTrainer):
    """Base of the airway recipes; a recipe sets these attributes, those of ``PhasedTrainer``, or any of nnU-Net's."""

    monitors_tree = True
    every_case_has_structure = True
    of_the_class = ("network", "windows", "plans_patch_size", "plans_batch_size")
    network: Network = WINGSNET
    """Row of ``networks``; as nnU-Net has it, the instance's ``network`` is what has been built of it."""
    windows: tuple[str, ...] = ("original", "tang")
    """Of ``hounsfield.WINDOWS``, one input channel each."""
    plans_patch_size: tuple[int, int, int] | None = (128, 128, 128)
    plans_batch_size: int | None = 32
    """None leaves either to nnU-Net's plans."""
    patches_per_case: int | None = 16
    """Of an epoch; None leaves its length to nnU-Net."""
    initial_lr: float = 1e-4
    learning_rate_decay: float = 0.0
    """Exponent of nnU-Net's polynomial decay; 0 keeps the learning rate constant."""
    weight_decay: float = 1e-2
    momentum: float | None = None
    """Of SGD; None is AdamW."""
    nesterov: bool = False
    """Whether the momentum is Nesterov's, as nnU-Net's is."""
    rotation: float | None = None
    """Rotate every patch within this angle, in degrees, and augment in no other way; None is nnU-Net's augmentation."""

    micro_batches: MicroBatches | None = None  # -> initialize
    rehearsed_phase: int | None = None  # -> on_epoch_start

    def adapt_plans(self, plans: dict, configuration: str, dataset_json: dict) -> dict:
        """Refuse plans whose CTs are not in HU; patch and batch size become the recipe's."""
        plans = super().adapt_plans(plans, configuration, dataset_json)
        self.plans_note = ""
        if self.plans_patch_size or self.plans_batch_size:
            planned = PlansManager(plans).get_configuration(configuration)
            plans, self.plans_note = fit_patches(
                plans,
                configuration,
                patch_size=self.plans_patch_size or planned.patch_size,
                batch_size=self.plans_batch_size or planned.batch_size,
                divisor_of=type(self).network.patch_divisor,
                trainer=type(self).__name__,
            )
        manager = PlansManager(plans)
        self.hounsfield_scale = _hounsfield_scale(manager, manager.get_configuration(configuration))
        return plans

    def doubt_about(self, voxels: np.ndarray) -> str:
        """Airways are air."""
        return why_no_air(voxels, self.hounsfield_scale)

    def decided_by(self) -> dict[str, str]:
        """An epoch's length follows from ``patches_per_case``."""
        if self.patches_per_case is None:
            return super().decided_by()
        names = ("num_iterations_per_epoch", "num_val_iterations_per_epoch")
        why = "patches_per_case, of which an epoch has cases x patches_per_case / plans_batch_size batches"
        return {**super().decided_by(), **dict.fromkeys(names, why)}

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
        body = cls.network.build(plans_manager, configuration_manager, len(cls.windows), enable_deep_supervision)
        return AirwayNetwork(HounsfieldInput(cls.windows, scale), body, num_output_channels)

    def initialize(self):
        """Initialise as nnU-Net does, then let the network work in micro-batches."""
        super().initialize()
        for note in filter(None, (self.plans_note, self.hounsfield_scale.warning())):
            self.print_to_log_file(note)
        size = self.batch_size
        if self.device.type == "cpu":
            size = min(size, max(1, CPU_VOXELS // math.prod(self.configuration_manager.patch_size)))
        self.micro_batches = MicroBatches(self.bare_network, size)

    def configure_optimizers(self):
        """AdamW or SGD, by default at a constant learning rate (Tang 2022, section 2.1)."""
        options = {"lr": self.initial_lr, "weight_decay": self.weight_decay}
        if self.momentum is None:
            optimizer = torch.optim.AdamW(self.network.parameters(), **options)
        else:
            options |= {"momentum": self.momentum, "nesterov": self.nesterov}
            optimizer = torch.optim.SGD(self.network.parameters(), **options)
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs, self.learning_rate_decay)

    def _get_deep_supervision_scales(self):
        return [[1.0, 1.0, 1.0]] if type(self).network.full_size else super()._get_deep_supervision_scales()

    def output_weights(self) -> list[float] | None:
        """Outputs of full size count alike, resolutions as in nnU-Net."""
        return None if type(self).network.full_size else super().output_weights()

    def set_deep_supervision_enabled(self, enabled: bool):
        """Let the network return the logits of all outputs, or the prediction alone."""
        network = self.bare_network
        if isinstance(network, OptimizedModule):
            network = network._orig_mod
        type(self).network.switch_deep_supervision(network.body, enabled)

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

    def prepare_phase(self) -> None:
        """Prepare data sets; an epoch is ``patches_per_case`` patches of each training case (Zheng IV-B)."""
        super().prepare_phase()
        if self.patches_per_case is None:
            return
        cases = [len(dataset.identifiers) for dataset in self.datasets]
        batches = [math.ceil(self.patches_per_case * n / self.configuration_manager.batch_size) for n in cases]
        self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = batches

    def on_train_start(self):
        """Start as nnU-Net does, and say how a batch is worked through."""
        super().on_train_start()
        self.print_to_log_file(
            f"An epoch has {self.num_iterations_per_epoch} training and {self.num_val_iterations_per_epoch} validation "
            f"batches of {self.configuration_manager.batch_size} patches, {self.micro_batches.size} at a time."
        )
        if self.device.type == "cpu":
            precision = "bfloat16" if self.bare_network.cpu_bfloat16 else "float32"
            self.print_to_log_file(f"The CPU computes in {precision} ({FLOAT32_VARIABLE}=1 asks for float32).")

    def on_epoch_start(self):
        """Start as nnU-Net does; in a new phase DDP ranks agree on a micro-batch that fits all of them."""
        super().on_epoch_start()
        if self.is_ddp and self.phase_index != self.rehearsed_phase:
            self.rehearsed_phase = self.phase_index
            self.network.train()
            batch, loss = next(self.dataloader_train), self._build_loss()
            rehearse(self.bare_network, self.micro_batches, batch, loss, self.device)
            self.print_to_log_file(f"{self.micro_batches.size} patch(es) at a time fit into the memory of all GPUs.")

    def train_step(self, batch: dict) -> dict:
        """Train on one batch; where it does not fit into the device's memory, halve the micro-batch and try again."""
        while True:
            try:
                return super().train_step(batch)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if self.is_ddp or not self.micro_batches.halve():
                    raise RuntimeError(
                        f"the GPU's memory does not hold {self.micro_batches.size} patch(es) of "
                        f"{tuple(self.configuration_manager.patch_size)} voxels. Free memory that other processes "
                        f"use on it, or choose a smaller plans_batch_size or plans_patch_size in a trainer of your "
                        f"own; continue with --c."
                    ) from error
            # outside the handler, so that the failed attempt's tensors are no longer referenced
            self.grad_scaler = fresh_after_out_of_memory(self.optimizer, self.grad_scaler, self.device)
            self.print_to_log_file(
                f"Out of memory: the batch of {self.batch_size} now runs {self.micro_batches.size} patch(es) at a "
                f"time. The result is the same, an epoch takes longer."
            )


def _hounsfield_scale(plans: PlansManager, configuration: ConfigurationManager) -> HounsfieldScale:
    return HounsfieldScale.from_plans(
        configuration.normalization_schemes, plans.foreground_intensity_properties_per_channel
    )
