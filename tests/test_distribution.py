"""Training on several replicas gives what training on one gives: workers on this machine, and logical CPU devices."""

import subprocess
import sys

import numpy as np
import pytest
import replica_runs
from workers import ROOT, endings, started_workers

import cli
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

    def result(network, batch_size):
        if (network, batch_size) not in results:
            results[network, batch_size] = replica_runs.train(network, batch_size)
        return results[network, batch_size]

    return result


def check_against_one_replica(results, batch_size, networks, one_replica):
    for network in networks:
        expected, _ = one_replica(network, batch_size)
        terms = results[f"{network}_terms"]
        assert np.abs(terms[:10] - expected[:10]).max() < 1e-3
        means = terms.reshape(replica_runs.NUM_EPOCHS, -1, 2).mean(axis=1)
        expected_means = expected.reshape(replica_runs.NUM_EPOCHS, -1, 2).mean(axis=1)
        np.testing.assert_allclose(means, expected_means, rtol=1e-3)
    assert (results["flat_terms"] == results["again_terms"]).all()
    assert (results["flat_bits"] == results["again_bits"]).all()


@pytest.mark.parametrize(
    ("num_workers", "batch_size", "with_chief", "networks"),
    [(2, 100, False, ["flat", "conv3"]), (3, 99, True, ["flat"])],
)
def test_workers_train_as_one_process_does(num_workers, batch_size, with_chief, networks, one_replica, tmp_path):
    outputs = [tmp_path / f"{index}.npz" for index in range(num_workers)]
    arguments = [str(batch_size), str(num_workers), *networks]
    commands = [["tests/replica_runs.py", str(output), *arguments] for output in outputs]
    with started_workers(commands, with_chief) as processes:
        ended = endings(processes)
    assert [code for code, _ in ended] == [0] * num_workers, ended
    results = [dict(np.load(output)) for output in outputs]
    for other in results[1:]:
        for name, values in results[0].items():
            assert (values == other[name]).all(), name
    check_against_one_replica(results[0], batch_size, networks, one_replica)


@pytest.mark.parametrize(("num_devices", "networks"), [(2, ["flat", "conv3"]), (4, ["flat"])])
def test_mirrored_devices_train_as_one_does(num_devices, networks, one_replica, tmp_path):
    output = tmp_path / "devices.npz"
    command = [sys.executable, "tests/replica_runs.py", str(output), "100", str(num_devices), *networks]
    subprocess.run(command, cwd=ROOT, check=True)
    check_against_one_replica(dict(np.load(output)), 100, networks, one_replica)


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
