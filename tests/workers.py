"""What the tests of several workers share: free ports, TF_CONFIG, and Python commands as the workers of a cluster."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def free_ports(count):
    with contextlib.ExitStack() as stack:
        # All of them are taken before the first is given back, so that they differ.
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [taken.getsockname()[1] for taken in sockets]


def tf_config(ports, index, with_chief=False):
    """TF_CONFIG for a worker of a cluster on these ports of this machine."""
    addresses = [f"127.0.0.1:{port}" for port in ports]
    jobs = {"worker": addresses}
    task = {"type": "worker", "index": index}
    if with_chief:
        jobs = {"chief": addresses[:1], "worker": addresses[1:]}
        task = {"type": "worker", "index": index - 1} if index else {"type": "chief", "index": 0}
    return json.dumps({"cluster": jobs, "task": task})


@contextlib.contextmanager
def started_workers(commands, with_chief=False, ports=None):
    """The processes of a cluster, one for each command of Python; None stands for a worker that never starts."""
    ports = ports or free_ports(len(commands))
    processes = []
    try:
        for index, command in enumerate(commands):
            if command is not None:
                environment = os.environ | {"TF_CONFIG": tf_config(ports, index, with_chief), "PYTHONPATH": str(ROOT)}
                process = subprocess.Popen(
                    [sys.executable, *command],
                    cwd=ROOT,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
                processes.append(process)
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def endings(processes):
    """The exit code of each process and what it printed, once all of them have ended by themselves."""
    outputs = [process.communicate(timeout=900)[0] for process in processes]
    return [(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]


def run_workers(commands, **options):
    with started_workers(commands, **options) as processes:
        return endings(processes)
