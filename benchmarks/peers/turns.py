"""What the contenders of the benchmark share: a command line, taking turns, and data prepared on the way."""

import argparse
import json
import resource
import sys
import time
from pathlib import Path

import numpy as np

BATCH, LATENT = 100, 20


def arguments(description, *kinds):
    """The command line of every contender: which of its kinds, the images (uint8 .npy) and the hidden size."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("kind", choices=kinds)
    parser.add_argument("images", help="a .npy file of uint8 [n, h, w, c]")
    parser.add_argument("--hidden_size", type=int, default=200)
    return parser.parse_args()


def start(epochs=3):
    """Waits for the first line on standard input and returns turn(**facts), to be called after every epoch.

    Each `epochs` epochs it prints a line of JSON (seconds an epoch since the line before, peak memory in bytes, and the
    last facts, say elbo) and waits for the next line; where there is none, the process ends. More than one epoch, since
    the first has its data prepared before its turn, and finds the caches filled by others.
    """

    def wait():
        if not sys.stdin.readline():
            sys.exit()
        return time.perf_counter()

    begun, done = wait(), 0

    def turn(**facts):
        nonlocal begun, done
        done += 1
        if done % epochs == 0:
            seconds = (time.perf_counter() - begun) / epochs
            print(json.dumps({"seconds": seconds, "peak": peak_memory(), **facts}), flush=True)
            begun = wait()

    return turn


def peak_memory():
    """Of this process, in bytes. On Linux not by getrusage, which begins with the parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def prepared(images, steps, binarize):
    """Yields x [steps, 100, ...] uint8, binarized anew each epoch or as it is, and noise [steps, 100, 20]; endless.

    Over a fresh permutation each epoch. len(images) is a multiple of 100 steps.
    """
    rng = np.random.default_rng(0)
    while True:
        order = rng.permutation(len(images)).reshape(-1, steps, BATCH)
        for rows in order:
            x = images[rows]
            if binarize:  # P(u < pixel) = pixel/255 for u uniform on 0..254
                x = (rng.integers(0, 255, x.shape, np.uint8) < x).view(np.uint8)
            yield x, rng.standard_normal((steps, BATCH, LATENT), dtype=np.float32)
