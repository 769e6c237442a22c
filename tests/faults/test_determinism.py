"""The same seed on the same machine gives the same bits, for every type and likelihood."""

import multiprocessing
import os

import pytest
from conftest import saved
from injection import in_child

import config
import train
from vae import runs

KINDS = [(name, vae_type.likelihood) for name, vae_type in config.VAE_TYPES.items()]
KINDS += [("conv3", likelihood) for likelihood in config.LIKELIHOODS if ("conv3", likelihood) not in KINDS]
FLAT_TYPES = [name for name, vae_type in config.VAE_TYPES.items() if vae_type.network == "flat"]


def train_below(folder, *argv):
    """Trains a model with its checkpoints and pictures below `folder`. Returns the exit code."""
    paths = ["--checkpoints_dir", str(folder / "checkpoints"), "--pictures_dir", str(folder / "pictures")]
    return train.main([*argv, *paths])


def saved_below(folder):
    """Returns what the one run below `folder` has saved."""
    (run,) = runs.trained(folder / "checkpoints")
    return saved(run)


@pytest.fixture
def busy_cores():
    """Keeps every core busy with other work, so that threads are interrupted at random."""
    spinners = [multiprocessing.Process(target=spin, daemon=True) for _ in range(os.cpu_count() or 1)]
    for spinner in spinners:
        spinner.start()
    yield
    for spinner in spinners:
        spinner.kill()
        spinner.join()


def spin():
    while True:
        pass


@pytest.mark.parametrize("precision", config.PRECISIONS)
@pytest.mark.parametrize(
    ("dataset", "batch_size"), [("digits", 1), ("digits", 719), ("cifar10", 50), ("frey_faces", 782)]
)
@pytest.mark.parametrize(("vae_type", "likelihood"), KINDS)
def test_training_twice_gives_the_same_bits(
    vae_type, likelihood, dataset, batch_size, precision, tmp_path, small_data, busy_cores
):
    """Batches are small, odd, even or large, and other processes compete for the cores."""
    argv = ["--dataset", dataset, "--vae_type", vae_type, "--likelihood", likelihood, "--batch_size", str(batch_size)]
    num_epochs = 1 if batch_size == 1 else 3
    argv += ["--num_epochs", str(num_epochs), "--precision", precision]
    argv += ["--allow_unverified", "--data_dir", str(small_data)]
    for name in ("first", "second"):
        assert in_child(train_below, tmp_path / name, *argv) == 0
    assert saved_below(tmp_path / "first") == saved_below(tmp_path / "second")


@pytest.mark.parametrize("batch_size", [20, 100])
@pytest.mark.parametrize("vae_type", FLAT_TYPES)
def test_flat_models_have_the_same_bits_with_two_threads_as_with_more(vae_type, batch_size, tmp_path, small_data):
    """With MNIST's images, the products are so large that a single thread would add their terms in another order."""

    def train_with(num_threads, folder):
        # TensorFlow has a thread for each core, unless this variable gives another number.
        os.environ["TF_NUM_INTRAOP_THREADS"] = str(num_threads)
        argv = ["--vae_type", vae_type, "--batch_size", str(batch_size), "--num_epochs", "3"]
        return train_below(folder, *argv, "--allow_unverified", "--data_dir", str(small_data))

    for num_threads in (2, 3, 8):
        assert in_child(train_with, num_threads, tmp_path / str(num_threads)) == 0
    assert saved_below(tmp_path / "2") == saved_below(tmp_path / "3") == saved_below(tmp_path / "8")
