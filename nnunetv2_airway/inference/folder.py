"""CTs on disk: each read and checked, segmented, and its tree written with a record.

A case whose record tells of the same CT, model and settings is not segmented again, so that interrupted work goes on
where it stopped.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from nnunetv2_airway import __version__
from nnunetv2_airway.conversion.case import RECORDS, Options, Target, convert_case
from nnunetv2_airway.conversion.layout import Case
from nnunetv2_airway.inference.predictor import AirwayPredictor, Settings, load_predictor
from nnunetv2_airway.inference.segment import find_tree, why_no_chest
from nnunetv2_airway.io.errors import UserError, reason
from nnunetv2_airway.io.files import CannotWriteError, alone_in, digest_of, read_record, write_record
from nnunetv2_airway.io.images import ENDINGS, Grid, read_volume, write_image
from nnunetv2_airway.io.parallel import results_and_failures
from nnunetv2_airway.io.progress import progress_bar

FORMAT = f"1 {__version__}"
"""Another one has every case segmented again."""
CTS, SEGMENTED = "cts", "segmented"
"""Folders of the CTs as they were read, and of the records."""


@dataclass(frozen=True)
class Segmentation:
    """What has come of some CTs.

    Args:
        cases: the record of each that was segmented.
        failed: what went wrong in each other.
        cts: the record of each CT that was read, see ``convert_case``.
        output: folder of the trees.
        ending: of their files.
    """

    cases: dict[str, dict]
    failed: dict[str, str]
    cts: dict[str, dict]
    output: Path
    ending: str

    def tree(self, case: str) -> Path:
        """File of a case's tree."""
        return self.output / f"{case}{self.ending}"

    def ct(self, case: str) -> Path:
        """File of its CT."""
        return ct_target(self.output).volumes(case, with_label=False)[0]


def ct_target(output: Path) -> Target:
    """Where CTs are written as they were read."""
    return Target(output / CTS, None, output / CTS / RECORDS)


def segment_cases(
    cases: Sequence[Case],
    model: Path,
    output: Path,
    options: Callable[[str], Options],
    *,
    settings: Settings,
    grid: Sequence[float] | None = None,
    ending: str = ".nii.gz",
    processes: int = 2,
    part: int = 0,
    parts: int = 1,
) -> Segmentation:
    """Segment the airway trees of CTs, each with its own grid.

    Args:
        cases: their files; see ``conversion.any_folder.find_cases``.
        model: nnU-Net model folder.
        output: folder for the trees; the CTs, in HU and cut to the lungs' box, are written to ``cts`` in it.
        options: for reading a case, by its name.
        settings: of the prediction.
        grid: spacing (z, y, x) in mm on which a published network works.
        ending: of the trees' files, one of ``io.images.ENDINGS``.
        processes: CTs that are read at once.
        part: which part of the cases is segmented, from 0.
        parts: how many parts there are.

    Raises:
        UserError: the model is none for airways, two cases have one name, or the output is the folder of a CT.
        OSError: the results cannot be written.
    """
    output = output.absolute()  # records name files, and are read from elsewhere
    _require_apart(cases, output)
    predictor = load_predictor(model, settings)
    predictor.require_grid_allowed(grid)
    chosen = sorted(cases, key=lambda case: case.name)[part::parts]
    target = ct_target(output)
    for folder in (target.images, target.records, output / SEGMENTED):
        folder.mkdir(parents=True, exist_ok=True)
    with alone_in(output) if parts == 1 else nullcontext():
        work = {case.name: (case, options(case.name), target) for case in chosen}
        cts, failed = results_and_failures(convert_case, work, processes=processes, description="reading CTs")
        found = Segmentation({}, failed, cts, output, ending)
        made_with = {
            "format": FORMAT,
            "model": _fingerprint(model, predictor, settings),
            "grid": None if grid is None else list(grid),
        }
        with progress_bar(description="segmenting", unit="case", total=len(cts)) as bar:
            for case, ct in cts.items():
                try:
                    accept = options(case).accept
                    found.cases[case] = _segment_case(case, ct, found, predictor, made_with, grid, accept)
                except CannotWriteError:
                    raise
                except Exception as error:  # whatever it is, the other cases go on
                    failed[case] = reason(error)
                bar.update()
        return replace(found, failed=dict(sorted(failed.items())))


def _segment_case(
    case: str,
    ct: dict,
    found: Segmentation,
    predictor: AirwayPredictor,
    made_with: dict,
    grid: Sequence[float] | None,
    accept: bool,
) -> dict:
    """Segment one case, or read its record where that was done before."""
    tree_file, record_file = found.tree(case), found.output / SEGMENTED / f"{case}.json"
    made_with = {**made_with, "ct": [ct["digests"][0], ct["box"]]}
    earlier = read_record(record_file)
    if (
        earlier.get("made_with") == made_with
        and (accept or not earlier["accepted"])
        and tree_file.is_file()
        and digest_of(tree_file) == earlier["tree"]
    ):
        return {**earlier, "from_earlier": True}
    for ending in ENDINGS:
        (found.output / f"{case}{ending}").unlink(missing_ok=True)
    record_file.unlink(missing_ok=True)
    image = read_volume(found.ct(case))
    box = tuple(slice(*ends) for ends in ct["box"])
    problems = [why_no_chest(image, box, ct["lungs"])]
    if problems[0] and not accept:
        raise UserError(problems[0])
    tree = find_tree(image, box, predictor, grid)
    problems = [problem for problem in (*problems, tree.problem) if problem]
    if tree.problem and (not accept or not tree.mask.any()):
        raise UserError(tree.problem)
    write_image(Grid.of(image).image(tree.mask), tree_file)
    record = {
        "source": ct["source"],
        "accepted": problems,
        "left_out_ml": tree.left_out,
        "windows": list(tree.windows),
        "made_with": made_with,
        "tree": digest_of(tree_file),
    }
    write_record(record_file, record)
    return record


def _fingerprint(model: Path, predictor: AirwayPredictor, settings: Settings) -> dict:
    """What about a model makes its trees; where it runs does not count."""
    files = [model / f"fold_{fold}" / settings.checkpoint for fold in predictor.folds]
    how = {name: value for name, value in asdict(settings).items() if name in ("step_size", "mirroring")}
    return {"plans": digest_of(model / "plans.json"), "checkpoints": [digest_of(file) for file in files], **how}


def _require_apart(cases: Sequence[Case], output: Path) -> None:
    if output.resolve() in {case.ct.parent.resolve() for case in cases if case.ct}:
        raise UserError(f"-o is the folder of the CTs {output}; choose another one, so that no CT is replaced")
    seen = set()
    for case in cases:
        if case.name in seen:
            raise UserError(f"the case {case.name} is there twice: leave one of them out")
        seen.add(case.name)
