"""A model as users have it: the package's own, an nnU-Net model folder, an exported zip, or a published checkpoint.

The latter two are unpacked into a cache, by their content, below PyTorch's own (``TORCH_HOME`` moves it).
"""

import shutil
import zipfile
from pathlib import Path

import torch

from nnunetv2_airway.inference.published import FORMAT, import_published
from nnunetv2_airway.io.errors import UserError
from nnunetv2_airway.io.files import alone_in, digest_of, main_line

BUILT_IN = Path(__file__).parents[1] / "model"
"""The package's own model; ``MODEL_CARD.md`` in it says what it knows."""
CHECKPOINTS = (".pth", ".pt", ".ckpt", ".pkl")
"""Endings of published files; torch's own are zip archives, too."""


def find_model(model: Path, *, window: tuple[float, float] | None = None, cache: Path | None = None) -> Path:
    """Find the model folder that a user means.

    Args:
        model: the folder, or one that holds only this one below; a zip of ``nnUNetv2_export_model_to_zip``; or a
            published checkpoint.
        window: of a published checkpoint, see ``import_published``.
        cache: folder in which files are unpacked; by default below PyTorch's.

    Raises:
        UserError: it is neither, or there are several models in it.
        OSError: the cache cannot be written.
    """
    if model.is_dir():
        found = _only_model(model)
    elif not model.is_file():
        raise UserError(f"there is no model {model}: give an nnU-Net model folder, an exported zip or a checkpoint")
    elif model.suffix.lower() in CHECKPOINTS:
        return _cached(model, lambda folder: import_published(model, folder, window=window), cache, window)
    elif zipfile.is_zipfile(model):
        found = _only_model(_cached(model, lambda folder: _unpack(model, folder), cache))
    else:
        raise UserError(
            f"{model} is neither a model folder of nnU-Net, nor a zip of nnUNetv2_export_model_to_zip, nor a "
            f"checkpoint ({', '.join(CHECKPOINTS)})"
        )
    if window is not None:
        raise UserError(f"--window is for published checkpoints; {model} is a model of nnU-Net, which knows its own")
    return found


def _only_model(folder: Path) -> Path:
    models = sorted(file.parent for file in folder.rglob("plans.json") if any(file.parent.glob("fold_*/*.pth")))
    if folder in models or not models:  # what it lacks is said where it is loaded
        return folder
    if len(models) > 1:
        listed = "; ".join(str(model.relative_to(folder)) for model in models)
        raise UserError(f"{folder} holds {len(models)} models, give one of them: {listed}")
    return models[0]


def _cached(file: Path, make, cache: Path | None, window: tuple[float, float] | None = None) -> Path:
    """Give the folder that is made of a file, unless that was done before."""
    cache = (cache or Path(torch.hub.get_dir())) / "nnunetv2_airway" / FORMAT.replace(" ", "_")
    name = digest_of(file) + ("_{:g}_{:g}".format(*window) if window else "")
    if (cache / name).is_dir():  # which may be on a disk that cannot be written
        return cache / name
    cache.mkdir(parents=True, exist_ok=True)
    with alone_in(cache):
        if not (cache / name).is_dir():
            making = cache / f"{name}.partial"
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir()
            try:
                make(making)
                making.rename(cache / name)
            finally:
                shutil.rmtree(making, ignore_errors=True)
    return cache / name


def _unpack(file: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(file) as content:
            content.extractall(folder)
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise UserError(f"{file} is damaged, copy it again: {main_line(error)}") from error
    if not any(folder.rglob("plans.json")):  # of one cut short, Python may open a checkpoint in it
        raise UserError(f"{file} is damaged, or was not made by nnUNetv2_export_model_to_zip: it holds no plans.json")
