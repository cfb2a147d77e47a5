"""What came of a GPU day: read from the logs of its parts, and written as a page and as JSON."""

import re
import shutil
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from measure import machine, table

from nnunetv2_airway.io.files import write_json, write_text

NAME = re.compile(r"^tests/gpu/(\S+::\S+)")
RESULT = re.compile(r"\b(PASSED|FAILED|SKIPPED|ERROR)\b.*\[ *\d+%\]")
SAID = re.compile(r"^(?:memory of|limit |float16:|bfloat16:).*")


@dataclass
class Part:
    """A part: its command lines, the share of the remaining time that it may take, and what came of it.

    Args:
        name: of its log.
        weight: its share against those of the parts after it.
        lines: commands, one after the other, as far as they succeed.
        most: seconds that it never exceeds.
    """

    name: str
    weight: float
    lines: list[list[str]]
    most: float = float("inf")
    seconds: float = 0.0
    ended: str = "not begun"
    found: dict = field(default_factory=dict)


def read_tests(log: Path, work: Path) -> dict:
    """Read how each test ended, and what tests have measured."""
    results, said, name = {}, [], ""
    for line in _lines(log):
        if begun := NAME.match(line):
            name = begun[1]
            results[name] = "not ended"
        if result := RESULT.search(line):  # on a line of its own where the test has said something
            results[name] = result[1].lower()
        if words := SAID.match(line):
            said.append(words[0])
    return {"results": results, "said": said}


def read_rows(log: Path, work: Path) -> dict:
    """Read the rows that were measured until the end or the limit."""
    return {"table": [line for line in _lines(log) if line.startswith("| ")]}


def read_training(log: Path, work: Path) -> dict:
    """Read the figures of the held-out cases, and of the epochs where it did not come so far."""
    figures = work / "study" / "study.md"
    logs = sorted((work / "study").rglob("training_log_*.txt"))
    words = ("Phase ", "train_loss", "Pseudo", "Epoch time", "Hard regions:", "An epoch has", "Out of memory")
    epochs = [line.strip() for file in logs for line in _lines(file) if any(word in line for word in words)]
    return {"table": figures.read_text(encoding="utf-8") if figures.exists() else "", "epochs": epochs}


def _lines(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8", errors="replace").splitlines()


def write_report(folder: Path, parts: list[Part], device: str) -> None:
    """Write ``gpu.md`` and ``gpu.json``."""
    where = f"{date.today()}, {machine(device)}"
    write_json(folder / "gpu.json", {"machine": where, "parts": [_record(part) for part in parts]})
    sections = [f"# Measured on a GPU\n\n{where}\n" if device == "cuda" else f"# Rehearsed on a CPU\n\n{where}\n"]
    for part in parts:
        sections.append(f"## {part.name.capitalize()}\n\n{part.ended}, {part.seconds:.0f} s\n")
        sections += [text for text in KINDS[part.name][1](part.found) if text] if part.found else []
    write_text(folder / "gpu.md", "\n".join(sections))


def _record(part: Part) -> dict:
    return {"name": part.name, "ended": part.ended, "seconds": round(part.seconds, 1), **part.found}


def _tests_in_words(found: dict) -> list[str]:
    results = found["results"]
    counts = {
        word: list(results.values()).count(word) for word in ("passed", "failed", "error", "skipped", "not ended")
    }
    summary = ", ".join(f"{number} {word}" for word, number in counts.items() if number)
    wrong = [f"- {result}: `{name}`\n" for name, result in results.items() if result not in ("passed", "skipped")]
    return [f"{summary or 'no test ended'}\n", "".join(wrong), "".join(f"- {line}\n" for line in found["said"])]


def _rows_in_words(found: dict) -> list[str]:
    return ["\n".join((*table([]).splitlines(), *found["table"])) + "\n"]


def _training_in_words(found: dict) -> list[str]:
    epochs = "\n".join(("```", *found["epochs"], "```\n")) if found["epochs"] else ""
    return [found["table"], epochs]


KINDS = {
    "tests": (read_tests, _tests_in_words),
    "compiled": (read_tests, _tests_in_words),
    "rows": (read_rows, _rows_in_words),
    "training": (read_training, _training_in_words),
}
"""How the log of a part is read, and how what was found is told."""


def read(name: str, log: Path, work: Path) -> dict:
    """Read what a part has found so far."""
    return KINDS[name][0](log, work)


def keep_pictures(work: Path, folder: Path) -> None:
    """Keep the pictures of the training and of its held-out cases."""
    for name in ("study.png", "progress_airway.png"):
        for file in sorted((work / "study").rglob(name))[:1]:
            shutil.copy(file, folder / name)
