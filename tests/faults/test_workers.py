"""Faults of one of several workers: all of them end, each with a line and an exit code, and the run holds."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import saved
from workers import MARK, ROOT, endings, free_ports, started_workers

import cli
from vae import runs

DIGITS = ("--dataset", "digits", "--latent_dim", "2", "--hidden_size", "16")
MANY_EPOCHS = ("--num_epochs", "1000000", "--restore", "True")

# train.py, which saves after every epoch; a test adds a fault to it.
TRAIN = """
import errno, sys, cli, train
with cli.tensorflow_environment():
    from vae import checkpoints, runs
runs.SAVE_EPOCHS = 1
{fault}
sys.exit(train.main(sys.argv[1:]))
"""
# Makes a worker fail after it has freed its port and before TensorFlow takes it.
WHILE_CONNECTING = """
import os, signal, socket, time
from vae import cluster
release_ports = cluster.Link.release_ports
def release_and_fail(link):
    release_ports(link)
    {action}
cluster.Link.release_ports = release_and_fail
"""
FULL_DISK = """
write = checkpoints.write
def failing_write(state, folder, epoch):
    if epoch == 3:
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))
    write(state, folder, epoch)
checkpoints.write = failing_write
"""


@pytest.fixture(autouse=True)
def path_of_modules(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
def command(tmp_path):
    """Returns a function that gives the command of a worker whose folders are below tmp_path."""

    def make_command(*argv, fault="", data_dir="data"):
        paths = ["--checkpoints_dir", tmp_path / "checkpoints", "--pictures_dir", tmp_path / "pictures"]
        return ["-c", TRAIN.format(fault=fault), *argv, *map(str, paths), "--data_dir", str(tmp_path / data_dir)]

    return make_command


def only_run(tmp_path):
    (run,) = runs.trained(tmp_path / "checkpoints")
    return run


def wait_for_epoch(tmp_path, epoch, processes):
    """Waits until a cluster has saved an epoch."""
    deadline = time.monotonic() + 120
    while not any(runs.saved_epoch(run) >= epoch for run in runs.trained(tmp_path / "checkpoints")):
        assert time.monotonic() < deadline and all(process.poll() is None for process in processes), endings(processes)
        time.sleep(0.05)


def check_history(run):
    epochs = [row.epoch for row in runs.read_history(run)]
    assert epochs == list(range(1, len(epochs) + 1)) and len(epochs) >= runs.saved_epoch(run)


def read_until(text, stream):
    """Returns the lines of a stream up to one that contains the text."""
    lines = [stream.readline()]
    while lines[-1] and text not in lines[-1]:
        lines.append(stream.readline())
    return "".join(lines)


def run_all(commands, **options):
    """Runs a cluster to its end; returns each worker's exit code and output."""
    with started_workers(commands, **options) as processes:
        return endings(processes)


# ---- Refused runs --------------------------------------------------------------------------------------------------


def test_a_refused_run_a_finished_run_and_a_run_carried_on(command, tmp_path):
    first, again, finished = [
        run_all([command(*DIGITS, *argv)] * 2)
        for argv in (("--num_epochs", "1"), ("--num_epochs", "2"), ("--num_epochs", "1", "--restore", "True"))
    ]
    assert [code for code, _ in first] == [0, 0], first
    assert [code for code, _ in again] == [1, 1], again
    assert all("holds a model trained to epoch 1" in output for _, output in again)
    assert [code for code, _ in finished] == [0, 0], finished
    assert all("nothing to do" in output for _, output in finished)


def test_a_batch_that_does_not_divide_is_refused_by_all(command):
    for code, output in run_all([command(*DIGITS, "--batch_size", "99")] * 2):
        assert code == 2 and "takes a multiple of 2" in output and "nearest: 98 or 100" in output


def test_workers_with_other_parameters_are_refused(command):
    for code, output in run_all([command(*DIGITS), command(*DIGITS, "--seed", "1")]):
        assert code == 2 and "the flags of worker 1" in output and "--seed 1" in output


def test_workers_with_other_images_are_refused(command, tmp_path):
    for index, pixel in enumerate((0, 255)):
        images = np.full((10, 8, 8), pixel, np.uint8)
        (tmp_path / f"machine{index}").mkdir()
        np.savez(tmp_path / f"machine{index}" / "mine.npz", train_images=images, test_images=images)
    commands = [
        command("--dataset", str(tmp_path / f"machine{index}" / "mine.npz"), "--batch_size", "2") for index in range(2)
    ]
    for code, output in run_all(commands):
        assert code == 2 and "the images of worker 1" in output and "give all workers the same images" in output


@pytest.mark.parametrize("lacking", [0, 1])
def test_missing_data_on_one_worker_reaches_all(lacking, command, small_data, tmp_path):
    (tmp_path / "data").symlink_to(small_data)
    environment = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "PIP_NO_INDEX": "1"}
    environment |= {"PIP_FIND_LINKS": str(tmp_path)}
    commands = [command("--allow_unverified", "--hidden_size", "8")] * 2
    commands[lacking] = command("--allow_unverified", "--hidden_size", "8", data_dir="none")
    for code, output in run_all(commands, environment=environment):
        assert code == 1 and "cannot get" in output and "Traceback" not in output


# ---- While training ------------------------------------------------------------------------------------------------


def test_a_full_disk_on_the_chief_reaches_all_and_the_last_save_holds(command, tmp_path):
    results = run_all([command(*DIGITS, *MANY_EPOCHS, fault=FULL_DISK), command(*DIGITS, *MANY_EPOCHS)])
    for code, output in results:
        assert code == 1 and "No space left on device" in output and "Traceback" not in output
    assert runs.saved_epoch(only_run(tmp_path)) == 2
    assert [code for code, _ in run_all([command(*DIGITS, "--num_epochs", "4", "--restore", "True")] * 2)] == [0, 0]
    assert runs.saved_epoch(only_run(tmp_path)) == 4


def test_a_number_that_is_not_finite_on_one_worker_ends_all(command):
    fault = "from vae import training\nimport numpy as np\n"
    fault += "check = training.check_finite\ntraining.check_finite = lambda epoch, *values: check(epoch, np.nan)"
    for code, output in run_all([command(*DIGITS, *MANY_EPOCHS), command(*DIGITS, *MANY_EPOCHS, fault=fault)]):
        assert code == 1 and "is not a finite number" in output and "Traceback" not in output


def test_a_diverged_run_ends_on_all(command):
    for code, output in run_all([command(*DIGITS, "--learning_rate", "1e30")] * 2):
        assert code == 1 and "is not a finite number" in output and "Traceback" not in output


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_on_one_worker_stops_all_at_the_same_epoch_saved(number, index, command, tmp_path):
    with started_workers([command(*DIGITS, *MANY_EPOCHS)] * 2) as processes:
        wait_for_epoch(tmp_path, 2, processes)
        processes[index].send_signal(number)
        results = endings(processes)
    assert [code for code, _ in results] == [128 + number] * 2, results
    assert "stopping at the end of this epoch" in results[index][1]
    assert f"stopping, because worker {index} (127.0.0.1:" in results[1 - index][1]
    epoch = runs.saved_epoch(only_run(tmp_path))
    assert "to continue: python train.py" in results[0][1] and f"stopped early after epoch {epoch};" in results[1][1]
    assert runs.read_history(only_run(tmp_path))[-1].epoch == epoch


def test_a_second_signal_stops_all_at_once(command, tmp_path):
    """conv3 with a large batch has epochs that are long enough for two signals."""
    argv = ("--dataset", "digits", "--vae_type", "conv3", "--batch_size", "1400", *MANY_EPOCHS)
    with started_workers([command(*argv)] * 2) as processes:
        wait_for_epoch(tmp_path, 1, processes)
        processes[1].send_signal(signal.SIGINT)
        # Two signals that arrive together count as one.
        errors = read_until("stopping at the end of this epoch", processes[1].stderr)
        processes[1].send_signal(signal.SIGINT)
        results = endings(processes)
        results[1] = (results[1][0], errors + results[1][1])
    assert [code for code, _ in results] == [130, 130], results
    assert "stopping at the end of this epoch" in results[1][1] and "stopped\n" in results[1][1]
    assert ": stopped" in results[0][1]
    # One signal would let both end their epoch, and the chief say how to continue.
    assert all("to continue:" not in output for _, output in results), results
    check_history(only_run(tmp_path))


@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_worker_is_named_within_a_minute(number, lost, command, tmp_path):
    with started_workers([command(*DIGITS, *MANY_EPOCHS)] * 2) as processes:
        wait_for_epoch(tmp_path, 2, processes)
        processes[lost].send_signal(number)
        started = time.monotonic()
        ((code, output),) = endings([processes[1 - lost]])
        processes[lost].kill()
    assert time.monotonic() - started < 60
    assert code == 1 and f"worker {lost} (127.0.0.1:" in output and "was lost" in output
    assert "start all workers again with --restore True" in output and "Traceback" not in output
    check_history(only_run(tmp_path))


def test_one_process_two_workers_and_one_process_carry_a_run_on(command, tmp_path):
    """The chief is killed, then the other worker, and no saved epoch is lost."""
    epoch = 0
    rows = []
    for num_workers, lost in ((1, 0), (2, 0), (2, 1), (1, 0)):
        with started_workers([command(*DIGITS, *MANY_EPOCHS)] * num_workers) as processes:
            wait_for_epoch(tmp_path, epoch + 2, processes)
            processes[lost].send_signal(signal.SIGKILL)
            endings(processes)
        new_epoch = runs.saved_epoch(only_run(tmp_path))
        assert new_epoch >= epoch + 2
        epoch = new_epoch
        check_history(only_run(tmp_path))
        # The rows of the stage before, their seconds too: no saved epoch was trained again.
        new_rows = runs.read_history(only_run(tmp_path))[:epoch]
        assert new_rows[: len(rows)] == rows
        rows = new_rows
    argv = ("--num_epochs", str(epoch + 1), "--restore", "True")
    assert [code for code, _ in run_all([command(*DIGITS, *argv)] * 2)] == [0, 0]
    _, history = saved(only_run(tmp_path))
    assert len(history) == epoch + 1


def test_make_workers_trains_on_two_workers(tmp_path):
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    command = ["make", "-o", ".venv/installed", "workers", f"BIN={Path(sys.executable).parent}"]
    command.append("WORKERS=" + json.dumps({"worker": addresses}))
    folders = {flag.variable: str(tmp_path / flag.folder) for flag in cli.PATH_FLAGS.values()}
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | MARK | folders, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "epoch 3: test ELBO" in done.stdout and "worker 1: trained up to epoch 3" in done.stdout


def test_a_port_of_one_worker_that_is_taken_ends_all_with_exit_code_2(command, monkeypatch):
    with socket.create_server(("", 0)) as other:
        ports = [*free_ports(1), other.getsockname()[1]]
        monkeypatch.setattr("workers.free_ports", lambda count: ports)
        results = run_all([command(*DIGITS)] * 2)
    assert [code for code, _ in results] == [2, 2], results
    assert all("cannot listen on" in output and "ClusterError" not in output for _, output in results)


# ---- Waiting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [0, 1])
def test_a_worker_that_is_killed_while_tensorflow_connects_is_named(lost, command):
    fault = WHILE_CONNECTING.format(action="os.kill(os.getpid(), signal.SIGKILL)")
    commands = [command(*DIGITS)] * 2
    commands[lost] = command(*DIGITS, fault=fault)
    code, output = run_all(commands)[1 - lost]
    assert code == 1 and f"worker {lost} (127.0.0.1:" in output and "was lost" in output


@pytest.mark.parametrize("failing", [0, 1])
def test_a_port_that_is_taken_before_tensorflow_has_it_ends_all(failing, command):
    action = "link.thief = socket.create_server(('', int(link.task.address.rpartition(':')[2])))"
    commands = [command(*DIGITS)] * 2
    commands[failing] = command(*DIGITS, fault=WHILE_CONNECTING.format(action=action))
    for code, output in run_all(commands):
        assert code == 2 and "TensorFlow cannot listen on 127.0.0.1:" in output and "Traceback" not in output


@pytest.mark.parametrize("late", [0, 1])
def test_a_worker_that_is_late_to_connect_is_waited_for(late, command):
    commands = [command(*DIGITS, "--num_epochs", "1")] * 2
    fault = WHILE_CONNECTING.format(action="time.sleep(30)")
    commands[late] = command(*DIGITS, "--num_epochs", "1", fault=fault)
    assert [code for code, _ in run_all(commands)] == [0, 0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_tensorflow_connects_stops_all(number, command):
    fault = WHILE_CONNECTING.format(action="print('connecting', flush=True); time.sleep(20)")
    with started_workers([command(*DIGITS), command(*DIGITS, fault=fault)]) as processes:
        assert processes[1].stdout.readline() == "connecting\n"
        # The other worker is inside TensorFlow by now.
        time.sleep(3)
        processes[1].send_signal(number)
        results = endings(processes)
    assert [code for code, _ in results] == [128 + number] * 2, results
    assert "worker 1" in results[0][1] and "Traceback" not in results[0][1] + results[1][1]


@pytest.mark.parametrize("paused", [0, 1])
def test_training_goes_on_after_a_short_pause_of_a_worker(paused, command, tmp_path):
    with started_workers([command(*DIGITS, *MANY_EPOCHS)] * 2) as processes:
        wait_for_epoch(tmp_path, 2, processes)
        processes[paused].send_signal(signal.SIGSTOP)
        time.sleep(15)
        processes[paused].send_signal(signal.SIGCONT)
        epoch = runs.saved_epoch(only_run(tmp_path))
        wait_for_epoch(tmp_path, epoch + 2, processes)
        processes[paused].send_signal(signal.SIGINT)
        results = endings(processes)
    assert [code for code, _ in results] == [130, 130], results


def test_a_worker_that_never_starts_is_named_and_given_up(command):
    with started_workers([command(*DIGITS, "--worker_timeout", "12"), ["-c", ""]]) as processes:
        code, output = endings(processes)[0]
    assert code == 1 and "waiting for worker 1 (127.0.0.1:" in output
    assert "no answer within 12 s from worker 1 (127.0.0.1:" in output and "to wait longer: --worker_timeout" in output


@pytest.mark.parametrize("index", [0, 1])
def test_ctrl_c_works_while_waiting(index, command):
    commands = [["-c", ""], ["-c", ""]]
    commands[index] = command(*DIGITS)
    with started_workers(commands) as processes:
        assert "waiting for" in processes[index].stderr.readline()
        processes[index].send_signal(signal.SIGINT)
        code, output = endings(processes)[index]
    assert code == 130 and "stopped" in output and "Traceback" not in output
