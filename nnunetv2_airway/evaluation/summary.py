"""The figures of all cases together: JSON, CSV, and a table to read."""

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnunetv2_airway.io.files import write_csv, write_json

COLUMNS = {
    "length %": "tree_length_detected",
    "branches %": "branch_detected",
    "Dice %": "dice",
    "precision %": "precision",
    "sensitivity %": "sensitivity",
    "leakage mm3": "exact09.leakage_volume_mm3",
    "pieces": "connected_components",
}
"""Of the table in the terminal; all figures are in the files."""
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
    columns = [name for name, _ in flatten(_combine(metrics, len))]
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


def spread(values: Iterable[float], sign: str = "") -> str:
    """Write mean and standard deviation (n - 1); ``sign`` "+" writes that of the mean."""
    found = list(values)
    if not found:
        return "-"
    return f"{statistics.fmean(found):{sign}.1f} ± {statistics.stdev(found) if len(found) > 1 else 0:.1f}"


def flatten(metrics: dict, before: str = "") -> Iterator[tuple[str, float | None]]:
    """Give the figures of nested groups one by one, by names such as ``by_diameter.0-2.dice``."""
    for name, value in metrics.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{before}{name}.")
        else:
            yield before + name, value


def table(evaluation: Evaluation) -> str:
    """Lay out the main figures: a line for each case, their mean, standard deviation and median, and by diameter."""
    metrics = {case: record["metrics"] for case, record in evaluation.cases.items()}
    summary = summarise(list(metrics.values()))
    rows = list(metrics.items())
    if len(rows) > 1:
        rows += [(name, summary[name]) for name in ("mean", "std", "median")]
    lines = _lines("case", COLUMNS, rows)
    if len(metrics) > 1:
        lines.insert(len(metrics) + 1, "-" * len(lines[0]))
    diameters = summary["mean"].get("by_diameter", {}).items()
    lines += ["", *_lines("by diameter", GROUP_COLUMNS, [group for group in diameters if group[1]["branches"]])]
    return "\n".join(lines)


def _lines(corner: str, columns: dict[str, str], rows: Sequence[tuple[str, dict]]) -> list[str]:
    first = max(len(name) for name in (corner, *(name for name, _ in rows)))
    lines = ["  ".join((corner.ljust(first), *columns))]
    for name, metrics in rows:
        flat = dict(flatten(metrics))
        cells = (_cell(flat.get(key)).rjust(len(head)) for head, key in columns.items())
        lines.append("  ".join((name.ljust(first), *cells)))
    return lines


def is_empty(metrics: dict) -> bool:
    """Tell whether a case's prediction is empty."""
    return metrics["connected_components"] == 0


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)


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
