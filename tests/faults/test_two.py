"""Two processes on one run: a second trainer is refused, readers always see a whole checkpoint."""

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
    """Starts a script on a run of digits below tmp_path; whatever still runs at the end is killed."""
    started = []

    def start(script, *options):
        words = [sys.executable, str(ROOT / f"{script}.py"), "--dataset", "digits", "--hidden_size", "16", *options]
        words += ["--checkpoints_dir", str(tmp_path / "runs"), "--pictures_dir", str(tmp_path / "pictures")]
        started.append(subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def saved_at_last(folder):
    while not runs.trained(folder):
        time.sleep(0.1)
    return runs.saved_epoch(runs.trained(folder)[0])


@pytest.mark.parametrize("options", [["--restore"], ["--overwrite"]])
def test_a_second_trainer_is_refused_at_once_and_a_killed_one_holds_no_lock(options, start, tmp_path):
    first = start("train", "--num_epochs", "1000000")
    saved_at_last(tmp_path / "runs")
    second = start("train", "--num_epochs", "1000000", *options)
    _, err = second.communicate(timeout=60)
    assert second.returncode == 1 and "another process is training in" in err and err.count("\n") == 1
    first.send_signal(signal.SIGKILL)
    first.communicate()
    (run,) = runs.trained(tmp_path / "runs")
    third = start("train", "--num_epochs", str(runs.saved_epoch(run) + 1), "--restore")
    _, err = third.communicate(timeout=60)
    assert third.returncode == 0, err


def test_readers_see_whole_checkpoints_while_a_model_trains(start, tmp_path):
    """Saves come every 10 epochs, a fraction of a second here, so checkpoints are pruned under the readers."""
    trainer = start("train", "--num_epochs", "1000000")
    first = saved_at_last(tmp_path / "runs")
    for _ in range(6):
        readers = [start(script) for script in ("make_pictures", "plot_singular_values")]
        for reader in readers:
            _, err = reader.communicate(timeout=120)
            assert reader.returncode == 0, err
    assert trainer.poll() is None and saved_at_last(tmp_path / "runs") > first + 10 * 3
