"""Fixtures for all tests."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def reference() -> Path:
    """Folder of values computed with the authors' own code; skips where it is not there."""
    folder = Path(os.environ.get("NNUNETV2_AIRWAY_REFERENCE", ROOT.parent / "shared" / "reference"))
    if not folder.is_dir():
        pytest.skip(f"reference values not found in {folder}; set NNUNETV2_AIRWAY_REFERENCE")
    return folder


def run_command(*line: object, workspace: Path, **variables: str) -> subprocess.CompletedProcess:
    """Run an installed console command in a workspace; its output is in the result."""
    program, *arguments = map(str, line)
    program = shutil.which(program, path=str(Path(sys.executable).parent)) or program
    return subprocess.run(
        [program, *arguments], env={**variables_of(workspace), **variables}, capture_output=True, text=True, check=False
    )


def variables_of(workspace: Path) -> dict[str, str]:
    """The variables of nnU-Net for a workspace, and few processes."""
    folders = {name: str(workspace / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    return {**os.environ, **folders, "nnUNet_n_proc_DA": "2", "nnUNet_def_n_proc": "2", "nnUNet_compile": "f"}


@pytest.fixture(scope="session")
def variables():
    """The function that gives the variables of nnU-Net for a workspace."""
    return variables_of


@pytest.fixture(scope="session")
def command():
    """The function that runs an installed console command."""
    return run_command


@pytest.fixture(scope="session")
def workspace(tmp_path_factory) -> Path:
    """A folder with a small, anisotropic, non-cubic phantom data set, planned and preprocessed by the real commands."""
    folder = tmp_path_factory.mktemp("nnunet")
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (folder / name).mkdir()
    for line in (
        "nnUNetv2_airway_phantom -d 599 -n 5 -n_test 1 --shape 40 72 64 --spacing 2 1 1.2",
        "nnUNetv2_plan_and_preprocess -d 599 -c 3d_fullres -npfp 2 -np 2 --verify_dataset_integrity",
    ):
        result = run_command(*line.split(), workspace=folder)
        assert result.returncode == 0, result.stdout + result.stderr
    return folder
