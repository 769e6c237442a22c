"""Starts contenders as processes, and lets them train in turn, round after round."""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).parents[1]

# The rounds that do not count, and those that count.
WARM_UPS = 1
ROUNDS = 5

# The seconds after a turn in which a contender can finish preparing its next data.
PAUSE = 0.3

# What a contender measured in one turn, or what was measured in one round: names and values.
Measurement = dict[str, float]


class Contender(NamedTuple):
    """A module that is started as a process, and the kind of training it does. benchmarks/turns.py has the rules.

    The process gets `xla_flags` as its environment variable XLA_FLAGS. Without them, it has XLA's defaults.
    """

    name: str
    module: str
    kind: str
    xla_flags: str = ""


class Worker(NamedTuple):
    """The process of a contender, and the file that receives its error output."""

    name: str
    process: subprocess.Popen[str]
    log_path: Path


class EndedEarlyError(Exception):
    """A contender's process ended before it printed a measurement. The message is the end of its error output."""


def run_rounds(
    contenders: Sequence[Contender],
    images: np.ndarray,
    options: Sequence[str] = (),
) -> dict[str, list[Measurement]]:
    """Returns the measurements of each contender, by its name, from the rounds that count.

    Only one contender works at a time, and each round begins with a different one. If a contender fails, its errors are
    printed, and it is left out. `options` are further arguments for every contender.
    """
    with start_all(contenders, images, options) as started:
        workers = deque(started)
        measurements: dict[str, list[Measurement]] = {worker.name: [] for worker in workers}
        for _ in range(WARM_UPS + ROUNDS):
            for worker in tuple(workers):
                try:
                    measurement = give_turn(worker)
                except EndedEarlyError as error:
                    print(f"{worker.name} ended early and is left out:\n{error}", file=sys.stderr)
                    workers.remove(worker)
                    del measurements[worker.name]
                else:
                    print(f"{worker.name}: {measurement}", file=sys.stderr, flush=True)
                    measurements[worker.name].append(measurement)
                    time.sleep(PAUSE)
            workers.rotate(-1)
    return {name: rounds[WARM_UPS:] for name, rounds in measurements.items()}


@contextlib.contextmanager
def start_all(
    contenders: Sequence[Contender],
    images: np.ndarray,
    options: Sequence[str],
) -> Iterator[list[Worker]]:
    """Starts all contenders and yields their processes. At the end, waits until they have ended."""
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        images_path = scratch / "images.npy"
        np.save(images_path, images)
        workers = []
        for index, contender in enumerate(contenders):
            worker = start(contender, [str(images_path), *options], log_path=scratch / f"{index}.log")
            # At the end, this closes the standard input of the process, which ends the process, and waits for it.
            stack.enter_context(worker.process)
            workers.append(worker)
        yield workers


def start(contender: Contender, arguments: Sequence[str], log_path: Path) -> Worker:
    """Starts the process of a contender, which then waits for its first turn."""
    command = [sys.executable, "-m", contender.module, contender.kind, *arguments]
    environment = os.environ | {"XLA_FLAGS": contender.xla_flags}
    with log_path.open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    return Worker(contender.name, process, log_path)


def give_turn(worker: Worker) -> Measurement:
    """Lets a contender work for one turn and returns what it measured. Raises EndedEarlyError if its process ended."""
    process = worker.process
    # Both are pipes, which mypy cannot know.
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write("\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())
    except (BrokenPipeError, json.JSONDecodeError):
        # If the process has ended, the line is empty, and not JSON.
        process.communicate()
        errors = worker.log_path.read_text(errors="replace")
        raise EndedEarlyError(errors[-2000:]) from None


def median_of(rounds: Sequence[Measurement], name: str) -> float:
    """Returns the median of a value over the rounds."""
    return statistics.median(measurement[name] for measurement in rounds)
