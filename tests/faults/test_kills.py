"""SIGKILL at random moments, then --restore True: the run ends as if nothing had happened."""

import os
import random
import signal
import time

import pytest
from conftest import saved
from injection import fork, in_child, wait

import config
import train
from vae import runs

KILLS = 13  # of each of the four types: 52


def run_of(folder, vae_type, epochs):
    runs.SAVE_EPOCHS = 2
    options = ["--dataset", "digits", "--vae_type", vae_type, "--latent_dim", "3", "--hidden_size", "16"]
    options += ["--checkpoints_dir", str(folder / "runs"), "--pictures_dir", str(folder / "pictures")]
    return train.main([*options, "--num_epochs", str(epochs), "--restore", "True"])


def saved_so_far(folder):
    return max(map(runs.saved_epoch, runs.trained(folder / "runs")), default=0)


@pytest.mark.parametrize("vae_type", config.VAE_TYPES)
def test_kills_at_random_moments(vae_type, tmp_path):
    """A third at any moment from the start of the process on, the others soon after a save."""
    folder, moments, epochs = tmp_path / "killed", random.Random(vae_type), [0]
    for kill in range(KILLS):
        child = fork(run_of, folder, vae_type, 10**6)
        while kill % 3 and saved_so_far(folder) == epochs[-1]:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.3 if kill % 3 else 4))
        os.kill(child, signal.SIGKILL)
        assert wait(child) == -signal.SIGKILL
        epochs.append(saved_so_far(folder))
    assert epochs == sorted(epochs) and len(set(epochs)) > KILLS / 2
    for name in ("killed", "whole"):
        assert in_child(run_of, tmp_path / name, vae_type, epochs[-1] + 3) == 0
    killed, whole = (saved(next(iter(runs.trained(tmp_path / name / "runs")))) for name in ("killed", "whole"))
    assert killed == whole and len(whole[1]) == epochs[-1] + 3
