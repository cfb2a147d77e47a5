"""Make the most of a GPU that is there for minutes: tests, measurements and a short training, within a time limit.

``PYTHONPATH=. python benchmarks/gpu_day.py -o FOLDER`` needs what the package depends on and pytest, but not that the
package is installed. Each part runs in processes of its own, has its share of the time that is left, and fails
alone; what it has done until then counts. ``gpu.md``, ``gpu.json`` and a log for each part are in the folder, and are
written anew after each part. ``-device cpu`` rehearses it all in small.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from gpu_day_results import Part, keep_pictures, read, write_report

from nnunetv2_airway import cli
from nnunetv2_airway.discovery import FOLDER, VARIABLE

ROOT = Path(__file__).resolve().parent.parent
DATASET = 597
TRAINER = "nnUNetTrainerWingsLIBRoot:initial_lr=0.001"
"""The one that the README recommends, at the learning rate of short trainings."""
TESTS = {"tests": ("steps", "memory", "nccl", "commands"), "compiled": ("compiled",)}
"""Files of ``tests/gpu`` by part, the quickest first; a compiler takes minutes."""
GRACE = 10
"""Seconds for a part to end when it is asked to; tests then say why they have failed."""


@dataclass(frozen=True)
class Size:
    """How much is done on a device."""

    shape: tuple[int, int, int]
    cases: int
    patch: int
    batch: int
    epochs: int


SIZES = {
    "cuda": Size((160, 144, 160), cases=8, patch=96, batch=4, epochs=12),
    "cpu": Size((56, 64, 56), cases=4, patch=32, batch=2, epochs=3),
}


def build_parser() -> argparse.ArgumentParser:
    """Define the command's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", type=Path, required=True, metavar="FOLDER", help="for results and logs")
    parser.add_argument("-minutes", type=float, default=8.5, metavar="M", help="for all of it (default: %(default)s)")
    parser.add_argument("-device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("-parts", nargs="+", choices=("tests", "compiled", "rows", "training"), help="default: all")
    return parser


def main() -> None:
    """Run as a command."""
    args = build_parser().parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("PyTorch sees no GPU; -device cpu rehearses this on the CPU")
    args.o.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder, end_on_signals():
        work = Path(folder)
        parts = [part for part in the_parts(args, work) if not args.parts or part.name in args.parts]
        environment = prepare_environment(work, args.device)
        end = time.monotonic() + 60 * args.minutes - GRACE * len(parts)
        for index, part in enumerate(parts):
            share = part.weight / sum(later.weight for later in parts[index:])
            run_part(part, min(part.most, share * (end - time.monotonic())), args.o / f"{part.name}.log", environment)
            part.found = read(part.name, args.o / f"{part.name}.log", work)
            write_report(args.o, parts, args.device)
            print(f"{part.name}: {part.ended} after {part.seconds:.0f} s", flush=True)
        keep_pictures(work, args.o)
    print(f"{args.o / 'gpu.md'}, gpu.json, {', '.join(f'{part.name}.log' for part in parts)}")
    sys.exit(0 if all(part.ended == "ended" for part in parts) else 1)


@contextmanager
def end_on_signals() -> Iterator[None]:
    """Let a limit from outside end this as an exception does, so that no part goes on alone.

    Parts are asked to end by SIGINT, which a shell has its background jobs ignore, and with them all that they start.
    """

    def end(number: int, frame) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def the_parts(args: argparse.Namespace, work: Path) -> list[Part]:
    """List the parts."""
    size = SIZES[args.device]
    python = [sys.executable, "-u"]
    options = "-v -rfE --tb=short -p no:cacheprovider -m gpu -o addopts=--import-mode=importlib"
    pytest = [*python, "-m", "pytest", *options.split()]
    tests = {part: [str(ROOT / "tests" / "gpu" / f"test_{name}.py") for name in names] for part, names in TESTS.items()}
    phantoms = f"-d {DATASET} -n {size.cases} -n_test 2 -np {os.cpu_count()} --smallest 1.1 --noise 20 --shape"
    minutes = 0.15 * args.minutes if args.device == "cuda" else 0.5
    budget = f"-minutes {minutes:.2f} -epochs {size.epochs} -batch {size.batch} -patch".split()
    study = [str(ROOT / "benchmarks" / "study.py"), "-d", str(DATASET), "-trainers", TRAINER, "-device", args.device]
    return [
        Part("tests", 4, [[*pytest, *tests["tests"]]]),
        Part("compiled", 2, [[*pytest, *tests["compiled"]]]),
        Part("rows", 3, [[*python, str(ROOT / "benchmarks" / "run.py"), "-device", args.device, "--short",
                          "-o", str(work / "rows")]], most=240),
        Part("training", 4, [
            ["nnUNetv2_airway_phantom", *phantoms.split(), *map(str, size.shape)],
            ["nnUNetv2_plan_and_preprocess", "-d", str(DATASET), "-c", "3d_fullres", "--verify_dataset_integrity"],
            [*python, *study, *budget, *[str(size.patch)] * 3, "-o", str(work / "study")],
        ]),
    ]  # fmt: skip


def prepare_environment(work: Path, device: str) -> dict[str, str]:
    """Make folders for nnU-Net, and console commands that need no installation; return the variables."""
    commands = work / "bin"
    commands.mkdir()
    places = {point.name: (point.module, point.attr) for point in entry_points(group="console_scripts")
              if point.name.startswith("nnUNetv2_")}  # fmt: skip
    own = Path(cli.__file__).parent.glob("*.py")
    for file in (file for file in own if "def main(" in file.read_text(encoding="utf-8")):
        places[f"nnUNetv2_airway_{file.stem.removesuffix('_model')}"] = (f"nnunetv2_airway.cli.{file.stem}", "main")
    for name, (module, function) in places.items():
        lines = f"#!{sys.executable}\nfrom {module} import {function}\nif __name__ == '__main__':\n    {function}()\n"
        (commands / name).write_text(lines, encoding="utf-8")
        (commands / name).chmod(0o755)
    folders = {name: str(work / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    for folder in folders.values():
        Path(folder).mkdir()
    rehearsal = {"NNUNETV2_AIRWAY_TEST_DEVICE": "cpu", "nnUNet_n_proc_DA": "2"} if device == "cpu" else {}
    return {
        **os.environ,
        **folders,
        **rehearsal,
        "nnUNet_compile": "f",  # what is compiled says so
        VARIABLE: FOLDER,
        "PATH": os.pathsep.join((str(commands), os.environ["PATH"])),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
    }


def run_part(part: Part, limit: float, log: Path, environment: Mapping[str, str]) -> None:
    """Run a part's commands for so many seconds at most, with their output in a log."""
    started = time.monotonic()
    with log.open("w", encoding="utf-8") as target:
        for line in part.lines:
            left = limit - (time.monotonic() - started)
            target.write(f"$ {' '.join(line)}\n")
            target.flush()
            part.ended = _run(line, left, target, environment)
            if part.ended != "ended":
                break
        target.write(f"{part.name}: {part.ended}\n")
    part.seconds = time.monotonic() - started


def _run(line: list[str], limit: float, target, environment: Mapping[str, str]) -> str:
    if limit <= 0:
        return "out of time"
    try:
        process = subprocess.Popen(
            line, cwd=ROOT, env=environment, stdout=target, stderr=subprocess.STDOUT, start_new_session=True
        )
    except OSError as error:
        return str(error)
    try:
        code = process.wait(limit)
        return "ended" if code == 0 else f"exit code {code}"
    except subprocess.TimeoutExpired:
        end_with_children(process, signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
        return "out of time"
    finally:
        end_with_children(process, signal.SIGKILL)
        process.wait()


def end_with_children(process: subprocess.Popen, number: int) -> None:
    """Send a signal to a command and to what it has started in its session."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


if __name__ == "__main__":
    main()
