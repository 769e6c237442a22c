"""The same seed on the same machine gives the same bits, for every type and likelihood."""

import os

import pytest
from conftest import saved
from injection import in_child

import config
import train
from vae import runs

KINDS = [(vae_type, own) for vae_type, (_, own) in config.VAE_TYPES.items()]
KINDS += [("conv3", likelihood) for likelihood in config.LIKELIHOODS if ("conv3", likelihood) not in KINDS]


@pytest.mark.parametrize("dataset", ["digits", "cifar10"])
@pytest.mark.parametrize(("vae_type", "likelihood"), KINDS)
def test_twice_the_same_bits(vae_type, likelihood, dataset, tmp_path, small_data):
    """More than one step an epoch, in batches that two cores share; three epochs."""
    argv = ["--dataset", dataset, "--vae_type", vae_type, "--likelihood", likelihood, "--batch_size", "50"]
    argv += ["--num_epochs", "3", "--allow_unverified", "--data_dir", str(small_data)]
    results = []
    for name in ("first", "second"):
        paths = ["--checkpoints_dir", str(tmp_path / name), "--pictures_dir", str(tmp_path / "pictures")]
        assert in_child(train.main, [*argv, *paths]) == 0
        results.append(saved(*runs.trained(tmp_path / name)))
    assert results[0] == results[1]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no way to choose cores here")
@pytest.mark.parametrize("vae_type", [name for name, (network, _) in config.VAE_TYPES.items() if network == "mlp"])
def test_flat_models_have_the_same_bits_on_one_core_as_on_all(vae_type, tmp_path):
    """conv3 has not: README says so."""

    def run(cores, name):
        os.sched_setaffinity(0, cores)
        paths = ["--checkpoints_dir", str(tmp_path / name), "--pictures_dir", str(tmp_path / "pictures")]
        return train.main(["--dataset", "digits", "--vae_type", vae_type, "--num_epochs", "5", *paths])

    cores = os.sched_getaffinity(0)
    results = []
    for name, some in (("one", {min(cores)}), ("all", cores)):
        assert in_child(run, some, name) == 0
        results.append(saved(*runs.trained(tmp_path / name)))
    assert results[0] == results[1]
