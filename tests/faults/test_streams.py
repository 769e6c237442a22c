"""Standard streams that are closed or full, and a terminal that closes: training and evaluation go on, and save."""

import json
import os
import pty
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import saved
from injection import DIGITS, folders_below, in_child, only_run, run_script, saved_epoch_below, wait_for

import config
import train
from vae import history, runs

ROOT = Path(config.__file__).parent
LOST = "some output is lost: No space left on device"


def command(name, folder, *argv):
    """The command that runs a script with all its folders below `folder`."""
    return [sys.executable, str(ROOT / f"{name}.py"), *DIGITS, *folders_below(folder), *argv]


def run_in_shell(command, redirections):
    """Runs a command with redirections of its streams; returns its exit code and what is left of standard error."""
    # The exit code is the script's, and not the one of the end of the pipe.
    shell = ["bash", "-o", "pipefail", "-c", f"{shlex.join(command)} {redirections}"]
    done = subprocess.run(shell, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A folder with a run of 12 epochs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert in_child(run_script, train.main, folder, *DIGITS, "--num_epochs", "12") == 0
    return folder


@pytest.mark.parametrize("variables", ["", "PYTHONUNBUFFERED=1"])
@pytest.mark.parametrize(
    "redirections", [">/dev/full", "| head -1", "| :", "2>/dev/full", ">/dev/full 2>&1", "<&- >&- 2>&-"]
)
def test_training_saves_the_same_wherever_its_text_goes(redirections, variables, undisturbed, tmp_path):
    shell_command = ["env", *variables.split(), *command("train", tmp_path, "--num_epochs", "12")]
    code, stderr = run_in_shell(shell_command, redirections)
    assert code == 0
    assert stderr in ("", f"train.py: {LOST}\n")
    assert (LOST in stderr) == (redirections == ">/dev/full" and not variables)
    assert saved(only_run(tmp_path)) == saved(only_run(undisturbed))


@pytest.mark.parametrize("variables", ["", "PYTHONUNBUFFERED=1"])
@pytest.mark.parametrize("redirections", [">/dev/full", "| :", "<&- >&- 2>&-"])
def test_an_evaluation_writes_its_metrics_wherever_its_text_goes(redirections, variables, undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    shell_command = ["env", *variables.split(), *command("evaluate", tmp_path, "--num_samples", "2")]
    _, stderr = run_in_shell(shell_command, redirections)
    assert stderr.count("\n") == (redirections == ">/dev/full"), stderr
    assert json.loads((only_run(tmp_path) / "metrics.json").read_text())["num_samples"] == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_the_epoch_even_with_a_full_standard_error(number, tmp_path):
    """The handler of the signal writes to standard error."""
    with (
        open("/dev/full", "w") as full,
        subprocess.Popen(
            command("train", tmp_path, "--num_epochs", "1000000"), stdout=subprocess.PIPE, stderr=full, text=True
        ) as process,
    ):
        assert "new run" in process.stdout.readline()
        assert "epoch 1/" in process.stdout.readline()
        process.send_signal(number)
        output, _ = process.communicate()
    assert process.returncode == 128 + number
    assert "stopped early; to continue: " in output
    check_complete(tmp_path)


def check_complete(folder):
    """Checks that history and checkpoint of the run below `folder` end with the same epoch."""
    run = only_run(folder)
    assert len(history.read(run)) == runs.saved_epoch(run)


def test_nohup_trains_on_after_sighup(tmp_path):
    process = subprocess.Popen(
        ["nohup", *command("train", tmp_path, "--num_epochs", "1000000")], stdin=subprocess.DEVNULL
    )
    for _ in range(2):
        epoch = saved_epoch_below(tmp_path)
        while saved_epoch_below(tmp_path) == epoch:
            time.sleep(0.1)
        process.send_signal(signal.SIGHUP)
    process.terminate()
    assert process.wait() == 128 + signal.SIGTERM
    check_complete(tmp_path)


@pytest.mark.parametrize(("ignored", "exit_code"), [("", 128 + signal.SIGHUP), ("trap '' HUP;", 0)])
def test_training_survives_a_terminal_that_closes(ignored, exit_code, tmp_path):
    """It saves its epoch and ends; if SIGHUP is ignored, as nohup does, it goes on without its terminal."""
    script = f"{ignored} exec {shlex.join(command('train', tmp_path, '--num_epochs', '300'))}"
    child, terminal = pty.fork()
    if child == 0:
        os.execvp("bash", ["bash", "-c", script])
    text = b""
    while b"epoch 1/300" not in text:
        text += os.read(terminal, 1000)
    os.close(terminal)
    assert wait_for(child) == exit_code
    check_complete(tmp_path)
    assert (saved_epoch_below(tmp_path) == 300) == (exit_code == 0)
