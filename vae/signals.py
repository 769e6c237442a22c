"""Ctrl-C, SIGTERM and SIGHUP while a model trains: train.py finishes the epoch, saves and stops.

Everywhere else Ctrl-C stops a script at once; cli.script turns it into one line. reproduce.py runs train.py as a child
process, and leaves signals to it. A KeyboardInterrupt that is raised here has the signal's number as its argument.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

STANDARD_ERROR = 2


@contextlib.contextmanager
def handled_by(handle: Callable[[int, FrameType | None], None] | signal.Handlers, *numbers: int) -> Iterator[None]:
    """Handles these signals with `handle` inside the block, and restores the previous handlers afterwards."""
    previous = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def deferred(end_at_once: bool = False) -> Iterator[list[int]]:
    """Yields a list that receives the number of the first SIGINT, SIGTERM or SIGHUP (a terminal that closes).

    The training loop then finishes its epoch and saves. If the signal arrives during a save, that is the next epoch. A
    second SIGINT raises KeyboardInterrupt. A second SIGTERM or SIGHUP does nothing: reproduce.py may pass on a signal
    that the child has received already. With `end_at_once`, the second SIGINT ends the process, because a step that
    waits for a lost worker cannot be interrupted.
    """
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if not received:
            received.append(number)
            tell("stopping at the end of this epoch; a second Ctrl-C stops without finishing it or saving")
        elif number == signal.SIGINT and end_at_once:
            tell("stopped")
            os._exit(128 + number)
        elif number == signal.SIGINT:
            raise KeyboardInterrupt(number)

    numbers = [signal.SIGINT, signal.SIGTERM]
    # nohup ignores SIGHUP, so that a run outlives its terminal.
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    with handled_by(handle, *numbers):
        yield received


def tell(message: str) -> None:
    """Writes a line to standard error, inside a handler of signals."""
    # Not print: the signal may have arrived while the progress bar was written to sys.stderr, which raises RuntimeError
    # if it is entered twice.
    with contextlib.suppress(OSError):
        os.write(STANDARD_ERROR, f"\n{message}\n".encode())


def run_child(command: Sequence[str]) -> int:
    """Runs a command that handles signals itself, and returns its exit code, or minus the number that killed it.

    SIGTERM is passed on to it. Ctrl-C is not, because a terminal sends it to both processes. Raises KeyboardInterrupt
    if a signal arrived but the exit code does not show it.
    """
    received: list[int] = []
    passed_on = False
    with handled_by(lambda number, frame: received.append(number), signal.SIGINT, signal.SIGTERM):
        child = subprocess.Popen(command)
        # Not sent by the handler: a second SIGTERM would kill a child that is already ending.
        while child.poll() is None:
            if signal.SIGTERM in received and not passed_on:
                child.send_signal(signal.SIGTERM)
                passed_on = True
            time.sleep(0.05)
    exit_code = child.returncode
    # An exit code above 1 means a signal or a wrong argument. After any other, the command ended for another reason.
    if received and exit_code <= 1:
        raise KeyboardInterrupt(received[0])
    return exit_code
