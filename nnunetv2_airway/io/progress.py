"""Progress bars that are smooth in a terminal and quiet in a log file."""

import sys

from tqdm import tqdm


def progress_bar(iterable=None, *, description: str, unit: str, total: int | None = None, show: bool = True) -> tqdm:
    """Make a ``tqdm`` bar that writes at most twice a second to a terminal, and every half minute elsewhere."""
    interval = 0.5 if sys.stderr.isatty() else 30
    return tqdm(iterable, desc=description, unit=unit, total=total, leave=False, mininterval=interval, disable=not show)


def in_words(seconds: float) -> str:
    """Say how long something takes.

    >>> in_words(20), in_words(150), in_words(9000)
    ('1 minute', '2 minutes', '2.5 hours')
    """
    if seconds < 90:
        return "1 minute"
    return f"{seconds / 3600:.1f} hours" if seconds > 3600 else f"{seconds / 60:.0f} minutes"
