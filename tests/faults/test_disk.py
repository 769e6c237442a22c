"""A disk that fills up, and files without permission to read: one error line, exit code 1, and nothing is lost.

No half-written file gets its final name.
"""

import ctypes
import errno
import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, saved
from injection import DIGITS, folders_below, in_child, limit_files, only_run, run_script, saved_up_to_checkpoint

import datasets
import evaluate
import make_pictures
import train
from vae import runs

# Files of this size hold everything.
ENOUGH = 100_000
# The limits of size, and what does not fit.
SIZES = {0: "config.json", 300: "config.json", 2000: "epoch-", 20_000: "epoch-", 40_000: "learning_curves", ENOUGH: ""}


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
    """Does the same, with files that are limited to `size` bytes."""
    return run_prepared(lambda: limit_files(size), function, *args)


def temporary_files(folder):
    return list(folder.rglob(".*.tmp"))


@pytest.mark.parametrize("option", ["--restore", "--overwrite"])
@pytest.mark.parametrize("size", SIZES)
def test_training_on_a_full_disk_keeps_the_last_good_model(size, option, trained):
    run = only_run(trained)
    before = saved(run)
    argv = [*DIGITS, option, "--num_epochs", "2"]
    exit_code, stderr = run_on_full_disk(size, run_script, train.main, trained, *argv)
    if size == ENOUGH:
        assert exit_code == 0, stderr
    else:
        assert exit_code == 1, stderr
        assert stderr.count("error: could not write ") == 1, stderr
        assert stderr.count("\n") <= 2, stderr
        assert SIZES[size] in stderr
        assert "File too large" in stderr
    assert temporary_files(trained) == []

    is_saved = SIZES[size] in ("learning_curves", "")
    if option == "--overwrite":
        (replaced,) = runs.trained_folders(trained / "checkpoints" / "replaced")
        assert saved(replaced) == before
        # Without its config.json, nothing is in the new run's folder, and then the folder is removed.
        assert run.exists() == (SIZES[size] != "config.json")
    elif not is_saved:
        assert saved_up_to_checkpoint(run) == before
    if is_saved:
        assert runs.saved_epoch(run) == 2
        assert in_child(run_script, train.main, trained, *DIGITS, "--restore", "--num_epochs", "3") == 0


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
    assert "error: could not write " in stderr
    assert "File too large" in stderr
    assert stderr.count("\n") == 1
    assert contents(trained) == before


def contents(folder):
    """The bytes of all files below a folder, by path."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_without_room_for_a_cache_the_data_is_still_loaded(tmp_path, small_data):
    shutil.copytree(small_data / "mnist", tmp_path / "mnist")
    before = contents(tmp_path)

    def load():
        assert len(datasets.load("mnist", tmp_path, allow_unverified=True).train_images) == 300

    exit_code, stderr = run_on_full_disk(1000, load)
    assert exit_code == 0, stderr
    assert "the decoded data was not cached" in stderr
    assert contents(tmp_path) == before


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
        command = [sys.executable, ROOT / "train.py", *DIGITS, *folders_below(small_disk), *argv]
        return subprocess.run(command, capture_output=True, text=True)

    assert run_train("--num_epochs", "1").returncode == 0
    run = only_run(small_disk)
    before = saved_up_to_checkpoint(run)
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError) as caught:
        while True:
            file.write(bytes(4096))
    assert caught.value.errno == errno.ENOSPC

    failed = run_train("--num_epochs", "30", "--restore")
    assert failed.returncode == 1
    assert failed.stderr.count("error: ") == 1, failed.stderr
    assert "Traceback" not in failed.stderr
    assert saved_up_to_checkpoint(run) == before
    assert temporary_files(run) == []

    filler.unlink()
    assert run_train("--num_epochs", "30", "--restore").returncode == 0


RESTORE = (train.main, "--restore")
DRAW = (make_pictures.main,)


@pytest.mark.parametrize(
    ("name", "script"),
    [
        *((".", RESTORE), (".", (train.main,)), (".", DRAW)),
        *(("epoch-2.npz", RESTORE), ("epoch-2.npz", DRAW), ("config.json", RESTORE), ("history.csv", RESTORE)),
    ],
)
def test_files_without_permission_to_read_are_named_and_left_alone(name, script, trained):
    """The checkpoint of epoch 1 is no way out: the newer one may be whole."""
    assert in_child(run_script, train.main, trained, *DIGITS, "--num_epochs", "2", "--restore") == 0
    before = contents(trained)
    path = only_run(trained) / name
    mode = path.stat().st_mode
    main, *options = script
    path.chmod(0)
    try:
        argv = [*DIGITS, *options, "--num_epochs", "3"]
        exit_code, stderr = run_prepared(give_up_the_rights_of_root, run_script, main, trained, *argv)
    finally:
        path.chmod(mode)
    assert exit_code == 1
    assert "Traceback" not in stderr
    assert str(path) in stderr
    assert contents(trained) == before


def give_up_the_rights_of_root():
    """Gives up all capabilities of this thread (man 2 capset). Root may read any file with them, but not without."""
    version_3_of_this_thread = (ctypes.c_uint32 * 2)(0x20080522, 0)
    no_capabilities = (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capset(version_3_of_this_thread, no_capabilities) == 0
