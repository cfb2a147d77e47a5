"""A folder of masks: every one measured, and the tables of all of them."""

from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

from nnunetv2_airway.io.errors import UserError, some
from nnunetv2_airway.io.files import alone_in, read_record, write_csv
from nnunetv2_airway.io.images import list_images
from nnunetv2_airway.io.parallel import results_and_failures
from nnunetv2_airway.measurement.case import measure_file

TREES, BRANCHES = "trees.csv", "branches.csv"
SUMMARY = (
    "volume_ml", "total_length_mm", "branches", "ends", "deepest_generation", "pieces",
    "outside_largest_piece_percent", "orientation",
)  # fmt: skip
OF_GENERATION = ("branches", "length_mm", "diameter_mm")
OF_BRANCH = (
    "generation", "parent", "children", "length_mm", "diameter_mm", "diameter_min_mm", "diameter_max_mm",
    "diameter_corrected_mm", "taper_percent_per_mm", "area_mm2", "volume_mm3", "angle_deg", "tortuosity",
)  # fmt: skip


@dataclass(frozen=True)
class Measurement:
    """What has come of a folder.

    Args:
        cases: the record of each.
        failed: what went wrong in each that could not be measured.
        others: cases that were measured into the same folder from other masks.
    """

    cases: dict[str, dict]
    failed: dict[str, str]
    others: list[str]


def measure_folder(
    masks: Path,
    output: Path,
    *,
    cts: Path | None = None,
    airway: Collection[int] | None = None,
    threshold: float | None = None,
    processes: int = 2,
    part: int = 0,
    parts: int = 1,
) -> Measurement:
    """Measure all masks of a folder.

    Writes what ``measure_file`` does, and where all masks are measured at once, ``trees.csv`` and ``branches.csv``. A
    job array measures parts of them; a call for all of them then finds them measured and writes the tables.

    Args:
        masks: folder of airway masks, of any origin.
        output: folder for the results.
        cts: folder of their CTs, of the same names, with or without nnU-Net's ``_0000``.
        airway: the values that are airway; by default the only one besides 0.
        threshold: what lies above it is airway.
        processes: cases worked on at once; each takes about 2 GB.
        part: which part of the masks is measured, from 0.
        parts: how many parts there are.

    Raises:
        UserError: a folder holds no images, two of one name, or no CT of a mask; the output is the masks' folder.
        OSError: the results cannot be written.
    """
    files = list_images(masks.absolute())
    if output.resolve() == masks.resolve():
        raise UserError(f"-o is the folder of the masks {masks}; choose another one for the results")
    own_cts = find_cts(cts, list(files)) if cts else {}
    chosen = {case: files[case] for case in sorted(files)[part::parts]}
    return measure_masks(
        chosen, output, cts=own_cts, airway=airway, threshold=threshold, processes=processes, tables=parts == 1
    )


def measure_masks(
    files: Mapping[str, Path],
    output: Path,
    *,
    cts: Mapping[str, Path] = MappingProxyType({}),
    airway: Collection[int] | None = None,
    threshold: float | None = None,
    processes: int = 2,
    tables: bool = True,
) -> Measurement:
    """Measure masks, see ``measure_folder``.

    Args:
        files: the mask of each case.
        output: as there, as are ``airway``, ``threshold`` and ``processes``.
        cts: the CTs of cases that have one.
        airway: see ``output``.
        threshold: see ``output``.
        processes: see ``output``.
        tables: also write those of all cases.

    Raises:
        OSError: the results cannot be written.
    """
    for folder in ("cases", "export"):
        (output / folder).mkdir(parents=True, exist_ok=True)
    work = {case: (case, file, output, cts.get(case)) for case, file in files.items()}
    function = partial(_measure_file, airway=airway, threshold=threshold)
    with alone_in(output) if tables else nullcontext():
        records, failed = results_and_failures(function, work, processes=processes, description="measurement")
        if tables:
            write_tables(output, records)
    others = sorted({file.stem for file in (output / "cases").glob("*.json")} - files.keys())
    return Measurement(records, failed, others)


def _measure_file(case: str, file: Path, output: Path, ct: Path | None, **options) -> dict:
    return measure_file(case, file, output, ct=ct, **options)


def find_cts(folder: Path, cases: Collection[str]) -> dict[str, Path]:
    """Find the CT of each case, by its name with or without ``_0000``.

    Raises:
        UserError: one is missing.
    """
    images = list_images(folder.absolute())
    found = {case: images.get(f"{case}_0000", images.get(case)) for case in cases}
    if missing := [case for case, file in found.items() if file is None]:
        raise UserError(
            f"{folder} has no CT of {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}; its files must be "
            f"named like the cases, with or without _0000. Without --ct no CT is needed"
        )
    return found


def read_records(output: Path) -> dict[str, dict]:
    """Read the records of all cases that were measured into a folder, by name.

    Raises:
        UserError: there is none, or one is damaged.
    """
    records = {file.stem: read_record(file) for file in sorted((output / "cases").glob("*.json"))}
    if not records:
        raise UserError(f"{output} holds no measurement: run nnUNetv2_airway_measure first")
    if damaged := [case for case, record in records.items() if "summary" not in record]:
        raise UserError(
            f"records of {some(damaged)} in {output / 'cases'} are damaged: run nnUNetv2_airway_measure again"
        )
    return records


def write_tables(output: Path, records: Mapping[str, dict]) -> None:
    """Write a line for each case and one for each branch; what is not defined is empty."""
    deepest = max((record["summary"]["deepest_generation"] for record in records.values()), default=0)
    generations = [str(number) for number in range(deepest + 1)]
    titles = [f"generation_{number}_{name}" for number in generations for name in OF_GENERATION]
    rows = []
    for case, record in records.items():
        groups = record["summary"]["by_generation"]
        of_generations = [groups.get(number, {}).get(name) for number in generations for name in OF_GENERATION]
        whole = [record["summary"][name] for name in SUMMARY]
        rows.append([case, record["mask_file"], *whole, record["lumen_hu"], *of_generations])
    write_csv(output / TREES, ["case", "mask_file", *SUMMARY, "lumen_hu", *titles], rows)
    ends = [f"{end}_{axis}_mm" for end in ("start", "end") for axis in "xyz"]
    write_csv(
        output / BRANCHES,
        ["case", "branch", *OF_BRANCH, *ends],
        [
            [
                case,
                branch["number"],
                *(" ".join(map(str, branch[name])) if name == "children" else branch[name] for name in OF_BRANCH),
                *branch["start_mm"],
                *branch["end_mm"],
            ]
            for case, record in records.items()
            for branch in record["branches"]
        ],
    )
