"""A disk that fills up, or files that may not be read: one line, exit code 1, the last good model intact.

And no half file under its final name.
"""

import ctypes
import errno
import io
import os
import resource
import subprocess
import sys

import numpy as np
import pytest
from conftest import saved
from injection import DIGITS, in_child, script
from PIL import Image

import config
import evaluate
import make_pictures
import train
from datasets import base
from vae import results, runs


@pytest.fixture
def trained(tmp_path):
    """A folder with a run of one epoch and its history, and that run."""
    assert in_child(script, train.main, tmp_path, *DIGITS, "--num_epochs", "1") == 0
    (run,) = runs.trained(tmp_path / "checkpoints")
    return tmp_path, run


def good(run):
    """What a run has up to its newest checkpoint; history.csv is written first and may be ahead, as after a kill."""
    tensors, history = saved(run)
    return tensors, history[: runs.saved_epoch(run)]


def limited(size, function, *args):
    """Runs function in a child whose files are limited to `size` bytes, as on a full disk: (exit code, its stderr)."""
    return heard(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY)), function, *args)


def heard(prepare, function, *args):
    """Runs prepare() and function(*args) in a child: (exit code, its stderr)."""
    reader, writer = os.pipe()

    def run():
        sys.stderr = open(writer, "w", buffering=1, encoding="utf-8")  # not pytest's, which are files
        sys.stdout = open(os.devnull, "w", encoding="utf-8")
        prepare()
        return function(*args)

    code = in_child(run)
    os.close(writer)
    with open(reader, encoding="utf-8") as file:
        return code, file.read()


@pytest.mark.parametrize("size", [0, 100, 400, 600, 2000, 5000, 20_000, 50_000, 100_000])
def test_training_on_a_disk_that_fills_up_keeps_the_last_good_model(size, trained):
    """By the limit it is config.json, history.csv, the checkpoint or the picture that does not fit."""
    folder, run = trained
    before = good(run)
    for argv in (["--restore", "True", "--num_epochs", "3"], ["--overwrite", "--num_epochs", "3"]):
        code, text = limited(size, script, train.main, folder, *DIGITS, *argv)
        assert code in (0, 1), text
        if code:
            assert text.count("error: ") == 1 and text.count("\n") <= 3 and "Traceback" not in text, text
            if runs.saved_epoch(run) == 1:
                assert good(run) == before
        assert runs.read_facts(run) and in_child(lambda: runs.restore(run) is None) == 0
        assert not [path for path in run.iterdir() if path.name.endswith(".tmp")]


@pytest.mark.parametrize(("main", "extra"), [(evaluate.main, ["--num_samples", "2"]), (make_pictures.main, [])])
def test_metrics_and_pictures_on_a_full_disk_leave_what_was_there(main, extra, trained):
    folder, run = trained
    assert in_child(script, main, folder, *DIGITS, *extra) == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert any(path.suffix == ".png" for path in before)
    code, text = limited(100, script, main, folder, *DIGITS, *extra)
    assert code == 1 and "could not write" in text and "File too large" in text and "Traceback" not in text
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert results.read_metrics(run) is not None
    for path in before:
        if path.suffix == ".png":
            Image.open(io.BytesIO(before[path])).load()


def test_a_cache_on_a_full_disk_is_done_without(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2, 50, 8, 8, 1), dtype=np.uint8)

    def load():
        got = base.cached("x", tmp_path / "x.npz", lambda: (base.Dataset("x", images[0], images[1]), []), False)
        return 0 if np.array_equal(got.train_images, images[0]) else 3

    code, text = limited(1000, load)
    assert code == 0 and "no cache of the decoded data" in text and list(tmp_path.iterdir()) == []


def test_a_full_file_system(tmp_path):
    """The real thing: a file system of 1 MB, which needs root to be mounted."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], capture_output=True).returncode:
        pytest.skip("no right to mount a small file system")
    try:
        command = [sys.executable, str(config.__file__).replace("config.py", "train.py"), *DIGITS]
        command += ["--checkpoints_dir", str(folder / "runs"), "--pictures_dir", str(folder / "pictures")]
        command += ["--num_epochs", "1"]
        assert subprocess.run(command, capture_output=True).returncode == 0
        (run,) = runs.trained(folder / "runs")
        before = good(run)
        with (folder / "filler").open("wb", buffering=0) as file, pytest.raises(OSError) as caught:
            while True:
                file.write(bytes(4096))
        assert caught.value.errno == errno.ENOSPC
        done = subprocess.run([*command[:-1], "30", "--restore", "True"], capture_output=True, text=True)
        assert done.returncode == 1 and done.stderr.count("\n") <= 2 and "error: " in done.stderr, done.stderr
        assert "Traceback" not in done.stderr and good(run) == before
        assert not [path for path in run.iterdir() if path.name.endswith(".tmp")]
        (folder / "filler").unlink()
        assert subprocess.run([*command[:-1], "30", "--restore", "True"], capture_output=True).returncode == 0
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("argv", [(train.main, "--restore", "True"), (train.main,), (make_pictures.main,)])
@pytest.mark.parametrize("name", [".", "epoch-1.index", "config.json"])
def test_what_may_not_be_read_is_named_and_left_alone(name, argv, trained):
    folder, run = trained
    before, mode = good(run), (run / name).stat().st_mode
    (run / name).chmod(0)
    try:
        code, text = heard(give_up_the_rights_of_root, script, argv[0], folder, *DIGITS, *argv[1:])
    finally:
        (run / name).chmod(mode)
    assert code == 1 and "Traceback" not in text and str(run) in text
    assert good(run) == before


def give_up_the_rights_of_root():
    """Root may read anything; without its capabilities it may read what any other user may (man 2 capset)."""
    version_3_this_thread, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capset(version_3_this_thread, nothing) == 0
