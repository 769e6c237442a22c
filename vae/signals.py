"""Ctrl-C and SIGTERM while a model trains: train.py finishes the epoch, saves and stops.

Everywhere else Ctrl-C stops a script at once; cli.script turns it into one line. In a run on several workers,
SIGTERM does the same. A KeyboardInterrupt that is raised here has the number of the signal as its argument.
"""

import contextlib
import signal
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
