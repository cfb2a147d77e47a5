"""The study's tables, figure and lists of runs."""

import csv
import json
import math
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from matplotlib.figure import Figure

from nnunetv2_airway.evaluation.summary import spread
from nnunetv2_airway.evaluation.tuning import FIGURES, SMALL, TABLE, mean_figures, score
from nnunetv2_airway.inference.operating_point import DEFAULT, FILE, OperatingPoint, read_operating_point
from nnunetv2_airway.io.files import atomic_path, write_csv, write_text

STOCK = "nnUNetTrainer"
COSTS = ("minutes_trained", "patches_seen")
POINT = ("threshold", "hysteresis", "bridge", "thin")
"""Columns of an operating point; a seed is the run's."""
LIST, CURVES = "runs.csv", "curves.csv"
"""A line for each run, and one for each operating point of each of its held-out cases: enough for all results."""
AT_PRECISION = {"length %": "tree_length_detected", "branches %": "branch_detected", "length %, 0-2 mm": SMALL}
"""Figures that are compared at the precision of stock nnU-Net."""
ITS, TWO = "at its precision", "two thresholds, at its precision"
OWN = {"score": "score", **FIGURES}
"""Figures at a trainer's own operating point."""

Figures = Mapping[str, float]
Curve = Mapping[OperatingPoint, Figures]
Case = tuple[str, str]
"""Data set of a held-out case, and its name."""


@dataclass(frozen=True)
class Run:
    """A trainer's run.

    Args:
        facts: what it was and cost.
        point: its operating point, chosen on validation cases.
        curves: figures of each held-out case at each operating point.
    """

    facts: dict
    point: OperatingPoint
    curves: dict[Case, Curve]

    @property
    def trainer(self) -> str:
        """As it was typed."""
        return self.facts["trainer"]

    @property
    def key(self) -> tuple[str, int]:
        """Trainer and seed."""
        return self.trainer, self.facts["seed"]


def read_runs(folder: Path) -> list[Run]:
    """Read all runs of a study that have ended: those listed, and those in the folder, which count where both are."""
    runs = {run.key: run for run in listed_runs(folder)}
    for file in sorted(folder.glob("runs/*/run.json"), key=lambda file: file.stat().st_mtime):
        curves = {
            (table_file.parent.name, case): curve
            for table_file in sorted(file.parent.glob(f"curves/*/{TABLE}"))
            for case, curve in _curves(_rows(table_file), lambda row: row["case"]).items()
            if case != "mean"
        }
        run = Run(
            json.loads(file.read_text(encoding="utf-8")), read_operating_point(file.parent / "tuned" / FILE), curves
        )
        runs[run.key] = run
    return list(runs.values())


def listed_runs(folder: Path) -> list[Run]:
    """Read the runs that ``runs.csv`` and ``curves.csv`` list.

    Raises:
        ValueError: a column is missing; it is named.
    """
    file = folder / LIST
    if not file.exists():
        return []
    facts = [{title: _value(cell) for title, cell in row.items()} for row in _rows(file)]
    if missing := {"trainer", "seed", "threshold", *COSTS} - facts[0].keys():
        raise ValueError(f"{file} needs the columns {', '.join(sorted(missing))}: correct it or move it away")
    listed = _curves(
        _rows(folder / CURVES), lambda row: (row["trainer"], int(row["run"]), row["data set"], row["case"])
    )
    runs = []
    for own in facts:
        key = (own["trainer"], own["seed"])
        point = OperatingPoint(*(own.pop(name) for name in POINT))
        runs.append(Run(own, point, {name[2:]: curve for name, curve in listed.items() if name[:2] == key}))
    return runs


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def _curves(rows: Iterable[Mapping[str, str]], key: Callable) -> dict:
    curves: dict = {}
    for row in rows:
        settings = [float(row[name]) if row[name] else None for name in asdict(DEFAULT)]
        figures = {name: float(row[name]) if row[name] else math.nan for name in FIGURES.values()}
        curves.setdefault(key(row), {})[OperatingPoint(*settings)] = figures
    return curves


def _value(cell: str):
    """Read what ``_cell`` has written."""
    try:
        return json.loads(cell) if cell else None
    except json.JSONDecodeError:
        return cell


def _cell(value) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)


def at_precision(curve: Curve, precision: float, figure: str, *, two: bool = False) -> float:
    """Give the most that a curve finds at a precision or a higher one, in percent, with one threshold or with two.

    Between neighbouring thresholds both figures are taken to change alike; nan for a curve that never is as precise.
    """
    places = [(curve[point]["precision"], curve[point][figure]) for point in _thresholds([curve], two=two)]
    found = [value for own, value in places if own >= precision]
    for (a, low), (b, high) in pairwise(places):
        if (a - precision) * (b - precision) < 0:
            found.append(low + (precision - a) / (b - a) * (high - low))
    return max(found, default=math.nan)


def test_sets(runs: Sequence[Run]) -> list[str]:
    """Name the data sets of the held-out cases."""
    return sorted({dataset for run in runs for dataset, _ in run.curves})


def trainer_names(runs: Sequence[Run]) -> list[str]:
    """Name the trainers as they were typed, stock nnU-Net first, and before it with other attributes."""
    names = dict.fromkeys(run.trainer for run in runs)
    return sorted(names, key=lambda name: (re.split("[@:]", name)[0] != STOCK, ":" in name))


def merits(runs: Sequence[Run], trainer: str, test: str) -> dict[str, dict[tuple, tuple[float, float]]]:
    """Pair a trainer with the first one (stock nnU-Net), by the same case and seed.

    Returns:
        For each column, (figure of the trainer, that of the first one) by case and seed: the most of each at the
        precision that the first one has at p > 0.5; the same where the trainer has a lower threshold for thin airways
        and the first one has not; and at the own operating point of each.
    """
    first = trainer_names(runs)[0]
    firsts = {run.facts["seed"]: run for run in runs if run.trainer == first}
    columns: dict = {}
    for run in (run for run in runs if run.trainer == trainer and run.facts["seed"] in firsts):
        other = firsts[run.facts["seed"]]
        for key in (key for key in run.curves if key[0] == test and key in other.curves):
            case = (*key, run.facts["seed"])
            precision = other.curves[key][DEFAULT]["precision"]
            for title, name in AT_PRECISION.items():
                first_found = at_precision(other.curves[key], precision, name)
                for level, two in ((ITS, False), (TWO, True)):
                    found = at_precision(run.curves[key], precision, name, two=two)
                    columns.setdefault(f"{level}: {title}", {})[case] = (found, first_found)
            mine, theirs = run.curves[key][run.point], other.curves[key][other.point]
            for title, name in OWN.items():
                values = [score(each) if name == "score" else each[name] for each in (mine, theirs)]
                columns.setdefault(f"own point: {title}", {})[case] = tuple(values)
    return columns


def table(runs: Sequence[Run]) -> str:
    """Write the Markdown table: mean and standard deviation over cases and seeds, and differences to stock nnU-Net.

    Differences are those of the same case and seed: mean, standard deviation, and in how many of them the figure is
    larger. Where stock nnU-Net is not among the runs, they are those to the first trainer.
    """
    trainers = trainer_names(runs)
    titles = [f"{level}: {title}" for level in (ITS, TWO) for title in AT_PRECISION]
    titles += [f"own point: {title}" for title in OWN]
    head = ["cases of", "trainer", *titles, "minutes", "patches", "seeds"]
    lines = [_row(head), _row(["---"] * len(head))]
    for test in test_sets(runs):
        for trainer in trainers:
            own = [run for run in runs if run.trainer == trainer]
            costs = [f"{statistics.fmean(run.facts[name] for run in own):.0f}" for name in COSTS]
            columns = merits(runs, trainer, test)
            pairs = [columns.get(title, {}).values() for title in titles]
            defined = [[pair for pair in column if not any(map(math.isnan, pair))] for column in pairs]
            cells = [spread([mine for mine, _ in column]) for column in defined]
            lines.append(_row([test, trainer, *cells, *costs, str(len(own))]))
            if trainer == trainers[0]:
                continue
            cells = []
            for column_of_all, column in zip(pairs, defined, strict=True):
                differences = [mine - theirs for mine, theirs in column]
                larger = sum(difference > 0 for difference in differences)
                undefined = len(column_of_all) - len(differences)
                words = f", {undefined} undefined" if undefined else ""
                cells.append(f"{spread(differences, '+')}, {larger} of {len(differences)} up{words}")
            lines.append(_row([test, f"{trainer} - {trainers[0]}", *cells, "", "", ""]))
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def draw(target: Path, runs: Sequence[Run]) -> None:
    """Draw length, branches and length below 2 mm over precision: means over a data set's cases, a line a run."""
    trainers, tests = trainer_names(runs), test_sets(runs)
    colours = {name: f"C{index % 10}" for index, name in enumerate(trainers)}
    figure = Figure(figsize=(5.5 * len(AT_PRECISION) + 3, 4.5 * len(tests)), layout="constrained")
    for row, test in zip(figure.subplots(len(tests), len(AT_PRECISION), squeeze=False), tests, strict=True):
        for axes, (title, name) in zip(row, AT_PRECISION.items(), strict=True):
            for run in sorted(runs, key=lambda run: trainers.index(run.trainer)):
                curves = [curve for key, curve in run.curves.items() if key[0] == test]
                if not curves:
                    continue
                first = run.facts["seed"] == min(each.facts["seed"] for each in runs if each.trainer == run.trainer)
                label = _short(run.trainer) if first else None
                for two, line in ((False, "--"), (True, "-")):
                    places = [_mean_place(curves, point, name) for point in _thresholds(curves, two=two)]
                    axes.plot(*zip(*places, strict=True), line, color=colours[run.trainer], linewidth=1.2)
                for point, marker in ((DEFAULT, "s"), (run.point, "*")):
                    axes.plot(
                        *_mean_place(curves, point, name), marker, color=colours[run.trainer], markersize=8,
                        label=label if marker == "*" else None,
                    )  # fmt: skip
            axes.set(xlabel="precision %", ylabel=f"{title}, cases of {test}", xlim=(50, 100))
            axes.grid(alpha=0.3)
    figure.axes[len(AT_PRECISION) - 1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    figure.suptitle(
        "Dashed: one threshold; line: a lower one for thin airways; square: p > 0.5; star: chosen on validation cases"
    )
    with atomic_path(target) as temporary:
        figure.savefig(temporary, dpi=110)


def _thresholds(curves: Sequence[Curve], *, two: bool) -> list[OperatingPoint]:
    common = set.intersection(*(set(curve) for curve in curves))
    chosen = (point for point in common if point.is_threshold and (point.thin is not None) == two)
    return sorted(chosen, key=lambda point: point.threshold)


def _mean_place(curves: Sequence[Curve], point: OperatingPoint, name: str) -> tuple[float, float]:
    means = mean_figures(dict(enumerate(curves)), point)
    return means["precision"], means[name]


def _short(trainer: str) -> str:
    name, _, attributes = trainer.removeprefix("nnUNetTrainer").partition(":")
    return "\n".join([name if name[:1].isalpha() else f"nnU-Net{name}", *filter(None, attributes.split(";"))])


def write_results(folder: Path) -> None:
    """Write ``runs.csv``, ``curves.csv``, ``study.md`` and ``study.png`` of the runs that have ended."""
    runs = read_runs(folder)
    names = list(dict.fromkeys(name for run in runs for name in run.facts))
    rows = []
    for run in runs:
        point = asdict(run.point).values()
        rows.append([*(_cell(run.facts.get(name)) for name in names), *map(_cell, point)])
    write_csv(folder / LIST, [*names, *POINT], rows)
    lines = [
        [*run.key, *key, *("" if value is None else value for value in asdict(point).values()),
         *("" if math.isnan(figures[name]) else round(figures[name], 2) for name in FIGURES.values())]
        for run in runs
        for key, curve in run.curves.items()
        for point, figures in curve.items()
    ]  # fmt: skip
    titles = ["trainer", "run", "data set", "case", *asdict(DEFAULT), *FIGURES.values()]
    write_csv(folder / CURVES, titles, lines)
    write_text(folder / "study.md", table(runs))
    draw(folder / "study.png", runs)
    print(f"\n{table(runs)}\nfrom {len(runs)} runs; in {folder}: {LIST}, {CURVES}, study.md, study.png")
