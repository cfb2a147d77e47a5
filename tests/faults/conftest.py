"""Real commands on three small scans, to be killed, starved of space and locked out."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

JOBS = {
    "conversion": "nnUNetv2_airway_convert folder -i ct -l mask -d 510 -name Airways -o out --no-lung-box",
    "maps": f"python {Path(__file__).with_name('prepare_maps.py')} plans_3d",
    "post-processing": "nnUNetv2_airway_postprocess -i prediction -o out",
    "evaluation": "nnUNetv2_airway_evaluate -ref mask -pred prediction -o out",
}
OUTPUTS = ("out", "plans_3d_airway_maps")


@dataclass(frozen=True)
class Site:
    """A folder with inputs, in which commands are run by relative paths, so that results can be compared."""

    folder: Path

    def start(self, job: str, **options) -> subprocess.Popen:
        program, *arguments = JOBS[job].split()
        line = [str(Path(sys.executable).parent / program), *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(line, cwd=self.folder, start_new_session=True, **pipes, **options)

    def run(self, job: str, **options) -> subprocess.CompletedProcess:
        process = self.start(job, **options)
        out, err = process.communicate(timeout=600)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def kill(self, job: str, after: float, *, alone: bool) -> None:
        """Kill -9 a job after some seconds: with its workers, as clusters do, or alone, as Linux for want of memory."""
        process = self.start(job)
        time.sleep(after)
        if process.poll() is None:
            process.kill() if alone else os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)

    def clear(self) -> None:
        for name in OUTPUTS:
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def results(self) -> dict[str, bytes]:
        """Every file that a job has written, hidden ones too."""
        files = [file for name in OUTPUTS for file in sorted((self.folder / name).rglob("*")) if file.is_file()]
        return {str(file.relative_to(self.folder)): file.read_bytes() for file in files}


@pytest.fixture(scope="session")
def inputs(tmp_path_factory, scans, write) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "plans_3d").mkdir()
    for index, (ct, airway) in enumerate(scans):
        name = f"case{index}"
        island = airway.copy()
        island[-1, -3:, -3:] = 1
        write(folder / "ct" / f"{name}.nii.gz", ct)
        write(folder / "mask" / f"{name}.nii.gz", airway)
        write(folder / "prediction" / f"{name}.nii.gz", island)
        shape = {"chunks": (1, 20, 36, 32), "blocks": (1, 10, 18, 16)}
        case = (ct[None].astype(np.float32), airway[None].astype(np.int8), {"class_locations": {}})
        nnUNetDatasetBlosc2.save_case(*case, str(folder / "plans_3d" / name), **shape)
    return folder


@pytest.fixture
def site(inputs) -> Site:
    """The folder, without results."""
    site = Site(inputs)
    site.clear()
    return site
