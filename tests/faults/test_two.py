"""Two processes on one run: a second trainer is refused, and readers always see a whole checkpoint."""

import os
import signal
import time

import numpy as np
import pytest
from injection import DIGITS, in_child, only_run, run_script, saved_epoch_below, start_child, wait_for

import make_pictures
import train
from vae import checkpoints, history, runs


@pytest.fixture
def trainer(tmp_path):
    """The process id of a trainer that has saved an epoch, and saves each further one. The test must end it."""
    child = start_child(run_script, train.main, tmp_path, *DIGITS, "--num_epochs", "1000000")
    while saved_epoch_below(tmp_path) == 0:
        time.sleep(0.1)
    return child


def kill(child):
    os.kill(child, signal.SIGKILL)
    assert wait_for(child) == -signal.SIGKILL


def test_a_second_trainer_is_refused_at_once_and_a_killed_one_leaves_no_lock(trainer, tmp_path, capfd):
    for option in ("--restore", "--overwrite"):
        capfd.readouterr()
        assert in_child(run_script, train.main, tmp_path, *DIGITS, option) == 1
        stderr = capfd.readouterr().err
        assert "another process is training in" in stderr
        assert stderr.count("\n") == 1
    kill(trainer)
    epoch = saved_epoch_below(tmp_path)
    assert in_child(run_script, train.main, tmp_path, *DIGITS, "--restore", "--num_epochs", str(epoch + 1)) == 0
    assert saved_epoch_below(tmp_path) == epoch + 1


def test_readers_see_whole_checkpoints_while_a_model_trains(trainer, tmp_path, capfd):
    """The trainer saves each epoch, so that it removes checkpoints while they are being read."""
    run = only_run(tmp_path)
    with np.load(checkpoints.path_of(run, runs.saved_epoch(run))) as content:
        shapes = {name: array.shape for name, array in content.items()}
    capfd.readouterr()
    epochs = []
    while len(epochs) < 300 or len(set(epochs)) < 30:
        epoch, arrays = checkpoints.read(run, shapes)
        assert arrays["epoch"] == epoch
        assert len(history.read(run)) >= epoch
        assert runs.read_config(run).config.dataset == "digits"
        epochs.append(epoch)
    assert epochs == sorted(epochs)
    assert in_child(run_script, make_pictures.main, tmp_path, *DIGITS) == 0
    output, errors = capfd.readouterr()
    assert "cannot be read" not in output + errors
    kill(trainer)
