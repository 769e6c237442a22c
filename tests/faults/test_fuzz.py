"""The project's parsers with damaged and random bytes: each must return what it promises or raise DataError."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from datasets import own

ROOT = Path(__file__).parents[2]
INPUTS = 100_000

PARSERS = ["idx", "idx.gz", "cifar10_batch", "cifar10_archive", "cache", "npz", "npy"]
PARSERS += [name.lower() for name in own.FORMATS]


@pytest.mark.parametrize("name", PARSERS)
def test_a_parser_returns_what_it_promises_or_raises_data_error(name):
    pytest.importorskip("atheris")
    # A folder in memory, if there is one.
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        command = [sys.executable, Path(__file__).with_name("fuzz.py"), name, str(INPUTS), folder]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
        completed = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert completed.returncode == 0, completed.stderr[-3000:]
    assert f"Done {INPUTS} runs" in completed.stderr, completed.stderr[-3000:]
