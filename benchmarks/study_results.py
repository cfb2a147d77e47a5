"""The study's table, figure and list of runs."""

import csv
import json
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nnunetv2_airway.evaluation.metrics import DIAMETERS
from nnunetv2_airway.evaluation.summary import flatten, spread
from nnunetv2_airway.io.files import atomic_path, write_csv, write_text

FIGURES = {
    "length %": "tree_length_detected",
    "branches %": "branch_detected",
    "Dice %": "dice",
    "precision %": "precision",
    "leakage mm3": "exact09.leakage_volume_mm3",
}
LENGTHS = {f"length %, {name} mm": f"by_diameter.{name}.tree_length_detected" for name in DIAMETERS}
COLUMNS = FIGURES | LENGTHS
STOCK = "nnUNetTrainer"
COSTS = ("minutes_trained", "patches_seen")
LIST = "runs.csv"
"""A line for each run, with all that the results are made of."""

Key = tuple[str, str, int]
"""Data set of a held-out case, its name, and the seed of the training."""


@dataclass(frozen=True)
class Run:
    """A trainer's run: what it was and cost, and the figures of each held-out case by data set and name."""

    facts: dict
    cases: dict[tuple[str, str], dict[str, float | None]]

    @property
    def trainer(self) -> str:
        """As it was typed."""
        return self.facts["trainer"]


def read_runs(folder: Path) -> list[Run]:
    """Read all runs of a study that have ended: those listed, and those in the folder, which count where both are."""
    runs = {(run.trainer, run.facts["seed"]): run for run in listed_runs(folder)}
    for file in sorted(folder.glob("runs/*/run.json"), key=lambda file: file.stat().st_mtime):
        summaries = sorted(file.parent.glob("evaluation/*/summary.json"))
        cases = {
            (summary.parent.name, row["case"]): _figures(dict(flatten(row["metrics"])))
            for summary in summaries
            for row in json.loads(summary.read_text(encoding="utf-8"))["metric_per_case"]
        }
        run = Run(json.loads(file.read_text(encoding="utf-8")), cases)
        runs[run.trainer, run.facts["seed"]] = run
    return list(runs.values())


def _figures(all_of_them: dict[str, float | None]) -> dict[str, float | None]:
    return {name: all_of_them.get(name) for name in COLUMNS.values()}


def listed_runs(folder: Path) -> list[Run]:
    """Read the runs that ``runs.csv`` lists.

    Raises:
        ValueError: a column is missing; it is named.
    """
    file = folder / LIST
    if not file.exists():
        return []
    runs = []
    with file.open(newline="", encoding="utf-8") as lines:
        for line in csv.DictReader(lines):
            facts, cases = {}, {}
            for title, cell in line.items():
                dataset, separator, rest = title.partition("/")
                if separator:
                    case, figure = rest.rsplit(" ", 1)
                    cases.setdefault((dataset, case), {})[figure] = _value(cell)
                else:
                    facts[title] = _value(cell)
            if missing := {"trainer", "seed", *COSTS} - facts.keys():
                raise ValueError(f"{file} needs the columns {', '.join(sorted(missing))}: correct it or move it away")
            # the columns are those of the cases of all runs
            runs.append(Run(facts, {case: found for case, found in cases.items() if set(found.values()) != {None}}))
    return runs


def _value(cell: str):
    """Read what ``_cell`` has written."""
    try:
        return json.loads(cell) if cell else None
    except json.JSONDecodeError:
        return cell


def _cell(value) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)


def test_sets(runs: Sequence[Run]) -> list[str]:
    """Name the data sets of the held-out cases."""
    return sorted({dataset for run in runs for dataset, _ in run.cases})


def trainer_names(runs: Sequence[Run]) -> list[str]:
    """Name the trainers as they were typed, stock nnU-Net first."""
    return sorted(dict.fromkeys(run.trainer for run in runs), key=lambda name: re.split("[@:]", name)[0] != STOCK)


def tried_on(runs: Sequence[Run], test: str) -> list[str]:
    """Name the trainers that have predicted cases of a data set."""
    found = {run.trainer for run in runs for dataset, _ in run.cases if dataset == test}
    return [name for name in trainer_names(runs) if name in found]


def values(runs: Sequence[Run], trainer: str, figure: str, test: str) -> dict[Key, float]:
    """Collect a figure of a trainer on the held-out cases of a data set, where it is defined."""
    return {
        (*key, run.facts["seed"]): figures[figure]
        for run in runs
        if run.trainer == trainer
        for key, figures in run.cases.items()
        if key[0] == test and figures.get(figure) is not None
    }


def table(runs: Sequence[Run]) -> str:
    """Write the Markdown table: mean and standard deviation over cases and seeds, and differences to stock nnU-Net.

    Differences are those of the same case and seed: mean, standard deviation, and in how many of them the figure is
    larger. Where stock nnU-Net is not among the runs, the differences are those to the first trainer.
    """
    head = ["cases of", "trainer", *COLUMNS, "minutes", "patches"]
    lines = [_row(head), _row(["---"] * len(head))]
    for test in test_sets(runs):
        trainers = tried_on(runs, test)
        for trainer in trainers:
            own = [run for run in runs if run.trainer == trainer]
            cells = [spread(values(runs, trainer, figure, test).values()) for figure in COLUMNS.values()]
            cells += [f"{statistics.fmean(run.facts[name] for run in own):.0f}" for name in COSTS]
            lines.append(_row([test, trainer, *cells]))
        for trainer in trainers[1:]:
            cells = []
            for figure in COLUMNS.values():
                first, other = values(runs, trainers[0], figure, test), values(runs, trainer, figure, test)
                differences = [other[key] - first[key] for key in first.keys() & other.keys()]
                larger = sum(difference > 0 for difference in differences)
                cells.append(f"{spread(differences, '+')}, {larger} of {len(differences)} up")
            lines.append(_row([test, f"{trainer} - {trainers[0]}", *cells, "", ""]))
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def draw(target: Path, runs: Sequence[Run]) -> None:
    """Draw each held-out case of each figure, and the detected length by diameter; a row for each data set of cases."""
    colours = {name: f"C{index}" for index, name in enumerate(trainer_names(runs))}
    tests = test_sets(runs)
    figure = Figure(figsize=(3 * (len(FIGURES) + 2), 4.5 * len(tests)), layout="constrained")
    grid = figure.add_gridspec(len(tests), len(FIGURES) + 2)
    for row, test in enumerate(tests):
        trainers = tried_on(runs, test)
        for column, (title, name) in enumerate(FIGURES.items()):
            axes = figure.add_subplot(grid[row, column])
            for index, trainer in enumerate(trainers):
                found = list(values(runs, trainer, name, test).values())
                axes.scatter([index] * len(found), found, s=14, alpha=0.5, color=colours[trainer])
                axes.hlines([statistics.fmean(found)] if found else [], index - 0.3, index + 0.3, colors="black")
            axes.set(title=title, xticks=range(len(trainers)), ylabel=f"cases of {test}" if column == 0 else None)
            axes.set_xticklabels([_short(trainer) for trainer in trainers], rotation=90)
            axes.grid(axis="y", alpha=0.3)
        _draw_lengths(figure.add_subplot(grid[row, len(FIGURES) :]), runs, colours, test)
    with atomic_path(target) as temporary:
        figure.savefig(temporary, dpi=110)


def _draw_lengths(axes: Axes, runs: Sequence[Run], colours: Mapping[str, str], test: str) -> None:
    trainers = tried_on(runs, test)
    width = 0.8 / len(trainers)
    for index, trainer in enumerate(trainers):
        found = [list(values(runs, trainer, name, test).values()) for name in LENGTHS.values()]
        places = [place + (index - (len(trainers) - 1) / 2) * width for place in range(len(found))]
        means = [statistics.fmean(each) if each else math.nan for each in found]
        deviations = [statistics.stdev(each) if len(each) > 1 else 0 for each in found]
        axes.bar(places, means, width, yerr=deviations, capsize=2, color=colours[trainer], label=_short(trainer))
    axes.set(title="length detected by the branches' diameter", ylabel="%", xticks=range(len(LENGTHS)))
    axes.set_xticklabels([f"{name} mm" for name in DIAMETERS])
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))


def _short(trainer: str) -> str:
    name, _, attributes = trainer.removeprefix("nnUNetTrainer").partition(":")
    return "\n".join([name if name[:1].isalpha() else f"nnU-Net{name}", *filter(None, attributes.split(";"))])


def write_results(folder: Path) -> None:
    """Write ``runs.csv``, ``study.md`` and ``study.png`` of the runs that have ended."""
    runs = read_runs(folder)
    names = list(dict.fromkeys(name for run in runs for name in run.facts))
    cases = sorted({case for run in runs for case in run.cases})
    rows = [
        [
            *(_cell(run.facts.get(name)) for name in names),
            *(_cell(run.cases.get(case, {}).get(figure)) for case in cases for figure in COLUMNS.values()),
        ]
        for run in runs
    ]
    titles = [f"{dataset}/{case} {figure}" for dataset, case in cases for figure in COLUMNS.values()]
    write_csv(folder / LIST, [*names, *titles], rows)
    write_text(folder / "study.md", table(runs))
    draw(folder / "study.png", runs)
    print(f"\n{table(runs)}\nfrom {len(runs)} runs; in {folder}: {LIST}, study.md, study.png")
