"""No space, or no permission to write: one clear error, and what was there before is still there."""

import ctypes
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

INPUTS = ("ct", "mask", "prediction", "plans_3d")
JOBS = {"conversion": "out", "maps": "plans_3d_airway_maps", "post-processing": "out", "evaluation": "out"}
"""What each job writes into."""


@pytest.fixture(params=[pytest.param(job, marks=pytest.mark.slow if job != "maps" else ()) for job in JOBS])
def job(request) -> str:
    return request.param


@pytest.fixture
def disk(site, job) -> Iterator[Path]:
    """The folder that the job writes into, on a small disk of its own where we may mount one."""
    folder = site.folder / JOBS[job]
    folder.mkdir()
    line = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(line, check=False, capture_output=True).returncode == 0
    yield folder
    if mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def one_more_case(site) -> Iterator[None]:
    """A function that puts a case more into the inputs."""
    added = []

    def add() -> None:
        for file in [file for file in site.folder.glob("*/case0*") if file.parent.name in INPUTS]:
            added.append(shutil.copy(file, file.with_name(file.name.replace("case0", "case9"))))

    yield add
    for file in added:
        Path(file).unlink()


def fill(disk: Path) -> dict:
    """Leave no space on a disk, or where it is no small one, let no file of a command grow."""
    if not os.path.ismount(disk):
        return {"preexec_fn": _write_nothing}
    with (disk / ".filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(2**10))
        except OSError:
            return {}


def _write_nothing() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def _obey_permissions() -> None:
    """Let root be stopped by the permissions of files, as everybody else is."""
    drop, override = 24, 1  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE
    if os.geteuid() == 0:
        ctypes.CDLL(None).prctl(drop, override, 0, 0, 0)


def last_words(result: subprocess.CompletedProcess, job: str) -> str:
    """What a command says at its end: one line of ours, no traceback, which the maps' caller, nnU-Net, would show."""
    assert result.returncode != 0, result.stdout
    assert job == "maps" or "Traceback" not in result.stderr
    return result.stderr.strip().splitlines()[-1]


def test_no_space_left(site, job, disk, one_more_case):
    assert site.run(job).returncode == 0
    before = site.results()
    one_more_case()
    result = site.run(job, **fill(disk))
    message = last_words(result, job)
    assert f"cannot write {disk.name}" in message.replace(str(site.folder) + "/", ""), message
    assert "the disk is full" in message or "File too large" in message
    (disk / ".filler").unlink(missing_ok=True)
    after = site.results()
    assert {name: after.get(name) for name in before} == before
    assert not [name for name in after if ".partial" in name or not after[name]]
    assert site.run(job).returncode == 0, "the same command goes on where there is space again"
    assert sum("case9" in name for name in site.results()) >= 1


@pytest.mark.slow
def test_no_permission(site, job, one_more_case):
    assert site.run(job).returncode == 0
    before = site.results()
    one_more_case()
    output = site.folder / JOBS[job]
    folders = [output, *(path for path in output.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        message = last_words(site.run(job, preexec_fn=_obey_permissions), job)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert "Permission denied" in message and JOBS[job] in message, message
    after = site.results()
    assert {name: after[name] for name in before} == before
