"""Compares two workers, a core each, with one process on one core and with one on both: python -m benchmarks.workers.

Each of them is train.py, and the times are those in its history.csv. Linux, two cores.
"""

import contextlib
import csv
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.compare import median_ratio
from benchmarks.rounds import ROOT, ROUNDS, prepare_environment
from config import Config
from report.markdown import format_table

# What is trained: the flags, the shape of an image, and the steps of an epoch.
CONV3 = ("--vae_type", "conv3")
FLAT = ("--hidden_size", "500")
BFLOAT16 = ("--precision", "mixed_bfloat16")
MODELS = {
    "conv3, 32x32x3": (CONV3, (32, 32, 3), 20),
    "conv3, 32x32x3, mixed_bfloat16": ((*CONV3, *BFLOAT16), (32, 32, 3), 20),
    "H = 500": (FLAT, (28, 28, 1), 200),
    "H = 500, mixed_bfloat16": ((*FLAT, *BFLOAT16), (28, 28, 1), 200),
}
# The cores of each of the processes that train together, as taskset takes them.
SETUPS = {
    "1 process, 1 core": ("0",),
    "2 workers, a core each": ("0", "1"),
    "1 process, 2 cores": ("0,1",),
}
# The first epoch warms up, and the last one is timed.
NUM_EPOCHS = 2
BATCH_SIZE = Config().batch_size


def main() -> None:
    """Measures and prints this section alone."""
    prepare_environment()
    print(section())


def section() -> str:
    """The section on several workers."""
    rows = []
    for model in MODELS:
        seconds: dict[str, list[float]] = {setup: [] for setup in SETUPS}
        for _ in range(ROUNDS):
            for setup in SETUPS:
                seconds[setup].append(seconds_per_step(model, setup))
                print(f"{model}, {setup}: {seconds[setup][-1]:.4f} s", file=sys.stderr, flush=True)
        rows.append(make_row(model, seconds))
    return "\n\n".join(
        [
            "## Several workers",
            f"Milliseconds per step of {BATCH_SIZE} images on one machine, and in brackets the time relative to one "
            f"core. The set-ups take turns for {ROUNDS} rounds.",
            format_table(("model", *SETUPS), rows),
        ]
    )


def make_row(model: str, seconds: dict[str, list[float]]) -> list[str]:
    """A model's row. seconds: those of a step in each round, by the set-up's name; one core comes first."""
    one_core, *_ = seconds.values()
    row = [model]
    for measured in seconds.values():
        row.append(f"{statistics.median(measured) * 1e3:.1f} ({median_ratio(measured, one_core):.2f})")
    return row


def seconds_per_step(model: str, setup: str) -> float:
    """The time of a step of a model, as the first process of a set-up measures it.

    Raises CalledProcessError if a process fails.
    """
    flags, image_shape, num_steps = MODELS[model]
    cores_of_processes = SETUPS[setup]
    addresses = [f"127.0.0.1:{port}" for port in free_ports(len(cores_of_processes))]
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        images = np.random.default_rng(0).integers(0, 256, (num_steps * BATCH_SIZE, *image_shape), dtype=np.uint8)
        # Two test images take hardly any of an epoch's time.
        np.savez(f"{scratch}/random.npz", train_images=images, test_images=images[:2])
        processes = []
        for index, cores in enumerate(cores_of_processes):
            command = ["taskset", "-c", cores, sys.executable, "train.py", "--dataset", f"{scratch}/random.npz", *flags]
            command += ["--num_epochs", str(NUM_EPOCHS), f"--checkpoints_dir={scratch}", f"--pictures_dir={scratch}"]
            environment = dict(os.environ)
            if len(addresses) > 1:
                task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
                environment["TF_CONFIG"] = json.dumps(task)
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.kill)
            processes.append(process)
        for process in processes:
            if process.wait():
                raise subprocess.CalledProcessError(process.returncode, process.args)
        (history_path,) = Path(scratch).glob("*/history.csv")
        with history_path.open() as history:
            *_, last_row = csv.DictReader(history)
    return float(last_row["seconds"]) / num_steps


def free_ports(count: int) -> list[int]:
    """The numbers of ports that are free on this machine."""
    with contextlib.ExitStack() as stack:
        # All of them are taken before the first is given back, so that they differ.
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [plain_socket.getsockname()[1] for plain_socket in sockets]


if __name__ == "__main__":
    main()
