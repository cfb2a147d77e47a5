"""Measure ours against what a user would otherwise run, in one process, and write a table.

``python benchmarks/run.py``. Both are measured in turn and compared pair by pair, so that the ratios mean something on
a machine whose speed changes.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from datetime import date
from functools import cache
from pathlib import Path

import growth
import loader
import networks
import numpy as np
import SimpleITK as sitk
import torch
import volumes
from measure import Row, machine, measure, table

from nnunetv2_airway.io.files import write_text
from nnunetv2_airway.io.images import read_mask

HERE = Path(__file__).parent
PAGE = HERE.parent / "documentation" / "benchmarks.md"
BEGIN, END = "<!-- benchmarks {device} -->\n", "<!-- end of benchmarks {device} -->\n"


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("-mask", type=Path, help="an airway mask to measure with; by default a phantom's")
    parser.add_argument(
        "-only", nargs="+", default=[], metavar="WORD", help="print the rows that have one of these words"
    )
    parser.add_argument("-o", type=Path, default=HERE / "results", metavar="FOLDER", help="default: %(default)s")
    parser.add_argument("--short", action="store_true", help="fewer rows and repeats; four minutes on a GPU")
    parser.add_argument("--growth", action="store_true", help="also draw how cost grows; takes as long again")
    parser.add_argument("--page", action="store_true", help="also put the table into documentation/benchmarks.md")
    arguments = parser.parse_args()
    if (arguments.only or arguments.short) and arguments.page:
        parser.error("-only and --short leave rows out, so that there is no table for --page")
    os.environ["nnUNet_compile"] = "f"  # rows that are compiled say so

    results, failed = [], []
    for row in _rows(arguments.device, arguments.mask, short=arguments.short):
        if not arguments.only or any(word in row.what for word in arguments.only):
            try:
                results.append(measure(row))
            except RuntimeError as error:  # as of a GPU without memory: the other rows can still be measured
                failed.append(row.what)
                print(f"{row.what}: {error}", flush=True)
                continue
            print(*table(results[-1:]).splitlines()[2:], flush=True)
    arguments.o.mkdir(parents=True, exist_ok=True)
    if not arguments.only:
        text = f"{date.today()}, {machine(arguments.device)}\n\n{table(results)}"
        write_text(arguments.o / f"{arguments.device}.md", text)
        if arguments.page:
            write_text(PAGE, into(PAGE.read_text(encoding="utf-8"), text, arguments.device))
    if arguments.growth:
        mask, spacing, _ = _tree(arguments.mask)
        growth.draw(arguments.o / f"{arguments.device}.png", mask, spacing, arguments.device)
    if failed:
        sys.exit(f"could not be measured: {'; '.join(failed)}")
    sys.exit(0 if all(result.reached for result in results) else "some ratios are not what is wanted")


def _rows(device: str, mask: Path | None, *, short: bool) -> Iterator[Row]:
    yield from networks.rows(device, short=short)
    if device == "cpu" and not short:
        tree = _tree(mask)
        yield from loader.rows(*tree)
        yield from volumes.rows(*tree)


@cache
def _tree(file: Path | None) -> tuple[np.ndarray, tuple[float, float, float], str]:
    if file is None:
        return volumes.phantom_mask()
    image = read_mask(file)
    return sitk.GetArrayFromImage(image), image.GetSpacing()[::-1], "a real tree"


def into(page: str, text: str, device: str) -> str:
    """Replace the table between its marks.

    Raises:
        ValueError: the marks are not there.
    """
    begin, end = (mark.format(device=device) for mark in (BEGIN, END))
    before, found, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found and found_end):
        raise ValueError(f"the page needs the lines {begin.strip()} and {end.strip()}")
    return before + begin + text + end + after


if __name__ == "__main__":
    main()
