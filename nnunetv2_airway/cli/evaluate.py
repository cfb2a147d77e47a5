"""``nnUNetv2_airway_evaluate``: figures and pictures of a folder of predictions."""

import argparse
from pathlib import Path

from nnunetv2_airway.cli.common import positive, run
from nnunetv2_airway.io.errors import UserError, some

UNLIKE = 10.0
"""Dice in percent below which a prediction may belong to another CT."""
LEFT_OUT = 0.01
"""Share of a reference outside its largest component that is worth a warning."""


def build_parser() -> argparse.ArgumentParser:
    """Define the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_airway_evaluate",
        description="Evaluate predicted airway trees as the challenges ATM'22 (tree length detected, branch detected, "
        "Dice, precision), ATM'26 and AIIB23 do, and beyond them: EXACT'09's figures, per airway diameter, generation "
        "and branch. "
        "Interrupted, the same command goes on where it stopped.",
    )
    parser.add_argument("-ref", type=Path, required=True, metavar="FOLDER", help="airway masks to compare with")
    parser.add_argument("-pred", type=Path, required=True, metavar="FOLDER", help="segmentations of the same names")
    parser.add_argument(
        "-o",
        type=Path,
        metavar="FOLDER",
        help="where to write summary.json, cases.csv, branches.csv, and a picture and a record of each case in cases/ "
        "(default: evaluation, in the folder of the predictions)",
    )
    parser.add_argument(
        "--challenge",
        type=str.lower,
        choices=("atm22", "atm26", "aiib23"),
        default="atm22",
        help="whose figures the table in the terminal has; the files have all (default: %(default)s)",
    )
    parser.add_argument("-np", type=positive, default=2, metavar="N", help="cases worked on at once (default: 2)")
    parser.add_argument(
        "-l",
        type=int,
        nargs="+",
        metavar="LABEL",
        help="the labels that are airway, in both folders (default: the only one besides 0)",
    )
    parser.add_argument(
        "--export",
        action="store_true",
        help="also write the surface (PLY) and the centerline tree (VTK PolyData, JSON) of each reference and "
        "prediction to export/, in mm, in the world coordinates of NIfTI files (RAS)",
    )
    parser.add_argument(
        "--chill", action="store_true", help="a reference without a prediction is listed, but is no failure"
    )
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    args = build_parser().parse_args(arguments)
    run(lambda: _evaluate(args))


def _evaluate(args: argparse.Namespace) -> None:
    # late, so that -h answers at once
    from nnunetv2_airway.evaluation.folder import evaluate_folder
    from nnunetv2_airway.evaluation.summary import CHALLENGES, is_empty, table
    from nnunetv2_airway.io.images import upright

    output = args.o or args.pred / "evaluation"
    evaluation = evaluate_folder(args.ref, args.pred, output, airway=args.l, processes=args.np, export=args.export)
    if evaluation.cases:
        earlier = sum("from_earlier" in record for record in evaluation.cases.values())
        if earlier:
            print(f"{earlier} of {len(evaluation.cases)} cases had been evaluated before and have not changed.")
        challenge = CHALLENGES[args.challenge]
        print(f"\n{table(evaluation, challenge)}\n\n{challenge.words}")
        if challenge.more_words:
            print(challenge.more_words)
    for case, record in evaluation.cases.items():
        metrics = record["metrics"]
        if not metrics["branches"]:
            print(f"{case}: WARNING: the reference is empty")
        if is_empty(metrics):
            print(f"{case}: WARNING: the prediction is empty")
        elif metrics["branches"] and metrics["dice"] < UNLIKE:
            print(
                f"{case}: WARNING: the prediction has hardly anything in common with the reference. Is it another CT's "
                f"or flipped, or was something else kept as its largest component? See {output / 'cases' / case}.png"
            )
        if args.challenge == "atm26" and not record["same_geometry"]:
            print(
                f"{case}: WARNING: spacing, origin or direction of the prediction differ from the reference's by more "
                f"than a 100 000th, for which ATM'26 refuses it: give it the geometry of its CT"
            )
        if record["reference_left_out"] > LEFT_OUT:
            print(
                f"{case}: WARNING: {100 * record['reference_left_out']:.1f} % of the reference share no face with the "
                f"rest of its tree and count as background, as in ATM'22"
            )
    turned = {case: way for case, record in evaluation.cases.items() if not upright(way := record["orientation"])}
    if turned:
        print(
            f"{some(list(turned))}: WARNING: stored along other axes ({', '.join(sorted(set(turned.values())))}) than "
            f"ATM'22's references (LPS): the same tree would have other branches there, so that tree length may differ "
            f"by 1 point and branches by 5. Bring references and predictions to one orientation (SimpleITK.DICOMOrient)"
        )
    for case in evaluation.missing:
        print(f"{case}: WARNING: no prediction for this reference")
    for case in evaluation.extra:
        print(f"{case}: WARNING: no reference for this prediction")
    for case, error in evaluation.failed.items():
        print(f"{case}: FAILED: {error}")
    print(f"Results are in {output}, pictures in {output / 'cases'}")
    failed = len(evaluation.failed)
    if failed and not evaluation.cases:
        raise UserError(f"none of the {failed} cases could be evaluated")
    if failed:
        raise UserError(
            f"{failed} case{'s' * (failed > 1)} could not be evaluated; the figures are those of the others"
        )
    if evaluation.missing and not args.chill:
        raise UserError(
            f"references without a prediction: {len(evaluation.missing)}; the figures are those of the others, which "
            f"--chill accepts"
        )
