"""Ctrl-C and SIGTERM while a model trains: train.py finishes the epoch, saves and stops.

Everywhere else Ctrl-C stops a script at once; cli.script turns it into one line. In a run on several workers,
SIGTERM does the same. reproduce.py runs train.py as a child process, and leaves signals to it. A KeyboardInterrupt
that is raised here has the number of the signal as its argument.
"""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def deferred() -> Iterator[list[int]]:
    """Yields a list that receives the number of the first SIGINT or SIGTERM; a second one raises KeyboardInterrupt.

    The list lets the training loop finish its epoch and save. The previous handlers are restored when the block ends.
    """
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt(number)
        received.append(number)
        message = "stopping at the end of this epoch; a second Ctrl-C stops without finishing it or saving"
        print(f"\n{message}", file=sys.stderr, flush=True)

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Makes SIGTERM raise KeyboardInterrupt inside the block, so that the other workers are told before the end."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(number)

    previous = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def wait_for(process: subprocess.Popen) -> int:
    """Waits for a child process that handles signals itself. Returns its exit code, 128 + n if signal n has killed it.

    SIGTERM is passed on to the child. Ctrl-C is not, because a terminal sends it to both.
    """

    def pass_on(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            process.send_signal(number)

    previous = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        exit_code = process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return exit_code if exit_code >= 0 else 128 - exit_code
