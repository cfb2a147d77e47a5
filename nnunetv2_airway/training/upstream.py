"""Names in nnU-Net's trainer module that are replaced for the length of a call, instead of copying methods."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as module

from nnunetv2_airway.io.files import write_json


@contextmanager
def replaced(name: str, value: Any) -> Iterator[None]:
    """Replace one name of the module for a while."""
    stock = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, stock)


def save_json(content: Any, file: str, **_options: Any) -> None:
    """Stand in for nnU-Net's function of this name: the file is whole or not there."""
    write_json(Path(file), content)
