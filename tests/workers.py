"""What the tests of several workers share: free ports, TF_CONFIG, and train.py as the workers of a cluster."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.workers import free_ports

ROOT = Path(__file__).parents[1]

# A variable in the environment of every worker that this process starts, and of what that worker starts.
MARK = {"VAE_TESTS_PROCESS": str(os.getpid())}


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
            variables = os.environ | dict(environment) | MARK | {"TF_CONFIG": tf_config(ports, index, with_chief)}
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
        wait_for_all(processes)
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def wait_for_all(processes, timeout=60):
    """Checks that all processes end by themselves."""
    for process in processes:
        # Its output is read as well, since a process can only end once it has written all of it.
        process.communicate(timeout=timeout)


def running_workers():
    """Returns the ids of the processes with the MARK, whoever started them (on Linux)."""
    ((name, value),) = MARK.items()
    marked = f"{name}={value}".encode()
    process_ids = [path.name for path in Path("/proc").glob("[0-9]*")]
    return [process_id for process_id in process_ids if marked in environment_of(process_id).split(b"\0")]


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


@pytest.fixture(autouse=True)
def no_worker_is_left_behind():
    """Checks after each test of a file that imports this fixture that no process of a cluster is still running."""
    yield
    assert not running_workers()
