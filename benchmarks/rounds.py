"""Starts contenders as processes, and lets them train in turn, round after round."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
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
# Without them, the other libraries run with their defaults, and this project with what vae/__init__.py sets.
TUNING_VARIABLES = ("OPENBLAS_", "OMP_", "MKL_", "XLA_", "TF_", "PYTHONDONTWRITEBYTECODE")

# What a contender measured in one turn: names and values.
Measurement = dict[str, float]


class Contender(NamedTuple):
    """A module that is started as a process, and the kind of training it does. benchmarks/turns.py has the rules."""

    name: str
    module: str
    kind: str


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
    """The measurements of each contender, by its name, from the rounds that count.

    Only one contender works at a time, and each round begins with a different one. A contender that fails is left out.
    `options` are further arguments for every contender.
    """
    measurements: dict[str, list[Measurement]] = {contender.name: [] for contender in contenders}
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        images_path = Path(scratch, "images.npy")
        np.save(images_path, images)
        processes = {}
        for contender in contenders:
            process = start(contender, [str(images_path), *options])
            # At the end, this closes the standard input of the process, which ends the process, and waits for it.
            processes[contender.name] = stack.enter_context(process)
        order = deque(processes)
        for _ in range(WARM_UPS + ROUNDS):
            for name in tuple(order):
                measurement = give_turn(processes[name])
                if measurement is None:
                    print(f"{name} ended early and is left out", file=sys.stderr)
                    order.remove(name)
                    del measurements[name]
                    continue
                print(f"{name}: {measurement}", file=sys.stderr, flush=True)
                measurements[name].append(measurement)
                time.sleep(PAUSE)
            order.rotate(-1)
    return {name: measured[WARM_UPS:] for name, measured in measurements.items()}


def start(contender: Contender, arguments: Sequence[str]) -> subprocess.Popen[str]:
    """The process of a contender, which waits for its first turn. Its errors go where those of this process go."""
    return subprocess.Popen(
        [sys.executable, "-m", contender.module, contender.kind, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def give_turn(process: subprocess.Popen[str]) -> Measurement | None:
    """Lets a contender work for one turn; returns what it measured, or None if its process has ended."""
    # Both are pipes, which mypy cannot know.
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write("\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except BrokenPipeError:
        line = ""
    if line == "":
        # This closes the pipes, and ignores the error that the other end is closed.
        process.communicate()
        return None
    return json.loads(line)
