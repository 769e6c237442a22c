"""Standard streams that are closed or full, and a terminal that closes: training and evaluation go on, and save."""

import os
import pty
import shlex
import shutil
import signal
import subprocess
import sys

import pytest
from conftest import ROOT, saved
from injection import DIGITS, folders_below, in_child, only_run, run_script, wait_for

import train
from vae import history, runs
from vae.evaluation import Metrics


def command(name, folder, *argv):
    """The shell command that runs a script with all its folders below `folder`."""
    return shlex.join([sys.executable, str(ROOT / f"{name}.py"), *DIGITS, *folders_below(folder), *argv])


def run_redirected(command, redirections):
    """The exit code of a command with redirections, which ends without a traceback."""
    # The exit code is the script's, and not the one of the end of the pipe.
    shell = ["bash", "-o", "pipefail", "-c", f"{command} {redirections}"]
    done = subprocess.run(shell, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert "Traceback" not in done.stderr
    return done.returncode


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A folder with a run of 12 epochs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert in_child(run_script, train.main, folder, *DIGITS, "--num_epochs", "12") == 0
    return folder


REDIRECTIONS = pytest.mark.parametrize("redirections", [">/dev/full", "| :", ">/dev/full 2>&1", "<&- >&- 2>&-"])


@REDIRECTIONS
def test_training_saves_the_same_wherever_its_text_goes(redirections, undisturbed, tmp_path):
    assert run_redirected(command("train", tmp_path, "--num_epochs", "12"), redirections) == 0
    assert saved(only_run(tmp_path)) == saved(only_run(undisturbed))


@REDIRECTIONS
def test_an_evaluation_writes_its_metrics_wherever_its_text_goes(redirections, undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    run_redirected(command("evaluate", tmp_path, "--num_samples", "2"), redirections)
    assert Metrics.read(only_run(tmp_path)).num_samples == 2


@pytest.mark.parametrize(("shell", "exit_code"), [("exec", 128 + signal.SIGHUP), ("trap '' HUP; exec", 0)])
def test_training_survives_a_terminal_that_closes(shell, exit_code, tmp_path):
    """SIGHUP ends it once its epoch is saved; if SIGHUP is ignored, as nohup does, it goes on without a terminal."""
    child, terminal = pty.fork()
    if child == 0:
        # A new terminal has neither rows nor columns, and then tqdm draws nothing.
        os.execvp(
            "bash",
            ["bash", "-c", f"stty rows 24 columns 120; {shell} {command('train', tmp_path, '--num_epochs', '300')}"],
        )
    text = b""
    while b"epoch 1/300" not in text:
        text += os.read(terminal, 1000)
    os.close(terminal)
    assert wait_for(child) == exit_code
    run = only_run(tmp_path)
    assert len(history.read(run)) == runs.saved_epoch(run)
    assert (runs.saved_epoch(run) == 300) == (exit_code == 0)
