"""The page of masks that were measured."""

from collections.abc import Collection, Mapping, Sequence
from html import escape
from pathlib import Path

import SimpleITK as sitk

from nnunetv2_airway.io.images import read_mask
from nnunetv2_airway.measurement.case import read_measured
from nnunetv2_airway.measurement.folder import find_cts, read_records
from nnunetv2_airway.measurement.measure import upright_tree, warnings_of
from nnunetv2_airway.report.page.plots import generations_beside_others
from nnunetv2_airway.report.page.scene import Frame, ct_picture, tree_surface
from nnunetv2_airway.report.page.write import all_scenes, render, script

MEASURED = {
    "volume, ml": "volume_ml",
    "length, mm": "total_length_mm",
    "branches": "branches",
    "ends": "ends",
    "deepest generation": "deepest_generation",
    "pieces": "pieces",
    "outside largest piece, %": "outside_largest_piece_percent",
}
"""Columns of measured cases."""
SHOWN = {
    "number": "number",
    "generation": "generation",
    "parent": "parent",
    "length": "length_mm",
    "diameter": "diameter_mm",
}
"""Of a measured branch, for the list and the colours."""


def make_measured_page(
    measurement: Path,
    *,
    cases: Collection[str] | None = None,
    ct: Path | None = None,
    about: str = "",
    warnings: Sequence[str] = (),
    processes: int = 2,
) -> str:
    """Write the page of masks that were measured.

    Args:
        measurement: folder of ``nnUNetv2_airway_measure``.
        cases: to show; by default all that were measured into it.
        ct: folder of their CTs, named like the cases, with or without nnU-Net's ``_0000``; by default those with which
            they were measured.
        about: a sentence on where the masks come from.
        warnings: what else should be known.
        processes: cases worked on at once; each takes about 2 GB for a CT of 512 x 512 x 400.

    Returns:
        HTML that needs no other file and no network.

    Raises:
        UserError: nothing was measured there, a CT is missing, or a mask has changed since; the case is named.
    """
    records = read_records(measurement)
    if cases is not None:
        records = {name: record for name, record in records.items() if name in cases}
    cts = find_cts(ct, list(records)) if ct else {}
    work = {
        name: (name, measurement, cts.get(name) or (Path(record["ct_file"]) if record["ct_file"] else None))
        for name, record in records.items()
    }
    scenes = all_scenes(make_measured_scene, work, processes)
    summaries = {name: record["summary"] for name, record in records.items()}
    for name, scene in scenes.items():
        scene["drawings"] = [
            f'<figure class="wide" role="img" aria-label="{escape(f"{each.title}. {each.words}")}">{each.svg}</figure>'
            for each in generations_beside_others(name, summaries)
        ]
    columns, rows = _measured_table(summaries)
    return render(
        "measured.html",
        scenes=list(map(script, scenes.values())),
        title=f"Airway trees: {measurement.resolve().name}",
        models=[],
        about=about,
        warnings=[
            *warnings,
            *(f"{name}: {warning}" for name, summary in summaries.items() for warning in warnings_of(summary)),
        ],
        cases=[{"name": name, "cells": rows[name]} for name in records],
        columns=columns,
    )


def _measured_table(summaries: Mapping[str, dict]) -> tuple[list[str], dict[str, list[dict]]]:
    columns = [*MEASURED, *(f"diameter, generation {number}, mm" for number in range(4))]
    rows = {}
    for name, summary in summaries.items():
        groups = summary["by_generation"]
        values = [
            *(summary[key] for key in MEASURED.values()),
            *(groups.get(str(number), {}).get("diameter_mm") for number in range(4)),
        ]
        rows[name] = [{"value": value, "text": _text(value)} for value in values]
    return columns, rows


def _text(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.1f}"


def make_measured_scene(case: str, measurement: Path, ct: Path | None = None) -> dict:
    """Collect what the page shows of a case that was measured.

    Args:
        case: its name.
        measurement: folder of ``nnUNetv2_airway_measure``.
        ct: on the grid of the mask.

    Returns:
        As ``make_scene`` does, without predictions; ``branches`` with ``facts``, names and words for each.

    Raises:
        UserError: the mask has changed since, cannot be read, or the CT is on another grid.
    """
    record = read_measured(measurement, case)
    made_from = record["fingerprint"]
    image = read_mask(Path(record["mask_file"]), made_from["airway"], made_from["threshold"])
    tree, grid = upright_tree(image)
    return {
        "case": case,
        "branches": [
            {**{name: _rounded(branch[key]) for name, key in SHOWN.items()}, "facts": _facts(branch)}
            for branch in record["branches"]
        ],
        "reference": tree_surface(tree, tree.labels > 0, [], grid.spacing[::-1], Frame(image, grid)),
        "predictions": [],
        "ct": ct_picture(ct, image, sitk.GetArrayViewFromImage(image) > 0) if ct else None,
    }


def _rounded(value: float | None) -> float:
    return round(value or 0, 2)


def _facts(branch: dict) -> list[list[str]]:
    """What is said of a branch that is picked: names and words."""

    def words(key: str, unit: str, digits: int = 1) -> str:
        value = branch[key]
        return "-" if value is None else f"{value:.{digits}f}{unit}"

    least, most = words("diameter_min_mm", ""), words("diameter_max_mm", " mm")
    return [
        ["branch", str(branch["number"])],
        ["generation", str(branch["generation"])],
        ["parent", str(branch["parent"] or "none")],
        ["children", ", ".join(map(str, branch["children"])) or "none"],
        ["length", words("length_mm", " mm")],
        ["diameter", f"{words('diameter_mm', ' mm')} ({least} to {most})"],
        ["corrected", words("diameter_corrected_mm", " mm")],
        ["taper", words("taper_percent_per_mm", " % a mm", 2)],
        ["cross-section", words("area_mm2", " mm²")],
        ["volume", words("volume_mm3", " mm³", 0)],
        ["angle to parent", words("angle_deg", "°", 0)],
        ["tortuosity", words("tortuosity", "", 2)],
    ]
