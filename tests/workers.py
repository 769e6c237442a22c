"""What the tests of several workers share: free ports, TF_CONFIG, and train.py as the workers of a cluster."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.workers import free_ports

ROOT = Path(__file__).parents[1]


def tf_config(ports, index, with_chief=False, host="127.0.0.1"):
    """Returns TF_CONFIG for a worker of a cluster on these ports of this machine."""
    addresses = [f"{host}:{port}" for port in ports]
    jobs = {"worker": addresses}
    task = {"type": "worker", "index": index}
    if with_chief:
        jobs = {"chief": addresses[:1], "worker": addresses[1:]}
        task = {"type": "worker", "index": index - 1} if index else {"type": "chief", "index": 0}
    return json.dumps({"cluster": jobs, "task": task})


@contextlib.contextmanager
def started_workers(commands, with_chief=False, environment=()):
    """Yields the processes of a cluster, one for each command of Python. None of them is left behind."""
    ports = free_ports(len(commands))
    processes = []
    try:
        for index, command in enumerate(commands):
            variables = os.environ | dict(environment) | {"TF_CONFIG": tf_config(ports, index, with_chief)}
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                env=variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            processes.append(process)
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def running_workers():
    """Returns the ids of this process's children that have TF_CONFIG in their environment (on Linux)."""
    children = []
    for path in Path("/proc/self/task").glob("*/children"):
        children += path.read_text().split()
    return [child for child in children if b"TF_CONFIG=" in environment_of(child)]


def environment_of(process_id):
    """Returns the environment of a process, empty if the process has ended."""
    try:
        return Path(f"/proc/{process_id}/environ").read_bytes()
    except OSError:
        return b""


def endings(processes, timeout=120):
    """Waits for all processes; returns a pair for each, its exit code and its output with the errors."""
    results = []
    for process in processes:
        output, errors = process.communicate(timeout=timeout)
        results.append((process.returncode, output + errors))
    return results
