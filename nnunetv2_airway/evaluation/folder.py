"""Every prediction of a folder against its reference."""

import tempfile
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from nnunetv2_airway.evaluation.case import evaluate_files, forget
from nnunetv2_airway.evaluation.summary import write_summary
from nnunetv2_airway.files import alone_in, reason
from nnunetv2_airway.images import list_images
from nnunetv2_airway.parallel import finished_cases


@dataclass(frozen=True)
class Evaluation:
    """What has come of a folder.

    Args:
        cases: the record of each evaluated case by name, see ``evaluate_files``.
        missing: cases of the references without a prediction.
        extra: cases of the predictions without a reference.
        failed: what went wrong in each case that could not be evaluated.
        trees: the folder where the references' parsed trees are kept.
    """

    cases: dict[str, dict]
    missing: list[str]
    extra: list[str]
    failed: dict[str, str] = field(default_factory=dict)
    trees: Path = Path()


def evaluate_folder(
    references: Path,
    predictions: Path,
    output: Path,
    *,
    airway: Collection[int] | None = None,
    processes: int = 2,
    export: bool = False,
) -> Evaluation:
    """Evaluate all cases that have both a reference and a prediction, matched by file name without ending.

    Writes ``summary.json``, ``cases.csv``, ``branches.csv``, and ``cases/NAME.json`` and ``cases/NAME.png``. The parsed
    trees of the references are kept in a folder beside these, ``..._airway_trees``, or where that cannot be written, in
    the output.

    Args:
        references: folder of airway masks.
        predictions: folder of segmentations.
        output: folder for the results.
        airway: the values of reference and prediction that are airway; by default the only one besides 0.
        processes: cases worked on at once; each takes about 1 GB for a CT of 512 x 512 x 400, and 3 GB where most of
            the prediction is false.
        export: also write surfaces and centerline trees, ``export/NAME_...``, see ``evaluation.export``.

    Raises:
        ValueError: a folder holds no images, the folders have no case in common, all references are empty, or the
            output is the folder of the references.
        OSError: the results cannot be written.
    """
    ours, theirs = list_images(predictions.absolute()), list_images(references.absolute())
    if output.resolve() == references.resolve():
        raise ValueError(f"-o is the folder of the references {references}; choose another one for the results")
    if not ours.keys() & theirs.keys():
        raise ValueError(
            f"no prediction has the name of a reference: {predictions} holds {_some(ours)}, {references} holds "
            f"{_some(theirs)}; names must be the same, also in endings such as _0000"
        )
    (output / "cases").mkdir(parents=True, exist_ok=True)
    with alone_in(output):
        return _evaluate(references, theirs, ours, output, airway, processes, export)


def _evaluate(
    references: Path,
    theirs: dict[str, Path],
    ours: dict[str, Path],
    output: Path,
    airway: Collection[int] | None,
    processes: int,
    export: bool,
) -> Evaluation:
    common = sorted(ours.keys() & theirs.keys())
    missing = sorted(theirs.keys() - ours.keys())
    for case in missing:
        forget(output / "cases", case)
    trees = tree_folder(references, output)
    work = {case: (case, theirs[case], ours[case], output / "cases", trees, airway, export) for case in common}
    records, failed = {}, {}
    for case, record, error in finished_cases(evaluate_files, work, processes=processes, description="evaluation"):
        if error is None:
            records[case] = record
        else:
            failed[case] = reason(error)
    if records and not any(record["metrics"]["branches"] for record in records.values()):
        wanted = f"the labels {sorted(airway)}" if airway else "airways"
        raise ValueError(f"no reference of {references} holds {wanted}: nothing to compare with")
    evaluation = Evaluation(
        cases={case: records[case] for case in common if case in records},
        missing=missing,
        extra=sorted(ours.keys() - theirs.keys()),
        failed={case: failed[case] for case in common if case in failed},
        trees=trees,
    )
    write_summary(output, evaluation)
    return evaluation


def _some(images: dict[str, Path]) -> str:
    return ", ".join(file.name for file in list(images.values())[:3]) + (", ..." if len(images) > 3 else "")


def tree_folder(references: Path, output: Path) -> Path:
    """Make the folder of the references' parsed trees, beside them or where that cannot be written, in the output."""
    folder = references.resolve()
    folder = folder.with_name(f"{folder.name}_airway_trees")
    try:
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        folder = output / "airway_trees"
        folder.mkdir(exist_ok=True)
        return folder
