"""A whole data set: every case converted, those of earlier runs kept."""

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_airway.conversion.case import FORMAT, RECORDS, Options, Target, are_whole, convert_case
from nnunetv2_airway.conversion.layout import Case
from nnunetv2_airway.conversion.results import REPORT, SHEET, SPLITS, Conversion, is_training, write_results
from nnunetv2_airway.io.errors import UserError, reason, some
from nnunetv2_airway.io.files import alone_in, read_record, write_json, write_record
from nnunetv2_airway.io.parallel import finished_cases
from nnunetv2_airway.io.raw_data import require_free_id, require_own

SETTINGS = ".settings.json"
"""Beside the records; it says that a folder is ours."""


@dataclass(frozen=True)
class Destination:
    """A raw data set, or for ``only_images`` a folder of CTs for ``nnUNetv2_predict``."""

    folder: Path
    only_images: bool = False

    @property
    def records(self) -> Path:
        """Folder of records and pictures."""
        return self.folder / RECORDS

    def target(self, case: Case) -> Target:
        """Where a case is written."""
        if self.only_images:
            return Target(self.folder, None, self.records)
        part = "Tr" if case.label else "Ts"
        return Target(self.folder / f"images{part}", self.folder / "labelsTr", self.records)


def convert_cases(
    cases: Sequence[Case],
    destination: Destination,
    options: Callable[[str], Options],
    *,
    left_out: Mapping[str, str],
    description: str,
    licence: str = "",
    reference: str = "",
    overwrite: bool = False,
    processes: int = 2,
) -> Conversion:
    """Convert cases into a folder, which may hold others of earlier runs with the same settings.

    Args:
        cases: see ``Case``; those without a label go to ``imagesTs``.
        destination: where to.
        options: gives those of a case by its name; lumen and lung box are the same for all.
        left_out: cases that are not converted, and why.
        description: for ``dataset.json``, as are ``licence`` and ``reference``.
        licence: of the data set.
        reference: paper to cite.
        overwrite: remove the folder's earlier conversions first.
        processes: cases worked on at once, each needs up to 1 GB for a CT of 512 x 512 x 400.

    Raises:
        UserError: there is nothing to convert, two cases of one name, or the folder holds something else.
        OSError: the results cannot be written.
    """
    kept = [case for case in cases if case.name not in left_out]
    _require_distinct(kept)
    settings = _settings(options(""))
    _require_ours(destination, settings, overwrite)  # before anything is written there
    destination.folder.mkdir(parents=True, exist_ok=True)
    with alone_in(destination.folder):
        _prepare(destination, settings, overwrite)
        _require_same_sources(kept, destination)
        return _convert(
            cases,
            kept,
            destination,
            options,
            left_out=left_out,
            processes=processes,
            description=description,
            licence=licence,
            reference=reference,
        )


def _convert(
    cases: Sequence[Case],
    kept: Sequence[Case],
    destination: Destination,
    options: Callable[[str], Options],
    *,
    left_out: Mapping[str, str],
    processes: int,
    **about: str,
) -> Conversion:
    work = {case.name: (case, options(case.name), destination.target(case)) for case in kept}
    for _, _, target in work.values():
        target.images.mkdir(exist_ok=True)
        if target.labels:
            target.labels.mkdir(exist_ok=True)
    if not destination.only_images:
        _remove_from_other_part(kept, destination)
    records, failed = {}, {}
    for name, record, error in finished_cases(convert_case, work, processes=processes, description="conversion"):
        if error is None:
            records[name] = record
        else:  # at once: what failed is known also where the others are interrupted
            failed[name] = reason(error)
            case = work[name][0]
            entry = {"case": name, "source": str(case.ct or ""), "label": str(case.label or ""), "error": failed[name]}
            write_record(destination.records / f"{name}.json", entry)
    earlier = [read_record(file) for file in sorted(destination.records.glob("*.json"))]
    earlier = [record for record in earlier if "case" in record and record["case"] not in work]
    kept_before = {record["case"]: record for record in earlier if is_complete(record, destination)}
    records |= kept_before
    conversion = Conversion(
        records=dict(sorted(records.items())),
        failed=dict(sorted(failed.items())),
        left_out={case.name: left_out[case.name] for case in cases if case.name in left_out},
        failed_before={record["case"]: record["error"] for record in earlier if "error" in record},
    )
    if kept_before:
        conversion.warnings.append(
            f"cases of earlier runs that are not in the folders given now stay in the data set: "
            f"{some(list(kept_before))}. To take one out, delete its CT and label there and run this again"
        )
    write_results(
        destination.folder,
        destination.records,
        conversion,
        only_images=destination.only_images,
        **about,
    )
    return conversion


def is_complete(record: dict, destination: Destination) -> bool:
    """Whether a record is that of a case whose files are there, converted as this version does."""
    if "error" in record or record["fingerprint"][0] != FORMAT:
        return False
    target = destination.target(Case(record["case"], label=Path(record["label"]) if record["label"] else None))
    return are_whole(target.volumes(record["case"], with_label=is_training(record)), record)


def _require_distinct(cases: Sequence[Case]) -> None:
    if not cases:
        raise UserError("there is nothing to convert")
    seen: dict[str, Case] = {}
    for case in cases:
        if case.name in seen:
            files = " and ".join(str(entry.ct or entry.label) for entry in (seen[case.name], case))
            raise UserError(f"the case {case.name} is there twice, {files}: leave one of them out with -i")
        seen[case.name] = case


def _settings(options: Options) -> dict:
    """What has to be the same for all cases of a folder."""
    return {"lung box margin": options.margin, "lumen": options.lumen and list(options.lumen)}


def _require_ours(destination: Destination, settings: dict, overwrite: bool) -> None:
    require_free_id(destination.folder)
    require_own(destination.folder, destination.records / SETTINGS, settings, overwrite=overwrite)


def _prepare(destination: Destination, settings: dict, overwrite: bool) -> None:
    """Make sure that the folder holds nothing but conversions with these settings, and say so in it."""
    _require_ours(destination, settings, overwrite)
    if overwrite:
        _clear(destination)
    destination.records.mkdir(exist_ok=True)
    write_json(destination.records / SETTINGS, settings)  # first, so that an interrupted run knows its own folder


def _clear(destination: Destination) -> None:
    if destination.only_images:  # it may hold CTs of others
        for record in destination.records.glob("*.json"):
            (destination.folder / f"{record.stem}_0000.nii.gz").unlink(missing_ok=True)
    for name in (REPORT, SHEET, SPLITS, "dataset.json"):
        (destination.folder / name).unlink(missing_ok=True)
    for name in () if destination.only_images else ("imagesTr", "labelsTr", "imagesTs"):
        if (folder := destination.folder / name).is_dir():
            shutil.rmtree(folder)
    for entry in destination.records.glob("*"):
        if entry.name != SETTINGS:  # they say that the folder is ours
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _require_same_sources(cases: Sequence[Case], destination: Destination) -> None:
    """Check that no case of another source has the name of one of these."""
    for case in cases:
        earlier = read_record(destination.records / f"{case.name}.json")
        if "error" not in earlier and case.ct and earlier.get("source", str(case.ct)) != str(case.ct):
            raise UserError(
                f"{destination.folder} already holds a case {case.name}, converted from {earlier['source']}, now "
                f"{case.ct} would replace it. Choose another -d or -o, or convert all again with --overwrite."
            )


def _remove_from_other_part(cases: Iterable[Case], destination: Destination) -> None:
    for case in cases:
        part = "Ts" if case.label else "Tr"
        (destination.folder / f"images{part}" / f"{case.name}_0000.nii.gz").unlink(missing_ok=True)
        if not case.label:
            (destination.folder / "labelsTr" / f"{case.name}.nii.gz").unlink(missing_ok=True)
