"""Runs contenders as processes that train in turn, round after round."""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).parents[1]
WARM_UPS = 1  # rounds that do not count
ROUNDS = 5  # rounds that count
PAUSE = 0.3  # seconds after a turn, in which a contender can finish preparing its next data

Report = dict[str, float]


class Contender(NamedTuple):
    """A module that is run as a process, and the kind of training it does there. benchmarks/turns.py has the rules."""

    name: str
    module: str
    kind: str


class Worker(NamedTuple):
    """The process of a contender, and the file that has its error output."""

    name: str
    process: subprocess.Popen[str]
    log_path: Path


class EndedEarlyError(Exception):
    """A contender's process ended before it reported its turn. The message is the end of its error output."""


def run_rounds(
    contenders: Sequence[Contender],
    images: np.ndarray,
    options: Sequence[str] = (),
) -> dict[str, list[Report]]:
    """Returns the reports of each contender, by its name, from the rounds that count.

    Only one contender works at a time, and each round begins with another one. If a contender fails, its errors are
    printed, and it is left out. `options` are further arguments for every contender.
    """
    with start_all(contenders, images, options) as workers:
        reports: dict[str, list[Report]] = {worker.name: [] for worker in workers}
        for round_number in range(WARM_UPS + ROUNDS):
            first = round_number % len(workers)
            for worker in workers[first:] + workers[:first]:
                try:
                    report = give_turn(worker)
                except EndedEarlyError as error:
                    print(f"{worker.name} ended early and is left out:\n{error}", file=sys.stderr)
                    workers.remove(worker)
                    del reports[worker.name]
                    continue
                print(f"{worker.name}: {report}", file=sys.stderr, flush=True)
                reports[worker.name].append(report)
                time.sleep(PAUSE)
    return {name: rounds[WARM_UPS:] for name, rounds in reports.items()}


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
            # At the end, this closes the standard input of the process and waits for it. It ends if its input does.
            stack.enter_context(worker.process)
            workers.append(worker)
        yield workers


def start(contender: Contender, arguments: Sequence[str], log_path: Path) -> Worker:
    """Starts the process of a contender, which then waits for its first turn."""
    command = [sys.executable, "-m", contender.module, contender.kind, *arguments]
    with log_path.open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    return Worker(contender.name, process, log_path)


def give_turn(worker: Worker) -> Report:
    """Lets a contender work for one turn and returns its report. Raises EndedEarlyError if there is no report."""
    process = worker.process
    assert process.stdin is not None and process.stdout is not None  # both are pipes
    try:
        process.stdin.write("\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())
    except (BrokenPipeError, json.JSONDecodeError):
        # If the process has ended, the line is empty, and not JSON.
        process.communicate()
        errors = worker.log_path.read_text(errors="replace")
        raise EndedEarlyError(errors[-2000:]) from None
