"""The figures of all cases together: JSON, CSV, and a table to read."""

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnunetv2_airway.io.files import write_csv, write_json


@dataclass(frozen=True)
class Challenge:
    """How the figures of a challenge are shown.

    Args:
        columns: of the table in the terminal: the figures' names by what stands above them; all are in the files.
        page: the figures on the page: their names by their titles.
        words: what the figures mean.
        more_words: what else the table in the terminal has.
        digits: of a figure in the terminal; the page has one less.
    """

    columns: dict[str, str]
    page: dict[str, str]
    words: str
    more_words: str = ""
    digits: int = 2


def _own_names(challenge: str, *names: str) -> dict[str, str]:
    return {name: f"{challenge}.{name}" for name in names}


_ATM26 = _own_names("atm26", "DSC", "clDice", "TLD", "BD", "Betti0Error")
_AIIB23 = _own_names("aiib23", "IoU", "DLR", "DBR", "precision", "leakage", "AMR")
CHALLENGES = {
    "atm22": Challenge(
        {
            "length %": "tree_length_detected",
            "branches %": "branch_detected",
            "Dice %": "dice",
            "precision %": "precision",
            "sensitivity %": "sensitivity",
            "leakage mm3": "exact09.leakage_volume_mm3",
            "pieces": "connected_components",
        },
        {
            "Tree length detected, %": "tree_length_detected",
            "Branch detected, %": "branch_detected",
            "Dice, %": "dice",
            "Precision, %": "precision",
            "Leakage, mm³": "exact09.leakage_volume_mm3",
        },
        """\
Length: share of the reference's centerline that lies in the prediction; branches: share of its branches
of which 80 % of the centerline does; leakage: what is predicted outside the reference, without trachea
and main bronchi (generation 1).""",
        """\
Pieces: connected components of the prediction. The lower table has the cases' means for branches by
their diameter.""",
    ),
    "atm26": Challenge(
        _ATM26,
        _ATM26,
        """\
As shares. DSC: Dice; clDice: Dice of the centerlines; TLD: share of the reference's centerline that lies in
the largest piece of the prediction; BD: share of its branches of which 80 % of the centerline does;
Betti0Error: by how much the number of its pieces differs from 1. In a piece, voxels touch at least at a corner.""",
        digits=4,
    ),
    "aiib23": Challenge(
        _AIIB23,
        _AIIB23,
        """\
As shares, of the prediction's largest piece, in which voxels share a face. IoU: intersection over union;
DLR, DBR: share of the reference's centerline and of its unmerged branches that was found; leakage: what is
predicted outside the reference, and AMR: what is missing of it, both as shares of the reference.""",
        digits=4,
    ),
}
LESS_IS_BETTER = ("exact09.leakage_volume_mm3", "atm26.Betti0Error", "aiib23.leakage", "aiib23.AMR")
GROUP_COLUMNS = {
    "branches": "branches",
    "detected": "branches_detected",
    "length %": "tree_length_detected",
    "branches %": "branch_detected",
    "Dice %": "dice",
    "precision %": "precision",
}


@dataclass(frozen=True)
class Evaluation:
    """What has come of a folder.

    Args:
        cases: the record of each evaluated case by name, see ``evaluate_files``.
        missing: cases of the references without a prediction.
        extra: cases of the predictions without a reference.
        failed: what went wrong in each case that could not be evaluated.
    """

    cases: dict[str, dict]
    missing: list[str]
    extra: list[str]
    failed: dict[str, str] = field(default_factory=dict)


def write_summary(output: Path, evaluation: Evaluation) -> None:
    """Write ``summary.json``, ``cases.csv`` and ``branches.csv``.

    The summary holds, as nnU-Net's, ``metric_per_case`` and ``mean``, and beside them ``std`` (of a sample, with n - 1)
    and ``median``, each over the cases where the figure is defined, ``count`` of these, and the names of cases with an
    ``empty`` prediction and of ``missing``, ``extra`` and ``failed`` ones. What is not defined is null.
    """
    metrics = [record["metrics"] for record in evaluation.cases.values()]
    per_case = [
        {"case": case, **{name: record[name] for name in ("reference_file", "prediction_file", "metrics")}}
        for case, record in evaluation.cases.items()
    ]
    write_json(
        output / "summary.json",
        {
            "metric_per_case": per_case,
            **summarise(metrics),
            "empty": [case for case, metrics in zip(evaluation.cases, metrics, strict=True) if is_empty(metrics)],
            "missing": evaluation.missing,
            "extra": evaluation.extra,
            "failed": evaluation.failed,
        },
    )
    # the many columns of generations last
    columns = sorted((name for name, _ in flatten(_combine(metrics, len))), key=lambda name: "by_generation" in name)
    rows = []
    for case, record in evaluation.cases.items():
        flat = dict(flatten(record["metrics"]))
        rows.append([case, *(flat.get(name) for name in columns)])
    write_csv(output / "cases.csv", ["case", *columns], rows)
    ends = [f"{end}_{axis}" for end in ("start", "end") for axis in "zyx"]
    write_csv(
        output / "branches.csv",
        ["case", "branch", "generation", "parent", "length_mm", "diameter_mm", *ends, "found_percent", "detected"],
        [
            [case, *(branch[name] for name in ("number", "generation", "parent", "length", "diameter")),
             *branch["start"], *branch["end"], branch["found"], int(branch["detected"])]
            for case, record in evaluation.cases.items()
            for branch in record["branches"]
        ],
    )  # fmt: skip


def summarise(metrics: Sequence[dict]) -> dict[str, dict]:
    """Compute mean, standard deviation (n - 1), median and number of the cases where a figure is not None, for each."""
    return {
        "mean": _combine(metrics, lambda values: statistics.fmean(values) if values else None),
        "std": _combine(metrics, lambda values: statistics.stdev(values) if len(values) > 1 else None),
        "median": _combine(metrics, lambda values: statistics.median(values) if values else None),
        "count": _combine(metrics, len),
    }


def spread(values: Iterable[float], sign: str = "", digits: int = 1) -> str:
    """Write mean and, of more than one value, standard deviation (n - 1); ``sign`` "+" writes that of the mean."""
    found = list(values)
    if not found:
        return "-"
    mean = f"{statistics.fmean(found):{sign}.{digits}f}"
    return f"{mean} ± {statistics.stdev(found):.{digits}f}" if len(found) > 1 else mean


def flatten(metrics: dict, before: str = "") -> Iterator[tuple[str, float | None]]:
    """Give the figures of nested groups one by one, by names such as ``by_diameter.0-2.dice``."""
    for name, value in metrics.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{before}{name}.")
        else:
            yield before + name, value


def table(evaluation: Evaluation, challenge: Challenge = CHALLENGES["atm22"]) -> str:
    """Lay out a challenge's figures: a line for each case, their mean, standard deviation and median.

    Where it has ATM'22's figures, they follow by diameter.
    """
    metrics = {case: record["metrics"] for case, record in evaluation.cases.items()}
    summary = summarise(list(metrics.values()))
    rows = list(metrics.items())
    if len(rows) > 1:
        rows += [(name, summary[name]) for name in ("mean", "std", "median")]
    lines = _lines("case", challenge.columns, rows, challenge.digits)
    if len(metrics) > 1:
        lines.insert(len(metrics) + 1, "-" * len(lines[0]))
    if challenge is CHALLENGES["atm22"]:
        groups = [group for group in summary["mean"].get("by_diameter", {}).items() if group[1]["branches"]]
        lines += ["", *_lines("by diameter", GROUP_COLUMNS, groups, challenge.digits)]
    return "\n".join(lines)


def _lines(corner: str, columns: dict[str, str], rows: Sequence[tuple[str, dict]], digits: int) -> list[str]:
    first = max(len(name) for name in (corner, *(name for name, _ in rows)))
    widths = {head: max(len(head), digits + 2) for head in columns}
    lines = ["  ".join((corner.ljust(first), *(head.rjust(width) for head, width in widths.items())))]
    for name, metrics in rows:
        flat = dict(flatten(metrics))
        cells = (_cell(flat.get(key), digits).rjust(widths[head]) for head, key in columns.items())
        lines.append("  ".join((name.ljust(first), *cells)))
    return lines


def is_empty(metrics: dict) -> bool:
    """Tell whether a case's prediction is empty."""
    return metrics["connected_components"] == 0


def _cell(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def _combine(entries: Sequence[dict], statistic: Callable[[list[float]], float | None]) -> dict:
    """Combine each figure over the entries that have it, group by group, in the order of the longest group."""
    names = dict.fromkeys(name for entry in sorted(entries, key=len, reverse=True) for name in entry)
    combined = {}
    for name in names:
        values = [entry[name] for entry in entries if name in entry]
        if isinstance(values[0], dict):
            combined[name] = _combine(values, statistic)
        else:
            combined[name] = statistic([value for value in values if value is not None])
    return combined
