"""``nnUNetv2_airway_tune``: the operating point of a model, chosen on validation cases."""

import argparse
import json
import math
import os
from pathlib import Path

from nnunetv2_airway.cli.common import positive, run
from nnunetv2_airway.io.errors import UserError, some
from nnunetv2_airway.io.files import digest_of
from nnunetv2_airway.io.images import list_images

VALIDATED = "validation/summary.json"
"""What nnU-Net leaves in a fold when its validation has come to its end."""
FALL = 5.0
"""Points of precision below that at p > 0.5 from which on a line says so."""


def build_parser() -> argparse.ArgumentParser:
    """Define the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_airway_tune",
        description="Choose threshold and post-processing of a model on cases that it was not trained on: compares "
        "thresholds, hysteresis and reconnection by the figures of their largest connected piece. The model's folder "
        "then has an operating point, which nnUNetv2_airway_segment uses. Interrupted, the same command goes on.",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "-m",
        type=Path,
        metavar="MODEL",
        help="a model folder, whose folds were validated with nnUNetv2_train ... --npz",
    )
    source.add_argument(
        "-i",
        type=Path,
        metavar="FOLDER",
        help="predictions of nnUNetv2_predict --save_probabilities; needs -ref and -o",
    )
    parser.add_argument("-ref", type=Path, metavar="FOLDER", help="airway masks (with -m: default those of training)")
    parser.add_argument("-o", type=Path, metavar="FOLDER", help="where to write (with -m: default the model's folder)")
    parser.add_argument("-f", nargs="+", default=(), metavar="FOLD", help="folds of -m (default: all but fold_all)")
    parser.add_argument(
        "--precision",
        type=percent,
        metavar="P",
        help="choose the greatest length at a mean precision of at least P percent (default: the best mean of length, "
        "branches, Dice and precision)",
    )
    parser.add_argument("--thresholds-only", action="store_true", help="compare no hysteresis and no reconnection")
    parser.add_argument("--also", type=Path, metavar="FILE", help="compare this operating point, too")
    parser.add_argument("-np", type=positive, default=2, metavar="N", help="cases worked on at once (default: 2)")
    return parser


def percent(text: str) -> float:
    """Parse a percentage."""
    number = float(text)
    if not 0 < number < 100:
        raise argparse.ArgumentTypeError(f"a number between 0 and 100 is needed, got {text}")
    return number


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    if args.i and not (args.ref and args.o):
        parser.error("-i needs -ref and -o")
    if args.i and args.f:
        parser.error("-f is for -m")
    run(lambda: _tune(args))


def _tune(args: argparse.Namespace) -> None:
    from nnunetv2_airway.evaluation.tuning import FIGURES, PICTURE, TABLE, tune  # late, so that -h answers at once
    from nnunetv2_airway.inference.operating_point import DEFAULT, FILE, read_operating_point

    output = (args.o or args.m).absolute()
    also = [read_operating_point(args.also)] if args.also else []
    tuning = tune(
        _files(args),
        output,
        precision=args.precision,
        thresholds_only=args.thresholds_only,
        also=also,
        checkpoints=_checkpoints(args),
        processes=args.np,
    )
    print(f"{'':46}" + "".join(f"{title:>18}" for title in FIGURES))
    means = {point: tuning.means(point) for point in (DEFAULT, tuning.chosen)}
    for point, figures in means.items():
        print(f"{point!s:46}" + "".join(f"{_in_words(figures[name]):>18}" for name in FIGURES.values()))
    before, now = (means[point]["precision"] for point in (DEFAULT, tuning.chosen))
    if args.precision is None and now < before - FALL:
        print(f"Precision falls by {before - now:.0f} points: --precision {math.floor(before)} takes what keeps it")
    print(f"\nChosen by the {tuning.criterion} over {len(tuning.cases)} cases: {tuning.chosen}")
    for case, error in sorted(tuning.failed.items()):
        print(f"{case}: FAILED: {error}")
    print(f"It is in {output / FILE}; {TABLE} has all figures, {PICTURE} shows them")
    if tuning.failed:
        raise UserError(f"{len(tuning.failed)} cases failed, see above; the others decided")


def _in_words(value: float) -> str:
    return "none there" if math.isnan(value) else f"{value:.1f}"


def _files(args: argparse.Namespace) -> dict[str, tuple[Path, Path]]:
    """Find prediction and reference of each case."""
    if args.i:
        folders, references = [args.i], args.ref
    else:
        folders, references = _validations(args.m, args.f), args.ref or _references(args.m)
    masks = list_images(references.absolute())
    predictions = {case: file for folder in folders for case, file in list_images(folder.absolute()).items()}
    common = sorted(predictions.keys() & masks.keys())
    if not common:
        raise UserError(
            f"no prediction has the name of a reference: {some(sorted(predictions))} in {folders[0]}, "
            f"{some(sorted(masks))} in {references}"
        )
    if without := sorted(predictions.keys() - masks.keys()):
        print(f"Without a reference, and left out: {some(without)}")
    return {case: (predictions[case], masks[case]) for case in common}


def _validations(model: Path, folds: tuple[str, ...]) -> list[Path]:
    if not model.is_dir():
        raise UserError(f"there is no model {model}")
    found = sorted(file.parent for file in model.glob(f"fold_*/{VALIDATED}") if "fold_all" not in file.parts)
    if "all" in folds:
        raise UserError("a model of fold all was trained on all cases: predict others, and give them with -i and -ref")
    if folds:
        found = [folder for folder in found if folder.parent.name.removeprefix("fold_") in folds]
    if not found or len(found) < len(set(folds)):
        raise UserError(
            f"{model} has no validated fold{' ' if folds else ''}{', '.join(folds)}: validate each to its end with "
            f"nnUNetv2_train ... FOLD --val --npz. A model of fold all has no cases of its own; give predictions of "
            f"other cases with -i and -ref"
        )
    return found


def _checkpoints(args: argparse.Namespace) -> dict[str, str]:
    """Digest the checkpoints of the folds of a model, by their names in its folder."""
    folders = [folder.parent for folder in _validations(args.m, args.f)] if args.m else []
    files = [file for folder in folders if (file := folder / "checkpoint_final.pth").is_file()]
    return {str(file.relative_to(args.m)): digest_of(file) for file in files}


def _references(model: Path) -> Path:
    plans = model / "plans.json"
    if not plans.is_file():
        raise UserError(f"{model} is no model folder of nnU-Net, it has no plans.json")
    folder = os.environ.get("nnUNet_preprocessed")
    name = json.loads(plans.read_text(encoding="utf-8"))["dataset_name"]
    if not folder or not Path(folder, name, "gt_segmentations").is_dir():
        raise UserError(f"the labels of {name} are not in nnUNet_preprocessed: set the variable, or give -ref")
    return Path(folder, name, "gt_segmentations")
