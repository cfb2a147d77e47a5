"""What the console commands share."""

import argparse
import sys
import warnings
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from nnunetv2_airway.io.errors import UserError, some


def positive(text: str) -> int:
    """Parse a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"a whole number of at least 1 is needed, got {text}")
    return number


def dataset_id(text: str) -> int:
    """Parse nnU-Net's data set id, 1 to 999."""
    number = int(text)
    if not 1 <= number <= 999:
        raise argparse.ArgumentTypeError(f"a data set id from 1 to 999 is needed, got {text}")
    return number


def margin(text: str) -> float:
    """Parse a margin in mm."""
    number = float(text)
    if not number >= 0:
        raise argparse.ArgumentTypeError(f"a margin of at least 0 mm is needed, got {text}")
    return number


def add_part_options(parser: argparse.ArgumentParser, what: str, results: str) -> None:
    """Define the options of a job array, nnU-Net's own; ``read_part`` checks them."""
    parser.add_argument(
        "-num_parts",
        type=positive,
        default=1,
        metavar="N",
        help=f"of a job array: the {what} are shared out over so many calls; one more call without it collects the "
        f"{results} (default: 1)",
    )
    parser.add_argument("-part_id", type=int, metavar="K", help="which part this call works on, from 0")


def read_part(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Check the options of a job array, and say part 0 of 1 where there is none."""
    if args.part_id is None and args.num_parts == 1:
        args.part_id = 0
    if args.part_id is None or not 0 <= args.part_id < args.num_parts:
        parser.error(f"-num_parts {args.num_parts} needs a -part_id of 0 to {args.num_parts - 1}, got {args.part_id}")


def step_size(text: str) -> float:
    """Parse a step of windows."""
    number = float(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"a step above 0 and at most 1 is needed, got {text}")
    return number


def add_prediction_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Define the options of a prediction, nnU-Net's own; ``read_settings`` reads them."""
    how = parser.add_argument_group("prediction, as in nnUNetv2_predict")
    how.add_argument(
        "-device", default=None, metavar="NAME", help="cpu, cuda or mps (default: cuda where there is one)"
    )
    how.add_argument("-f", nargs="+", default=(), metavar="FOLD", help="folds (default: all that the model has)")
    how.add_argument("-chk", default="checkpoint_final.pth", metavar="NAME", help="checkpoint (default: %(default)s)")
    how.add_argument(
        "-step_size", type=step_size, default=0.5, metavar="STEP", help="of windows, in patches (default: 0.5)"
    )
    how.add_argument("--disable_tta", action="store_true", help="do not also predict mirrored windows: faster")
    how.add_argument(
        "--operating-point",
        type=Path,
        metavar="FILE",
        help="threshold and post-processing, as nnUNetv2_airway_tune writes them (default: those of the model, where "
        "it was tuned)",
    )
    return how


def read_settings(args: argparse.Namespace):
    """Make the ``inference.predictor.Settings`` of a prediction's options."""
    import torch  # late, so that -h answers at once

    from nnunetv2_airway.inference.operating_point import read_operating_point
    from nnunetv2_airway.inference.predictor import Settings

    return Settings(
        device=args.device or ("cuda" if torch.cuda.is_available() else "cpu"),
        folds=tuple(args.f),
        checkpoint=args.chk,
        step_size=args.step_size,
        mirroring=not args.disable_tta,
        operating_point=args.operating_point and read_operating_point(args.operating_point),
    )


def add_ct_options(group: argparse._ArgumentGroup, outside: str) -> None:
    """Define how CTs are read: the lungs' box, HU, and the DICOM series.

    Args:
        group: of arguments.
        outside: what becomes of a CT outside the box, with its margin.
    """
    box = group.add_mutually_exclusive_group()
    box.add_argument("--lung-box", type=margin, default=10.0, metavar="MM", help=outside)
    box.add_argument("--no-lung-box", dest="lung_box", action="store_const", const=None, help="keep the whole CT")
    group.add_argument(
        "--scale",
        nargs="+",
        action="append",
        default=[],
        metavar=("SLOPE INTERCEPT", "CASE"),
        help="HU = SLOPE * stored + INTERCEPT for these cases, or for all; can be given several times",
    )
    group.add_argument(
        "--series", nargs="+", default=[], metavar="UID", help="the series to take where a case's folder holds several"
    )


def read_scales(given: Sequence[Sequence[str]]) -> dict[str, tuple[float, float]]:
    """Scales by case, that of all other cases under the empty name."""
    scales = {}
    for words in given:
        try:
            slope, intercept, *cases = float(words[0]), float(words[1]), *words[2:]
        except (ValueError, IndexError) as error:
            raise UserError(f"--scale needs SLOPE INTERCEPT [CASE ...], got {' '.join(words)}") from error
        scales |= dict.fromkeys(cases or [""], (slope, intercept))
    return scales


def require_cases(option: str, named: Collection[str], known: Collection[str], source: object) -> None:
    """Check that an option names cases that there are.

    Raises:
        UserError: it names another.
    """
    if unknown := set(named) - set(known):
        raise UserError(
            f"--{option} names {', '.join(sorted(unknown))}, which is no case of {source}; its cases are "
            f"{some(sorted(known))}"
        )


def run(command: Callable[[], None]) -> None:
    """Run a command; what the user can mend ends in one line and exit code 1, not in a traceback."""
    warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)  # on import of what nnU-Net imports
    try:
        command()
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on where it stopped")
