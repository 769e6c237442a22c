"""Training on several replicas gives what training on one gives: workers on this machine, and logical CPU devices."""

import functools
import json
import subprocess
import sys
import types

import numpy as np
import pytest
import replica_runs
import tensorflow as tf
from workers import ROOT, free_ports, run_workers, tf_config

import datasets
import plot_singular_values
import train
from config import Config, UsageError
from vae import distribution, history, model, runs, training

DIGITS = ("--dataset", "digits", "--latent_dim", "2", "--hidden_size", "16")


def paths(folder):
    return ["--checkpoints_dir", str(folder / "checkpoints"), "--pictures_dir", str(folder / "pictures")]


def rows_of(folder):
    """A run's history without times."""
    (run,) = runs.trained_folders(folder / "checkpoints")
    return [row._replace(seconds=0.0) for row in history.read_up_to(run, runs.saved_epoch(run))]


def train_with_two_workers(arguments, tmp_path):
    """Trains the run in tmp_path / "two". The second worker has neither the chief's disk nor a checkpoint."""
    commands = [["train.py", *arguments, *paths(tmp_path / name)] for name in ("two", "none")]
    (chief_code, chief_output), (code, output) = run_workers(commands)
    assert (chief_code, code) == (0, 0), chief_output + output
    num_epochs = arguments[-1]
    assert "trains faster on one machine" in chief_output and f"epoch {num_epochs}: test ELBO" in chief_output
    assert f"epoch {num_epochs}/{num_epochs}" in chief_output and f"epoch {num_epochs}/" not in output
    assert not (tmp_path / "none").exists()


# ---- Equal to one replica ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_process_then_two_workers_then_one_process_make_the_run_of_one_process(tmp_path, monkeypatch, capfd):
    arguments = [*DIGITS, "--restore", "True", "--num_epochs"]
    assert train.main([*arguments, "4", *paths(tmp_path / "one")]) == 0
    assert train.main([*arguments, "1", *paths(tmp_path / "two")]) == 0
    train_with_two_workers([*arguments, "3"], tmp_path)
    assert train.main([*arguments, "4", *paths(tmp_path / "two")]) == 0
    np.testing.assert_allclose(rows_of(tmp_path / "two"), rows_of(tmp_path / "one"), rtol=1e-3)
    capfd.readouterr()

    monkeypatch.setenv("TF_CONFIG", tf_config(free_ports(2), 1))
    assert plot_singular_values.main([*DIGITS, *paths(tmp_path / "two")]) == 0
    assert "waits for" not in capfd.readouterr().err


def test_a_single_replica_takes_the_steps_of_one_process(monkeypatch):
    images = datasets.load("digits").train_images[:60]
    replicas = distribution.Replicas(tf.distribute.MirroredStrategy(["CPU:0"]), batch_size=20)
    with replicas.strategy.scope():
        state = create_state(images)
    before = {name: variable.numpy() for name, variable in state.variables().items()}
    replicas.broadcast(state)
    for name, variable in state.variables().items():
        assert np.array_equal(variable.numpy(), before[name]), name
    replicas.check_agreement(Config(), images)

    alone = create_state(images)
    for each in (state, alone):
        each.optimizer.learning_rate.assign(1e-3)
    (block,) = training.make_blocks(alone.model, images, range(1, 2), batch_size=20, seed=0)
    terms = replicas.compile_block(state, 20)(block)
    # Without compiling, which takes seconds.
    monkeypatch.setattr(training, "compile_loop", lambda take_step, *sizes, **options: take_step)
    take_step = training.compile_block(alone, 20)
    batches = zip(block.x.reshape(3, 20, -1), block.noise.reshape(3, 20, -1), strict=True)
    np.testing.assert_allclose(terms, [take_step(tf.constant(x), tf.constant(z)) for x, z in batches], rtol=1e-4)


def create_state(images):
    """The state of a small model for these images, before its first step."""
    return training.create_state(model.create(Config(latent_dim=2, hidden_size=16), images.shape[1:]))


@functools.cache
def one_replica(name, batch_size):
    return replica_runs.train(name, batch_size)[0]


def check_against_one_replica(results, batch_size, names):
    """In bfloat16, rounding is 65,536 times as coarse as in float32, so steps differ more."""
    for name in names:
        is_coarse = "bfloat16" in name
        # A KL near 0 differs by more than its thousandth.
        tolerances = {"rtol": 1e-2 if is_coarse else 1e-3, "atol": 1e-3}
        expected = one_replica(name, batch_size)
        terms = results[f"{name}_terms"]
        assert np.abs(terms[:10] - expected[:10]).max() < (0.1 if is_coarse else 1e-3), name
        means, expected_means = [
            steps.reshape(replica_runs.NUM_EPOCHS, -1, 2).mean(axis=1) for steps in (terms, expected)
        ]
        np.testing.assert_allclose(means, expected_means, **tolerances, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_workers", "batch_size", "with_chief", "names"),
    [
        (2, 100, False, ["flat", "normal", "logit_normal", "conv3", "conv3_bfloat16"]),
        (3, 99, True, ["flat", "conv3"]),
        (4, 100, False, ["flat"]),
    ],
)
def test_all_workers_have_the_same_bits_and_train_as_one_process_does(
    num_workers, batch_size, with_chief, names, tmp_path
):
    outputs = [tmp_path / f"{index}.npz" for index in range(num_workers)]
    commands = [["tests/replica_runs.py", str(output), str(batch_size), "1", *names] for output in outputs]
    ended = run_workers(commands, with_chief=with_chief)
    assert [code for code, _ in ended] == [0] * num_workers, ended
    results, *others = [dict(np.load(output)) for output in outputs]
    for other in others:
        for name, values in results.items():
            assert (values == other[name]).all(), name
    check_against_one_replica(results, batch_size, names)


@pytest.mark.slow
@pytest.mark.parametrize(("num_devices", "names"), [(2, ["flat", "conv3", "flat_bfloat16"]), (4, ["flat", "conv3"])])
def test_mirrored_devices_train_as_one_does(num_devices, names, tmp_path):
    output = tmp_path / "devices.npz"
    command = [sys.executable, "tests/replica_runs.py", str(output), "100", str(num_devices), *names]
    subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, check=True)
    check_against_one_replica(dict(np.load(output)), 100, names)


# train.py on a machine whose two GPUs are logical CPU devices.
TRAIN_ON_GPUS = """
import sys, train, vae
import tensorflow as tf
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
tf.config.list_physical_devices = lambda device_type: {"GPU": [cpu, cpu]}[device_type]
list_logical_devices = tf.config.list_logical_devices
tf.config.list_logical_devices = lambda device_type: {"GPU": list_logical_devices("CPU")}[device_type]
sys.exit(train.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_train_py_shares_each_batch_among_the_gpus_of_one_machine(tmp_path):
    arguments = [*DIGITS, "--num_epochs", "3"]
    assert train.main([*arguments, *paths(tmp_path / "one")]) == 0
    command = [sys.executable, "-c", TRAIN_ON_GPUS, *arguments, *paths(tmp_path / "two")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "shared among 2 GPUs" in done.stderr, done.stderr
    np.testing.assert_allclose(rows_of(tmp_path / "two"), rows_of(tmp_path / "one"), rtol=1e-3)


# ---- What cannot work is refused -----------------------------------------------------------------------------------


def test_a_batch_that_cannot_be_shared_equally_is_refused():
    with pytest.raises(UsageError, match="a multiple of 3, the number of replicas, got 100; try 102"):
        distribution.Replicas(types.SimpleNamespace(num_replicas_in_sync=3), batch_size=100)


@pytest.mark.parametrize("text", ["{}", '{"cluster": {}}', '{"cluster": {"worker": ["a:1"]}}'])
def test_without_a_second_worker_there_is_one_process(text):
    assert distribution.read_tf_config(text) is None


def test_worker_0_is_the_chief_unless_there_is_a_job_of_that_name():
    jobs = {"worker": ["a:1", "[::1]:2"]}
    text = json.dumps({"cluster": jobs, "task": {"type": "worker", "index": "1"}})
    assert distribution.read_tf_config(text) == ({"worker 0": "a:1", "worker 1": "[::1]:2"}, "worker 1")
    text = json.dumps({"cluster": jobs | {"chief": ["c:3"]}, "task": {"type": "worker", "index": 1}})
    workers, _ = distribution.read_tf_config(text)
    assert list(workers) == ["chief 0", "worker 0", "worker 1"]


@pytest.mark.parametrize(
    ("cluster", "task", "expected"),
    [
        ([], None, "takes {.*got"),
        ({"worker": ["a:1", "b:2"]}, None, "takes {.*got"),
        ({"worker": ["a:1", "b:2"]}, {"type": "worker"}, "'index'"),
        ({"worker": ["a:1", "b:2"], "ps": ["c:3"]}, {"type": "worker", "index": 0}, "got worker, ps"),
        ({"chief": ["a:1", "b:2"]}, {"type": "chief", "index": 0}, "one chief at most"),
        ({"worker": ["a:1", "b"]}, {"type": "worker", "index": 0}, "worker 1 takes 'host:port', got 'b'"),
        ({"worker": ["a:1", "b:65536"]}, {"type": "worker", "index": 0}, "worker 1 takes 'host:port'"),
        ({"worker": ["a:1", "a:1"]}, {"type": "worker", "index": 0}, "an address of its own"),
        ({"worker": ["a:1", "b:2"]}, {"type": "worker", "index": 2}, "one of worker 0, worker 1, got worker 2"),
    ],
)
def test_a_bad_tf_config_is_described_in_one_line(cluster, task, expected):
    with pytest.raises(UsageError, match=f"^TF_CONFIG.*{expected}") as caught:
        distribution.read_tf_config(json.dumps({"cluster": cluster, "task": task}))
    assert "\n" not in str(caught.value)


def test_a_bad_tf_config_ends_train_py_with_exit_code_2(monkeypatch, capsys):
    monkeypatch.setenv("TF_CONFIG", "{")
    assert train.main([*DIGITS]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "TF_CONFIG takes {" in line and "got '{'" in line


# ---- The watchdog --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_worker_gives_up_if_the_other_one_never_starts(tmp_path):
    command = ["train.py", *DIGITS, "--worker_timeout", "4", *paths(tmp_path)]
    ((code, output),) = run_workers([command, None])
    assert code == 1 and "Traceback" not in output
    assert "worker 0 (127.0.0.1:" in output and "gives up after 4 s (--worker_timeout)" in output
    assert "worker 1 (127.0.0.1:" in output and "does not answer" in output and "--restore True" in output
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_watchdog_ends_a_process_that_hangs_with_pythons_lock():
    """A call into C keeps the lock: no other thread of Python runs."""
    code = "import ctypes; from vae import distribution\n"
    code += "watchdog = distribution.Watchdog({'worker 0': 'localhost:1', 'worker 1': 'localhost:2'}, 'worker 0', 3)\n"
    code += "with watchdog.waiting():\n    ctypes.PyDLL(None).sleep(600)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "gives up after 3 s" in done.stderr and "Traceback" not in done.stderr and "Thread" not in done.stderr
