"""``nnUNetv2_airway_demo``: from phantoms to a segmented airway tree."""

import argparse
from pathlib import Path

from nnunetv2_airway.cli.common import run
from nnunetv2_airway.io.errors import UserError


def build_parser() -> argparse.ArgumentParser:
    """Define the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_airway_demo",
        description="Make synthetic chest CTs, train a short form of the recipe on them inside nnU-Net, predict "
        "held-out ones, and show the airway trees. Prints every command it runs; interrupted, the same command goes "
        "on. 4 to 12 minutes on two CPU cores.",
    )
    parser.add_argument(
        "-o", type=Path, default=Path("airway_demo"), metavar="FOLDER", help="where to work (default: %(default)s)"
    )
    parser.add_argument("-device", choices=("cpu", "cuda"), help="default: cuda where there is one, else cpu")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    args = build_parser().parse_args(arguments)
    run(lambda: _demo(args))


def _demo(args: argparse.Namespace) -> None:
    # late, so that -h answers at once
    import torch

    from nnunetv2_airway.demo import Demo

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("-device cuda was asked for, but PyTorch finds no CUDA GPU here; use -device cpu")
    Demo(args.o, device).run()
