"""SIGKILL at random moments, then --restore True: the run ends as if nothing had happened (`make faults`)."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from conftest import saved

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
    killed, whole = (saved(next(iter(runs.trained(tmp_path / name / "runs")))) for name in ("killed", "whole"))
    assert killed == whole and len(whole[1]) == EPOCHS
