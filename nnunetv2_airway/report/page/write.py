"""The page: an HTML file with all that it shows and does inside."""

import csv
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib import colormaps
from matplotlib.colors import to_hex

from nnunetv2_airway import __version__
from nnunetv2_airway.evaluation.projections import FALSE, FOUND, MISSED
from nnunetv2_airway.evaluation.summary import CHALLENGES, LESS_IS_BETTER, Challenge, flatten, spread
from nnunetv2_airway.io.errors import UserError
from nnunetv2_airway.io.parallel import results_and_failures
from nnunetv2_airway.measurement.folder import find_cts
from nnunetv2_airway.report.page.plots import COLOURS, by_groups, distributions
from nnunetv2_airway.report.page.scene import FAR, WINDOW, make_scene
from nnunetv2_airway.report.tables import Model, fill, find_template

SCRIPTS = ("three.min.js", "viewer.js", "slices.js", "page.js")
PICKED = "#c026d3"
OUTLINES = ("#ffd400", "#19c8ff", "#ff8c1a")
"""Of the reference and of the models' predictions, on the CT."""
GENERATIONS = 16
SHORT = {
    "tree_length_detected": "length %",
    "branch_detected": "branches %",
    "dice": "Dice %",
    "precision": "precision %",
    "exact09.leakage_volume_mm3": "leakage mm³",
}


def make_page(models: Sequence[Model], *, table: str = "ATM22", ct: Path | None = None, processes: int = 2) -> str:
    """Write the page of one model, or of two beside each other.

    Args:
        models: as ``read_models`` returns them.
        table: published figures to show beside, see ``find_template``; those of a challenge (``ATM26``, ``AIIB23``)
            make the page show its figures.
        ct: folder of the CTs, named like the cases, with or without nnU-Net's ``_0000``.
        processes: cases worked on at once; each takes about 2 GB for a CT of 512 x 512 x 400.

    Returns:
        HTML that needs no other file and no network. With two models, the cases of both, those where tree length
        detected differs most first; with one, those of the least tree length detected.

    Raises:
        UserError: there are more than two models, a case counts twice in one, they have no case in common, a CT is
            missing, or a case's files are not those that were evaluated; the case is named.
    """
    if len(models) > 2:
        raise UserError(
            f"a page shows one model or compares two, got {len(models)}: {', '.join(m.name for m in models)}; write "
            f"several pages, or a table, which takes any number"
        )
    template = find_template(table, ".csv").read_text(encoding="utf-8")
    names = _order(models)
    cts = find_cts(ct, names) if ct else {}
    warnings = [
        *(warning for model in models for warning in model.warnings),
        *(
            f"{model.name} also has {', '.join(sorted(others))}, which the other lacks; not shown"
            for model in models
            if (others := set(model.cases) - set(names))
        ),
    ]
    models = [_only(model, names) for model in models]
    work = {name: (name, [model.evaluations[k] for model in models], cts.get(name)) for k, name in enumerate(names)}
    scenes = all_scenes(make_scene, work, processes)
    return _fill_page(
        models, warnings, list(map(script, scenes.values())), Path(table).stem, fill(template, models, ".csv")
    )


def _only(model: Model, cases: Sequence[str]) -> Model:
    """Reduce a model to some of its cases, in their order."""
    places = [model.cases.index(case) for case in cases]
    return replace(
        model,
        cases=list(cases),
        metrics=[model.metrics[place] for place in places],
        evaluations=[model.evaluations[place] for place in places],
    )


def _order(models: Sequence[Model]) -> list[str]:
    for model in models:
        if len(set(model.cases)) < len(model.cases):
            raise UserError(f"a page shows each case of a model once: {'; '.join(model.warnings)}")
    common = set.intersection(*(set(model.cases) for model in models))
    if not common:
        raise UserError(f"{' and '.join(model.name for model in models)} have no case in common")

    def key(case: str) -> tuple[float, str]:
        lengths = [model.metrics[model.cases.index(case)]["tree_length_detected"] for model in models]
        if None in lengths:
            return float("inf"), case
        return (lengths[0] if len(lengths) == 1 else -abs(lengths[1] - lengths[0])), case

    return sorted(common, key=key)


def all_scenes(function: Callable[..., dict], work: Mapping[str, tuple], processes: int) -> dict[str, dict]:
    """Collect what the page shows of each case, by name.

    Raises:
        UserError: cases cannot be shown; all are named.
    """
    scenes, failed = results_and_failures(function, work, processes=processes, description="trees")
    if failed:
        raise UserError("\n".join(f"{case}: {error}" for case, error in sorted(failed.items())))
    return scenes


def render(template: str, *, models: Sequence[str], **content) -> str:
    """Fill a template of a page; ``models`` are those compared, none for masks that were measured."""
    assets = PackageLoader("nnunetv2_airway.report.page", "assets")
    environment = Environment(loader=assets, autoescape=True, undefined=StrictUndefined, trim_blocks=True)

    def asset(name: str) -> str:
        return assets.get_source(environment, name)[0]

    viridis = colormaps["viridis"]
    colours = {
        "found": to_hex(FOUND), "missed": to_hex(MISSED), "false": to_hex(FALSE),
        "picked": PICKED, "models": COLOURS, "outline": OUTLINES,
    }  # fmt: skip
    return environment.get_template(template).render(
        version=__version__,
        date=time.strftime("%Y-%m-%d"),
        models=models,
        far=FAR,
        window=WINDOW,
        style=asset("style.css"),
        scripts=[asset(name) for name in SCRIPTS],
        data=script(
            {
                "models": models,
                "colours": colours,
                "generations": [to_hex(viridis(k / (GENERATIONS - 1))) for k in range(GENERATIONS)],
            }
        ),
        **content,
    )


def _fill_page(
    models: Sequence[Model], warnings: Sequence[str], scenes: Sequence[str], table: str, published: str
) -> str:
    names = models[0].cases
    metrics = {model.name: dict(zip(names, model.metrics, strict=True)) for model in models}
    flat = {model: {name: dict(flatten(each)) for name, each in cases.items()} for model, cases in metrics.items()}
    challenge = CHALLENGES.get(Path(table).stem.lower(), CHALLENGES["atm22"])
    columns, rows = _table(flat, names, challenge)
    return render(
        "page.html",
        scenes=scenes,
        title=f"Airway trees: {' and '.join(model.name for model in models)}",
        warnings=warnings,
        words=challenge.words,
        models=[model.name for model in models],
        cases=[{"name": name, "cells": rows[name]} for name in names],
        columns=columns,
        differences=_differences(flat, challenge) if len(models) == 2 else [],
        drawings=[*distributions(metrics, challenge), *by_groups(metrics)],
        published=list(csv.reader(published.splitlines())),
        published_name=table,
    )


def script(content: dict) -> str:
    """Write JSON that may stand inside a script element."""
    return json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")


def _table(
    flat: Mapping[str, Mapping[str, dict]], names: Sequence[str], challenge: Challenge
) -> tuple[list[str], dict[str, list[dict]]]:
    """Lay out the table of cases: with two models, the differences first."""
    columns: list[str] = []
    digits = challenge.digits - 1
    rows: dict[str, list[dict]] = {name: [] for name in names}

    def add(title: str, values: Mapping[str, float | None], sign: str = "") -> None:
        columns.append(title)
        for name in names:
            value = values[name]
            rows[name].append({"value": value, "text": "-" if value is None else f"{value:{sign}.{digits}f}"})

    figures = {name: SHORT.get(name, title) for title, name in challenge.page.items()}
    if len(flat) == 2:
        first, second = flat.values()
        for figure, title in figures.items():
            add(f"Δ {title}", {name: _difference(first[name][figure], second[name][figure]) for name in names}, "+")
    for model, cases in flat.items():
        for figure, title in figures.items():
            add(f"{title}{f', {model}' if len(flat) > 1 else ''}", {name: cases[name][figure] for name in names})
    return columns, rows


def _difference(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else second - first


def _differences(flat: Mapping[str, Mapping[str, dict]], challenge: Challenge) -> list[dict]:
    first, second = flat.values()
    rows, digits = [], challenge.digits - 1
    for title, figure in challenge.page.items():
        pairs = [(first[name][figure], second[name][figure]) for name in first]
        pairs = [pair for pair in pairs if None not in pair]
        differences = [b - a for a, b in pairs]
        rows.append(
            {
                "title": title,
                "first": spread([a for a, _ in pairs], digits=digits),
                "second": spread([b for _, b in pairs], digits=digits),
                "difference": spread(differences, "+", digits),
                "better": sum(each < 0 if figure in LESS_IS_BETTER else each > 0 for each in differences),
                "count": len(pairs),
            }
        )
    return rows
