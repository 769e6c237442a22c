"""SIGKILL at random moments, then --restore True: the run ends as if nothing had happened (`make faults`)."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from vae import runs

ROOT = Path(runs.__file__).parent.parent
KILLS, EPOCHS = 20, 3000


def start(folder):
    options = ["--dataset", "digits", "--latent_dim", "3", "--hidden_size", "16", "--num_epochs", str(EPOCHS)]
    options += [
        "--checkpoints_dir",
        str(folder / "runs"),
        "--pictures_dir",
        str(folder / "pictures"),
        "--restore",
        "True",
    ]
    return subprocess.Popen([sys.executable, str(ROOT / "train.py"), *options], stdout=subprocess.PIPE, text=True)


def outcome(folder):
    """Every tensor of the newest checkpoint (weights, Adam's state, epoch), and history.csv without its seconds."""
    (run,) = runs.trained(folder / "runs")
    reader = tf.train.load_checkpoint(runs.latest_checkpoint(run))
    tensors = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    tensors = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, np.ndarray | np.generic)}
    history = [{k: repr(v) for k, v in row.items() if k != "seconds"} for row in runs.read_history(run)]
    return tensors, history


def test_twenty_kills_at_random_moments(tmp_path):
    """Six at any moment from the start of the process on, the others soon after a report of progress, and so a save."""
    moments, epochs = random.Random(0), []
    for kill in range(KILLS):
        with start(tmp_path / "killed") as process:
            if kill < KILLS - 6:
                for _ in range(moments.randint(2, 15)):
                    assert process.stdout.readline()
                time.sleep(moments.uniform(0, 0.2))
            else:
                time.sleep(moments.uniform(0, 9))
            assert process.poll() is None, "the run was over before the last kill: raise EPOCHS"
            process.send_signal(signal.SIGKILL)
        epochs += [runs.saved_epoch(folder) for folder in runs.trained(tmp_path / "killed" / "runs")]
    assert len(set(epochs)) > KILLS / 2 and epochs == sorted(epochs)
    for name in ("killed", "whole"):
        process = start(tmp_path / name)
        process.communicate()
        assert process.returncode == 0
    (tensors, history), (want_tensors, want_history) = outcome(tmp_path / "killed"), outcome(tmp_path / "whole")
    assert history == want_history and len(history) == EPOCHS
    assert tensors.keys() == want_tensors.keys() and len(tensors) > 30
    assert all(np.array_equal(tensors[name], want_tensors[name]) for name in tensors)
