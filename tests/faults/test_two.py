"""Two processes on one run: a second trainer is refused, and readers always see a whole checkpoint."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import config
from vae import runs

ROOT = Path(config.__file__).parent


@pytest.fixture
def start(tmp_path):
    """A function that starts a script on a run below tmp_path. Processes that still run at the end are killed."""
    processes = []

    def start_script(name, *argv):
        command = [sys.executable, str(ROOT / f"{name}.py"), "--dataset", "digits", "--hidden_size", "16", *argv]
        command += ["--checkpoints_dir", str(tmp_path / "checkpoints"), "--pictures_dir", str(tmp_path / "pictures")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        processes.append(process)
        return process

    yield start_script
    for process in processes:
        process.kill()
        process.communicate()


def wait_for_checkpoint(checkpoints_dir):
    """Waits until the one run in checkpoints_dir has a checkpoint, and returns the run's folder."""
    while not runs.trained(checkpoints_dir):
        time.sleep(0.1)
    (run,) = runs.trained(checkpoints_dir)
    return run


@pytest.mark.parametrize(("option", "num_replaced"), [("--restore", 0), ("--overwrite", 1)])
def test_a_second_trainer_is_refused_at_once_and_a_killed_one_leaves_no_lock(option, num_replaced, start, tmp_path):
    first = start("train", "--num_epochs", "1000000")
    run = wait_for_checkpoint(tmp_path / "checkpoints")
    second = start("train", "--num_epochs", "1000000", option)
    _, stderr = second.communicate(timeout=60)
    assert second.returncode == 1
    assert "another process is training in" in stderr
    assert stderr.count("\n") == 1
    assert runs.trained(tmp_path / "checkpoints" / "replaced") == []

    first.send_signal(signal.SIGKILL)
    first.communicate()
    epoch = runs.saved_epoch(run)
    third = start("train", "--num_epochs", str(epoch + 1), option)
    _, stderr = third.communicate(timeout=120)
    assert third.returncode == 0, stderr
    assert runs.saved_epoch(run) == epoch + 1
    replaced = runs.trained(tmp_path / "checkpoints" / "replaced")
    assert [runs.saved_epoch(folder) for folder in replaced] == [epoch] * num_replaced


def test_readers_see_whole_checkpoints_while_a_model_trains(start, tmp_path):
    """The trainer saves several times a second, so that it removes checkpoints while they are being read."""
    trainer = start("train", "--num_epochs", "1000000")
    run = wait_for_checkpoint(tmp_path / "checkpoints")
    first_epoch = runs.saved_epoch(run)
    for _ in range(6):
        readers = [start(name) for name in ("make_pictures", "plot_singular_values")]
        for reader in readers:
            _, stderr = reader.communicate(timeout=120)
            assert reader.returncode == 0, stderr
    assert trainer.poll() is None
    assert runs.saved_epoch(run) > first_epoch + 10 * 3
