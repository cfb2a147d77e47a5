"""Fixtures for all tests; those of one kind stand in a file of ``fixtures``."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # one process a core: more threads than that would wait for each other
    os.environ["OMP_NUM_THREADS"] = "1"

from pathlib import Path

import pytest

pytest_plugins = [
    "fixtures.chests",
    "fixtures.commands",
    "fixtures.models",
    "fixtures.scans",
    "fixtures.trainers",
    "fixtures.trees",
]

ROOT = Path(__file__).parent.parent
LONGEST = ("test_end_to_end", "test_features", "test_phased_trainer", "test_segment")


def shared_folder(name: str, what: str) -> Path:
    """Find a folder that is not part of the project, and skip where it is not there."""
    variable = f"NNUNETV2_AIRWAY_{name.upper()}"
    folder = Path(os.environ.get(variable, ROOT.parent / "shared" / name))
    if not folder.is_dir():
        pytest.skip(f"{what} not found in {folder}; set {variable}")
    return folder


@pytest.fixture(scope="session")
def reference() -> Path:
    """Folder of values computed with the authors' own code; skips where it is not there."""
    return shared_folder("reference", "reference values")


@pytest.fixture(scope="session")
def real() -> Path:
    """Folder of patients' CTs and trees; skips where it is not there."""
    return shared_folder("real", "real data")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the modules that take longest: each is tested in one process, and the last should not wait for one."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)
