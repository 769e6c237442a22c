"""Ctrl-C and SIGTERM while a model trains."""

import contextlib
import signal
import sys


@contextlib.contextmanager
def deferred():
    """Yields a list that gets the first SIGINT or SIGTERM (its number); the second raises KeyboardInterrupt."""
    received = []

    def handle(number, _):
        if received:
            raise KeyboardInterrupt
        received.append(number)
        print("\nstopping at the end of this epoch; once more to stop at once, unsaved", file=sys.stderr, flush=True)

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
