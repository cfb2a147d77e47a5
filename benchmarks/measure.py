"""What is measured, how, and the table of it."""

import gc
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

GIB = 2**30


@dataclass(frozen=True)
class Row:
    """One comparison.

    Args:
        what: is measured.
        against: what a user would otherwise run.
        reach: ``">= 2.6"``, so many times as fast (or small) as the other; or ``"<= 0.45"``, such a share of the
            other's time or memory.
        ours: makes what takes one measurement: seconds, or bytes.
        theirs: the same of the other.
        repeats: measurements of each, in turn.
        unit: ``"s"`` or ``"GiB"``.
    """

    what: str
    against: str
    reach: str
    ours: Callable[[], Callable[[], float]]
    theirs: Callable[[], Callable[[], float]]
    repeats: int = 5
    unit: str = "s"


@dataclass(frozen=True)
class Measured:
    """A row's measurements, in pairs."""

    row: Row
    ours: tuple[float, ...]
    theirs: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """Of each pair, in the sense of ``Row.reach``."""
        pairs = zip(self.ours, self.theirs, strict=True)
        return sorted(theirs / ours if self.row.reach.startswith(">=") else ours / theirs for ours, theirs in pairs)

    @property
    def reached(self) -> bool:
        """Whether the median ratio is what is asked for."""
        sign, wanted = self.row.reach.split()
        ratio = statistics.median(self.ratios)
        return ratio >= float(wanted) if sign == ">=" else ratio <= float(wanted)


def measure(row: Row) -> Measured:
    """Measure both in turn, so that a machine that slows down does so for both; the first times count for nothing."""
    ours, theirs = row.ours(), row.theirs()
    pairs = []
    for index in tqdm(range(row.repeats + (row.unit == "s")), desc=row.what, leave=False):
        pair = ours(), theirs()
        if index or row.unit != "s":
            pairs.append(pair)
    return Measured(row, *map(tuple, zip(*pairs, strict=True)))


def seconds(work: Callable[[], Any], device: str = "cpu") -> Callable[[], float]:
    """Make the function that takes the time of some work."""

    def timed() -> float:
        gc.collect()
        _finish(device)
        started = time.perf_counter()
        work()
        _finish(device)
        return time.perf_counter() - started

    return timed


def peak_memory(make: Callable[..., Callable[[], Any]], *arguments: Any, device: str = "cpu") -> Callable[[], float]:
    """Make the function that takes the memory that some work needs at most, in GiB.

    Args:
        make: from ``arguments``, which can be pickled, to the work; on a GPU its allocator is asked, on a CPU a new
            process, by its largest resident memory over that before the work was made (Linux).
        arguments: for ``make``.
        device: where it works.
    """

    def on_gpu() -> float:
        gc.collect()
        torch.cuda.empty_cache()
        work = make(*arguments)
        work()
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() / GIB

    def on_cpu() -> float:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(_resident, make, arguments).result() / GIB

    return on_gpu if device == "cuda" else on_cpu


def _resident(make: Callable[..., Callable[[], Any]], arguments: tuple) -> float:
    before = _status("VmRSS")
    work = make(*arguments)
    work()
    Path("/proc/self/clear_refs").write_text("5")  # the largest so far may be that of the imports
    work()
    return _status("VmHWM") - before


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 2**10


def _finish(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def table(results: Iterable[Measured]) -> str:
    """Write measurements as a Markdown table."""
    lines = [
        "| what | against | ours | theirs | ratio (least to most) | wanted | |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for result in results:
        row, ratios = result.row, result.ratios
        ours, theirs = (f"{statistics.median(values):.3g} {row.unit}" for values in (result.ours, result.theirs))
        ratio = f"**{statistics.median(ratios):.2f}** ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        reached = "yes" if result.reached else "no"
        lines.append(f"| {row.what} | {row.against} | {ours} | {theirs} | {ratio} | {row.reach} | {reached} |")
    return "\n".join(lines) + "\n"


def machine(device: str) -> str:
    """Say on which machine and with what is measured."""
    name = torch.cuda.get_device_name() if device == "cuda" else f"{_processor()}, {torch.get_num_threads()} threads"
    programs = ", ".join(f"{package} {version(package)}" for package in ("nnunetv2", "torch", "scipy", "scikit-image"))
    return f"{name}, Python {platform.python_version()}, {programs}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.machine())
