"""Standard streams that are closed or full: training and evaluation go on, and save the same as with any others."""

import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import saved
from injection import DIGITS, in_child, only_run, run_script

import config
import train
from vae import runs
from vae.evaluation import Metrics

ROOT = Path(config.__file__).parent
LOST = "could not write standard output"


def run_in_shell(name, folder, *argv, redirections=""):
    """Runs a script with its paths below `folder`; returns its exit code and its standard error, if that is open."""
    paths = ["--checkpoints_dir", folder / "checkpoints", "--pictures_dir", folder / "pictures"]
    command = shlex.join(map(str, [sys.executable, ROOT / f"{name}.py", *DIGITS, *paths, *argv]))
    # The exit code of the script, not that of the end of the pipe.
    shell = ["bash", "-o", "pipefail", "-c", f"{command} {redirections}"]
    done = subprocess.run(shell, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A folder with a run of 12 epochs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert in_child(run_script, train.main, folder, *DIGITS, "--num_epochs", "12") == 0
    return folder


@pytest.mark.parametrize(
    ("redirections", "is_reported"),
    [
        *((">/dev/full", True), (">&-", True), ("| head -1", True), ("| :", True)),
        *(("2>&-", False), ("2>/dev/full", False), (">&- 2>&-", False), ("<&- >&- 2>&-", False)),
    ],
)
def test_training_saves_the_same_wherever_its_text_goes(redirections, is_reported, undisturbed, tmp_path):
    code, stderr = run_in_shell("train", tmp_path, "--num_epochs", "12", redirections=redirections)
    assert code == 0
    assert stderr.count("\n") == is_reported, stderr
    assert (f"train.py: {LOST} (" in stderr) == is_reported
    assert saved(only_run(tmp_path)) == saved(only_run(undisturbed))


@pytest.mark.parametrize(
    ("redirections", "exit_code", "num_lines"),
    [(">/dev/full", 1, 1), (">&-", 1, 1), ("| :", 1, 0), ("2>&-", 0, 0), ("2>/dev/full", 0, 0), (">&- 2>&-", 1, 0)],
)
def test_an_evaluation_writes_its_metrics_wherever_its_text_goes(
    redirections, exit_code, num_lines, undisturbed, tmp_path
):
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    code, stderr = run_in_shell("evaluate", tmp_path, "--num_samples", "2", redirections=redirections)
    assert code == exit_code
    assert stderr.count("\n") == num_lines, stderr
    assert (f"evaluate.py: error: {LOST} (" in stderr) == (num_lines == 1)
    assert Metrics.read(only_run(tmp_path)).num_samples == 2

    code, stderr = run_in_shell("train", tmp_path, "--list", redirections=redirections)
    assert code == exit_code
    assert (f"train.py: error: {LOST} (" in stderr) == (num_lines == 1)


def test_ctrl_c_with_a_full_standard_error_saves_the_epoch(tmp_path):
    """The handler of the signal writes to standard error."""
    paths = ["--checkpoints_dir", tmp_path / "checkpoints", "--pictures_dir", tmp_path / "pictures"]
    command = [sys.executable, ROOT / "train.py", *DIGITS, *paths, "--num_epochs", "1000000"]
    with (
        open("/dev/full", "w") as full,
        subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=full, text=True) as process,
    ):
        assert "epoch 1/" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped early; to continue: " in output
    run = only_run(tmp_path)
    assert len(runs.read_history(run)) == runs.saved_epoch(run)
