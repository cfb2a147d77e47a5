"""``nnUNetv2_airway_import``: a published checkpoint as a model folder of nnU-Net."""

import argparse
from pathlib import Path

from nnunetv2_airway.cli.common import run


def build_parser() -> argparse.ArgumentParser:
    """Define the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_airway_import",
        description="Make an nnU-Net model folder of a published airway network: WingsNet of Tang (timi) or Zheng, the "
        "ATM'22 organisers' baseline. Models that were trained in nnU-Net need no import.",
    )
    parser.add_argument("-i", type=Path, required=True, metavar="FILE", help="the published checkpoint (.pth, .ckpt)")
    parser.add_argument("-o", type=Path, required=True, metavar="FOLDER", help="the model folder to make")
    parser.add_argument(
        "--window",
        type=float,
        nargs=2,
        metavar=("LOWER", "UPPER"),
        help="HU range of the network's input, for Zheng's: -1000 600 (as in the paper, default), -1000 400 or "
        "-1200 600",
    )
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    args = build_parser().parse_args(arguments)
    run(lambda: _import(args))


def _import(args: argparse.Namespace) -> None:
    # late, so that -h answers at once
    from nnunetv2_airway.inference.published import FOLD, import_published, what_was_imported

    trainer = import_published(args.i, args.o, window=args.window and tuple(args.window))
    print(what_was_imported(args.o))
    print(f"wrote {args.o}. Use it with (CTs are prepared by nnUNetv2_airway_convert folder --images-only)")
    print(f"  nnUNetv2_airway_segment -i CT -o OUT -m {args.o}")
    print(f"  nnUNetv2_predict_from_modelfolder -i PREPARED_CTS -o OUT -m {args.o} -f 0")
    print(
        f"  nnUNetv2_train DATASET 3d_fullres 0 -tr {trainer} "
        f"-pretrained_weights {args.o / FOLD / 'checkpoint_final.pth'}"
    )
