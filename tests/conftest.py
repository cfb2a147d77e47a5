"""Fixtures for all tests."""

import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from multiprocessing import dummy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as upstream
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from nnunetv2_airway import parallel
from nnunetv2_airway.cli import convert
from nnunetv2_airway.images import Grid
from nnunetv2_airway.phantom.model import PhantomOptions, synthesize

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


@pytest.fixture
def in_this_process(monkeypatch):
    """Work on cases in this process instead of new ones, each of which takes seconds to start."""

    def run(function, cases, processes):
        for name, arguments in cases.items():
            try:
                yield name, function(*arguments), None
            except Exception as error:
                yield name, None, error

    monkeypatch.setattr(parallel, "_run", run)


def work_in_one_process(patch: pytest.MonkeyPatch, workspace: Path) -> None:
    """Set the variables of nnU-Net for its commands in this process, with threads for processes, and no pictures."""

    def in_a_thread(*, target, args, daemon) -> dummy.DummyProcess:
        return dummy.Process(target=target, args=args)

    for name, value in variables_of(workspace).items():
        patch.setenv(name, value)
    patch.setenv("nnUNet_n_proc_DA", "0")
    threads = SimpleNamespace(Pool=dummy.Pool, Manager=dummy.Manager, Process=in_a_thread)
    patch.setattr(multiprocessing, "get_context", lambda method=None: threads)
    patch.setattr(upstream, "default_num_processes", 1)
    patch.setattr(LocalLogger, "plot_progress_png", lambda self, folder: Path(folder, "progress.png").touch())


def run_entry_point(line: str, **variables: str) -> None:
    program, *words = line.split()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", [program, *words])
        entry_points(group="console_scripts")[program].load()()


@pytest.fixture(scope="session")
def in_one_process():
    """The function after which nnU-Net's commands can be run in this process, which saves seconds for each."""
    return work_in_one_process


@pytest.fixture(scope="session")
def entry_point():
    """The function that runs a console command in this process."""
    return run_entry_point


@pytest.fixture
def convert_here(in_this_process, monkeypatch, capsys):
    """The function that runs ``nnUNetv2_airway_convert`` in this process; returns its exit code and output."""

    def run(*line: object, workspace: Path) -> tuple[int, str]:
        for name, value in variables_of(workspace).items():
            monkeypatch.setenv(name, value)
        code = 0
        try:
            convert.main([str(word) for word in line])
        except SystemExit as error:
            code = error.code or 0
            if isinstance(code, str):
                print(code, file=sys.stderr)
                code = 1
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


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


PHANTOM = PhantomOptions(shape=(40, 72, 64), spacing=(2.0, 1.0, 1.2))
GRID = Grid((1.2, 1.0, 2.0), (-41.5, 33.25, -400.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))


@pytest.fixture(scope="session")
def grid() -> Grid:
    """Where the voxels of the scans lie."""
    return GRID


@pytest.fixture(scope="session")
def scans() -> list[tuple[np.ndarray, np.ndarray]]:
    """Three small, anisotropic, non-cubic CTs in HU with their airways, (Z, Y, X)."""
    made = [synthesize(PHANTOM, index) for index in range(3)]
    for arrays in made:
        for array in arrays:
            array.setflags(write=False)
    return made


def write_array(file: Path, array: np.ndarray, grid: Grid = GRID) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(grid.image(array), str(file))
    return file


@pytest.fixture(scope="session")
def write() -> Callable[..., Path]:
    """The function that writes an array as an image file."""
    return write_array


def write_series(
    folder: Path,
    hu: np.ndarray,
    grid: Grid = GRID,
    *,
    uid: str = "",
    names: Sequence[str] = (),
    slope: float = 1.0,
    intercept: float = -1024.0,
    shifts: Sequence[Sequence[float]] = (),
    **tags: object,
) -> str:
    """Write a CT as one DICOM file a slice, and return its SeriesInstanceUID.

    Args:
        folder: for the files.
        hu: (Z, Y, X), of which (HU - intercept) / slope is stored.
        grid: where the voxels lie.
        uid: SeriesInstanceUID.
        names: of the files, in the order of the slices.
        slope: RescaleSlope.
        intercept: RescaleIntercept.
        shifts: what to add to the positions of the slices, in mm.
        tags: further or other DICOM tags, None to leave one out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    uid = uid or generate_uid()
    direction = np.reshape(grid.direction, (3, 3))
    for index, plane in enumerate(hu):
        dataset = pydicom.Dataset()
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
        position = np.array(grid.origin) + direction[:, 2] * grid.spacing[2] * index
        position += shifts[index] if len(shifts) else 0
        values = {
            "SeriesInstanceUID": uid,
            "StudyInstanceUID": "1.2.3",
            "Modality": "CT",
            "SeriesDescription": "Thorax 1.0 B50f",
            "PatientID": "",
            "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
            "ImagePositionPatient": [f"{value:.6g}" for value in position],
            "ImageOrientationPatient": [f"{value:.8g}" for value in direction[:, :2].T.ravel()],
            "PixelSpacing": [grid.spacing[1], grid.spacing[0]],
            "Rows": plane.shape[0],
            "Columns": plane.shape[1],
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "BitsAllocated": 16,
            "BitsStored": 16,
            "HighBit": 15,
            "PixelRepresentation": 1,
            "RescaleSlope": slope,
            "RescaleIntercept": intercept,
            "InstanceNumber": 1,
            **tags,
        }
        for name, value in values.items():
            if value is not None:
                setattr(dataset, name, value)
        dataset.PixelData = np.rint((plane - intercept) / slope).astype(np.int16).tobytes()
        dataset.save_as(folder / (names[index] if len(names) else f"{index:04d}.dcm"), enforce_file_format=True)
    return uid


@pytest.fixture(scope="session")
def write_dicom() -> Callable[..., str]:
    """The function that writes a DICOM series."""
    return write_series
