"""Every prediction of a folder against its reference: figures, a record and a picture of each case, and a summary.

A case that has been evaluated is not evaluated again while its two files stay the same, so that an interrupted
evaluation goes on where it stopped.
"""

import hashlib
import json
import tempfile
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunetv2_airway.evaluation import tree_store
from nnunetv2_airway.evaluation.metrics import Comparison, compare
from nnunetv2_airway.evaluation.projections import write_projections
from nnunetv2_airway.evaluation.summary import write_summary
from nnunetv2_airway.evaluation.tree import AirwayTree
from nnunetv2_airway.files import without_nan, write_json
from nnunetv2_airway.images import list_images, read_mask, require_same_geometry
from nnunetv2_airway.parallel import finished_cases

FORMAT = f"1 {tree_store.FORMAT}"
"""Another one has every case evaluated again."""


@dataclass(frozen=True)
class Evaluation:
    """What has come of a folder.

    Args:
        cases: the record of each evaluated case by name: its files, ``metrics``, ``branches``, and the share of its
            reference that lies outside the largest component, ``reference_left_out``.
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

    Raises:
        ValueError: a folder holds no images, the folders have no case in common, or all references are empty.
        OSError: the results cannot be written.
    """
    ours, theirs = list_images(predictions), list_images(references)
    common = sorted(ours.keys() & theirs.keys())
    if not common:
        raise ValueError(
            f"no prediction has the name of a reference: {predictions} holds {_some(ours)}, {references} holds "
            f"{_some(theirs)}"
        )
    (output / "cases").mkdir(parents=True, exist_ok=True)
    missing = sorted(theirs.keys() - ours.keys())
    for case in missing:
        _forget(output / "cases" / f"{case}.json", output / "cases" / f"{case}.png")
    trees = _tree_folder(references, output)
    work = {case: (case, theirs[case], ours[case], output / "cases", trees, airway) for case in common}
    records, failed = {}, {}
    for case, record, error in finished_cases(_evaluate, work, processes=processes, description="evaluation"):
        if error is None:
            records[case] = record
        else:
            # what was foreseen speaks for itself
            failed[case] = str(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"
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


def _tree_folder(references: Path, output: Path) -> Path:
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


def _evaluate(
    case: str, reference_file: Path, prediction_file: Path, folder: Path, trees: Path, airway: Collection[int] | None
) -> dict:
    """Evaluate one case, or return the record of an earlier evaluation of the same two files."""
    digests = {name: _digest(file) for name, file in (("reference", reference_file), ("prediction", prediction_file))}
    fingerprint = [FORMAT, digests["reference"], digests["prediction"], airway and sorted(airway)]
    record_file, picture = folder / f"{case}.json", folder / f"{case}.png"
    if (earlier := _earlier(record_file, fingerprint)) and picture.exists():
        return {**earlier, "reference_file": str(reference_file), "prediction_file": str(prediction_file)}

    _forget(record_file, picture)
    reference, prediction = read_mask(reference_file, airway), read_mask(prediction_file, airway)
    require_same_geometry(prediction, reference)
    spacing = reference.GetSpacing()[::-1]
    mask = sitk.GetArrayViewFromImage(reference)
    key = f"{digests['reference']} {fingerprint[-1]}"
    tree = tree_store.stored_tree(trees / f"{case}.npz", mask, key)
    comparison = compare(sitk.GetArrayViewFromImage(prediction), tree, spacing)
    metrics = comparison.figures()
    left_out = np.count_nonzero(mask) - np.count_nonzero(mask[tuple(tree.voxels.T)])
    _draw(picture, case, prediction, reference, tree, comparison, metrics)
    record = without_nan(
        {
            "reference_file": str(reference_file),
            "prediction_file": str(prediction_file),
            "metrics": metrics,
            "branches": _branches(comparison),
            "reference_left_out": left_out / max(np.count_nonzero(mask), 1),
            "fingerprint": fingerprint,
        }
    )
    write_json(record_file, record)
    return record


def _forget(record: Path, picture: Path) -> None:
    """Remove what an earlier evaluation left; the record first, because it says that the picture belongs to it."""
    for file in (record, picture):
        file.unlink(missing_ok=True)


def _digest(file: Path) -> str:
    return hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()


def _earlier(file: Path, fingerprint: list) -> dict | None:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        return record if record["fingerprint"] == fingerprint else None
    except (OSError, ValueError, KeyError, TypeError):  # not there, or not a record of ours
        return None


def _branches(comparison: Comparison) -> list[dict]:
    shares = 100 * comparison.line_found / comparison.line
    return [
        {**asdict(branch), "found": float(share), "detected": bool(detected)}
        for branch, share, detected in zip(comparison.branches, shares, comparison.detected, strict=True)
    ]


def _draw(
    picture: Path,
    case: str,
    prediction: sitk.Image,
    reference: sitk.Image,
    tree: AirwayTree,
    comparison: Comparison,
    metrics: dict,
) -> None:
    """Draw the case upright, whatever its image's orientation, with the number of each missed branch at its end."""
    airway = sitk.GetImageFromArray((tree.labels > 0).astype(np.uint8))
    airway.CopyInformation(reference)
    upright, upright_prediction = (sitk.DICOMOrient(image, "LPS") for image in (airway, prediction))

    def place(voxel: tuple[int, ...]) -> tuple[int, ...]:
        return upright.TransformPhysicalPointToIndex(reference.TransformIndexToPhysicalPoint(voxel[::-1]))[::-1]

    missed = [branch for branch, detected in zip(comparison.branches, comparison.detected, strict=True) if not detected]
    words = {
        "tree length": "tree_length_detected",
        "branches": "branch_detected",
        "Dice": "dice",
        "precision": "precision",
    }
    write_projections(
        picture,
        sitk.GetArrayViewFromImage(upright_prediction),
        sitk.GetArrayViewFromImage(upright),
        upright.GetSpacing()[::-1],
        title=f"{case}: " + ", ".join(f"{word} {metrics[name]:.1f} %" for word, name in words.items()),
        marks={str(branch.number): place(branch.end) for branch in missed},
    )
