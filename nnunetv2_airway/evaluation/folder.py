"""Every prediction of a folder against its reference."""

from collections.abc import Collection
from pathlib import Path

from nnunetv2_airway.evaluation.case import evaluate_files, forget
from nnunetv2_airway.evaluation.summary import Evaluation, write_summary
from nnunetv2_airway.io.errors import UserError
from nnunetv2_airway.io.files import alone_in
from nnunetv2_airway.io.images import list_images
from nnunetv2_airway.io.parallel import results_and_failures


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

    Writes ``summary.json``, ``cases.csv``, ``branches.csv``, ``cases/NAME.json`` and ``cases/NAME.png``, and keeps the
    parsed trees of the references in ``airway_trees``.

    Args:
        references: folder of airway masks.
        predictions: folder of segmentations.
        output: folder for the results.
        airway: the values of reference and prediction that are airway; by default the only one besides 0.
        processes: cases worked on at once; each takes about 1 GB for a CT of 512 x 512 x 400, and 3 GB where most of
            the prediction is false.
        export: also write surfaces and centerline trees, ``export/NAME_...``, see ``tree.export``.

    Raises:
        UserError: a folder holds no images, the folders have no case in common, all references are empty, or the
            output is the folder of the references.
        OSError: the results cannot be written.
    """
    ours, theirs = list_images(predictions.absolute()), list_images(references.absolute())
    if output.resolve() == references.resolve():
        raise UserError(f"-o is the folder of the references {references}; choose another one for the results")
    if not ours.keys() & theirs.keys():
        raise UserError(
            f"no prediction has the name of a reference: {predictions} holds {_some(ours)}, {references} holds "
            f"{_some(theirs)}; names must be the same, also in endings such as _0000"
        )
    (output / "cases").mkdir(parents=True, exist_ok=True)
    with alone_in(output):
        common = sorted(ours.keys() & theirs.keys())
        missing = sorted(theirs.keys() - ours.keys())
        for case in missing:
            forget(output, case)
        work = {case: (case, theirs[case], ours[case], output, airway, export) for case in common}
        records, failed = results_and_failures(evaluate_files, work, processes=processes, description="evaluation")
        if records and not any(record["metrics"]["branches"] for record in records.values()):
            wanted = f"the labels {sorted(airway)}" if airway else "airways"
            raise UserError(f"no reference of {references} holds {wanted}: nothing to compare with")
        evaluation = Evaluation(records, missing, sorted(ours.keys() - theirs.keys()), failed)
        write_summary(output, evaluation)
        return evaluation


def _some(images: dict[str, Path]) -> str:
    return ", ".join(file.name for file in list(images.values())[:3]) + (", ..." if len(images) > 3 else "")
