"""What all contenders of the benchmark share: their command line, their turns, and training data made by NumPy.

A contender is a process. It waits for a line on standard input, trains for one turn, prints what it measured as a line
of JSON, and waits again. benchmarks/rounds.py starts the contenders and lets them work one at a time.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

BATCH_SIZE = 100
LATENT_DIM = 20
# A turn has more than one epoch, because its first epoch is special: the data was prepared before the turn began, and
# other processes have filled the processor's caches.
EPOCHS_PER_TURN = 3

Item = TypeVar("Item")


def parse_arguments(description: str | None, *kinds: str) -> argparse.Namespace:
    """The command line of a contender: one of its kinds, the file of the images, and the hidden size."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("kind", choices=kinds)
    parser.add_argument("images", help="an .npy file with images as uint8 [n, h, w, c]")
    parser.add_argument("--hidden_size", type=int, default=200)
    return parser.parse_args()


class Turns:
    """The turns of a contender that trains. Creating the object waits for the first turn.

    The contender calls `end_epoch` after every epoch. At the end of a turn, the call prints what was measured, and
    waits for the next turn.
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        wait_for_turn()
        self._epochs_done = 0
        self._started = time.perf_counter()

    def end_epoch(self, elbo: float) -> None:
        """Counts an epoch. `elbo` is the mean ELBO of its training images, in nats."""
        self._epochs_done += 1
        if self._epochs_done == EPOCHS_PER_TURN:
            seconds = time.perf_counter() - self._started
            print_measurement(seconds=seconds / EPOCHS_PER_TURN, elbo=elbo)
            self._begin()


def wait_for_turn() -> None:
    """Waits for a line on standard input, and ends the process if the input is closed."""
    line = sys.stdin.readline()
    if line == "":
        sys.exit()


def print_measurement(seconds: float, **others: float) -> None:
    """Prints what was measured in a turn: seconds per epoch, the peak memory in bytes, and the other values."""
    print(json.dumps({"seconds": seconds, "peak_memory": peak_memory(), **others}), flush=True)


def peak_memory() -> int:
    """The largest memory that this process has had, in bytes."""
    status = Path("/proc/self/status")
    if not status.exists():
        # On macOS, the unit is bytes.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # On Linux, getrusage would start from the peak of the parent process. This file has the process's own peak.
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
    kibibytes = int(line.split()[1])
    return kibibytes * 1024


def prepared_blocks(images: np.ndarray, steps: int, binarize: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields blocks of training data without end, with a new permutation of the images for each epoch.

    A block is x, uint8 [steps, 100, ...], and noise ~ N(0, I), float32 [steps, 100, 20]. x holds the pixels, or draws
    from Binomial(1, pixel/255) if `binarize` is True. The number of images must be a multiple of 100 * steps.
    """
    rng = np.random.default_rng(0)
    while True:
        order = rng.permutation(len(images)).reshape(-1, steps, BATCH_SIZE)
        for rows in order:
            x = images[rows]
            if binarize:
                # For u uniform on 0, ..., 254, P(u < pixel) = pixel/255.
                u = rng.integers(0, 255, size=x.shape, dtype=np.uint8)
                x = (u < x).view(np.uint8)
            noise = rng.standard_normal((steps, BATCH_SIZE, LATENT_DIM), dtype=np.float32)
            yield x, noise


def prefetch(items: Iterator[Item]) -> Iterator[Item]:
    """Yields the items of an endless iterator; while the caller uses one, a thread prepares the next.

    vae.prefetch does the same for this project. It is not used here, so that the peers use no code of this project.
    """
    with ThreadPoolExecutor(1) as preparer:
        upcoming = preparer.submit(next, items)
        while True:
            item = upcoming.result()
            upcoming = preparer.submit(next, items)
            yield item
