"""The project's parsers against damaged and made-up bytes: whatever comes, an array or the project's own DataError."""

import faulthandler
import gzip
import io
import itertools
import os
import pickle
import random
import signal
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
from conftest import idx
from injection import in_child
from scipy.io import savemat

from datasets import DataError, base, cifar10, frey_faces, mnist, svhn

INPUTS, MAT_INPUTS = 100_000, 2000


def mutants(whole, count):
    """`count` inputs: a tenth noise, the others `whole` with places overwritten, cut off or lengthened."""
    chance = random.Random(0)
    for _ in range(count):
        content = bytearray(chance.randbytes(chance.randrange(100)) if chance.random() < 0.1 else whole)
        for _ in range(chance.randrange(7) if content else 0):
            new = chance.choice((b"\0", b"\xff", b"\xff\xff\xff\xff", chance.randbytes(chance.randint(1, 8))))
            place = chance.randrange(len(content))
            content[place : place + len(new)] = new
        if chance.random() < 0.2:
            del content[chance.randint(0, len(content)) :]
        yield bytes(content) + (chance.randbytes(chance.randrange(9)) if chance.random() < 0.2 else b"")


@pytest.fixture
def scratch():
    """A folder in memory where there is one: each input is a file."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        yield Path(folder)


def check(parse, content, path=None):
    """Nothing but an answer or a DataError comes of it (parse takes the bytes, or a file of them)."""
    try:
        if path is None:
            return parse(content)
        path.write_bytes(content)
        return parse(path)
    except DataError as error:
        assert str(error)


SMALL = idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))


@pytest.mark.parametrize("name", ["a", "a.gz"])
def test_idx(name, scratch):
    for content in mutants(SMALL if name == "a" else gzip.compress(SMALL), INPUTS):
        array = check(mnist.read_idx, content, scratch / name)
        assert array is None or array.dtype == np.uint8


def test_cifar10_batch():
    for content in mutants((bytes([7]) + bytes(3072)) * 2, INPUTS):
        got = check(lambda content: cifar10.parse_batch(content, "here"), content)
        assert got is None or (got[0].shape[1:] == (32, 32, 3) and got[1].max() <= 9)


def test_cifar10_archive(scratch):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for file in cifar10.BATCHES:
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{file.name}")
            member.size = 3
            archive.addfile(member, io.BytesIO(b"abc"))
    headers = packed.getvalue()[: 12 * 512 + 1024]  # without the padding at its end
    for content in mutants(headers, INPUTS):
        got = check(cifar10._read_archive, gzip.compress(content, 0), scratch / "a.tar.gz")
        assert got is None or len(got) == 6


def test_pickle(scratch, monkeypatch):
    monkeypatch.setattr(frey_faces, "NUM_FRAMES", 2)
    for content in mutants(pickle.dumps([np.zeros((2, 560), np.uint8)], protocol=2), INPUTS):
        got = check(frey_faces.read_pkl, content, scratch / "a.pkl")
        assert got is None or got.shape == (2, 560)


def test_cache(scratch):
    whole = io.BytesIO()
    facts = '{"verified": true, "sources": {}, "arrays": ["train_images", "test_images"]}'
    np.savez(whole, facts=facts, train_images=np.zeros((2, 2, 2, 1), np.uint8), test_images=np.zeros((1, 2, 2, 1)))
    for content in mutants(whole.getvalue(), INPUTS):
        got = check(lambda path: base._read_cache("x", path, False), content, scratch / "a.npz")
        assert got is None or isinstance(got, base.Dataset)


@pytest.mark.parametrize("name", ["X", "ff"])
def test_mat(name, scratch):
    """What runs in a process of its own, run in forks: it ends well, or in an error, or crashes, and nothing hangs."""
    whole, rng, codes = io.BytesIO(), np.random.default_rng(0), []
    shape = {"X": (32, 32, 3, 2), "ff": (56, 196)}[name]
    savemat(whole, {name: rng.integers(0, 9, shape, dtype=np.uint8)}, do_compression=name == "X")
    for content in mutants(whole.getvalue(), MAT_INPUTS):
        (scratch / "a.mat").write_bytes(content)
        codes.append(in_child(read_mat, scratch / "a.mat", scratch / "a.npz", name))
    print({code: codes.count(code) for code in set(codes)})
    for content in itertools.islice(mutants(whole.getvalue(), MAT_INPUTS), 30):
        check(lambda path: base.read_mat_file(path, (name,)), content, scratch / "a.mat")
    assert set(codes) <= {0, 1, -signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGFPE}


def read_mat(path, result, name):
    sys.argv[1:] = [str(path), str(result), name]
    faulthandler.disable()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    signal.alarm(10)
    try:
        exec(base.MAT_READER, {})
    except Exception:
        return 1


@pytest.mark.parametrize(
    "code", ["import os; os.abort()", "raise MemoryError", "pass", "import sys; open(sys.argv[2], 'w')"]
)
def test_a_reader_that_crashes_or_leaves_nothing_is_a_damaged_file(code, tmp_path, monkeypatch):
    monkeypatch.setattr(base, "MAT_READER", code)
    with pytest.raises(DataError, match=r"a\.mat cannot be read as a MATLAB file with X and y: "):
        svhn.read_mat(tmp_path / "a.mat")
