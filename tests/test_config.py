"""Tests of Config, and of the names that a user may choose."""

import math
from pathlib import Path

import pytest

import config
import datasets
from config import Config
from datasets import own
from vae.likelihoods import LIKELIHOODS
from vae.networks import NETWORKS


def test_the_names_are_those_of_the_tables():
    assert set(config.DATASETS) == set(datasets.LOADERS)
    assert set(config.LIKELIHOODS) == set(LIKELIHOODS)
    assert {vae_type.network for vae_type in config.VAE_TYPES.values()} == set(NETWORKS)
    assert {vae_type.likelihood for vae_type in config.VAE_TYPES.values()} <= set(LIKELIHOODS)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "mnist_flat_binarized_z20_h200_lr0.001_b100"),
        ({"num_epochs": 7}, "mnist_flat_binarized_z20_h200_lr0.001_b100"),
        ({"activation": "tanh", "seed": 3}, "mnist_flat_binarized_z20_h200_lr0.001_b100_tanh_seed3"),
        ({"vae_type": "conv3", "learning_rate": 1e-5}, "mnist_conv3_z20_lr1e-05_b100"),
        ({"vae_type": "conv3", "likelihood": "normal"}, "mnist_conv3_z20_lr0.001_b100_normal"),
        ({"vae_type": "conv3", "precision": "mixed_bfloat16"}, "mnist_conv3_z20_lr0.001_b100_mixed_bfloat16"),
        ({"learning_rate_schedule": "staged"}, "mnist_flat_binarized_z20_h200_lr0.001_b100_staged"),
        (
            {"dataset": "photos", "seed": 3, "image_size": 32},
            "photos_flat_binarized_z20_h200_lr0.001_b100_seed3_size32",
        ),
    ],
)
def test_the_name_of_a_run_leaves_out_the_number_of_epochs_and_what_is_at_its_default(options, name):
    assert Config(**options).run_name == name


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ({}, []),
        ({"dataset": "digits", "seed": 3}, ["--dataset", "digits", "--seed", "3"]),
        ({"num_epochs": 7}, ["--num_epochs", "7"]),
        ({"dataset": "photos", "image_size": 32}, ["--dataset", "photos", "--image_size", "32"]),
        ({"vae_type": "conv3", "likelihood": "cross_entropy"}, ["--vae_type", "conv3"]),
        ({"vae_type": "conv3", "likelihood": "normal"}, ["--vae_type", "conv3", "--likelihood", "normal"]),
        ({"vae_type": "flat_cont_normal", "likelihood": "normal"}, ["--vae_type", "flat_cont_normal"]),
    ],
)
def test_arguments_leave_out_what_is_at_its_default(options, arguments):
    assert Config(**options).arguments() == arguments


@pytest.mark.parametrize(
    ("vae_type", "likelihood"),
    [
        ("flat_binarized", "bernoulli"),
        ("flat_cont_normal", "normal"),
        ("flat_cont_logit", "logit_normal"),
        ("conv3", "cross_entropy"),
    ],
)
def test_a_likelihood_that_is_not_given_is_the_default_of_the_type(vae_type, likelihood):
    assert Config(vae_type=vae_type).likelihood == likelihood


@pytest.mark.parametrize("vae_type", ["flat_binarized", "flat_cont_normal", "flat_cont_logit"])
def test_a_flat_type_refuses_every_other_likelihood(vae_type):
    for likelihood in set(LIKELIHOODS) - {Config(vae_type=vae_type).likelihood}:
        with pytest.raises(ValueError, match=f"{vae_type} takes .* only, got '{likelihood}'"):
            Config(vae_type=vae_type, likelihood=likelihood)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("dataset", (None, 3)),
        ("vae_type", ("x", None, "")),
        ("activation", ("x", None, "")),
        ("likelihood", ("x", None)),
        ("precision", ("x", None, "")),
        ("learning_rate_schedule", ("x", None, "")),
        ("image_size", (0, 3, 8.0, "8", True)),
        ("latent_dim", (0, -3, 2.0, "2", True, None)),
        ("hidden_size", (0, -3, 2.0, "2", True, None)),
        ("num_epochs", (0, -3, 2.0, "2", True, None)),
        ("batch_size", (0, -3, 2.0, "2", True, None)),
        ("seed", (-1, 2.0, "2", True, None)),
        ("learning_rate", (0.0, -1.0, math.nan, math.inf, "0.1", True, None)),
    ],
)
def test_a_value_that_a_field_does_not_take_is_refused_by_name(name, values):
    for value in values:
        with pytest.raises(ValueError, match=f"^{name} takes .*, got {value!r}$"):
            Config(**{name: value})


@pytest.mark.parametrize(
    ("path", "name"),
    [("a/b", "b"), ("a/b/", "b"), ("/x/B-1_2.c", "B-1_2.c"), ("a/b.npz", "b"), ("b.npz", "b"), ("a/-", "-")],
)
def test_own_images_are_called_by_the_last_part_of_their_path(path, name):
    assert config.dataset_name(path) == name


@pytest.mark.parametrize("path", ["a/b", "a/b/", "./b", "../b", "a/b.npz", "b.npz", "a/../b", "a/.", "./", "/x/b.c"])
def test_a_run_and_its_data_set_are_named_alike(path, tmp_path, monkeypatch):
    """datasets/ and config.py do not import each other, so each has a function for it."""
    # The last part of tmp_path is not always one that a run can be named after.
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path / "photos")
    assert config.dataset_name(path) == own._name_of(Path(path))


@pytest.mark.parametrize(
    "path", ["a/b c", "a/.b", "a/b:c", "a/b\n", "a/é", "/", ".npz", "a/b$", "a/digits", "mnist.npz"]
)
def test_own_images_with_another_name_are_refused(path):
    with pytest.raises(ValueError, match="rename"):
        config.dataset_name(path)


def test_a_name_is_no_path():
    for name in (*config.DATASETS, "photos", "a.b", ".", ".."):
        assert not config.is_path(name) and config.dataset_name(name) == name
