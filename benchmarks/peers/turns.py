"""How a contender of the benchmark takes turns: it works when told to, and reports what the work took."""

import argparse
import json
import resource
import sys
import time


def arguments(description, *kinds):
    """The command line of every contender: which of its kinds, the images (uint8 .npy) and the hidden size."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("kind", choices=kinds)
    parser.add_argument("images", help="a .npy file of uint8 [n, h, w, c]")
    parser.add_argument("--hidden_size", type=int, default=200)
    return parser.parse_args()


def start():
    """Waits for the first line on standard input and returns turn(**facts), to be called after every epoch.

    turn prints a line of JSON (seconds since the line before, peak memory in bytes, and the facts, say elbo) and waits
    for the next line; where there is none, the process ends.
    """

    def wait():
        if not sys.stdin.readline():
            sys.exit()
        return time.perf_counter()

    begun = wait()

    def turn(**facts):
        nonlocal begun
        seconds = time.perf_counter() - begun
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        print(json.dumps({"seconds": seconds, "peak": peak, **facts}), flush=True)
        begun = wait()

    return turn
