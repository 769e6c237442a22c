"""Compares two workers with a core each with one process on one core and on both. Linux, two cores.

This part alone: python -m benchmarks.workers.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from benchmarks.rounds import ROUNDS, Measurement
from report.markdown import format_table

ROOT = Path(__file__).parents[1]

# What is trained: the types and precisions that benchmarks/replicas.py takes, and their names in the table.
MODELS = {
    "conv3, 32x32x3": ("conv3", "float32"),
    "conv3, 32x32x3, mixed_bfloat16": ("conv3", "mixed_bfloat16"),
    "H = 500": ("flat_binarized", "float32"),
    "H = 500, mixed_bfloat16": ("flat_binarized", "mixed_bfloat16"),
}


class Setup(NamedTuple):
    """The processes that train together: the cores of each of them, as taskset takes them."""

    name: str
    cores: tuple[str, ...]


SETUPS = (
    Setup("1 process, 1 core", ("0",)),
    Setup("2 workers, a core each", ("0", "1")),
    Setup("1 process, 2 cores", ("0,1",)),
)


def section() -> str:
    """Returns the section on several workers."""
    rows = []
    for name, (vae_type, precision) in MODELS.items():
        rows.append((name, *measure(vae_type, precision)))
    columns = ["milliseconds a step (of the processor, a process)", *(setup.name for setup in SETUPS)]
    return "\n\n".join(
        [
            "## Several workers",
            f"Batch size 100, on one machine, medians of {ROUNDS} rounds in which the columns take turns. In brackets: "
            "the processor's time for a step in each process.",
            format_table(columns, rows),
        ]
    )


def measure(vae_type: str, precision: str) -> list[str]:
    """Returns the cells of a row: the median milliseconds of a step in each of the SETUPS."""
    rounds: dict[str, list[Measurement]] = {setup.name: [] for setup in SETUPS}
    for _ in range(ROUNDS):
        for setup in SETUPS:
            measurement = run(setup, vae_type, precision)
            print(f"{vae_type} {precision}, {setup.name}: {measurement}", file=sys.stderr, flush=True)
            rounds[setup.name].append(measurement)
    cells = []
    for measurements in rounds.values():
        seconds = statistics.median(measurement["seconds"] for measurement in measurements)
        processor_seconds = statistics.median(measurement["processor_seconds"] for measurement in measurements)
        cells.append(f"{seconds * 1e3:.1f} ({processor_seconds * 1e3:.1f})")
    return cells


def run(setup: Setup, vae_type: str, precision: str) -> Measurement:
    """Returns what the first process of a setup measured. Raises ChildProcessError if a process fails."""
    addresses = [f"127.0.0.1:{free_port()}" for _ in setup.cores]
    processes = []
    for index, cores in enumerate(setup.cores):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        command = ["taskset", "-c", cores, sys.executable, "-m", "benchmarks.replicas", vae_type, precision]
        environment = os.environ | {"TF_CONFIG": json.dumps(task)}
        processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True))
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise ChildProcessError(f"{setup.name} failed: the messages are above")
    return json.loads(outputs[0])


def free_port() -> int:
    """Returns the number of a port that is free on this machine."""
    with socket.create_server(("127.0.0.1", 0)) as plain_socket:
        return plain_socket.getsockname()[1]


if __name__ == "__main__":
    print(section())
