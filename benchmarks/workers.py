"""Compares two workers, a core each, with one process on one core and with one on both. Linux, two cores.

This part alone: python -m benchmarks.workers.
"""

import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cli
from benchmarks.compare import column, median_ratio
from benchmarks.rounds import ROUNDS, Measurement, prepare_environment
from config import Config
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


COLUMNS = (
    "model",
    "processes",
    "milliseconds per step",
    "relative to 1 core",
    "CPU milliseconds per step",
    "relative to 1 core",
)


@cli.script
def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints this section alone."""
    cli.parse_args(argv, __doc__, flags=())
    prepare_environment()
    print(section())


def section() -> str:
    """Returns the section on several workers."""
    rows = []
    for name, (vae_type, precision) in MODELS.items():
        rows += make_rows(name, measure(vae_type, precision))
    return "\n\n".join(
        [
            "## Several workers",
            f"Steps of {Config().batch_size} images, on one machine. The three set-ups take turns for {ROUNDS} rounds. "
            "Milliseconds are medians over the rounds, and ratios are medians of the ratios within each round. The CPU "
            "time is that of the first process.",
            format_table(COLUMNS, rows),
        ]
    )


def measure(vae_type: str, precision: str) -> dict[str, list[Measurement]]:
    """Returns the measurements of all rounds, by the names of the SETUPS."""
    rounds: dict[str, list[Measurement]] = {setup.name: [] for setup in SETUPS}
    for _ in range(ROUNDS):
        for setup in SETUPS:
            measurement = run(setup, vae_type, precision)
            print(f"{vae_type} {precision}, {setup.name}: {measurement}", file=sys.stderr, flush=True)
            rounds[setup.name].append(measurement)
    return rounds


def make_rows(name: str, rounds: dict[str, list[Measurement]]) -> list[list[str]]:
    """Returns a row for each of the SETUPS, for a model with this name."""
    one_core = rounds[SETUPS[0].name]
    rows = []
    for setup_name, measurements in rounds.items():
        row = [name, setup_name]
        for key in ("seconds", "processor_seconds"):
            values = column(measurements, key)
            row.append(f"{statistics.median(values) * 1e3:.1f}")
            row.append(f"{median_ratio(values, column(one_core, key)):.2f}")
        rows.append(row)
    return rows


def run(setup: Setup, vae_type: str, precision: str) -> Measurement:
    """Returns what the first process of a setup measured. Raises ChildProcessError if a process fails."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(len(setup.cores))]
    with contextlib.ExitStack() as stack:
        processes = []
        for index, cores in enumerate(setup.cores):
            task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            command = ["taskset", "-c", cores, sys.executable, "-m", "benchmarks.replicas", vae_type, precision]
            environment = os.environ | {"TF_CONFIG": json.dumps(task)}
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
            stack.callback(process.wait)
            stack.callback(process.kill)
            processes.append(process)
        outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise ChildProcessError(f"{setup.name} failed: the messages are above")
    return json.loads(outputs[0])


def free_ports(count: int) -> list[int]:
    """Returns the numbers of ports that are free on this machine."""
    with contextlib.ExitStack() as stack:
        # All of them are taken before the first is given back, so that they differ.
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [plain_socket.getsockname()[1] for plain_socket in sockets]


if __name__ == "__main__":
    sys.exit(main())
