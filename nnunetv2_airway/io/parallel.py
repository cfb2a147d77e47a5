"""Several cases worked on at once, each in a process, with a progress bar."""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from threading import Thread, current_thread, main_thread
from typing import Any

from nnunetv2_airway.io.errors import reason
from nnunetv2_airway.io.files import CannotWriteError
from nnunetv2_airway.io.progress import progress_bar


def finished_cases(
    function: Callable[..., Any], cases: Mapping[str, tuple], *, processes: int, description: str, show: bool = True
) -> Iterator[tuple[str, Any, Exception | None]]:
    """Run a function for every case, and give each case as soon as it has finished.

    Args:
        function: can be pickled.
        cases: its arguments for each case, by the case's name.
        processes: cases worked on at once.
        description: word before the progress bar.
        show: show a progress bar.

    Yields:
        Name, result, and error or None. An error does not stop the other cases, unless the caller ends the loop. Where
        a process is killed, no other of its pool goes on: the cases that have not finished run once more, half as many
        at once, and where that happens again, one by one.

    Raises:
        CannotWriteError: a case could not be written; those that have not begun are given up.
    """
    with progress_bar(description=description, unit="case", total=len(cases), show=show) as bar:
        left = cases
        for workers in (processes, max(1, processes // 2)):
            lost = {}
            for name, result, error in _run(function, left, workers):
                if isinstance(error, CannotWriteError):
                    raise error
                if isinstance(error, BrokenProcessPool):
                    lost[name] = cases[name]
                else:
                    bar.update()
                    yield name, result, error
            left = lost
        for name in left:
            for _, result, error in _run(function, {name: cases[name]}, 1):
                if isinstance(error, BrokenProcessPool):
                    error = RuntimeError(
                        "its process ended without an answer: killed, most likely for lack of memory, or not able to "
                        "start, see above; finished cases are kept. It needs more memory, or fewer run beside it (-np; "
                        "in training export nnUNet_def_n_proc=2)"
                    )
                bar.update()
                yield name, result, error


def results_and_failures(
    function: Callable[..., Any], cases: Mapping[str, tuple], *, processes: int, description: str
) -> tuple[dict[str, Any], dict[str, str]]:
    """Run a function for every case, and give the results and what went wrong, by the cases' names in their order.

    Arguments and errors are those of ``finished_cases``.
    """
    results, failures = {}, {}
    for name, result, error in finished_cases(function, cases, processes=processes, description=description):
        if error is None:
            results[name] = result
        else:
            failures[name] = reason(error)
    return tuple({name: found[name] for name in cases if name in found} for found in (results, failures))


def _run(function: Callable[..., Any], cases: Mapping[str, tuple], processes: int):
    workers = max(1, min(processes, len(cases)))
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_end_with_parent)
    try:
        with _deaf_to_interrupts():  # as the processes are that start here: what is under way can be finished
            running = {pool.submit(function, *arguments): name for name, arguments in cases.items()}
        for done in as_completed(running):
            error = done.exception()
            yield running[done], None if error else done.result(), error
    except KeyboardInterrupt:
        print("\ninterrupted: the cases that are under way are finished first", file=sys.stderr, flush=True)
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Ignore Ctrl-C, which a terminal sends to all processes; one that starts meanwhile ignores it until its end."""
    if current_thread() is not main_thread():  # signals are the main thread's
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end_with_parent() -> None:
    """Let a worker end when the process that started it is killed; it would wait for work for ever."""
    Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent_process().join()
    os._exit(1)
