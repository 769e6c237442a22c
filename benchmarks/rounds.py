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

# Environment variables whose names begin like this tune a library, or stop Python from keeping its compiled files.
# Without them, the other libraries run with their defaults, and this project with what cli.tensorflow_environment sets.
TUNING_VARIABLES = ("OPENBLAS_", "OMP_", "MKL_", "XLA_", "TF_", "PYTHONDONTWRITEBYTECODE")

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


class ContenderProcess(NamedTuple):
    """A contender's process, and the file that receives its error output."""

    name: str
    process: subprocess.Popen[str]
    log_path: Path


class EndedEarlyError(Exception):
    """A contender's process ended before it printed a measurement. The message is the end of its error output."""


def prepare_environment() -> None:
    """Removes the TUNING_VARIABLES from the environment, and hides the GPUs."""
    for name in list(os.environ):
        if name.startswith(TUNING_VARIABLES):
            del os.environ[name]
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"


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
        queue = deque(started)
        measurements: dict[str, list[Measurement]] = {contender_process.name: [] for contender_process in queue}
        for _ in range(WARM_UPS + ROUNDS):
            for contender_process in tuple(queue):
                try:
                    measurement = give_turn(contender_process)
                except EndedEarlyError as error:
                    print(f"{contender_process.name} ended early and is left out:\n{error}", file=sys.stderr)
                    queue.remove(contender_process)
                    del measurements[contender_process.name]
                else:
                    print(f"{contender_process.name}: {measurement}", file=sys.stderr, flush=True)
                    measurements[contender_process.name].append(measurement)
                    time.sleep(PAUSE)
            queue.rotate(-1)
    return {name: rounds[WARM_UPS:] for name, rounds in measurements.items()}


@contextlib.contextmanager
def start_all(
    contenders: Sequence[Contender],
    images: np.ndarray,
    options: Sequence[str],
) -> Iterator[list[ContenderProcess]]:
    """Starts all contenders and yields their processes. At the end, waits until they have ended."""
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        images_path = scratch / "images.npy"
        np.save(images_path, images)
        contender_processes = []
        for index, contender in enumerate(contenders):
            contender_process = start(contender, [str(images_path), *options], log_path=scratch / f"{index}.log")
            # At the end, this closes the standard input of the process, which ends the process, and waits for it.
            stack.enter_context(contender_process.process)
            contender_processes.append(contender_process)
        yield contender_processes


def start(contender: Contender, arguments: Sequence[str], log_path: Path) -> ContenderProcess:
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
    return ContenderProcess(contender.name, process, log_path)


def give_turn(contender_process: ContenderProcess) -> Measurement:
    """Lets a contender work for one turn and returns what it measured. Raises EndedEarlyError if its process ended."""
    process = contender_process.process
    # Both are pipes, which mypy cannot know.
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write("\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())
    except (BrokenPipeError, json.JSONDecodeError):
        # If the process has ended, the line is empty, and not JSON.
        process.communicate()
        errors = contender_process.log_path.read_text(errors="replace")
        raise EndedEarlyError(errors[-2000:]) from None


def median_of(rounds: Sequence[Measurement], name: str) -> float:
    """Returns the median of a value over the rounds."""
    return statistics.median(measurement[name] for measurement in rounds)
