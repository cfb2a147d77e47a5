"""What stands in for names of nnU-Net's trainer module while one of its methods runs, instead of copying the method."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as module

from nnunetv2_airway.io.files import write_json


def replaced(name: str, value: Any) -> AbstractContextManager:
    """Replace one name of the module for a while."""
    return patch.object(module, name, value)


def save_json(content: Any, file: str, **_options: Any) -> None:
    """Stand in for nnU-Net's function of this name: the file is whole or not there."""
    write_json(Path(file), content)
