"""One mask on disk: its figures as a record, with surface, centerline and picture.

A mask that has been measured is not measured again while it stays the same, so that an interrupted measurement goes on
where it stopped.
"""

from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunetv2_airway import __version__
from nnunetv2_airway.evaluation.projections import draw_generations
from nnunetv2_airway.io.errors import UserError
from nnunetv2_airway.io.files import digest_of, read_record, without_nan, write_record
from nnunetv2_airway.io.images import read_mask, read_volume, require_same_geometry
from nnunetv2_airway.measurement.measure import Measured, measure_image
from nnunetv2_airway.tree.export import write_centerline, write_surface
from nnunetv2_airway.tree.parse import VERSION

FORMAT = f"2 {__version__} {VERSION}"
"""Another one has every mask measured again."""


def measure_file(
    case: str,
    file: Path,
    output: Path,
    *,
    ct: Path | None = None,
    airway: Collection[int] | None = None,
    threshold: float | None = None,
) -> dict:
    """Measure one mask, write ``cases/NAME.json`` and ``.png`` and ``export/NAME...``, or read what was written.

    Args:
        case: its name.
        file: the mask.
        output: folder, in which there are ones called cases and export.
        ct: the mask's, to say how dark the lumen is and to show on the page.
        airway: the values that are airway; by default the only one besides 0.
        threshold: what lies above it is airway.

    Returns:
        The record: ``mask_file``, ``ct_file``, ``summary`` as in ``Branches``, ``lumen_hu``, the mean inside, and
        ``branches``, a row for each, None for what is not defined; with ``from_earlier`` if it was read.

    Raises:
        UserError: a file cannot be read, is no mask, holds no airway, or the CT lies on another grid.
    """
    fingerprint = {
        "format": FORMAT,
        "mask": digest_of(file),
        "ct": ct and digest_of(ct),
        "airway": airway and sorted(airway),
        "threshold": threshold,
    }
    record_file = output / "cases" / f"{case}.json"
    earlier = read_record(record_file)
    files = {"mask_file": str(file), "ct_file": str(ct or "")}
    if earlier.get("fingerprint") == fingerprint and all(each.exists() for each in written_files(output, case)):
        if not earlier.items() >= files.items():
            write_record(record_file, {**earlier, **files})
        return {**earlier, **files, "from_earlier": True}
    for each in (record_file, *written_files(output, case)):  # the record first: it says that the others are whole
        each.unlink(missing_ok=True)
    image = read_mask(file, airway, threshold)
    if not sitk.GetArrayViewFromImage(image).any():
        raise UserError(f"{file} holds no airway: the mask is empty")
    lumen = _mean_inside(image, file, ct) if ct else None
    measured = measure_image(image)
    _export(output, case, measured)
    record = without_nan(
        {
            **files,
            "summary": measured.branches.summary,
            "lumen_hu": lumen,
            "branches": [asdict(branch) for branch in measured.branches],
            "fingerprint": fingerprint,
        }
    )
    write_record(record_file, record)
    return record


def read_measured(output: Path, case: str) -> dict:
    """Read the record of a mask that is still the one that was measured.

    Raises:
        UserError: there is none, it is damaged or another version's, or the mask is gone or has changed.
    """
    again = "run nnUNetv2_airway_measure again"
    record = read_record(output / "cases" / f"{case}.json")
    fingerprint = record.get("fingerprint")
    if not isinstance(fingerprint, dict) or fingerprint.get("format") != FORMAT:
        raise UserError(f"the record of {case} in {output / 'cases'} is damaged or another version's: {again}")
    file = Path(record["mask_file"])
    if not file.is_file() or digest_of(file) != fingerprint["mask"]:
        raise UserError(f"the mask {file} is gone or has changed since it was measured: {again}")
    return record


def written_files(output: Path, case: str) -> list[Path]:
    """Name picture, surface and centerline of a case."""
    endings = (".ply", "_centerline.vtk", "_centerline.json")
    return [output / "cases" / f"{case}.png", *(output / "export" / f"{case}{ending}" for ending in endings)]


def _mean_inside(image: sitk.Image, file: Path, ct: Path) -> float:
    volume = read_volume(ct)
    try:
        require_same_geometry(volume, image, name="mask")
    except UserError as error:
        raise UserError(f"the CT {ct} is not that of {file}: {error}") from error
    inside = sitk.GetArrayViewFromImage(volume)[sitk.GetArrayViewFromImage(image) > 0]
    return float(inside.mean(dtype=float))


def _export(output: Path, case: str, measured: Measured) -> None:
    picture, surface, *centerline = written_files(output, case)
    tree, grid, branches = measured.tree, measured.grid, measured.branches
    for folder in {picture.parent, surface.parent}:
        folder.mkdir(parents=True, exist_ok=True)
    labels = tree.labels
    write_surface(surface, labels, grid)
    places = ("number", "generation", "parent", "children", "length_mm", "diameter_mm", "start_mm", "end_mm")
    facts = [{name: value for name, value in asdict(own).items() if name not in places} for own in branches]
    write_centerline(*centerline, tree, grid, measured.rows(), without_nan(facts))
    summary = branches.summary
    generation = np.concatenate(([0], tree.generations + 1))[labels]
    draw_generations(
        picture,
        generation,
        grid.spacing[::-1],
        title=f"{case}: {summary['branches']} branches, {summary['total_length_mm'] / 1000:.2f} m, "
        f"{summary['volume_ml']:.1f} ml",
    )
