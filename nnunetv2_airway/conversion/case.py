"""One case: read, checked, cut to the lung box and written, with a record and a picture.

A case whose record names the same files and options is not converted again, so that an interrupted conversion goes on
where it stopped.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from textwrap import shorten

import numpy as np
import SimpleITK as sitk

from nnunetv2_airway.conversion.dicom import choose_series
from nnunetv2_airway.conversion.dicom_volume import read_series
from nnunetv2_airway.conversion.labels import check_label, read_label
from nnunetv2_airway.conversion.layout import Case, walk
from nnunetv2_airway.conversion.preview import BAD, GOOD, LOOK, draw_preview
from nnunetv2_airway.conversion.region import MARGIN, region
from nnunetv2_airway.conversion.units import to_hounsfield
from nnunetv2_airway.io.errors import UserError
from nnunetv2_airway.io.files import read_record, write_record
from nnunetv2_airway.io.images import BODY, Grid, orientation, read_volume, write_image

FORMAT = 1
"""Another one has every case converted again."""
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
        lost_scale: those that some CTs of the data set have lost.
        series: UIDs of DICOM series, one for each case that has several.
        accept: take the label although it seems to be wrong.
    """

    lumen: tuple[int, ...] | None = None
    margin: float | None = MARGIN
    ignore_label_header: bool = False
    scale: tuple[float, float] | None = None
    lost_scale: tuple[float, float] | None = None
    series: tuple[str, ...] = ()
    accept: bool = False


@dataclass(frozen=True)
class Target:
    """Where a case is written: folders of CTs, labels (None for CTs to predict), and records with pictures."""

    images: Path
    labels: Path | None
    records: Path

    def volumes(self, case: str, *, with_label: bool = True) -> list[Path]:
        """CT and label of a case."""
        label = [self.labels / f"{case}.nii.gz"] if self.labels and with_label else []
        return [self.images / f"{case}_0000.nii.gz", *label]


def convert_case(case: Case, options: Options, target: Target) -> dict:
    """Convert one case, or return the record of an earlier conversion of the same files with the same options.

    Returns:
        The record, as it is written to ``conversion/NAME.json``.

    Raises:
        UserError: a file cannot be read, the CT is not in HU, or the label does not belong to it.
        OSError: the results cannot be written.
    """
    preview, record_file = (target.records / f"{case.name}.{ending}" for ending in ("png", "json"))
    volumes = target.volumes(case.name, with_label=case.label is not None)
    fingerprint = _fingerprint(case, options)
    earlier = read_record(record_file)
    if (
        not case.problem
        and earlier.get("fingerprint") == fingerprint
        and _is_wanted(earlier, case, options)
        and preview.is_file()
        and are_whole(volumes, earlier)
    ):
        return {**earlier, "from_earlier": True}
    for file in (record_file, *target.volumes(case.name), preview):
        file.unlink(missing_ok=True)
    if case.problem:
        raise UserError(case.problem)

    stored, grid, notes, patient, series = _read_ct(case, options)
    _require_body_size(case, stored, grid)
    try:
        hu, done = to_hounsfield(stored, options.scale, lost=options.lost_scale, case=case.name)
    except UserError as error:
        raise UserError(f"{case.ct}: {error}") from error
    del stored
    ct = grid.image(hu)
    notes += done
    mask, problem, warnings = None, "", []
    if case.label:
        mask, done = read_label(case.label, ct, values=options.lumen, ignore_header=options.ignore_label_header)
        notes += done
        try:
            problem, doubt = check_label(mask, hu)
        except UserError as error:
            raise UserError(f"{case.label}: {error}") from error
        warnings += [doubt] if doubt else []
    if problem and options.accept:
        warnings.append(f"{problem} (accepted)")
        problem = ""
    lung_label = None
    if case.lungs and options.margin is not None:
        lung_label, _ = read_label(case.lungs, ct, ignore_header=options.ignore_label_header)
    box, lungs, doubts = region(ct, mask, margin=options.margin, lungs=lung_label)
    warnings += doubts

    first = problem or next(iter(warnings), "")
    colour = BAD if problem else LOOK if warnings else GOOD
    title = case.name + (f"\n{shorten(first, 50)}" if first else "")
    draw_preview(preview, hu, grid, mask, box, title=title, colour=colour)
    if problem:
        raise UserError(f"{case.label}: {problem}. Look at {preview}; if it is right, --accept {case.name} takes it")
    record = {
        "case": case.name,
        "source": str(case.ct),
        "label": str(case.label or ""),
        "series": series,
        "scale": options.scale and list(options.scale),
        "ignore_label_header": options.ignore_label_header,
        "subject": case.subject or patient,
        "subject_from_dicom": bool(patient and not case.subject),
        "shape": list(hu.shape),
        "spacing": [round(step, 6) for step in grid.spacing[::-1]],
        "orientation": orientation(ct),
        "hu_range": [int(hu.min()), int(hu.max())],
        "lungs": lungs,
        "box": [[span.start, span.stop] for span in box],
        "digests": [_digest(hu), None if mask is None else _digest(mask)],
        "airway_voxels": None if mask is None else int(np.count_nonzero(mask)),
        "airway_hu": None if mask is None else round(float(hu[mask > 0].mean()), 1),
        "warnings": warnings,
        "notes": notes,
        "fingerprint": fingerprint,
    }
    cut = np.zeros_like(hu)
    cut[box] = hu[box]
    del hu, ct
    for file, array in zip(volumes, (cut, mask), strict=False):  # there may be no label
        write_image(grid.image(array), file)
    record["bytes"] = [file.stat().st_size for file in volumes]
    write_record(record_file, record)
    return record


def are_whole(volumes: Sequence[Path], record: dict) -> bool:
    """Whether a converted case's files are there, as long as they were written."""
    if not all(file.is_file() for file in volumes):
        return False
    written = record.get("bytes")  # not in records of earlier versions
    return written is None or written == [file.stat().st_size for file in volumes]


def _fingerprint(case: Case, options: Options) -> list:
    """What says that a case would be converted as before: names, sizes and times of its files, options of all cases."""
    ct = [] if case.ct is None else [file for _, files in walk([case.ct]) for file in files] or [case.ct]
    files = [file for file in (*ct, case.label, case.lungs) if file is not None]
    files += [
        other for file in files if file.suffix == ".mhd" for other in file.parent.glob(f"{escape(file.stem)}.*raw")
    ]
    files = [file for file in files if file.is_file()]
    stamps = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    return json.loads(json.dumps([FORMAT, stamps, case.subject, case.series, options.lumen, options.margin]))


def _is_wanted(earlier: dict, case: Case, options: Options) -> bool:
    """Whether an earlier conversion was made with the options that are given for this very case, if any are."""
    wanted = [uid for uid in earlier["series"] if uid in options.series]
    return (
        (options.scale is None or list(options.scale) == earlier["scale"])
        and (not options.ignore_label_header or earlier["ignore_label_header"])
        and (not wanted or bool(case.series) or wanted == earlier["series"][:1])
    )


def _digest(array: np.ndarray) -> str:
    return hashlib.blake2b(array, digest_size=16).hexdigest()


def _read_ct(case: Case, options: Options) -> tuple[np.ndarray, Grid, list[str], str, list[str]]:
    """Stored values, their grid, notes, the patient's id, and the DICOM series, the one read first."""
    if not case.ct.is_dir():
        image = read_volume(case.ct)
        return sitk.GetArrayFromImage(image), Grid.of(image), [], "", []
    series, others, notes = choose_series(case.ct, {case.series} if case.series else options.series)
    volume, grid, done = read_series(series)
    return volume, grid, notes + done, series.patient, [series.uid, *others]


def _require_body_size(case: Case, stored: np.ndarray, grid: Grid) -> None:
    extent = [n * step for n, step in zip(stored.shape, grid.spacing[::-1], strict=True)]
    if not all(BODY[0] < length < BODY[1] for length in extent):
        listed = " x ".join(f"{length:.4g}" for length in extent)
        raise UserError(f"{case.ct} is {listed} mm large: its spacing is not in mm, or wrong; mend its header")
