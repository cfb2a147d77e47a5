"""What is written about a conversion as a whole: ``dataset.json``, folds, report and contact sheet."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnunetv2_airway.conversion.preview import draw_contact_sheet
from nnunetv2_airway.io.errors import some
from nnunetv2_airway.io.files import read_record, write_csv, write_json
from nnunetv2_airway.io.raw_data import write_dataset_json

REPORT, SHEET, SPLITS = "conversion_report.csv", "contact_sheet.png", "splits_final.json"
FOLDS = 5
ODD = 60.0
"""HU by which the mean of a label may lie above the median of all labels'."""
COLUMNS = (
    "case", "status", "source", "label", "subject", "shape_zyx", "spacing_zyx_mm", "orientation", "hu_min", "hu_max",
    "lungs", "box_zyx", "airway_voxels", "airway_mean_hu", "warnings", "notes",
)  # fmt: skip


@dataclass(frozen=True)
class Conversion:
    """What has come of a data set: records by case, of this run and of earlier ones into the same folder.

    Args:
        records: of the cases that are in the data set now.
        failed: what went wrong in this run, by case.
        failed_before: what went wrong with other cases in earlier runs.
        left_out: why, by case.
        warnings: what concerns the data set as a whole.
    """

    records: dict[str, dict]
    failed: dict[str, str]
    left_out: dict[str, str]
    failed_before: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def is_training(record: dict) -> bool:
    """Whether a converted case has a label."""
    return bool(record["label"])


def write_results(
    folder: Path,
    records_folder: Path,
    conversion: Conversion,
    *,
    description: str,
    licence: str,
    reference: str,
    only_images: bool,
) -> None:
    """Write the report and the contact sheet, and for a data set ``dataset.json`` and the folds.

    Args:
        folder: for the files.
        records_folder: where the records and pictures of the cases are.
        conversion: gets the warnings that concern the data set as a whole.
        description: for ``dataset.json``, as are ``licence`` and ``reference``.
        licence: of the data set.
        reference: paper to cite.
        only_images: CTs to predict, no data set.
    """
    records = conversion.records
    write_csv(folder / REPORT, COLUMNS, _rows(conversion, records_folder))
    previews = {name: (records_folder / f"{name}.png", "") for name in records}
    failed = conversion.failed_before | conversion.failed
    previews |= {name: (records_folder / f"{name}.png", error) for name, error in failed.items()}
    if previews:
        draw_contact_sheet(folder / SHEET, dict(sorted(previews.items())))
    orientations = {record["orientation"] for record in records.values()}
    if len(orientations) > 1:
        listed = {
            letters: [name for name, record in records.items() if record["orientation"] == letters]
            for letters in sorted(orientations)
        }
        words = "; ".join(f"{letters}: {some(names)}" for letters, names in listed.items())
        conversion.warnings.append(
            f"CTs are stored in different orientations, which nnU-Net does not turn: a network sees some of them "
            f"mirrored ({words})"
        )
    conversion.warnings.extend(_odd_ones(records))
    training = {name: record for name, record in records.items() if is_training(record)}
    if only_images or not training:
        return
    write_dataset_json(folder, training=len(training), description=description, licence=licence, reference=reference)
    _write_splits(folder, training, conversion.warnings)


def _odd_ones(records: Mapping[str, dict]) -> list[str]:
    """Point out cases that are alike, and those whose label lies in denser tissue than the others'."""
    warnings = []
    for part, word in enumerate(("CT", "label")):
        same: dict[str, list[str]] = {}
        for name, record in records.items():
            if record["digests"][part]:
                same.setdefault(record["digests"][part], []).append(name)
        warnings += [
            f"{', '.join(names)} have the same {word}, voxel by voxel: one of them may be a copy by mistake"
            for names in same.values()
            if len(names) > 1
        ]
    levels = {name: record["airway_hu"] for name, record in records.items() if record["airway_hu"] is not None}
    usual = statistics.median(levels.values()) if levels else 0
    for name, level in levels.items():
        if len(levels) >= FOLDS and level > usual + ODD:
            warnings.append(
                f"{name}: the label lies at {level:.0f} HU on average, those of the other cases at about {usual:.0f}: "
                f"it may belong to another CT"
            )
    return warnings


def _rows(conversion: Conversion, folder: Path) -> list[tuple]:
    rows = {
        name: (
            name, "training" if is_training(record) else "test", record["source"], record["label"], record["subject"],
            _times(record["shape"]), _times(record["spacing"]), record["orientation"], *record["hu_range"],
            record["lungs"], " ".join(f"{start}:{stop}" for start, stop in record["box"]), record["airway_voxels"],
            record["airway_hu"], "; ".join(record["warnings"]), "; ".join(record["notes"]),
        )
        for name, record in conversion.records.items()
    }  # fmt: skip
    empty = (None,) * (len(COLUMNS) - 6)
    for name, error in (conversion.failed_before | conversion.failed).items():
        record = read_record(folder / f"{name}.json")
        rows[name] = (name, "failed", record.get("source"), record.get("label"), *empty, error, None)
    for name, why in conversion.left_out.items():
        rows[name] = (name, "left out", None, None, *empty, why, None)
    return [rows[name] for name in sorted(rows)]


def _times(numbers: Sequence[float]) -> str:
    return " x ".join(f"{number:g}" for number in numbers)


def _write_splits(folder: Path, training: Mapping[str, dict], warnings: list[str]) -> None:
    """Write folds that keep each subject's cases together, where subjects repeat."""
    from sklearn.model_selection import GroupKFold  # late: it takes a second

    patients = [record["subject"] for record in training.values() if record["subject_from_dicom"]]
    anonymous = patients[0] if len(patients) > 2 and len(set(patients)) == 1 else None
    if anonymous:
        warnings.append(
            f"all {len(patients)} DICOM cases have the patient id {anonymous}, which is taken for anonymisation: if "
            f"patients have several CTs, keep them together in a {SPLITS} of your own"
        )
    subjects = [
        name if record["subject"] in ("", anonymous) else record["subject"] for name, record in training.items()
    ]
    number = len(set(subjects))
    target = folder / SPLITS
    if number == len(subjects):
        target.unlink(missing_ok=True)
        return
    if number < 2:
        warnings.append("all cases are of one subject: no folds can be made that keep it together")
        return
    names = list(training)
    splits = [
        {"train": [names[index] for index in rest], "val": [names[index] for index in held]}
        for rest, held in GroupKFold(min(FOLDS, number)).split(names, groups=subjects)
    ]
    if len(splits) < FOLDS:
        warnings.append(f"with {number} subjects there are only {len(splits)} folds")
    write_json(target, splits)
