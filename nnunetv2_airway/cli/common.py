"""What the console commands share."""

import argparse
import sys
from collections.abc import Callable

from nnunetv2_airway.io.errors import UserError


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


def run(command: Callable[[], None]) -> None:
    """Run a command; what the user can mend ends in one line and exit code 1, not in a traceback."""
    try:
        command()
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on where it stopped")
