"""CTs on disk: each read and checked, segmented, and its tree written with a record.

A case whose record tells of the same CT, model and settings is not segmented again, so that interrupted work goes on
where it stopped.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import SimpleITK as sitk

from nnunetv2_airway import __version__
from nnunetv2_airway.conversion.case import RECORDS, Options, Target, convert_case
from nnunetv2_airway.conversion.layout import Case
from nnunetv2_airway.inference.dicom_seg import write_dicom_seg
from nnunetv2_airway.inference.predictor import AirwayPredictor, Settings, load_predictor
from nnunetv2_airway.inference.segment import find_tree, why_no_chest
from nnunetv2_airway.io.errors import UserError, reason
from nnunetv2_airway.io.files import CannotWriteError, alone_in, digest_of, lock, read_record, write_record
from nnunetv2_airway.io.images import Grid, read_volume, write_image
from nnunetv2_airway.io.parallel import finished_cases

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
        model: its name.
        ending: of their files.
    """

    cases: dict[str, dict]
    failed: dict[str, str]
    cts: dict[str, dict]
    output: Path
    model: str
    ending: str

    def tree(self, case: str) -> Path:
        """File of a case's tree."""
        return self.output / f"{case}{self.ending}"

    def record(self, case: str) -> Path:
        """File of its record."""
        return self.output / SEGMENTED / f"{case}.json"

    def sorted(self) -> "Segmentation":
        """The same with cases by name."""
        ordered = {name: dict(sorted(getattr(self, name).items())) for name in ("cases", "failed", "cts")}
        return replace(self, **ordered)

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
    model_name: str,
    grid: Sequence[float] | None = None,
    ending: str = ".nii.gz",
    dicom_seg: bool = False,
    processes: int = 2,
    part: int = 0,
    parts: int = 1,
) -> Segmentation:
    """Segment the airway trees of CTs, each with its own grid.

    Args:
        cases: their files; see ``conversion.any_folder.find_cases``.
        model: nnU-Net model folder.
        model_name: what to call it in the results.
        output: folder for the trees; the CTs, in HU and cut to the lungs' box, are written to ``cts`` in it.
        options: for reading a case, by its name.
        settings: of the prediction.
        grid: spacing (z, y, x) in mm on which a published network works.
        ending: of the trees' files, one of ``io.images.ENDINGS``.
        dicom_seg: also write a DICOM SEG of each CT that is DICOM; where that fails, the case is among those that
            failed, too.
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
    made_with = {
        "format": FORMAT,
        "model": _fingerprint(model, predictor, settings),
        "grid": None if grid is None else list(grid),
    }
    found = Segmentation({}, {}, {}, output, model_name, ending)
    with alone_in(output) if parts == 1 else nullcontext():
        work = {case.name: (case, options(case.name), target) for case in chosen}
        # CTs are read in other processes, while one that has been read is segmented here
        for case, ct, error in finished_cases(convert_case, work, processes=processes, description="CTs"):
            if error is not None:
                found.failed[case] = reason(error)
                continue
            found.cts[case] = ct
            try:
                with lock(output / SEGMENTED / f"{case}.lock"):
                    found.cases[case] = _segment_case(
                        case, found, predictor, made_with, grid, accept=options(case).accept
                    )
                    if dicom_seg and ct["series"]:
                        _write_dicom_seg(case, found)
            except BlockingIOError:
                found.failed[case] = "another process is segmenting it into the same folder: wait until it has ended"
            except CannotWriteError:
                raise
            except Exception as problem:  # whatever it is, the other cases go on
                found.failed[case] = reason(problem)
    return found.sorted()


def _segment_case(
    case: str,
    found: Segmentation,
    predictor: AirwayPredictor,
    made_with: dict,
    grid: Sequence[float] | None,
    *,
    accept: bool,
) -> dict:
    """Segment one case, or read its record where that was done before."""
    ct, tree_file, record_file = found.cts[case], found.tree(case), found.record(case)
    made_with = {**made_with, "ct": digest_of(found.ct(case)), "box": ct["box"]}
    earlier = read_record(record_file)
    whole = {name for name, digest in earlier.get("files", {}).items() if _is(found.output / name, digest)}
    if earlier.get("made_with") == made_with and (accept or not earlier["accepted"]) and tree_file.name in whole:
        return {**earlier, "from_earlier": True}
    for name in whole:  # of other settings, or in another format
        (found.output / name).unlink()
    _require_free(tree_file)
    image = read_volume(found.ct(case))
    box = tuple(slice(*ends) for ends in ct["box"])
    no_chest = why_no_chest(image, box, ct["lungs"])
    if no_chest and not accept:
        raise UserError(no_chest)
    tree = find_tree(image, box, predictor, grid)
    if tree.problem and (not accept or not tree.mask.any()):
        raise UserError(tree.problem)
    unnamed = record_file.with_name(tree_file.name)  # so that no tree is there without its record
    write_image(Grid.of(image).image(tree.mask), unnamed)
    record = {
        "source": ct["source"],
        "accepted": [problem for problem in (no_chest, tree.problem) if problem],
        "doubts": tree.doubts,
        "spacing": list(tree.spacing),
        "windows": list(tree.windows),
        "made_with": made_with,
        "files": {tree_file.name: digest_of(unnamed)},
    }
    write_record(record_file, record)
    unnamed.replace(tree_file)
    return record


def _write_dicom_seg(case: str, found: Segmentation) -> None:
    """Write the DICOM SEG of a tree, unless that was done before."""
    file, record, ct = found.output / f"{case}.dcm", found.cases[case], found.cts[case]
    files = record["files"]
    if file.name in files and _is(file, files[file.name]):
        return
    _require_free(file)
    unnamed = found.record(case).with_name(file.name)
    mask = sitk.GetArrayFromImage(read_volume(found.tree(case)))
    write_dicom_seg(mask, Path(ct["source"]), ct["series"][0], unnamed, model=found.model)
    files[file.name] = digest_of(unnamed)
    write_record(found.record(case), {name: value for name, value in record.items() if name != "from_earlier"})
    unnamed.replace(file)


def _is(file: Path, digest: str) -> bool:
    return file.is_file() and digest_of(file) == digest


def _require_free(file: Path) -> None:
    """Check that a file of somebody else, or that somebody has changed, would not be replaced."""
    if file.exists():
        raise UserError(
            f"{file} was not written by this command, or has been changed since: move it away, or choose another -o"
        )


def _fingerprint(model: Path, predictor: AirwayPredictor, settings: Settings) -> dict:
    """What about a model makes its trees; where it runs does not count."""
    files = [model / f"fold_{fold}" / settings.checkpoint for fold in predictor.folds]
    how = {
        "step_size": settings.step_size,
        "mirroring": settings.mirroring and bool(predictor.allowed_mirroring_axes),
        "operating_point": asdict(predictor.operating_point),
    }
    return {"plans": digest_of(model / "plans.json"), "checkpoints": [digest_of(file) for file in files], **how}


def _require_apart(cases: Sequence[Case], output: Path) -> None:
    place = output.resolve()
    for case in cases:
        own = case.ct and case.ct.resolve()
        if own and (place == own.parent or (own.is_dir() and place.is_relative_to(own))):
            raise UserError(
                f"-o is the folder of the CTs {output}, or lies in that of a series; choose another one, so that no CT "
                f"is replaced and no result is taken for a CT"
            )
    names = Counter(case.name for case in cases)
    if twice := [name for name, number in names.items() if number > 1]:
        raise UserError(f"the case {twice[0]} is there twice: leave one of them out")
