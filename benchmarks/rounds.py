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


class RunningContender(NamedTuple):
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
        in_turn = deque(started)
        measurements: dict[str, list[Measurement]] = {running.name: [] for running in in_turn}
        for _ in range(WARM_UPS + ROUNDS):
            for running in tuple(in_turn):
                try:
                    measurement = give_turn(running)
                except EndedEarlyError as error:
                    print(f"{running.name} ended early and is left out:\n{error}", file=sys.stderr)
                    in_turn.remove(running)
                    del measurements[running.name]
                else:
                    print(f"{running.name}: {measurement}", file=sys.stderr, flush=True)
                    measurements[running.name].append(measurement)
                    time.sleep(PAUSE)
            in_turn.rotate(-1)
    return {name: rounds[WARM_UPS:] for name, rounds in measurements.items()}


@contextlib.contextmanager
def start_all(
    contenders: Sequence[Contender],
    images: np.ndarray,
    options: Sequence[str],
) -> Iterator[list[RunningContender]]:
    """Starts all contenders and yields their processes. At the end, waits until they have ended."""
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        images_path = scratch / "images.npy"
        np.save(images_path, images)
        all_running = []
        for index, contender in enumerate(contenders):
            running = start(contender, [str(images_path), *options], log_path=scratch / f"{index}.log")
            # At the end, this closes the standard input of the process, which ends the process, and waits for it.
            stack.enter_context(running.process)
            all_running.append(running)
        yield all_running


def start(contender: Contender, arguments: Sequence[str], log_path: Path) -> RunningContender:
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
    return RunningContender(contender.name, process, log_path)


def give_turn(running: RunningContender) -> Measurement:
    """Lets a contender work for one turn and returns what it measured. Raises EndedEarlyError if its process ended."""
    process = running.process
    # Both are pipes, which mypy cannot know.
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write("\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())
    except (BrokenPipeError, json.JSONDecodeError):
        # If the process has ended, the line is empty, and not JSON.
        process.communicate()
        errors = running.log_path.read_text(errors="replace")
        raise EndedEarlyError(errors[-2000:]) from None


def median_of(rounds: Sequence[Measurement], name: str) -> float:
    """Returns the median of a value over the rounds."""
    return statistics.median(measurement[name] for measurement in rounds)
