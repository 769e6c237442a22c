"""A disk that fills up, and files without permission to read: one error line, exit code 1, and nothing is lost.

No half-written file gets its final name.
"""

import ctypes
import errno
import io
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import saved
from injection import DIGITS, in_child, only_run, run_script, saved_up_to_checkpoint
from PIL import Image

import config
import evaluate
import make_pictures
import train
from datasets import base
from vae import runs
from vae.evaluation import Metrics

ROOT = Path(config.__file__).parent
# The limit decides what is too large: config.json, the checkpoint or the learning curves.
TOO_SMALL = [0, 100, 400, 600, 2000, 5000, 20_000, 50_000]
# With this limit, nothing is too large.
ENOUGH = 100_000
SIZES = [*TOO_SMALL, ENOUGH]


@pytest.fixture
def trained(tmp_path):
    """A folder with a run of one epoch."""
    assert in_child(run_script, train.main, tmp_path, *DIGITS, "--num_epochs", "1") == 0
    return tmp_path


def run_prepared(prepare, function, *args):
    """Runs prepare() and function(*args) in a child process. Returns the exit code and what it wrote to stderr."""
    reader, writer = os.pipe()

    def run():
        # A pipe and a device in place of pytest's streams, which are files, and have the limits of files.
        sys.stderr = open(writer, "w", buffering=1, encoding="utf-8")
        sys.stdout = open(os.devnull, "w", encoding="utf-8")
        prepare()
        return function(*args)

    exit_code = in_child(run)
    os.close(writer)
    with open(reader, encoding="utf-8") as file:
        return exit_code, file.read()


def run_on_full_disk(size, function, *args):
    """Runs function(*args) in a child process whose files are limited to `size` bytes, as a disk that fills up does.

    Returns the exit code and what it wrote to stderr.
    """

    def limit_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    return run_prepared(limit_files, function, *args)


def check_exit(exit_code, stderr, size):
    """Checks that a script succeeded if the limit is large enough, and failed with one error in a few lines if not."""
    if size == ENOUGH:
        assert (exit_code, stderr) == (0, "")
        return
    assert exit_code == 1, stderr
    assert stderr.count("error: ") == 1, stderr
    assert stderr.count("\n") <= 3, stderr
    assert "File too large" in stderr
    assert "Traceback" not in stderr
    assert "function_node" not in stderr


def check_whole(run):
    """Checks that a run can be restored, and has no half-written files."""
    assert runs.read_config(run)
    assert in_child(lambda: runs.restore(run) is None) == 0
    assert temporary_files(run) == []


def temporary_files(run):
    return [path for path in run.iterdir() if path.name.endswith(".tmp")]


@pytest.mark.parametrize("size", SIZES)
def test_training_on_a_full_disk_keeps_the_last_good_model(size, trained):
    run = only_run(trained)
    before = saved_up_to_checkpoint(run)
    argv = [*DIGITS, "--restore", "True", "--num_epochs", "3"]
    exit_code, stderr = run_on_full_disk(size, run_script, train.main, trained, *argv)
    check_exit(exit_code, stderr, size)
    check_whole(run)
    if size == ENOUGH:
        assert runs.saved_epoch(run) == 3
    if runs.saved_epoch(run) == 1:
        assert saved_up_to_checkpoint(run) == before


@pytest.mark.parametrize("size", SIZES)
def test_overwriting_on_a_full_disk_keeps_the_earlier_model(size, trained):
    run = only_run(trained)
    before = saved(run)
    argv = [*DIGITS, "--overwrite", "--num_epochs", "3"]
    exit_code, stderr = run_on_full_disk(size, run_script, train.main, trained, *argv)
    check_exit(exit_code, stderr, size)
    (replaced,) = runs.trained(trained / "checkpoints" / "replaced")
    assert saved(replaced) == before
    check_whole(replaced)
    # Without its config.json, nothing is in the new run's folder, and then the folder is removed.
    assert run.exists() == ("config.json" not in stderr)
    if run.exists():
        assert temporary_files(run) == []
    if size == ENOUGH:
        assert runs.saved_epoch(run) == 3
    if runs.saved_epoch(run) > 0:
        check_whole(run)
    if runs.saved_epoch(run) == 1:
        assert saved_up_to_checkpoint(run) == before


def contents(folder):
    """Returns the bytes of all files below a folder, by path."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("main", "options"),
    [(evaluate.main, ["--num_samples", "2"]), (make_pictures.main, [])],
    ids=["evaluate", "make_pictures"],
)
def test_metrics_and_pictures_on_a_full_disk_stay_as_they_were(main, options, trained):
    assert in_child(run_script, main, trained, *DIGITS, *options) == 0
    before = contents(trained)
    exit_code, stderr = run_on_full_disk(100, run_script, main, trained, *DIGITS, *options)
    assert exit_code == 1
    assert "could not write" in stderr
    assert "File too large" in stderr
    assert "Traceback" not in stderr
    assert contents(trained) == before
    if main is evaluate.main:
        assert Metrics.read(only_run(trained)).num_samples == 2
    pictures = [content for path, content in before.items() if path.suffix == ".png"]
    assert pictures
    for content in pictures:
        with Image.open(io.BytesIO(content)) as image:
            image.load()


def test_without_room_for_a_cache_the_data_is_still_loaded(tmp_path):
    train_images, test_images = np.random.default_rng(0).integers(0, 256, (2, 50, 8, 8, 1), dtype=np.uint8)
    dataset = base.Dataset("x", train_images, test_images)

    def load():
        path = tmp_path / "x.npz"
        loaded = base.cached(
            "x", path, lambda: (dataset, []), False, image_shape=(8, 8, 1), is_published=lambda dataset: True
        )
        assert np.array_equal(loaded.train_images, train_images)

    exit_code, stderr = run_on_full_disk(1000, load)
    assert exit_code == 0, stderr
    assert "the decoded data was not cached" in stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB. Only root can mount it."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("there is no right to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_training_on_a_full_file_system_keeps_the_last_good_model(small_disk):
    def run_train(*argv):
        paths = ["--checkpoints_dir", small_disk / "checkpoints", "--pictures_dir", small_disk / "pictures"]
        command = [sys.executable, ROOT / "train.py", *DIGITS, *paths, *argv]
        return subprocess.run(list(map(str, command)), capture_output=True, text=True)

    assert run_train("--num_epochs", "1").returncode == 0
    run = only_run(small_disk)
    before = saved_up_to_checkpoint(run)
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError) as caught:
        while True:
            file.write(bytes(4096))
    assert caught.value.errno == errno.ENOSPC

    failed = run_train("--num_epochs", "30", "--restore", "True")
    assert failed.returncode == 1
    assert failed.stderr.count("\n") <= 2, failed.stderr
    assert "error: " in failed.stderr
    assert "Traceback" not in failed.stderr
    assert "function_node" not in failed.stderr
    assert saved_up_to_checkpoint(run) == before
    assert temporary_files(run) == []

    filler.unlink()
    assert run_train("--num_epochs", "30", "--restore", "True").returncode == 0


@pytest.mark.parametrize(
    ("main", "options"),
    [(train.main, ["--restore", "True"]), (train.main, []), (make_pictures.main, [])],
    ids=["restore", "train", "make_pictures"],
)
@pytest.mark.parametrize("name", [".", "epoch-2.index", "epoch-2.data-00000-of-00001", "config.json"])
def test_files_without_permission_to_read_are_named_and_left_alone(name, main, options, trained):
    """The checkpoint of epoch 1 is no way out: the newer one may be whole."""
    assert in_child(run_script, train.main, trained, *DIGITS, "--num_epochs", "2", "--restore") == 0
    run = only_run(trained)
    before = saved_up_to_checkpoint(run)
    mode = (run / name).stat().st_mode
    (run / name).chmod(0)
    try:
        exit_code, stderr = run_prepared(give_up_the_rights_of_root, run_script, main, trained, *DIGITS, *options)
    finally:
        (run / name).chmod(mode)
    assert exit_code == 1
    assert "Traceback" not in stderr
    assert str(run) in stderr
    if name != "." and (options or main is make_pictures.main):
        assert name in stderr
    assert saved_up_to_checkpoint(run) == before
    assert not list(run.glob("damaged-*"))


def give_up_the_rights_of_root():
    """Gives up all capabilities of this thread (man 2 capset). Root may read any file with them, but not without."""
    version_3_of_this_thread = (ctypes.c_uint32 * 2)(0x20080522, 0)
    no_capabilities = (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capset(version_3_of_this_thread, no_capabilities) == 0
