import os
import signal
import time

import pytest

from nnunetv2_airway.parallel import finished_cases


def double(value: int, delay: float) -> int:
    time.sleep(delay)
    if value < 0:
        raise ValueError(f"{value} is negative")
    return 2 * value


def die(value: int) -> int:
    if value == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return value


def run(function, cases, processes=2):
    work = finished_cases(function, cases, processes=processes, description="test", show=False)
    return {name: (result, error) for name, result, error in work}


def test_each_case_has_its_result_or_its_error():
    outcomes = run(double, {"a": (1, 0.2), "b": (-1, 0), "c": (3, 0)})
    assert outcomes["a"] == (2, None) and outcomes["c"] == (6, None)
    result, error = outcomes["b"]
    assert result is None and isinstance(error, ValueError) and str(error) == "-1 is negative"


@pytest.mark.parametrize("processes", [1, 3])
def test_the_case_whose_process_is_killed_is_named_and_the_others_are_done(processes):
    outcomes = run(die, {str(value): (value,) for value in range(4)}, processes)
    assert {name: result for name, (result, error) in outcomes.items() if error is None} == {"1": 1, "2": 2, "3": 3}
    error = outcomes["0"][1]
    assert isinstance(error, RuntimeError) and "lack of memory" in str(error) and "-np" in str(error)


def test_no_cases():
    assert run(double, {}) == {}
