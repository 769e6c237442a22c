"""SIGKILL at random moments, then --restore True: the run ends as if nothing had happened."""

import os
import random
import signal
import time

import pytest
from conftest import saved
from injection import in_child, start_child, wait_for

import config
import train
from vae import runs

NUM_KILLS = 13  # of each of the four types: 52 in all


def train_up_to(num_epochs, folder, vae_type):
    """Trains a run below `folder`, or continues it, saving after every second epoch. Returns the exit code."""
    runs.SAVE_EPOCHS = 2
    argv = ["--dataset", "digits", "--vae_type", vae_type, "--latent_dim", "3", "--hidden_size", "16"]
    argv += ["--checkpoints_dir", str(folder / "checkpoints"), "--pictures_dir", str(folder / "pictures")]
    return train.main([*argv, "--num_epochs", str(num_epochs), "--restore", "True"])


def saved_epoch_below(folder):
    """Returns the epoch of the run below `folder`, or 0 if nothing is saved yet."""
    return max(map(runs.saved_epoch, runs.trained(folder / "checkpoints")), default=0)


@pytest.mark.parametrize("vae_type", config.VAE_TYPES)
def test_a_run_killed_at_random_moments_ends_as_if_undisturbed(vae_type, tmp_path):
    """A third of the kills come at any moment after the start of the process, the others soon after a save."""
    moments = random.Random(vae_type)
    epochs = [0]
    for kill in range(NUM_KILLS):
        child = start_child(train_up_to, 10**6, tmp_path / "killed", vae_type)
        if kill % 3 == 0:
            time.sleep(moments.uniform(0, 4))
        else:
            while saved_epoch_below(tmp_path / "killed") == epochs[-1]:
                time.sleep(0.01)
            time.sleep(moments.uniform(0, 0.3))
        os.kill(child, signal.SIGKILL)
        assert wait_for(child) == -signal.SIGKILL
        epochs.append(saved_epoch_below(tmp_path / "killed"))
    assert epochs == sorted(epochs)
    assert len(set(epochs)) > NUM_KILLS / 2

    num_epochs = epochs[-1] + 3
    results = []
    for name in ("killed", "undisturbed"):
        assert in_child(train_up_to, num_epochs, tmp_path / name, vae_type) == 0
        (run,) = runs.trained(tmp_path / name / "checkpoints")
        results.append(saved(run))
    assert results[0] == results[1]
    _, history = results[1]
    assert len(history) == num_epochs
