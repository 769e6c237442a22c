"""Lines for the user. Training goes on if one cannot be printed: the terminal is closed, or the disk is full."""

import contextlib
import sys


def printing_may_fail() -> contextlib.AbstractContextManager[None]:
    """A block in which OSError is ignored."""
    return contextlib.suppress(OSError)


def say(line: str) -> None:
    """Prints a line of results on standard output."""
    with printing_may_fail():
        print(line, flush=True)


def note(line: str) -> None:
    """Prints a warning, or what goes on, on standard error."""
    with printing_may_fail():
        print(line, file=sys.stderr, flush=True)
