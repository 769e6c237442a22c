"""SIGKILL at random moments, then --restore True: the run ends as if nothing had happened."""

import os
import random
import signal
import time

import pytest
from conftest import saved
from injection import DIGITS, in_child, only_run, run_script, saved_epoch_below, start_child, wait_for

import config
import train

NUM_KILLS = 13  # of each of the four types: 52 in all


@pytest.mark.parametrize("vae_type", config.VAE_TYPES)
def test_a_run_killed_at_random_moments_ends_as_if_undisturbed(vae_type, tmp_path):
    """A third of the kills come at any moment after the start of the process, the others soon after a save."""
    argv = [*DIGITS, "--vae_type", vae_type, "--restore", "--num_epochs"]
    moments = random.Random(vae_type)
    killed = tmp_path / "killed"
    epochs = [0]
    for kill in range(NUM_KILLS):
        child = start_child(run_script, train.main, killed, *argv, "1000000")
        if kill % 3 == 0:
            time.sleep(moments.uniform(0, 4))
        else:
            while saved_epoch_below(killed) == epochs[-1]:
                time.sleep(0.01)
            time.sleep(moments.uniform(0, 0.3))
        os.kill(child, signal.SIGKILL)
        assert wait_for(child) == -signal.SIGKILL
        epochs.append(saved_epoch_below(killed))
    assert epochs == sorted(epochs)
    assert len(set(epochs)) > NUM_KILLS / 2

    num_epochs = epochs[-1] + 3
    for folder in (killed, tmp_path / "undisturbed"):
        assert in_child(run_script, train.main, folder, *argv, str(num_epochs)) == 0
    arrays, rows = saved(only_run(killed))
    assert (arrays, rows) == saved(only_run(tmp_path / "undisturbed"))
    assert len(rows) == num_epochs
