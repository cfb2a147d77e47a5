"""``nnUNetv2_airway_postprocess``: largest connected component, holes filled."""

import argparse
from pathlib import Path

from nnunetv2_airway.cli.common import positive, run
from nnunetv2_airway.inference.operating_point import read_operating_point
from nnunetv2_airway.inference.postprocessing import postprocess_folder, write_postprocessing_pkl
from nnunetv2_airway.io.errors import UserError


def build_parser() -> argparse.ArgumentParser:
    """Define the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_airway_postprocess",
        description="Keep the largest connected component of each predicted airway tree and fill its holes.",
    )
    parser.add_argument("-i", type=Path, metavar="FOLDER", help="predictions, as nnUNetv2_predict writes them")
    parser.add_argument("-o", type=Path, metavar="FOLDER", help="where to write the results, under the same names")
    parser.add_argument(
        "--operating-point",
        type=Path,
        metavar="FILE",
        help="threshold and post-process the probabilities beside the predictions as nnUNetv2_airway_tune has chosen",
    )
    parser.add_argument("-np", type=positive, default=2, metavar="N", help="files worked on at once (default: 2)")
    parser.add_argument(
        "--pkl",
        type=Path,
        metavar="FILE",
        help="write this step as a postprocessing.pkl for nnUNetv2_apply_postprocessing -pp_pkl_file; alone or with "
        "-i and -o",
    )
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    if (args.i is None) != (args.o is None) or (args.i is None and args.pkl is None):
        parser.error("give -i and -o, or --pkl, or all three")
    run(lambda: _postprocess(args))


def _postprocess(args: argparse.Namespace) -> None:
    if args.pkl is not None:
        write_postprocessing_pkl(args.pkl)
        print(f"wrote {args.pkl}; run nnUNetv2_apply_postprocessing -i IN -o OUT -pp_pkl_file {args.pkl}")
    if args.i is None:
        return
    point = args.operating_point and read_operating_point(args.operating_point)
    outcomes = postprocess_folder(args.i, args.o, point=point, processes=args.np)
    for outcome in outcomes:
        if outcome.error:
            print(f"{outcome.name}: FAILED: {outcome.error}")
        elif outcome.volume == 0:
            print(f"{outcome.name}: WARNING: the prediction is empty; it was passed through")
        else:
            print(
                f"{outcome.name}: tree of {outcome.volume:.1f} ml; removed {outcome.removed} voxels in other pieces, "
                f"filled {outcome.filled}"
            )
            if outcome.removed > outcome.kept:
                print(
                    f"{outcome.name}: WARNING: that is most of the prediction. Look whether the airway tree was kept: "
                    f"of a network that has hardly been trained, or a tree in pieces, it need not be the largest piece"
                )
    failed = sum(bool(outcome.error) for outcome in outcomes)
    if failed:
        raise UserError(f"{failed} of {len(outcomes)} files could not be processed; the others are in {args.o}")
