"""Faults of one of several workers: all of them end by themselves, each with a line, and the last save holds."""

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
from workers import ROOT, endings, free_ports, run_workers, started_workers

from vae import history, runs

DIGITS = ("--dataset", "digits", "--latent_dim", "2", "--hidden_size", "16")
MANY_EPOCHS = ("--num_epochs", "1000000", "--restore", "True")

# train.py with a fault, which is Python code. It saves after each epoch.
TRAIN = """
import errno, os, sys, time
import numpy as np
from vae import checkpoints, runs, training
sys.argv[0] = "train.py"
runs.SAVE_EPOCHS = 1
{fault}
import train
sys.exit(train.main(sys.argv[1:]))
"""
# The third save meets a disk that is full or does not answer.
THIRD_SAVE = """
write = checkpoints.write
def write_or_fail(folder, epoch, arrays):
    if epoch == 3:
        {action}
    write(folder, epoch, arrays)
checkpoints.write = write_or_fail
"""
FULL_DISK = THIRD_SAVE.format(action='raise OSError(errno.ENOSPC, "No space left on device", str(folder))')
HANGING_DISK = THIRD_SAVE.format(action="time.sleep(10000)")
NOT_FINITE = """
check = training.check_finite
training.check_finite = lambda epoch, *values: check(epoch, np.nan)
"""


@pytest.fixture
def command(tmp_path):
    """A function that gives the command of a worker whose folders are below tmp_path."""

    def make_command(*argv, fault=""):
        paths = ["--checkpoints_dir", str(tmp_path / "checkpoints"), "--pictures_dir", str(tmp_path / "pictures")]
        return ["-c", TRAIN.format(fault=fault), *argv, *paths]

    return make_command


def saved_epoch(tmp_path):
    return max([runs.saved_epoch(run) for run in runs.trained_folders(tmp_path / "checkpoints")], default=0)


def wait_for_epoch(tmp_path, epoch, processes):
    while saved_epoch(tmp_path) < epoch:
        assert all(process.poll() is None for process in processes), endings(processes)
        time.sleep(0.05)


def check_lost(ending, lost):
    code, output = ending
    assert code == 1 and f"worker {lost} (127.0.0.1:" in output and "does not answer" in output
    assert "start all workers again with --restore True" in output and "Traceback" not in output


# ---- Refused before the first step ---------------------------------------------------------------------------------


def test_workers_with_other_flags_are_refused(command):
    for code, output in run_workers([command(*DIGITS), command(*DIGITS, "--seed", "1")]):
        assert code == 2 and "worker 1 and worker 0 must have the same --seed\n" in output


def test_workers_with_other_images_are_refused(command, tmp_path):
    for index in range(2):
        images = np.full((10, 8, 8), index, np.uint8)
        (tmp_path / f"machine{index}").mkdir()
        np.savez(tmp_path / f"machine{index}" / "mine.npz", train_images=images, test_images=images)
    commands = [
        command("--dataset", str(tmp_path / f"machine{index}" / "mine.npz"), "--batch_size", "2") for index in range(2)
    ]
    for code, output in run_workers(commands):
        assert code == 2 and "worker 1 and worker 0 must have the same images\n" in output


def test_a_port_that_is_taken_is_named(command):
    with socket.create_server(("", 0)) as other:
        ports = [*free_ports(1), other.getsockname()[1]]
        timeout = ("--worker_timeout", "20")
        (chief_code, _), (code, output) = run_workers([command(*DIGITS, *timeout)] * 2, ports=ports)
    assert (chief_code, code) == (1, 2) and f"TensorFlow cannot listen on 127.0.0.1:{ports[1]}" in output


def test_a_refused_run_ends_all_and_a_finished_run_is_a_success(command):
    first, again, finished = [
        run_workers([command(*DIGITS, *argv)] * 2)
        for argv in (("--num_epochs", "1"), ("--num_epochs", "2"), ("--num_epochs", "1", "--restore", "True"))
    ]
    assert [code for code, _ in first] == [0, 0], first
    assert [code for code, _ in again] == [1, 1] and "holds a model trained to epoch 1" in again[0][1], again
    assert [code for code, _ in finished] == [0, 0], finished
    assert all("nothing to do" in output for _, output in finished)


# ---- While the model trains ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [0, 1])
def test_a_killed_worker_is_named_and_the_run_continues_from_the_last_save(lost, command, tmp_path):
    with started_workers([command(*DIGITS, *MANY_EPOCHS)] * 2) as processes:
        wait_for_epoch(tmp_path, 3, processes)
        processes[lost].kill()
        ended = endings(processes)
    check_lost(ended[1 - lost], lost)
    epoch = saved_epoch(tmp_path)
    argv = ("--num_epochs", str(epoch + 1), "--restore", "True")
    assert [code for code, _ in run_workers([command(*DIGITS, *argv)] * 2)] == [0, 0]
    (run,) = runs.trained_folders(tmp_path / "checkpoints")
    assert [row.epoch for row in history.read(run)] == list(range(1, epoch + 2))


@pytest.mark.parametrize("stopped", [0, 1])
def test_the_others_give_up_on_a_worker_that_stops_for_ever(stopped, command, tmp_path):
    with started_workers([command(*DIGITS, *MANY_EPOCHS, "--worker_timeout", "20")] * 2) as processes:
        wait_for_epoch(tmp_path, 2, processes)
        processes[stopped].send_signal(signal.SIGSTOP)
        ((code, output),) = endings([processes[1 - stopped]])
    assert code == 1 and "gives up after 20 s (--worker_timeout)" in output and "Traceback" not in output
    assert "all of them answer, but one may be stopped" in output and saved_epoch(tmp_path) >= 2


def test_training_goes_on_after_a_short_pause_of_a_worker(command, tmp_path):
    with started_workers([command(*DIGITS, *MANY_EPOCHS)] * 2) as processes:
        wait_for_epoch(tmp_path, 2, processes)
        processes[1].send_signal(signal.SIGSTOP)
        time.sleep(12)
        processes[1].send_signal(signal.SIGCONT)
        wait_for_epoch(tmp_path, saved_epoch(tmp_path) + 3, processes)
        processes[1].send_signal(signal.SIGINT)
        assert [code for code, _ in endings(processes)] == [130, 130]


@pytest.mark.parametrize("fault", [FULL_DISK, HANGING_DISK])
def test_a_disk_that_is_full_or_hangs_ends_all_and_the_last_save_holds(fault, command, tmp_path):
    argv = (*DIGITS, *MANY_EPOCHS, "--worker_timeout", "20")
    results = run_workers([command(*argv, fault=fault), command(*argv)])
    assert [code for code, _ in results] == [1, 1] and "Traceback" not in str(results), results
    assert ("No space left on device" if fault == FULL_DISK else "gives up after 20 s") in results[0][1]
    assert saved_epoch(tmp_path) == 2


def test_a_number_that_is_not_finite_on_one_worker_ends_all(command):
    chief, (code, output) = run_workers(
        [command(*DIGITS, *MANY_EPOCHS), command(*DIGITS, *MANY_EPOCHS, fault=NOT_FINITE)]
    )
    assert code == 1 and "is not a finite number" in output
    check_lost(chief, 1)


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_on_one_worker_stops_all_at_the_same_epoch_saved(number, index, command, tmp_path):
    with started_workers([command(*DIGITS, *MANY_EPOCHS)] * 2) as processes:
        wait_for_epoch(tmp_path, 2, processes)
        processes[index].send_signal(number)
        results = endings(processes)
    assert [code for code, _ in results] == [128 + number] * 2, results
    assert "stopping at the end of this epoch" in results[index][1]
    assert f"stopping, because worker {index} was asked to stop" in results[1 - index][1]
    (run,) = runs.trained_folders(tmp_path / "checkpoints")
    assert history.read(run)[-1].epoch == saved_epoch(tmp_path)


def test_a_second_ctrl_c_ends_a_worker_that_waits_for_a_lost_one_at_once(command, tmp_path):
    with started_workers([command(*DIGITS, *MANY_EPOCHS, "--worker_timeout", "600")] * 2) as processes:
        wait_for_epoch(tmp_path, 2, processes)
        processes[1].send_signal(signal.SIGSTOP)
        time.sleep(2)
        for _ in range(2):
            processes[0].send_signal(signal.SIGINT)
            time.sleep(1)
        ((code, output),) = endings([processes[0]])
    assert code == 130 and output.endswith("stopped\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_ends_a_worker_that_waits_for_the_others_to_start(number, command):
    with started_workers([command(*DIGITS, "--worker_timeout", "600"), None]) as processes:
        # The line stands before TensorFlow waits, and after TensorFlow's own lines.
        assert any("waits for worker 1" in line for line in processes[0].stdout)
        time.sleep(5)
        processes[0].send_signal(number)
        assert endings(processes)[0][0] == -number


def test_make_workers_trains_on_two_workers_and_ends_both_when_one_fails(tmp_path):
    make = ["make", "-o", ".venv/installed", "workers", f"BIN={Path(sys.executable).parent}"]
    # Where mktemp makes the folder of the run.
    environment = os.environ | {"TMPDIR": str(tmp_path)}

    def run(ports):
        addresses = json.dumps({"worker": [f"127.0.0.1:{port}" for port in ports]})
        command = [*make, f"WORKERS={addresses}"]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    # A second time, it trains again.
    for _ in range(2):
        done = run(free_ports(2))
        assert done.returncode == 0 and "epoch 20: test ELBO" in done.stdout, done.stdout + done.stderr
        assert f"saved in {tmp_path}" in done.stdout
    for failing in (0, 1):
        with socket.create_server(("", 0)) as other:
            ports = free_ports(2)
            ports[failing] = other.getsockname()[1]
            done = run(ports)
        assert done.returncode != 0 and "cannot listen" in done.stderr and "no progress" not in done.stderr
