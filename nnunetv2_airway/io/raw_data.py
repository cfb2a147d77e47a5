"""Folders of nnU-Net's raw data sets."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from nnunetv2_airway.io.errors import UserError
from nnunetv2_airway.io.files import write_json

FILE_ENDING = ".nii.gz"
PARTS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")


def dataset_folder(output: Path | None, number: int, name: str) -> Path:
    """Give the folder of a data set, below ``output`` or the variable ``nnUNet_raw``.

    Raises:
        UserError: neither is given, or the name could not be that of a folder.
    """
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise UserError(f"the name of a data set is of letters, digits, '_', '-', '.' and '+', got {name!r}")
    root = output or os.environ.get("nnUNet_raw")
    if not root:
        raise UserError("where to write is not known: give -o FOLDER, or set the variable nnUNet_raw")
    return Path(root) / f"Dataset{number:03d}_{name}"


def require_free_id(folder: Path) -> None:
    """Check that no data set of another name has the id of this one.

    Raises:
        UserError: one has.
    """
    number = re.match(r"Dataset\d{3}_", folder.name)
    others = [other.name for other in folder.parent.glob(f"{number[0]}*") if other != folder] if number else []
    if others:
        raise UserError(
            f"{folder.parent} already has {others[0]}; nnU-Net needs one name per id. Choose another -d, or its -name."
        )


def require_own(folder: Path, settings_file: Path, settings: dict, *, overwrite: bool) -> None:
    """Check that a folder holds no files or is not there, or was made by the same command with the same settings.

    Args:
        folder: the data set.
        settings_file: where the command keeps its settings, as JSON.
        settings: those of now.
        overwrite: other settings are allowed, because what they made is going to be removed.

    Raises:
        UserError: it holds something else, or was made with other settings; they are listed.
    """
    if not any(_visible_files(folder)):  # before the settings, which another process may be writing, and writes first
        return
    if not settings_file.exists():
        raise UserError(f"{folder} exists and was not made by this command. Choose another -d, -name or -o.")
    try:
        found = json.loads(settings_file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{settings_file} is damaged, so that what {folder} was made with is not known: delete the folder, or "
            f"choose another -d, -name or -o"
        ) from error
    differing = [
        f"{key}: {found.get(key)} there, {value} now" for key, value in settings.items() if found.get(key) != value
    ]
    if differing and not overwrite:
        raise UserError(
            f"{folder} was made with other options ({'; '.join(differing)}). Choose another -d or -o, or make it all "
            f"again with --overwrite."
        )


def prepare_own(folder: Path, settings_file: Path, settings: dict, *, overwrite: bool = False) -> None:
    """Create a data set's folder with its parts, or take one of the same settings; arguments as of ``require_own``.

    Where it is overwritten, its parts are emptied.

    Raises:
        UserError: the id is taken, or the folder holds something else.
    """
    require_free_id(folder)
    require_own(folder, settings_file, settings, overwrite=overwrite)
    if overwrite:
        for name in PARTS:
            shutil.rmtree(folder / name, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(settings_file, settings)  # first, so that an interrupted run recognises its own folder
    create_parts(folder)


def create_parts(folder: Path) -> None:
    """Create the folders of images and labels, where they are not there."""
    for name in PARTS:
        (folder / name).mkdir(parents=True, exist_ok=True)


def _visible_files(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent) / name for name in files if not name.startswith("."))


def write_dataset_json(folder: Path, *, training: int, description: str, licence: str, reference: str = "") -> None:
    """Write ``dataset.json`` for one CT in HU and one airway label.

    The channel is called ``noNorm`` because the network makes its windows from HU itself.
    """
    write_json(
        folder / "dataset.json",
        {
            "name": folder.name,
            "description": description,
            "reference": reference,
            "licence": licence,
            "channel_names": {"0": "noNorm"},
            "labels": {"background": 0, "airway": 1},
            "numTraining": training,
            "file_ending": FILE_ENDING,
        },
    )
