"""Networks that others have published as files, made into model folders of nnU-Net.

What a file cannot say about itself (windows, tiling, licence) stands here in rows; sources: the public code of Tang's
entry to ATM'22, of the ATM'22 organisers' baseline, and of Zheng 2021. nnU-Net runs a network in evaluation mode and
averages logits; Tang's own script leaves it in training mode, so that its dropout acts and each run gives another tree.
"""

import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from nnunetv2_airway import __version__
from nnunetv2_airway.architectures.baseline_unet import BaselineUNet
from nnunetv2_airway.architectures.published import differences, published_tensors
from nnunetv2_airway.architectures.wingsnet import WingsNet
from nnunetv2_airway.hounsfield import WINDOWS
from nnunetv2_airway.io.errors import UserError, some
from nnunetv2_airway.io.files import atomic_path, digest_of, main_line, write_json

FORMAT = f"2 {__version__}"
"""Of the model folders; one of another is made anew where it was made on the way."""
CONFIGURATION, FOLD = "3d_fullres", "fold_0"
PATCH = (128, 128, 128)
"""Of all of them."""
UNCHANGED = "no_resampling_hack"
"""nnU-Net's function that leaves a CT on its own grid."""
ORIENTATION = "airway_orientation"
"""In plans: how a CT is to be turned for the model."""
PUBLISHED = "airway_published"
"""Key in the plans: what an imported model was made of, and how its windows are laid."""
NO_IMPORT = (
    "{file} is a checkpoint of nnU-Net, which needs no import: give -m the folder that holds plans.json, dataset.json "
    "and the folds, two levels above"
)
LISTED = 6
"""Differences that an error names."""


@dataclass(frozen=True)
class Kind:
    """A published network.

    Args:
        name: in words.
        build: the network.
        trainers: by its names in ``hounsfield.WINDOWS``, windows with which it is run, the first one by default.
        gaussian: whether the public code weights a window's voxels by a Gaussian, or all alike.
        licence: of its weights.
    """

    name: str
    build: Callable[[], nn.Module]
    trainers: Mapping[tuple[str, ...], str]
    gaussian: bool
    licence: str


NO_LICENCE = "none stated: use it as its authors allow, and do not pass it on"
KINDS = (
    Kind(
        "WingsNet of two windows, as of Tang's entry to ATM'22 (timi)",
        lambda: WingsNet(2),
        {("original", "tang_published"): "nnUNetTrainerWingsLIBPublished"},
        gaussian=False,
        licence=NO_LICENCE,
    ),
    Kind(
        "WingsNet of one window, as of Zheng 2021",
        lambda: WingsNet(1),
        {
            ("zheng",): "nnUNetTrainerWingsGUL",
            ("zheng_published",): "nnUNetTrainerWingsGULPublished",
            ("zheng_wide",): "nnUNetTrainerWingsGULWide",
        },
        gaussian=False,
        licence=NO_LICENCE,
    ),
    Kind(
        "U-Net of the ATM'22 organisers' baseline",
        BaselineUNet,
        {("zheng_published",): "nnUNetTrainerATM22Baseline"},
        gaussian=True,
        licence="MIT",
    ),
)


def import_published(file: Path, model: Path, *, window: tuple[float, float] | None = None) -> str:
    """Make an nnU-Net model folder of a published checkpoint.

    Args:
        file: tensors by name, as ``torch.save`` writes them; read without running code that it may hold.
        model: folder to make; one that holds an earlier import is written anew.
        window: HU range of its input, where the file's kind leaves a choice.

    Returns:
        Name of the trainer that has this network.

    Raises:
        UserError: the file is no such checkpoint or fits no known network, the window does not, or the folder holds
            something else.
        OSError: the model cannot be written.
    """
    tensors = read_published(file)
    kind = kind_of(file, tensors)
    windows = _windows(kind, window)
    _require_free(model)
    trainer = kind.trainers[windows]
    weights = {f"body.{name}": value.float() for name, value in tensors.items()}
    assumed = window is None and len(kind.trainers) > 1
    write_model_folder(
        model,
        weights,
        _plans(file, kind, windows, assumed),
        trainer=trainer,
        fold=0,
        about={"name": "Published", "description": f"{kind.name}, of {file.name}", "licence": kind.licence},
    )
    return trainer


def write_model_folder(
    model: Path, weights: Mapping[str, torch.Tensor], plans: dict, *, trainer: str, fold: int | str, about: dict
) -> None:
    """Write a network for airways as nnU-Net keeps a model, with upright CTs in HU and without mirroring.

    Args:
        model: the folder.
        weights: of the network that the trainer builds.
        plans: of ``CONFIGURATION``.
        trainer: name of its class.
        fold: 0 to 4, or "all".
        about: name, description and licence, for ``dataset.json``.

    Raises:
        OSError: it cannot be written.
    """
    folder = model / f"fold_{fold}"
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / "checkpoint_final.pth") as temporary:
        torch.save(
            {
                "network_weights": weights,
                "trainer_name": trainer,
                "init_args": {"configuration": CONFIGURATION, "fold": fold},
                "inference_allowed_mirroring_axes": None,
            },
            temporary,
        )
    facts = {
        "channel_names": {"0": "noNorm"},
        "labels": {"background": 0, "airway": 1},
        "file_ending": ".nii.gz",
    }
    write_json(model / "dataset.json", facts | about)
    plans = plans | {ORIENTATION: "LPS"}
    write_json(model / "plans.json", plans)  # last: it says that the folder is whole


def what_was_imported(model: Path) -> str:
    """Say what a published file is taken for; empty for a model that was not imported."""
    about = (
        json.loads((model / "plans.json").read_text(encoding="utf-8")).get(PUBLISHED) if is_imported(model) else None
    )
    if about is None:
        return ""
    ranges = ", ".join(f"{WINDOWS[name].lower:g} to {WINDOWS[name].upper:g}" for name in about["windows"])
    assumed = ": assumed, for the file does not say; --window chooses another" if about["assumed"] else ""
    return f"{about['file']}: {about['network']}; licence: {about['licence']}\nIts input is {ranges} HU{assumed}"


def read_published(file: Path) -> dict[str, torch.Tensor]:
    """Read a checkpoint's tensors by the names that our networks have, without running code that it may hold.

    Raises:
        UserError: it is no checkpoint, is damaged, holds other things than tensors, or is one of nnU-Net's.
    """
    if not file.is_file():
        raise UserError(f"{file} is a folder, a file is needed" if file.is_dir() else f"there is no file {file}")
    with file.open("rb") as stream:
        is_zip = stream.read(2) == b"PK"
    try:
        if is_zip and zipfile.ZipFile(file).testzip():
            raise ValueError("its checksums are wrong, it is damaged")
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if is_zip and _is_of_nnunet(file):
            raise UserError(NO_IMPORT.format(file=file)) from error
        raise UserError(
            f"{file} is no checkpoint, or holds more than tensors, which could run code. If you trust where it comes "
            f'from, keep its tensors alone: torch.save(torch.load(FILE, weights_only=False)["state_dict"], NEW) '
            f"({main_line(error)[:120]})"
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{file} cannot be read as a checkpoint, fetch it again: {main_line(error)[:200]}") from error
    if isinstance(checkpoint, Mapping) and "network_weights" in checkpoint:
        raise UserError(NO_IMPORT.format(file=file))
    held = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, Mapping) else None
    if not isinstance(held, Mapping) or not held or not all(isinstance(value, torch.Tensor) for value in held.values()):
        raise UserError(f"{file} must hold tensors by name, alone or as its state_dict; got {_in_words(checkpoint)}")
    return published_tensors(held)


def _is_of_nnunet(file: Path) -> bool:
    """Whether a checkpoint has what nnU-Net writes into its own, without reading it."""
    with zipfile.ZipFile(file) as content:
        return any(b"network_weights" in content.read(name) for name in content.namelist() if name.endswith("data.pkl"))


def kind_of(file: Path, tensors: Mapping[str, torch.Tensor]) -> Kind:
    """Tell which network a file's tensors are of.

    Raises:
        UserError: of none; the differences from the nearest one are listed.
    """
    found = {kind.name: differences(kind.build(), tensors) for kind in KINDS}
    nearest = min(KINDS, key=lambda kind: len(found[kind.name]))
    problems = found[nearest.name]
    if problems:
        more = f"; and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
        raise UserError(
            f"{file} fits no known network ({'; '.join(kind.name for kind in KINDS)}). From the nearest, the "
            f"{nearest.name}, it differs in: {'; '.join(problems[:LISTED])}{more}"
        )
    return nearest


def _windows(kind: Kind, window: tuple[float, float] | None) -> tuple[str, ...]:
    known = {tuple((WINDOWS[name].lower, WINDOWS[name].upper) for name in names): names for names in kind.trainers}
    if window is None:
        return next(iter(kind.trainers))
    if (window,) not in known:
        listed = " or ".join(", ".join(f"{low:g} to {high:g}" for low, high in ranges) for ranges in known)
        raise UserError(f"the {kind.name} is run with {listed} HU, got {window[0]:g} to {window[1]:g}")
    return known[(window,)]


def _require_free(model: Path) -> None:
    """Check that a folder is empty, or that of an import, whole or interrupted."""
    held = {entry.name for entry in model.iterdir() if not entry.name.startswith(".")} if model.is_dir() else set()
    if held - {FOLD, "dataset.json", "plans.json"} or ("plans.json" in held and not is_imported(model)):
        raise UserError(f"{model} holds something else than an imported model: choose another folder")


def is_imported(model: Path) -> bool:
    """Whether a model folder was made of a published file."""
    plans = model / "plans.json"
    return plans.is_file() and f'"{PUBLISHED}"' in plans.read_text(encoding="utf-8")


def _plans(file: Path, kind: Kind, windows: tuple[str, ...], assumed: bool) -> dict:
    """Plans that leave a CT as it is: its own grid, in HU."""
    network = type(kind.build())
    return {
        "dataset_name": "Published",
        "plans_name": "Published",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {"0": {}},  # CTs are not normalised
        "label_manager": "LabelManager",
        "experiment_planner_used": "nnUNetv2_airway_import",
        PUBLISHED: {
            "file": file.name,
            "digest": digest_of(file),
            "network": kind.name,
            "windows": list(windows),
            "assumed": assumed,
            "licence": kind.licence,
            "gaussian": kind.gaussian,
        },
        "configurations": {
            CONFIGURATION: {
                "data_identifier": "Published",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": list(PATCH),
                "median_image_size_in_voxels": list(PATCH),
                "spacing": [1.0, 1.0, 1.0],
                "normalization_schemes": ["NoNormalization"],
                "use_mask_for_norm": [False],
                **{f"resampling_fn_{what}": UNCHANGED for what in ("data", "seg", "probabilities")},
                **{f"resampling_fn_{what}_kwargs": {} for what in ("data", "seg", "probabilities")},
                "architecture": {
                    "network_class_name": f"{network.__module__}.{network.__qualname__}",
                    "arch_kwargs": {"in_channels": len(windows)},
                    "_kw_requires_import": [],
                },
                "batch_dice": False,
            }
        },
    }


def _in_words(checkpoint) -> str:
    if isinstance(checkpoint, Mapping):
        return f"a mapping of {some([str(key) for key in checkpoint])}" if checkpoint else "an empty mapping"
    return f"a {type(checkpoint).__name__}"
