"""Several cases worked on at once, each in a process, with a progress bar."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

from nnunetv2_airway.progress import progress_bar


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
        Name, result, and error or None. An error, also the loss of a process, does not stop the other cases, unless the
        caller ends the loop.
    """
    pool = ProcessPoolExecutor(max(1, min(processes, len(cases))), mp_context=get_context("spawn"))
    try:
        running = {pool.submit(function, *arguments): name for name, arguments in cases.items()}
        for done in progress_bar(
            as_completed(running), description=description, unit="case", total=len(running), show=show
        ):
            error = done.exception()
            if isinstance(error, BrokenProcessPool):
                error = RuntimeError(
                    "its process or one beside it was killed, most likely for lack of memory. Let fewer run at once "
                    "(-np, in training export nnUNet_def_n_proc=2); finished cases are kept."
                )
            yield running[done], None if error else done.result(), error
    finally:
        pool.shutdown(cancel_futures=True)
