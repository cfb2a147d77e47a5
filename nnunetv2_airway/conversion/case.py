"""One case: read, checked, cut to the lung box and written, with a record and a picture.

A case whose record names the same files and options is not converted again, so that an interrupted conversion goes on
where it stopped.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import shorten

import numpy as np
import SimpleITK as sitk

from nnunetv2_airway.conversion.dicom import choose_series, read_series
from nnunetv2_airway.conversion.labels import check_label, read_label
from nnunetv2_airway.conversion.layout import Case, walk
from nnunetv2_airway.conversion.lungs import Box, lung_box
from nnunetv2_airway.conversion.preview import BAD, GOOD, LOOK, write_preview
from nnunetv2_airway.conversion.units import to_hounsfield
from nnunetv2_airway.files import write_json
from nnunetv2_airway.images import Grid, orientation, read_volume, write_image
from nnunetv2_airway.maps.components import bounding_box

FORMAT = 1
"""Another one has every case converted again."""
MARGIN = 10.0
"""Of the lung box, in mm."""
RECORDS = "conversion"
"""Folder of records and pictures."""


@dataclass(frozen=True)
class Options:
    """What a user may choose.

    Args:
        lumen: values of the label that are airway; by default all above 0.
        margin: of the lung box in mm; None keeps the whole CT.
        ignore_label_header: take the CT's geometry for the label.
        scale: slope and intercept of stored values.
        series: UIDs of DICOM series, one for each case that has several.
        accept: take the label although it seems to be wrong.
    """

    lumen: tuple[int, ...] | None = None
    margin: float | None = MARGIN
    ignore_label_header: bool = False
    scale: tuple[float, float] | None = None
    series: tuple[str, ...] = ()
    accept: bool = False


@dataclass(frozen=True)
class Target:
    """Where a case is written: ``images`` and ``labels`` are folders, ``records`` that of records and pictures."""

    images: Path
    labels: Path
    records: Path

    def files(self, case: str) -> tuple[Path, Path, Path, Path]:
        """CT, label, picture and record of a case."""
        return (
            self.images / f"{case}_0000.nii.gz",
            self.labels / f"{case}.nii.gz",
            self.records / f"{case}.png",
            self.records / f"{case}.json",
        )


def convert_case(case: Case, options: Options, target: Target) -> dict:
    """Convert one case, or return the record of an earlier conversion of the same files with the same options.

    Returns:
        The record, as it is written to ``conversion/NAME.json``.

    Raises:
        ValueError: a file cannot be read, the CT is not in HU, or the label does not belong to it.
        OSError: the results cannot be written.
    """
    ct_file, label_file, preview, record_file = target.files(case.name)
    fingerprint = _fingerprint(case, options)
    earlier = read_record(record_file)
    if (
        not case.problem
        and earlier.get("fingerprint") == fingerprint
        and _is_wanted(earlier["series"], case, options)
        and all(file.is_file() for file in (ct_file, preview, *([label_file] if case.label else [])))
    ):
        return {**earlier, "from_earlier": True}
    for file in (record_file, ct_file, label_file, preview):
        file.unlink(missing_ok=True)
    if case.problem:
        raise ValueError(case.problem)

    stored, grid, notes, patient, series = _read_ct(case, options)
    try:
        hu, done = to_hounsfield(stored, options.scale)
    except ValueError as error:
        raise ValueError(f"{case.ct}: {error}") from error
    del stored
    ct = grid.image(hu)
    notes += done
    mask, problem, warnings = None, "", []
    if case.label:
        mask, done = read_label(case.label, ct, values=options.lumen, ignore_header=options.ignore_label_header)
        notes += done
        problem, doubt = check_label(mask, hu)
        warnings += [doubt] if doubt else []
    if problem and options.accept:
        warnings.append(f"{problem} (accepted)")
        problem = ""
    box, lungs = _box(case, ct, mask, options, warnings, notes)

    first = problem or next(iter(warnings), "")
    colour = BAD if problem else LOOK if warnings else GOOD
    title = case.name + (f"\n{shorten(first, 50)}" if first else "")
    write_preview(preview, hu, grid, mask, box, title=title, colour=colour)
    if problem:
        raise ValueError(f"{case.label}: {problem}. Look at {preview}; if it is right, --accept {case.name} takes it")
    record = {
        "case": case.name,
        "source": str(case.ct),
        "label": str(case.label or ""),
        "series": series,
        "subject": case.subject or patient,
        "subject_from_dicom": bool(patient and not case.subject),
        "shape": list(hu.shape),
        "spacing": [round(step, 6) for step in grid.spacing[::-1]],
        "orientation": orientation(ct),
        "hu_range": [int(hu.min()), int(hu.max())],
        "lungs": lungs,
        "box": [[span.start, span.stop] for span in box],
        "airway_voxels": None if mask is None else int(np.count_nonzero(mask)),
        "airway_hu": None if mask is None or not mask.any() else round(float(hu[mask > 0].mean()), 1),
        "warnings": warnings,
        "notes": notes,
        "fingerprint": fingerprint,
    }
    cut = np.zeros_like(hu)
    cut[box] = hu[box]
    del hu, ct
    write_image(grid.image(cut), ct_file)
    if mask is not None:
        write_image(grid.image(mask), label_file)
    write_json(record_file, record)
    return record


def read_record(file: Path) -> dict:
    """Read a record, empty where there is none."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        return record if isinstance(record, dict) else {}
    except (OSError, ValueError):
        return {}


def _fingerprint(case: Case, options: Options) -> list:
    """What says that a case would be converted as before: names, sizes and times of its files, and the options."""
    ct = [] if case.ct is None else [file for _, files in walk([case.ct]) for file in files] or [case.ct]
    files = [file for file in (*ct, case.label, case.lungs) if file is not None and file.is_file()]
    stamps = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    decisive = {name: value for name, value in asdict(options).items() if name not in ("accept", "series")}
    return json.loads(json.dumps([FORMAT, stamps, case.subject, case.series, decisive]))


def _is_wanted(series: list[str], case: Case, options: Options) -> bool:
    """Whether the series of an earlier conversion, the first of those there were, would be chosen again."""
    return len(series) < 2 or bool(case.series) or [uid for uid in series if uid in options.series] == series[:1]


def _read_ct(case: Case, options: Options) -> tuple[np.ndarray, Grid, list[str], str, list[str]]:
    """Stored values, their grid, notes, the patient's id, and the DICOM series, the one read first."""
    if not case.ct.is_dir():
        image = read_volume(case.ct)
        return sitk.GetArrayFromImage(image), Grid.of(image), [], "", []
    series, others, notes = choose_series(case.ct, {case.series} if case.series else options.series)
    volume, grid, done = read_series(series)
    return volume, grid, notes + done, series.patient, [series.uid, *others]


def _box(
    case: Case, ct: sitk.Image, mask: np.ndarray | None, options: Options, warnings: list[str], notes: list[str]
) -> tuple[Box, str]:
    """The lungs' box with its margin, enlarged to hold the label, and where the lungs come from."""
    shape = ct.GetSize()[::-1]
    whole = tuple(slice(0, n) for n in shape)
    if options.margin is None:
        return whole, "not asked for"
    if case.lungs:
        lungs, done = read_label(case.lungs, ct, ignore_header=options.ignore_label_header)
        notes += [note for note in done if "label values" not in note]
        box, source = bounding_box(lungs > 0), "label"
    else:
        box, source = lung_box(ct), "found"
    if box is None:
        warnings.append("no lungs found: the whole CT is kept")
        return whole, "not found"
    rims = [int(np.ceil(options.margin / step)) for step in ct.GetSpacing()[::-1]]
    box = [slice(max(b.start - r, 0), min(b.stop + r, n)) for b, r, n in zip(box, rims, shape, strict=True)]
    held = bounding_box(mask > 0) if mask is not None else None
    if held:
        box = [slice(min(b.start, h.start), max(b.stop, h.stop)) for b, h in zip(box, held, strict=True)]
    return tuple(box), source
