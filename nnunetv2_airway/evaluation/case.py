"""One case on disk: its figures as a record, and its picture.

A case that has been evaluated is not evaluated again while its two files stay the same, so that an interrupted
evaluation goes on where it stopped.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, astuple
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunetv2_airway.evaluation.challenges import challenge_figures, start_thinning
from nnunetv2_airway.evaluation.metrics import Comparison, compare
from nnunetv2_airway.evaluation.projections import draw_projections
from nnunetv2_airway.io.errors import UserError
from nnunetv2_airway.io.files import digest_of, read_record, without_nan, write_record
from nnunetv2_airway.io.images import Grid, orientation, read_mask, require_same_geometry
from nnunetv2_airway.tree import store as tree_store
from nnunetv2_airway.tree.branches import measure_branches
from nnunetv2_airway.tree.export import write_centerline, write_surface
from nnunetv2_airway.tree.parse import AirwayTree, parse_tree

FORMAT = f"4 {tree_store.FORMAT}"
"""Another one has every case evaluated again."""
SAME = (1e-5, 1e-6)
"""By which share, and by how much more, ATM'26 lets spacing, origin and direction differ from the reference's."""
TREES = "airway_trees"
"""Folder of the references' parsed trees in an evaluation."""


def evaluate_files(
    case: str,
    reference_file: Path,
    prediction_file: Path,
    output: Path,
    airway: Collection[int] | None,
    export: bool = False,
) -> dict:
    """Evaluate one case, write ``cases/NAME.json`` and ``.png``, or read what an evaluation of the same files wrote.

    Args:
        case: its name.
        reference_file: airway mask.
        prediction_file: segmentation on the same grid.
        output: the evaluation's folder, in which there is one called cases.
        airway: the values that are airway; by default the only one besides 0.
        export: also write surface and centerline tree of both, see ``exported_files``.

    Returns:
        The record: both files, ``metrics`` as ``evaluate_case`` gives them with None for nan, ``branches``, each with
        the share ``found`` of its centerline in percent and whether it is ``detected``, ``reference_left_out``, the
        share of the reference outside its largest component, the ``orientation`` of both files, and whether they have
        the ``same_geometry`` to the digits that ATM'26 asks for; with ``from_earlier`` if it was read. What it was made
        from is its ``fingerprint``.

    Raises:
        UserError: a file cannot be read or is no mask, or the geometries differ.
    """
    fingerprint = {
        "format": FORMAT,
        "reference": digest_of(reference_file),
        "prediction": digest_of(prediction_file),
        "airway": airway and sorted(airway),
    }
    record_file, picture = _record_and_picture(output, case)
    earlier = read_record(record_file)
    wanted = [picture, *(exported_files(output, case) if export else [])]
    if earlier.get("fingerprint") == fingerprint and all(file.exists() for file in wanted):
        files = {"reference_file": str(reference_file), "prediction_file": str(prediction_file)}
        if not earlier.items() >= files.items():
            write_record(record_file, {**earlier, **files})
        return {**earlier, **files, "from_earlier": True}

    forget(output, case)
    reference, prediction = read_mask(reference_file, airway), read_mask(prediction_file, airway)
    require_same_geometry(prediction, reference)
    spacing = reference.GetSpacing()[::-1]
    mask, predicted = sitk.GetArrayViewFromImage(reference), sitk.GetArrayViewFromImage(prediction)
    lines = start_thinning(predicted, mask)
    tree = reference_tree(output, case, mask, fingerprint)
    comparison = compare(predicted, tree, spacing)
    metrics = {**comparison.figures(), **challenge_figures(predicted, mask, tree, lines)}
    left_out = np.count_nonzero(mask) - np.count_nonzero(mask[tuple(tree.voxels.T)])
    _draw(picture, case, prediction, reference, tree, comparison, metrics)
    if export:
        _export(exported_files(output, case), prediction, reference, tree, comparison)
    record = without_nan(
        {
            "reference_file": str(reference_file),
            "prediction_file": str(prediction_file),
            "metrics": metrics,
            "branches": _branches(comparison),
            "reference_left_out": left_out / max(np.count_nonzero(mask), 1),
            "orientation": orientation(reference),
            "same_geometry": all(
                np.allclose(own, wanted, rtol=SAME[0], atol=SAME[1])
                for own, wanted in zip(astuple(Grid.of(prediction)), astuple(Grid.of(reference)), strict=True)
            ),
            "fingerprint": fingerprint,
        }
    )
    write_record(record_file, record)
    return record


def reference_tree(output: Path, case: str, mask: np.ndarray, fingerprint: Mapping) -> AirwayTree:
    """Read the parsed tree of a reference (Z, Y, X) from an evaluation, or parse it and write it there."""
    trees = output / TREES
    trees.mkdir(exist_ok=True)
    return tree_store.stored_tree(trees / f"{case}.npz", mask, f"{fingerprint['reference']} {fingerprint['airway']}")


def read_evaluated(evaluation: Path, case: str) -> dict:
    """Read the record of a case whose reference and prediction are still those that were evaluated.

    Raises:
        UserError: there is none, it is damaged or another version's, or a file is gone or has changed.
    """
    again = "run nnUNetv2_airway_evaluate again"
    record = read_record(_record_and_picture(evaluation, case)[0])
    if not record:
        raise UserError(f"there is no record of {case} in {evaluation / 'cases'}, or it is damaged: {again}")
    fingerprint = record["fingerprint"]
    if not isinstance(fingerprint, dict) or fingerprint["format"] != FORMAT:
        raise UserError(
            f"{evaluation} was made by another version of nnunetv2_airway or scikit-image, whose branches may differ: "
            f"{again}"
        )
    for name in ("reference", "prediction"):
        file = Path(record[f"{name}_file"])
        if not file.is_file():
            raise UserError(f"the {name} {file} of the evaluation is gone: {again} with -ref and -pred as they are now")
        if digest_of(file) != fingerprint[name]:
            raise UserError(f"the {name} {file} has changed since it was evaluated: {again}")
    return record


def forget(output: Path, case: str) -> None:
    """Remove what an earlier evaluation left; the record first, because it says that the others belong to it."""
    for file in (*_record_and_picture(output, case), *exported_files(output, case)):
        file.unlink(missing_ok=True)


def exported_files(output: Path, case: str) -> list[Path]:
    """Name surface and centerline tree of the reference, then those of the prediction."""
    endings = (".ply", "_centerline.vtk", "_centerline.json")
    return [output / "export" / f"{case}_{mask}{end}" for mask in ("reference", "prediction") for end in endings]


def _record_and_picture(output: Path, case: str) -> tuple[Path, Path]:
    return output / "cases" / f"{case}.json", output / "cases" / f"{case}.png"


def _branches(comparison: Comparison) -> list[dict]:
    shares = 100 * comparison.line_found / comparison.line
    return [
        {**asdict(branch), "found": float(share), "detected": bool(detected)}
        for branch, share, detected in zip(comparison.branches, shares, comparison.detected, strict=True)
    ]


def _export(
    files: Sequence[Path], prediction: sitk.Image, reference: sitk.Image, tree: AirwayTree, comparison: Comparison
) -> None:
    files[0].parent.mkdir(exist_ok=True)
    grids = Grid.of(reference), Grid.of(prediction)
    write_surface(files[0], tree.labels, grids[0])
    found = [{name: branch[name] for name in ("found", "detected")} for branch in _branches(comparison)]
    write_centerline(*files[1:3], tree, grids[0], comparison.branches, found)
    mask = sitk.GetArrayViewFromImage(prediction)
    write_surface(files[3], mask, grids[1])
    own = parse_tree(mask)
    write_centerline(*files[4:], own, grids[1], measure_branches(own, grids[1].spacing[::-1]))


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
    airway = Grid.of(reference).image((tree.labels > 0).astype(np.uint8))
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
    draw_projections(
        picture,
        sitk.GetArrayViewFromImage(upright_prediction),
        sitk.GetArrayViewFromImage(upright),
        upright.GetSpacing()[::-1],
        title=f"{case}: " + ", ".join(f"{word} {metrics[name]:.1f} %" for word, name in words.items()),
        marks={str(branch.number): place(branch.end) for branch in missed},
    )
