"""Folders of nnU-Net's raw data sets."""

import os
import re
from pathlib import Path

from nnunetv2_airway.files import write_json

FILE_ENDING = ".nii.gz"


def dataset_folder(output: Path | None, number: int, name: str) -> Path:
    """Give the folder of a data set, below ``output`` or the variable ``nnUNet_raw``.

    Raises:
        ValueError: neither is given.
    """
    root = output or os.environ.get("nnUNet_raw")
    if not root:
        raise ValueError("where to write is not known: give -o FOLDER, or set the variable nnUNet_raw")
    return Path(root) / f"Dataset{number:03d}_{name}"


def require_free_id(folder: Path) -> None:
    """Check that no data set of another name has the id of this one.

    Raises:
        ValueError: one has.
    """
    number = re.match(r"Dataset\d{3}_", folder.name)
    others = [other.name for other in folder.parent.glob(f"{number[0]}*") if other != folder] if number else []
    if others:
        raise ValueError(f"{folder.parent} already has {others[0]}; nnU-Net needs one name per id. Choose another -d.")


def is_empty(folder: Path) -> bool:
    """Whether a folder is not there, or holds nothing but hidden files."""
    return not folder.exists() or all(content.name.startswith(".") for content in folder.iterdir())


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
