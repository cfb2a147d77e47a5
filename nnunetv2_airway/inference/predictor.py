"""nnU-Net's predictor in this very process, one CT after the other.

Two things are added: windows that hold no air are passed over, and a published network, which has no grid of its own,
gets one.
"""

import ctypes
import io
import pickle
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunetv2_airway.inference.operating_point import DEFAULT, OperatingPoint, own_operating_point
from nnunetv2_airway.inference.published import ORIENTATION, PUBLISHED, UNCHANGED
from nnunetv2_airway.io.errors import UserError
from nnunetv2_airway.io.files import main_line
from nnunetv2_airway.io.progress import progress_bar
from nnunetv2_airway.training.checkpoints import require_whole
from nnunetv2_airway.tree.centerline import checked_spacing

AIR = -200.0
"""HU above which nothing is airway, nor beside one."""
COARSEST, FINE = 1.25, 1.0
"""Sides of a voxel in mm up to which a published network works on the CT's own grid, and what longer ones become."""
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Of glibc's malloc.h."""
LOADING = (
    RuntimeError, KeyError, NotImplementedError, AssertionError, AttributeError, ImportError, pickle.UnpicklingError,
)  # fmt: skip
"""What a model that does not fit ends in."""
BACKGROUND = -30.0
"""Logit of what no window has seen."""


@dataclass(frozen=True)
class Settings:
    """What a user may choose about a prediction.

    Args:
        device: where it runs.
        folds: such as 0 or "all"; by default all of 0 to 4 that there are.
        checkpoint: file in the folds.
        step_size: of windows in units of a patch.
        mirroring: also predict mirrored windows, where the trainer's model was made for it.
        operating_point: of the probabilities; None is the model's own, where it has been tuned, else p > 0.5.
    """

    device: str = "cpu"
    folds: tuple[str, ...] = ()
    checkpoint: str = "checkpoint_final.pth"
    step_size: float = 0.5
    mirroring: bool = True
    operating_point: OperatingPoint | None = None


class AirwayPredictor(nnUNetPredictor):
    """nnU-Net's predictor for CTs as arrays.

    Attributes:
        folds: of the model, that are averaged.
        operating_point: by which probabilities become a mask.
        windows: how many the last CT had, and how many of them held air.
        spacing: (z, y, x) in mm of the grid on which the last CT was segmented.
    """

    folds: tuple[str, ...] = ()
    operating_point = DEFAULT
    windows = (0, 0)
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0)

    @classmethod
    def of(cls, predictor: nnUNetPredictor) -> "AirwayPredictor":
        """Take over a predictor that has been initialised.

        Raises:
            UserError: it has not.
        """
        if predictor.network is None:
            raise UserError("the predictor has no model yet: call its initialize_from_trained_model_folder first")
        _require_airways(
            "the predictor's model", predictor.plans_manager, predictor.configuration_manager, predictor.dataset_json
        )
        own = cls.__new__(cls)
        own.__dict__.update(predictor.__dict__, allow_tqdm=False)
        return own

    @property
    def orientation(self) -> str:
        """How the model is to see each CT: as its plans say, or its reader of images turns it; empty for as it is."""
        plans = self.plans_manager.plans
        return plans.get(ORIENTATION) or ("RAS" if "Reorient" in plans.get("image_reader_writer", "") else "")

    def segment_ct(self, hu: np.ndarray, spacing: Sequence[float], grid: Sequence[float] | None = None) -> np.ndarray:
        """Segment a CT.

        Args:
            hu: (Z, Y, X) in HU.
            spacing: (z, y, x) in mm.
            grid: spacing (z, y, x) in mm on which a published network works.

        Returns:
            (Z, Y, X) uint8, 1 in what the model calls airway.

        Raises:
            UserError: a grid is given, and the model has its own.
        """
        self.require_grid_allowed(grid)
        configuration = self._on_grid(spacing, grid)
        self.spacing = tuple(float(side) for side in spacing)
        if configuration.configuration["resampling_fn_data"] != UNCHANGED:
            self.spacing = tuple(configuration.spacing[axis] for axis in self.plans_manager.transpose_backward)
        properties = {"spacing": list(map(float, spacing))}
        preprocessor = configuration.preprocessor_class(verbose=False)
        data, _, properties = preprocessor.run_case_npy(
            hu[None], None, properties, self.plans_manager, configuration, self.dataset_json
        )
        forward = self.plans_manager.transpose_forward
        box = tuple(slice(*ends) for ends in properties["bbox_used_for_cropping"])
        self._air = (hu < AIR).transpose(forward)[box]
        self._shape = data.shape[1:]
        logits = self.predict_logits_from_preprocessed_data(torch.from_numpy(data))
        del self._air
        given = (logits, self.plans_manager, configuration, self.label_manager, properties)
        if self.operating_point == DEFAULT:  # what nnU-Net does, in less memory
            found = np.asarray(convert_predicted_logits_to_segmentation_with_correct_shape(*given)) > 0
        else:
            _, probabilities = convert_predicted_logits_to_segmentation_with_correct_shape(
                *given, return_probabilities=True
            )
            found = self.operating_point.mask(np.asarray(probabilities)[-1], spacing)
        return found.astype(np.uint8)

    def require_grid_allowed(self, grid: Sequence[float] | None) -> None:
        """Check that the model has no grid of its own if one is given.

        Raises:
            UserError: it has, or the grid is not three positive numbers.
        """
        if grid is None:
            return
        checked_spacing(grid)
        if PUBLISHED not in self.plans_manager.plans:
            wanted = ", ".join(f"{side:g}" for side in self.configuration_manager.spacing)
            raise UserError(
                f"the model has a grid of its own ({wanted} mm, in its plans), to which nnU-Net brings each CT: leave "
                f"out --spacing"
            )

    def _on_grid(self, spacing: Sequence[float], grid: Sequence[float] | None) -> ConfigurationManager:
        if PUBLISHED not in self.plans_manager.plans:
            return self.configuration_manager
        target = [side if side <= COARSEST else FINE for side in spacing] if grid is None else list(map(float, grid))
        if np.allclose(target, spacing):
            return self.configuration_manager
        linear = {
            f"resampling_fn_{what}{ending}": value
            for what in ("data", "seg", "probabilities")
            for ending, value in (
                ("", "resample_torch_fornnunet"),
                ("_kwargs", {"is_seg": what == "seg", "force_separate_z": False}),
            )
        }
        return ConfigurationManager({**self.configuration_manager.configuration, "spacing": target, **linear})

    def _internal_predict_sliding_window_return_logits(self, data, slicers, do_on_device=True):
        kept = [slicer for slicer in slicers if self._holds_air(data.shape[1:], slicer[1:])]
        self.windows = (len(slicers), len(kept))
        with progress_bar(description="windows", unit="window", total=len(kept)) as self._bar:
            logits = super()._internal_predict_sliding_window_return_logits(data, kept, do_on_device)
        if len(kept) < len(slicers):  # where no window has been, nnU-Net divides 0 by 0
            seen = torch.zeros(data.shape[1:], dtype=torch.bool, device=logits.device)
            for _, *window in kept:
                seen[tuple(window)] = True
            background = torch.full((len(logits), 1, 1, 1), BACKGROUND, dtype=logits.dtype, device=logits.device)
            if not self.label_manager.has_regions:
                background[0] = 0
            logits = torch.where(seen, logits, background)
        if logits.isnan().any():
            raise UserError(
                "the model gives values that are no numbers: its training has failed, or the file is damaged"
            )
        return logits

    def _internal_maybe_mirror_and_predict(self, x):
        logits = super()._internal_maybe_mirror_and_predict(x)
        self._bar.update()
        return logits

    def _holds_air(self, padded: Sequence[int], window: Sequence[slice]) -> bool:
        """Whether there is air in that part of the CT from which a window of the padded, resampled one was made."""
        part = []
        for side, own, there, span in zip(padded, self._shape, self._air.shape, window, strict=True):
            before = max(side - own, 0) // 2  # nnU-Net pads both sides alike
            scale = there / own
            start = int(np.floor((span.start - before) * scale)) - 1
            stop = int(np.ceil((span.stop - before) * scale)) + 1
            part.append(slice(max(start, 0), max(stop, 0)))
        return bool(self._air[tuple(part)].any())


def keep_freed_memory() -> None:
    """Let the C library keep what one window has freed for the next, where it is glibc.

    Otherwise it gives large arrays back at once, and a third of a window's time on a CPU goes into fresh pages.
    """
    with suppress(OSError, AttributeError, TypeError):  # other systems
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def load_predictor(model: Path, settings: Settings) -> AirwayPredictor:
    """Load an nnU-Net model folder.

    Args:
        model: folder with ``plans.json``, ``dataset.json`` and folds.
        settings: see there.

    Raises:
        UserError: the folder is no model, lacks a fold, or its model is not for airways in 3-D CT; or there is no such
            device.
    """
    plans, dataset = (_json(model, name) for name in ("plans.json", "dataset.json"))
    folds = settings.folds or _folds(model, settings.checkpoint)
    for fold in folds:
        file = model / f"fold_{fold}" / settings.checkpoint
        if not file.is_file():
            raise UserError(f"{model} has no fold_{fold}/{settings.checkpoint}; {_there(model)}")
        try:
            require_whole(file)
        except RuntimeError as error:
            raise UserError(str(error)) from error
    published = plans.get(PUBLISHED, {})
    with redirect_stdout(io.StringIO()):  # where it looks for the trainer, which folds it has found, ...
        predictor = AirwayPredictor(
            tile_step_size=settings.step_size,
            use_gaussian=published.get("gaussian", True),
            use_mirroring=settings.mirroring,
            device=_device(settings.device),
            allow_tqdm=False,
        )
        try:
            saved = torch.load(file, map_location="cpu", weights_only=False, mmap=True)  # nnU-Net reads its tensors
            manager = PlansManager(plans)
            configuration = manager.get_configuration(saved["init_args"]["configuration"])
            _require_airways(str(model), manager, configuration, dataset)  # before its network is built
            predictor.initialize_from_trained_model_folder(str(model), folds, settings.checkpoint)
            predictor.folds = folds
            predictor.operating_point = operating_point_of(model, settings)
        except UserError:
            raise
        except LOADING as error:
            raise UserError(f"{model} cannot be loaded as a model: {' '.join(str(error).split())[:400]}") from error
    return predictor


def operating_point_of(model: Path, settings: Settings) -> OperatingPoint:
    """Give the operating point that is asked for, that of a model that was tuned, or p > 0.5."""
    return settings.operating_point or own_operating_point(model)


def _json(model: Path, name: str) -> dict:
    if not (model / name).is_file():
        raise UserError(
            f"{model} is no model folder of nnU-Net, it has no {name}: give the folder that holds plans.json, "
            f"dataset.json and fold_0, such as nnUNet_results/DatasetXXX_NAME/TRAINER__PLANS__3d_fullres"
        )
    try:
        return load_json(str(model / name))
    except ValueError as error:
        raise UserError(f"{model / name} is damaged: {main_line(error)}") from error


def _folds(model: Path, checkpoint: str) -> tuple[str, ...]:
    there = sorted(file.parent.name.removeprefix("fold_") for file in model.glob(f"fold_*/{checkpoint}"))
    folds = tuple(fold for fold in there if fold != "all") or tuple(there)
    if not folds:
        raise UserError(f"{model} has no fold with a {checkpoint}; {_there(model)}")
    return folds


def _there(model: Path) -> str:
    found = sorted(str(file.relative_to(model)) for file in model.glob("fold_*/*.pth"))
    return f"there are {', '.join(found)} (-f and -chk choose)" if found else "there are no checkpoints in it"


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"-device {name}: there is no such device here, use cpu ({main_line(error)})") from error
    return device


def _require_airways(name: str, plans: PlansManager, configuration: ConfigurationManager, dataset: dict) -> None:
    """Refuse models that nothing here can use."""
    labels = plans.get_label_manager(dataset)
    structures = labels.foreground_regions if labels.has_regions else labels.foreground_labels
    channels = dataset.get("channel_names", dataset.get("modality", {}))
    if len(configuration.patch_size) != 3:
        problem = "works on single slices (2d)"
    elif configuration.previous_stage_name is not None:
        problem = f"needs the segmentation of another configuration, {configuration.previous_stage_name}"
    elif len(channels) != 1:
        problem = f"takes {len(channels)} images a case ({', '.join(channels.values())})"
    elif len(structures) != 1:
        problem = f"segments {len(structures)} structures ({', '.join(map(str, dataset['labels']))})"
    else:
        return
    raise UserError(
        f"{name} {problem}. A model is needed that makes one structure, the airways, of one CT in 3-D, such as one of "
        f"3d_fullres"
    )
