"""``nnUNetv2_airway_phantom``: synthetic chest CTs as an nnU-Net raw data set."""

import argparse
from pathlib import Path

from nnunetv2_airway.cli.common import dataset_id, positive, run
from nnunetv2_airway.io.raw_data import dataset_folder
from nnunetv2_airway.phantom.dataset import write_dataset
from nnunetv2_airway.phantom.model import PhantomOptions

DEFAULTS = PhantomOptions()


def build_parser() -> argparse.ArgumentParser:
    """Define the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_airway_phantom",
        description="Write synthetic chest CTs in Hounsfield units, with their airway trees as labels, as a complete "
        "nnU-Net raw data set. The same options give the same files; an interrupted run goes on where it stopped.",
    )
    parser.add_argument("-d", type=dataset_id, required=True, metavar="ID", help="data set id, such as 599")
    parser.add_argument("-n", type=count, default=8, metavar="N", help="training cases (default: 8)")
    parser.add_argument("-n_test", type=count, default=2, metavar="N", help="held-out cases in imagesTs (default: 2)")
    parser.add_argument("-name", default="AirwayPhantom", help="data set name after DatasetXXX_ (default: %(default)s)")
    parser.add_argument(
        "-o",
        type=Path,
        metavar="FOLDER",
        help="where to write the data set's folder (default: the variable nnUNet_raw)",
    )
    parser.add_argument("-np", type=positive, default=2, metavar="N", help="cases made at once (default: 2)")
    axes = ("Z", "Y", "X")
    parser.add_argument(
        "--shape",
        type=int,
        nargs=3,
        default=DEFAULTS.shape,
        metavar=axes,
        help="voxels, slices first (default: 192 192 192)",
    )
    parser.add_argument(
        "--spacing",
        type=float,
        nargs=3,
        metavar=axes,
        help="mm, between slices first (default: 1 1 1, or that of a mask); the chest is scaled to fill the volume",
    )
    for name, metavar, words in (
        ("generations", "N", "last generation of airways, the trachea is 0; fewer where they become too small"),
        ("smallest", "R", "radius of the smallest airways, in voxels of the finest spacing"),
        ("noise", "HU", "standard deviation of the noise"),
        ("blur", "X", "standard deviation of the scanner blur, in units of the finest spacing"),
        ("seed", "N", "another seed gives other patients"),
        (
            "vary",
            "SHARE",
            "by which noise and blur differ between patients, and the size of a mask, which is also bent",
        ),
    ):
        default = getattr(DEFAULTS, name)
        parser.add_argument(
            f"--{name}", type=type(default), default=default, metavar=metavar, help=f"{words} (default: %(default)s)"
        )
    parser.add_argument(
        "--lung-box",
        type=float,
        metavar="MM",
        help="set the CT to 0 outside the box of lungs and airways, with this margin (default: keep the whole CT)",
    )
    parser.add_argument(
        "--from-mask",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="build the CTs around these airway masks, in turn, instead of grown trees; a mask's geometry replaces "
        "--shape, and --spacing where that is not given",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="remove the phantoms of this data set and make them again"
    )
    return parser


def count(text: str) -> int:
    """Parse a whole number of at least 0."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"a whole number of at least 0 is needed, got {text}")
    return number


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    args = build_parser().parse_args(arguments)
    run(lambda: _write(args))


def _write(args: argparse.Namespace) -> None:
    folder = dataset_folder(args.o, args.d, args.name)
    options = PhantomOptions(
        shape=tuple(args.shape),
        spacing=tuple(args.spacing or DEFAULTS.spacing),
        generations=args.generations,
        smallest=args.smallest,
        noise=args.noise,
        blur=args.blur,
        seed=args.seed,
        lung_box=args.lung_box,
        vary=args.vary,
    )
    write_dataset(
        folder,
        options,
        training=args.n,
        test=args.n_test,
        from_masks=args.from_mask,
        spacing=args.spacing and tuple(args.spacing),
        overwrite=args.overwrite,
        processes=args.np,
    )
    print(f"{args.n} training and {args.n_test} test cases are in {folder}")
