"""The project's parsers with damaged and random bytes: each must return what it promises or raise DataError."""

import contextlib
import faulthandler
import io
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from injection import in_child
from scipy.io import savemat

from datasets import DataError, matlab, matlab_reader, own, svhn

ROOT = Path(__file__).parents[2]
INPUTS = 100_000
MAT_INPUTS = 2000


def mutants(whole, count):
    """Yields `count` inputs: a tenth are random bytes, the others are `whole`, overwritten, cut off or lengthened."""
    chance = random.Random(0)
    for _ in range(count):
        content = bytearray(whole)
        if chance.random() < 0.1:
            content = bytearray(chance.randbytes(chance.randrange(100)))
        num_changes = chance.randrange(7) if content else 0
        for _ in range(num_changes):
            new = chance.choice((b"\0", b"\xff", b"\xff\xff\xff\xff", chance.randbytes(chance.randint(1, 8))))
            place = chance.randrange(len(content))
            content[place : place + len(new)] = new
        if chance.random() < 0.2:
            del content[chance.randint(0, len(content)) :]
        if chance.random() < 0.2:
            content += chance.randbytes(chance.randrange(9))
        yield bytes(content)


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


@pytest.mark.parametrize("name", ["X", "ff"])
def test_the_program_that_reads_matlab_files_may_fail_or_crash_but_never_hangs(name, tmp_path):
    """It runs in forks here."""
    shape = {"X": (32, 32, 3, 2), "ff": (56, 196)}[name]
    array = np.random.default_rng(0).integers(0, 9, shape, dtype=np.uint8)
    whole = io.BytesIO()
    savemat(whole, {name: array}, do_compression=name == "X")
    file = tmp_path / "a.mat"
    result = tmp_path / "a.npz"
    codes = []
    for content in mutants(whole.getvalue(), MAT_INPUTS):
        file.write_bytes(content)
        codes.append(in_child(read_mat, file, result, name))
    for content in itertools.islice(mutants(whole.getvalue(), MAT_INPUTS), 30):
        file.write_bytes(content)
        with contextlib.suppress(DataError):
            matlab.read_mat_file(file, (name,))
    assert set(codes) <= {0, 1, -signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGFPE}


def read_mat(path, result, name):
    sys.argv[1:] = [str(path), str(result), name]
    faulthandler.disable()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    signal.alarm(10)
    try:
        matlab_reader.main()
    except Exception:
        return 1


@pytest.mark.parametrize(
    "code", ["import os; os.abort()", "raise MemoryError", "pass", "import sys; open(sys.argv[2], 'w')"]
)
def test_a_reader_that_crashes_or_leaves_nothing_is_a_damaged_file(code, tmp_path, monkeypatch):
    reader = tmp_path / "reader.py"
    reader.write_text(code)
    monkeypatch.setattr(matlab, "READER", reader)
    with pytest.raises(DataError, match=r"a\.mat cannot be read as a MATLAB file with X and y: "):
        svhn.read_mat(tmp_path / "a.mat")
