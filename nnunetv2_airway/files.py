"""Files that are either whole or not there."""

import csv
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Give a temporary path of the same file name, and rename it to ``target`` when the block ends without error.

    The temporary file lies in a hidden folder beside the target: same file system, same file ending (libraries choose
    the format by it), and never taken for a case by nnU-Net if the process is killed.
    """
    target = Path(target)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".partial-") as folder:
        temporary = Path(folder, target.name)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())  # the content before the name, also where the power fails
        os.replace(temporary, target)  # noqa: PTH105, the atomic one by name


def write_text(target: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(target: Path, content: dict) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(target, json.dumps(content, indent=2) + "\n")


def without_nan(value):
    """Return nested figures as JSON has them: None for nan."""
    if isinstance(value, dict):
        return {name: without_nan(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def write_csv(target: Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Write a CSV file, whole or not at all; None becomes an empty cell."""
    with atomic_path(target) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows((header, *rows))


def reason(error: Exception) -> str:
    """Say what went wrong with a case: what was foreseen speaks for itself, the rest is named by its type."""
    return str(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"


def last_line(error: Exception) -> str:
    """Return what an error says at its end: ITK puts the cause there, after its own file names."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
