"""The same seed on the same machine gives the same bits, for every type and likelihood."""

import multiprocessing
import os

import pytest
from conftest import saved
from injection import in_child, only_run

import config
import train

KINDS = [(name, vae_type.likelihood) for name, vae_type in config.VAE_TYPES.items()]
KINDS += [("conv3", likelihood) for likelihood in config.LIKELIHOODS if ("conv3", likelihood) not in KINDS]
FLAT_TYPES = [name for name, vae_type in config.VAE_TYPES.items() if vae_type.network == "flat"]


def train_below(folder, data_dir, *argv):
    """Trains a model with its checkpoints and pictures below `folder`. Returns the exit code."""
    paths = [f"--checkpoints_dir={folder / 'checkpoints'}", f"--pictures_dir={folder / 'pictures'}"]
    return train.main([*argv, "--allow_unverified", f"--data_dir={data_dir}", *paths])


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


@pytest.mark.parametrize(
    ("dataset", "batch_size", "num_epochs", "precision"),
    [
        ("digits", 1, 1, "float32"),
        ("digits", 719, 3, "mixed_bfloat16"),
        ("cifar10", 50, 3, "mixed_bfloat16"),
        ("frey_faces", 782, 3, "float32"),
    ],
)
@pytest.mark.parametrize(("vae_type", "likelihood"), KINDS)
def test_training_twice_gives_the_same_bits(
    vae_type, likelihood, dataset, batch_size, num_epochs, precision, tmp_path, small_data, busy_cores
):
    """Batches are small, odd, even or large, and other processes compete for the cores."""
    argv = ["--dataset", dataset, "--vae_type", vae_type, "--likelihood", likelihood, "--precision", precision]
    argv += ["--batch_size", str(batch_size), "--num_epochs", str(num_epochs)]
    for name in ("first", "second"):
        assert in_child(train_below, tmp_path / name, small_data, *argv) == 0
    assert saved(only_run(tmp_path / "first")) == saved(only_run(tmp_path / "second"))


@pytest.mark.parametrize("batch_size", [20, 100])
@pytest.mark.parametrize("vae_type", FLAT_TYPES)
def test_flat_models_have_the_same_bits_with_two_threads_as_with_more(vae_type, batch_size, tmp_path, small_data):
    """With MNIST's images, the products are so large that a single thread would add their terms in another order."""

    def train_with(num_threads, folder):
        # TensorFlow has a thread for each core, unless this variable gives another number.
        os.environ["TF_NUM_INTRAOP_THREADS"] = str(num_threads)
        argv = ["--vae_type", vae_type, "--batch_size", str(batch_size), "--num_epochs", "3"]
        return train_below(folder, small_data, *argv)

    results = []
    for num_threads in (2, 3, 8):
        folder = tmp_path / str(num_threads)
        assert in_child(train_with, num_threads, folder) == 0
        results.append(saved(only_run(folder)))
    assert results[0] == results[1] == results[2]
