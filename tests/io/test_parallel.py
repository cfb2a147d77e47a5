"""Work is given as Python expressions: ``eval`` is a function that every process can import."""

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
