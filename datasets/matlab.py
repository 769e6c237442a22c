"""Reads MATLAB files with SciPy in a separate process, because damaged bytes can make SciPy's reader crash."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.base import DataError, last_line

READER = Path(__file__).with_name("matlab_reader.py")
# The number of seconds after which a file counts as damaged.
TIMEOUT = 600


def read_mat_file(path: Path, names: Sequence[str]) -> list[np.ndarray]:
    """Returns the arrays with these names from a MATLAB file.

    Raises DataError if the file cannot be read, lacks one of the arrays, or needs more than 4 GB of memory.
    """
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch, "arrays.npz")
        try:
            _run_reader(path, result, names)
            with np.load(result, allow_pickle=False) as arrays:
                return [arrays[name] for name in names]
        except Exception as error:
            # NumPy raises errors of many kinds when it reads an incomplete result.
            raise DataError(f"{path} cannot be read as a MATLAB file with {' and '.join(names)}: {error}") from None


def _run_reader(path: Path, result: Path, names: Sequence[str]) -> None:
    """Runs matlab_reader.py. Raises ValueError with the last line it printed, or its exit code, if it fails."""
    # -P keeps the folder of matlab_reader.py out of the places where Python looks for modules.
    command = [sys.executable, "-P", str(READER), str(path), str(result), *names]
    # Each OpenBLAS thread would use part of the 4 GB.
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    completed = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=TIMEOUT)
    if completed.returncode:
        raise ValueError(last_line(completed.stderr, default=f"exit code {completed.returncode}"))
