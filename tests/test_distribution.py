"""Training on several replicas gives what training on one gives: workers on this machine, and logical CPU devices."""

import socket
import subprocess
import sys
import types

import numpy as np
import pytest
import replica_runs
import tensorflow as tf
from workers import ROOT, endings, free_ports, started_workers, tf_config

import cli
import evaluate
import make_pictures
import train
from config import Config
from vae import distribution, runs

DIGITS = ("--dataset", "digits", "--latent_dim", "2", "--hidden_size", "16")


@pytest.fixture(autouse=True)
def path_of_modules(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture(scope="module")
def one_replica():
    """Returns a function that trains on one replica, once for all tests."""
    results = {}

    def result(name, batch_size):
        if (name, batch_size) not in results:
            results[name, batch_size] = replica_runs.train(name, batch_size)
        return results[name, batch_size]

    return result


def check_against_one_replica(results, batch_size, names, one_replica):
    """In bfloat16, rounding is 65,536 times as coarse as in float32, so steps differ more."""
    for name in names:
        is_coarse = "bfloat16" in name
        tolerances = {"rtol": 1e-2, "atol": 1e-3} if is_coarse else {"rtol": 1e-3}
        expected, _ = one_replica(name, batch_size)
        terms = results[f"{name}_terms"]
        assert np.abs(terms[:10] - expected[:10]).max() < (0.1 if is_coarse else 1e-3), name
        means = terms.reshape(replica_runs.NUM_EPOCHS, -1, 2).mean(axis=1)
        expected_means = expected.reshape(replica_runs.NUM_EPOCHS, -1, 2).mean(axis=1)
        np.testing.assert_allclose(means, expected_means, **tolerances, err_msg=name)
    for key in [key for key in results if key.endswith("_again")]:
        assert (results[key] == results[key.removesuffix("_again")]).all(), key


@pytest.mark.parametrize(
    ("num_workers", "batch_size", "with_chief", "names"),
    [
        (2, 100, False, ["conv3"]),
        pytest.param(2, 100, False, ["flat", "normal", "logit_normal", "conv3_bfloat16"], marks=pytest.mark.slow),
        pytest.param(3, 99, True, ["flat"], marks=pytest.mark.slow),
    ],
)
def test_workers_train_as_one_process_does(num_workers, batch_size, with_chief, names, one_replica, tmp_path):
    outputs = [tmp_path / f"{index}.npz" for index in range(num_workers)]
    arguments = [str(batch_size), str(num_workers), *names]
    commands = [["tests/replica_runs.py", str(output), *arguments] for output in outputs]
    with started_workers(commands, with_chief) as processes:
        ended = endings(processes)
    assert [code for code, _ in ended] == [0] * num_workers, ended
    results = [dict(np.load(output)) for output in outputs]
    for other in results[1:]:
        for name, values in results[0].items():
            assert (values == other[name]).all(), name
    check_against_one_replica(results[0], batch_size, names, one_replica)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_devices", "names"),
    [
        (2, ["flat", "conv3"]),
        (2, ["flat_bfloat16"]),
        (4, ["flat", "conv3"]),
    ],
)
def test_mirrored_devices_train_as_one_does(num_devices, names, one_replica, tmp_path):
    output = tmp_path / "devices.npz"
    command = [sys.executable, "tests/replica_runs.py", str(output), "100", str(num_devices), *names]
    subprocess.run(command, cwd=ROOT, check=True)
    check_against_one_replica(dict(np.load(output)), 100, names, one_replica)


def test_two_workers_make_the_run_that_one_process_makes(tmp_path, capfd):
    """The same folder, history, checkpoint and pictures, from one command; and they carry on a run of one process."""

    def paths(name):
        return ["--checkpoints_dir", str(tmp_path / name), "--pictures_dir", str(tmp_path / "pictures" / name)]

    arguments = [*DIGITS, "--restore", "True", "--num_epochs"]
    for name in ("one", "two"):
        assert train.main([*arguments, "1", *paths(name)]) == 0
    assert train.main([*arguments, "3", *paths("one")]) == 0
    # The second worker has no folder of its own: it needs neither the chief's disk nor a checkpoint.
    commands = [
        ["train.py", *arguments, "3", *paths("two")],
        ["train.py", *arguments, "3", *paths("none")],
    ]
    with started_workers(commands) as processes:
        (chief_code, chief_output), (code, output) = endings(processes)
    assert (chief_code, code) == (0, 0), chief_output + output
    assert "trains faster on one machine" in chief_output and "epoch 3: test ELBO" in chief_output
    assert "worker 1: trained up to epoch 3; saved by the chief" in output
    assert "epoch 3/3" in chief_output and "epoch 3/3" not in output
    assert not (tmp_path / "none").exists() and not (tmp_path / "pictures" / "none").exists()

    (one,) = runs.trained(tmp_path / "one")
    (two,) = runs.trained(tmp_path / "two")
    assert one.name == two.name and {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
    assert (tmp_path / "pictures" / "two" / two.name / "learning_curves.png").exists()
    expected = [row._replace(seconds=0.0) for row in runs.read_history(one)]
    rows = [row._replace(seconds=0.0) for row in runs.read_history(two)]
    np.testing.assert_allclose(rows, expected, rtol=1e-3)
    assert train.main([*arguments, "4", *paths("two")]) == 0
    assert runs.restore(two).epoch == 4
    capfd.readouterr()


# train.py on a machine whose two GPUs are logical CPU devices.
TRAIN_ON_GPUS = """
import sys, cli, train
with cli.tensorflow_environment():
    import tensorflow as tf
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
tf.config.list_physical_devices = lambda device_type: {"GPU": [cpu, cpu]}[device_type]
list_logical_devices = tf.config.list_logical_devices
tf.config.list_logical_devices = lambda device_type: {"GPU": list_logical_devices("CPU")}[device_type]
sys.exit(train.main(sys.argv[1:]))
"""


def test_train_py_shares_each_batch_among_the_gpus_of_one_machine(tmp_path):
    """One GPU, two, and one again make the run that one makes."""

    def arguments(name):
        return [
            *DIGITS,
            "--restore",
            "True",
            "--checkpoints_dir",
            str(tmp_path / name),
            "--pictures_dir",
            str(tmp_path),
        ]

    def train_on_gpus(*argv):
        return subprocess.run([sys.executable, "-c", TRAIN_ON_GPUS, *argv], cwd=ROOT).returncode

    assert train.main([*arguments("one"), "--num_epochs", "3"]) == 0
    assert train.main([*arguments("two"), "--num_epochs", "1"]) == 0
    assert train_on_gpus(*arguments("two"), "--num_epochs", "2") == 0
    assert train.main([*arguments("two"), "--num_epochs", "3"]) == 0
    (one,) = runs.trained(tmp_path / "one")
    (two,) = runs.trained(tmp_path / "two")
    expected = [row._replace(seconds=0.0) for row in runs.read_history(one)]
    rows = [row._replace(seconds=0.0) for row in runs.read_history(two)]
    np.testing.assert_allclose(rows, expected, rtol=1e-3)


def test_a_batch_that_the_gpus_cannot_share_equally_is_refused(monkeypatch):
    gpus = ["the first GPU", "the second GPU"]
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda device_type: {"GPU": gpus}[device_type])
    replicas = types.SimpleNamespace(count=2)
    monkeypatch.setattr(distribution, "on_gpus", lambda: replicas)
    assert train.replicas_on_gpus(Config(batch_size=100)) is replicas
    with pytest.raises(cli.UsageError, match=r"a multiple of 2, .* got 99; nearest: 98 or 100$"):
        train.replicas_on_gpus(Config(batch_size=99))
    gpus.pop()
    assert train.replicas_on_gpus(Config(batch_size=99)) is None


def test_a_port_that_is_taken_ends_train_py_with_exit_code_2(monkeypatch, tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        monkeypatch.setenv("TF_CONFIG", tf_config([port, *free_ports(1)], 0))
        assert train.main([*DIGITS, "--checkpoints_dir", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"TF_CONFIG: cannot listen on 127.0.0.1:{port}" in line
    assert not list(tmp_path.iterdir())


def test_the_other_scripts_ignore_tf_config(monkeypatch, tmp_path, capsys):
    argv = ["--dataset", "digits", "--vae_type", "conv3", "--num_epochs", "1"]
    argv += ["--checkpoints_dir", str(tmp_path / "checkpoints"), "--pictures_dir", str(tmp_path / "pictures")]
    assert train.main(argv) == 0
    for value in (tf_config(free_ports(2), 1), "no JSON"):
        monkeypatch.setenv("TF_CONFIG", value)
        assert evaluate.main(argv) == 0
        assert make_pictures.main(argv) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("error", "expected"),
    [(tf.errors.UnavailableError, ConnectionError), (tf.errors.InternalError, tf.errors.InternalError)],
)
def test_an_internal_error_stays_what_it_is_if_no_worker_was_lost(error, expected):
    class PatientLink:
        has_waited = False

        def wait_for_lost_worker(self):
            self.has_waited = True

    link = PatientLink()
    with pytest.raises(expected, match="the reason"), distribution.lost_worker_reported(link):
        raise error(None, None, "the reason")
    assert link.has_waited


@pytest.mark.parametrize(("batch_size", "nearest"), [(100, "99 or 102"), (2, "3")])
def test_a_batch_that_cannot_be_shared_equally_is_refused_with_the_nearest_that_can(batch_size, nearest):
    with pytest.raises(cli.UsageError, match=f"a multiple of 3, .* got {batch_size}; nearest: {nearest}$"):
        train.check_shares(Config(batch_size=batch_size), 3)
    train.check_shares(Config(batch_size=99), 3)


def test_the_digest_depends_on_shapes_types_and_values():
    zeros = np.zeros((2, 3), np.uint8)
    others = [zeros + 1, zeros.reshape(3, 2), zeros.astype(np.int8), zeros[:1]]
    digests = {distribution.digest([array]) for array in (zeros, *others)}
    assert len(digests) == 5
    assert distribution.digest([zeros]) == distribution.digest([zeros.copy()])
    assert distribution.digest([zeros[:, ::2]]) == distribution.digest([zeros[:, ::2].copy()])
