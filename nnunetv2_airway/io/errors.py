"""The error for what a user can mend; any other is a fault of the program and keeps its traceback."""

import traceback
from collections.abc import Sequence


class UserError(ValueError):
    """Something about files, options or settings that the user can mend.

    Its message says what was needed, what came, which case it is about, and what to do.
    """


def some(names: Sequence[str]) -> str:
    """List a few names for a message."""
    return ", ".join(names[:3]) + (f", ... ({len(names)})" if len(names) > 3 else "")


def reason(error: Exception) -> str:
    """Say in one line what went wrong with a case, and print the traceback of what nobody foresaw.

    >>> reason(UserError("the label is empty"))
    'the label is empty'
    """
    if isinstance(error, UserError | OSError):
        return str(error)
    traceback.print_exception(error)
    return f"{type(error).__name__}: {error}"
