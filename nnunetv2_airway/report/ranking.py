"""Models ranked against each other as ATM'26 and ATM'22 rank teams, and their differences case by case.

Sources: ATM'26, track 1 (evaluation of Airway-Tree-Modeling-26): the mean of a team's ranks in all metrics. Ranks are
taken in each case here, and beside it in the metrics' means over the cases, which the organisers' code computes. ATM'22
(Zhang et al., Medical Image Analysis 90, 2023, 102957): the mean of four metrics.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from nnunetv2_airway.evaluation.summary import CHALLENGES, LESS_IS_BETTER, spread
from nnunetv2_airway.io.errors import UserError, some
from nnunetv2_airway.report.tables import FORMATS, Model

ATM26 = CHALLENGES["atm26"].columns
"""Metrics of ATM'26: their names in an evaluation by their own."""
ATM22 = ("tree_length_detected", "branch_detected", "dice", "precision")
"""Metrics whose mean is ATM'22's score."""
SCORE = "ATM22 score"
FIGURES = {**dict.fromkeys(ATM26, 4), SCORE: 2}
"""What is shown of a model, with how many digits."""


@dataclass(frozen=True)
class Ranked:
    """A model among others.

    Args:
        name: its name.
        ranks: its mean rank over the cases in each metric of ATM'26; the best has rank 1, equals share theirs.
        position: the mean of these, by which models are ordered.
        position_of_means: the mean of its ranks in each metric's mean over the cases.
        figures: of each common case: metrics of ATM'26 as shares, and ATM'22's score in percent; None is undefined.
    """

    name: str
    ranks: dict[str, float]
    position: float
    position_of_means: float
    figures: dict[str, dict[str, float | None]]

    def values(self, name: str) -> list[float]:
        """Its figure in all cases where it is defined, which depends on the reference alone."""
        return [figures[name] for figures in self.figures.values() if figures[name] is not None]

    def differences(self, other: "Ranked", name: str) -> list[float]:
        """Its figure less another model's, in all cases where it is defined."""
        return [own - others for own, others in zip(self.values(name), other.values(name), strict=True)]


def rank(models: Sequence[Model]) -> list[Ranked]:
    """Rank models over the cases that all of them have, and over metrics; the best first.

    Raises:
        UserError: there are fewer than two models, a case counts twice in one, or they have no case in common.
    """
    if len(models) < 2:
        raise UserError(
            "--rank compares models: give the evaluations of two or more after -i; those that -n gives one name are one"
        )
    for model in models:
        if len(set(model.cases)) < len(model.cases):
            raise UserError(f"a ranking counts each case of a model once: {'; '.join(model.warnings)}")
    common = sorted(set.intersection(*(set(model.cases) for model in models)))
    if not common:
        raise UserError(f"{', '.join(model.name for model in models)} have no case in common")
    by_case = [dict(zip(model.cases, model.metrics, strict=True)) for model in models]
    for case in common:
        if len({metrics[case]["branches"] for metrics in by_case}) > 1:
            raise UserError(
                f"the models were evaluated against different references of {case}, whose numbers of branches differ: "
                f"evaluate all of them with the same -ref"
            )
    figures = [{case: _figures(metrics[case]) for case in common} for metrics in by_case]
    ranks = {name: np.mean([_ranks(figures, case, name) for case in common], axis=0) for name in ATM26}
    ranks_of_means = [rankdata([-_sign(name) * _mean(each, name) for each in figures]) for name in ATM26]
    ranked = [
        Ranked(
            model.name,
            own := {name: float(values[place]) for name, values in ranks.items()},
            statistics.fmean(own.values()),
            statistics.fmean(values[place] for values in ranks_of_means),
            figures[place],
        )
        for place, model in enumerate(models)
    ]
    return sorted(ranked, key=lambda each: each.position)


def left_out(models: Sequence[Model]) -> list[str]:
    """Say which cases are not ranked since a model lacks them."""
    common = set.intersection(*(set(model.cases) for model in models))
    rest = sorted({case for model in models for case in model.cases} - common)
    return [f"not ranked, since a model lacks them: {some(rest)}"] if rest else []


def _figures(metrics: dict) -> dict[str, float | None]:
    of_atm22 = [metrics[name] for name in ATM22]
    return {
        **{name: metrics["atm26"][name] for name in ATM26},
        SCORE: None if None in of_atm22 else statistics.fmean(of_atm22),
    }


def _ranks(figures: Sequence[dict[str, dict]], case: str, name: str) -> np.ndarray:
    """Rank all models in one metric of one case; where it is undefined, which it is for all, they share a rank."""
    values = [each[case][name] for each in figures]
    return rankdata([0.0 if value is None else -_sign(name) * value for value in values])


def _mean(figures: dict[str, dict], name: str) -> float:
    found = [each[name] for each in figures.values() if each[name] is not None]
    return round(statistics.fmean(found), 10) if found else 0.0  # sums in another order would not be equal


def ranking_table(ranked: Sequence[Ranked], ending: str) -> str:
    """Write a ranking, and how each model differs from the first case by case.

    Args:
        ranked: as ``rank`` returns them.
        ending: .md, tables for people, or .csv, one with a number in each cell.

    Raises:
        UserError: another ending.
    """
    if ending == ".md":
        return _markdown(ranked)
    if ending == ".csv":
        return _csv(ranked)
    raise UserError(f"a ranking is written as .md or .csv, not as {ending or 'a file without ending'}")


def _markdown(ranked: Sequence[Ranked]) -> str:
    best = ranked[0]
    ranks = [["model", "mean rank", *(f"in {name}" for name in ATM26), "rank of means", "cases"]]
    figures, changes = [["model", *FIGURES]], [[f"difference to {best.name}", *FIGURES]]
    for each in ranked:
        numbers = (f"{value:.2f}" for value in (each.position, *each.ranks.values(), each.position_of_means))
        ranks.append([each.name, *numbers, str(len(each.figures))])
        figures.append([each.name, *(spread(each.values(name), digits=digits) for name, digits in FIGURES.items())])
        if each is not best:
            changes.append([each.name, *(_change(each, best, name) for name in FIGURES)])
    return "\n".join(map(_aligned, (ranks, figures, changes)))


def _change(model: Ranked, best: Ranked, name: str) -> str:
    better, worse = _better_and_worse(model, best, name)
    return f"{spread(model.differences(best, name), '+', FIGURES[name])}, {better} better, {worse} worse"


def _better_and_worse(model: Ranked, best: Ranked, name: str) -> tuple[int, int]:
    """Count the cases in which a model is better than another, and those in which it is worse."""
    signed = [_sign(name) * difference for difference in model.differences(best, name)]
    return sum(each > 0 for each in signed), sum(each < 0 for each in signed)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Write a table in Markdown, its head first, that can be read as it is."""
    escaped = [[FORMATS[".md"](cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*escaped, strict=True)]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in escaped]
    lines.insert(1, ["-" * width for width in widths])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _csv(ranked: Sequence[Ranked]) -> str:
    best = ranked[0]
    kinds = ("mean", "std", "difference", "difference_std", "better", "worse")
    ranks = [f"rank_{name}" for name in ATM26]
    heads = [f"{name.replace(' ', '_')}_{kind}" for name in FIGURES for kind in kinds]
    rows = [["model", "cases", "mean_rank", *ranks, "rank_of_means", *heads]]
    for each in ranked:
        cells = [each.name, len(each.figures), each.position, *each.ranks.values(), each.position_of_means]
        for name in FIGURES:
            for values in (each.values(name), each.differences(best, name)):
                cells += [statistics.fmean(values) if values else "", statistics.stdev(values) if values[1:] else ""]
            cells += _better_and_worse(each, best, name)
        rows.append(cells)
    return "".join(",".join(FORMATS[".csv"](str(cell)) for cell in row) + "\n" for row in rows)


def _sign(name: str) -> int:
    return -1 if ATM26.get(name) in LESS_IS_BETTER else 1
