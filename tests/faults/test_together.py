"""Several processes at once: two folds on no maps, two evaluations or conversions into one folder."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

JOBS = [
    *(pytest.param(job, marks=pytest.mark.slow) for job in ("conversion", "evaluation")),
    *(pytest.param(job, marks=pytest.mark.long) for job in ("maps", "post-processing")),
]


def at_once(site, job: str, number: int = 2) -> list[str]:
    processes = [site.start(job) for _ in range(number)]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0] * number, outputs
    return [out + err for out, err in outputs]


@pytest.mark.parametrize("job", JOBS)
def test_the_same_work_twice_at_once_gives_what_one_run_gives(site, job):
    assert site.run(job).returncode == 0
    expected = site.results()
    site.clear()
    said = at_once(site, job)
    assert site.results() == expected
    if job in ("conversion", "evaluation"):
        assert sum("another process works in" in text for text in said) == 1


@pytest.mark.slow
def test_evaluations_of_two_models_into_one_folder_do_not_mix(site):
    """The second waits, and then replaces the first's figures as it would have done an hour later."""
    other = site.folder / "other"
    other.mkdir(exist_ok=True)
    for file in (site.folder / "mask").iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    command = [sys.executable, "-c", "from nnunetv2_airway.cli.evaluate import main; main()"]
    lines = [[*command, "-ref", "mask", "-pred", folder, "-o", "out"] for folder in ("prediction", "other")]
    processes = []
    for line in lines:
        processes.append(subprocess.Popen(line, cwd=site.folder, stdout=subprocess.PIPE, text=True))
        time.sleep(0.5)
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    summary = json.loads((site.folder / "out" / "summary.json").read_text())
    folders = {Path(case["prediction_file"]).parent.name for case in summary["metric_per_case"]}
    waited = [name for name, text in zip(("prediction", "other"), said, strict=True) if "another process" in text]
    assert list(folders) == waited
    records = [json.loads(file.read_text()) for file in (site.folder / "out" / "cases").glob("*.json")]
    assert {Path(record["prediction_file"]).parent.name for record in records} == folders


def test_workers_end_with_the_process_that_started_them(site):
    process = site.start("evaluation")
    deadline = time.monotonic() + 60
    while len(group(process.pid)) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(group(process.pid)) >= 3, "the command and two workers at least"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    while group(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not group(process.pid)


def group(leader: int) -> list[str]:
    """List the states of a group's processes that are alive."""
    if Path("/proc/self/stat").exists():
        rows = []
        for file in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # it has just ended
                state, _, number, *_ = file.read_text().rsplit(")", 1)[1].split()
                rows.append((number, state))
    else:
        listed = subprocess.run(["ps", "-axo", "pgid=,stat="], capture_output=True, text=True, check=True).stdout
        rows = [line.split() for line in listed.splitlines()]
    return [state for number, state in rows if int(number) == leader and not state.startswith("Z")]
