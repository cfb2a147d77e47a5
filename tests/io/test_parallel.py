"""Work is given as Python expressions: ``eval`` is a function that every process can import."""

import os
import signal
import subprocess
import sys
import time

import pytest

from nnunetv2_airway.io import parallel
from nnunetv2_airway.io.files import CannotWriteError
from nnunetv2_airway.io.parallel import finished_cases

KILL_ITSELF = "__import__('os').kill(__import__('os').getpid(), 9)"


def run(cases: dict[str, str], processes: int = 2) -> dict[str, tuple]:
    work = {name: (expression,) for name, expression in cases.items()}
    outcomes = finished_cases(eval, work, processes=processes, description="test", show=False)
    return {name: (result, error) for name, result, error in outcomes}


def test_each_case_has_its_result_or_its_error():
    outcomes = run({"a": "__import__('time').sleep(0.2) or 2", "b": "int('no number')", "c": "6"})
    assert outcomes["a"] == (2, None) and outcomes["c"] == (6, None)
    result, error = outcomes["b"]
    assert result is None and isinstance(error, ValueError) and "no number" in str(error)


@pytest.mark.parametrize("processes", [1, 3])
def test_the_case_whose_process_is_killed_is_named_and_the_others_are_done(processes):
    outcomes = run({"0": KILL_ITSELF, "1": "1", "2": "2", "3": "3"}, processes)
    assert {name: result for name, (result, error) in outcomes.items() if error is None} == {"1": 1, "2": 2, "3": 3}
    error = outcomes["0"][1]
    assert isinstance(error, RuntimeError) and "lack of memory" in str(error) and "-np" in str(error)


def test_after_a_kill_half_as_many_run_at_once_before_any_runs_alone(monkeypatch):
    pools = []
    stock = parallel.ProcessPoolExecutor
    monkeypatch.setattr(parallel, "ProcessPoolExecutor", lambda n, **options: pools.append(n) or stock(n, **options))
    outcomes = run({**dict.fromkeys("123", "__import__('time').sleep(0.5) or 1"), "0": KILL_ITSELF}, 4)
    assert {name for name, (_, error) in outcomes.items() if error} == {"0"}
    assert pools[:2] == [4, 2] and set(pools[2:]) == {1} and len(pools) <= 6


def test_one_that_cannot_be_written_ends_the_work():
    cannot = "__import__('nnunetv2_airway.io.files', fromlist=['']).write_text(__import__('pathlib').Path('/no/a'), '')"
    with pytest.raises(CannotWriteError, match="cannot write /no/a"):
        run({"0": cannot, "1": "1"}, 1)


def test_no_cases():
    assert run({}) == {}


INTERRUPTED = """
from nnunetv2_airway.io.parallel import finished_cases
touch = "__import__('pathlib').Path({!r}).touch()"
slow = f"{touch.format('begun')} or __import__('time').sleep(1) or {touch.format('done')}"
if __name__ == "__main__":
    work = {"0": (slow,), "1": ("1",), "2": ("2",), "3": (touch.format("last"),)}  # the pool takes some early
    list(finished_cases(eval, work, processes=1, description="test"))
"""


def test_after_ctrl_c_in_a_terminal_what_is_under_way_is_finished(tmp_path):
    (tmp_path / "script.py").write_text(INTERRUPTED)
    command = [sys.executable, "script.py"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        while process.poll() is None and not (tmp_path / "begun").exists():
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # to all, as a terminal does
        said = process.communicate()[1]
    assert process.returncode and "the cases that are under way are finished first" in said
    assert said.count("Traceback") == 1  # of the script, which a command catches
    assert (tmp_path / "done").exists() and not (tmp_path / "last").exists()


def test_processes_do_not_hear_interrupts_from_their_start():
    before = signal.getsignal(signal.SIGINT)
    assert run({"0": "__import__('signal').getsignal(2)"})["0"] == (signal.SIG_IGN, None)
    assert signal.getsignal(signal.SIGINT) == before
