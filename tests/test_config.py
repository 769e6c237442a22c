"""Config, and the names that a user may choose."""

import math

import pytest

import config
from config import Config, UsageError


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
        ({}, ""),
        ({"dataset": "digits", "seed": 3}, "--dataset digits --seed 3"),
        ({"num_epochs": 7}, "--num_epochs 7"),
        ({"dataset": "photos", "image_size": 32}, "--dataset photos --image_size 32"),
        ({"vae_type": "conv3", "likelihood": "cross_entropy", "hidden_size": 7}, "--vae_type conv3"),
        ({"vae_type": "conv3", "likelihood": "normal"}, "--vae_type conv3 --likelihood normal"),
        ({"vae_type": "flat_cont_normal", "likelihood": "normal"}, "--vae_type flat_cont_normal"),
    ],
)
def test_arguments_leave_out_what_is_at_its_default(options, arguments):
    assert " ".join(Config(**options).arguments()) == arguments


@pytest.mark.parametrize(
    ("vae_type", "default"),
    [
        ("flat_binarized", "bernoulli"),
        ("flat_cont_normal", "normal"),
        ("flat_cont_logit", "logit_normal"),
        ("conv3", "cross_entropy"),
    ],
)
def test_a_type_has_a_default_likelihood_and_a_flat_one_takes_no_other(vae_type, default):
    assert Config(vae_type=vae_type).likelihood == default
    for likelihood in set(config.LIKELIHOODS) - {default}:
        if vae_type == "conv3":
            assert Config(vae_type=vae_type, likelihood=likelihood).likelihood == likelihood
            continue
        with pytest.raises(UsageError, match=f"^likelihood: {vae_type} takes {default} only, got '{likelihood}'"):
            Config(vae_type=vae_type, likelihood=likelihood)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("dataset", (None, 3)),
        ("likelihood", ("x", None)),
        *((name, ("x", None, "")) for name in ("vae_type", "activation", "precision", "learning_rate_schedule")),
        ("image_size", (0, 3, 8.0, "8", True)),
        *((name, (0, -3, 2.0, "2", True, None)) for name in ("latent_dim", "hidden_size", "num_epochs", "batch_size")),
        ("seed", (-1, 2.0, "2", True, None)),
        ("learning_rate", (0.0, -1.0, math.nan, math.inf, "0.1", True, None)),
    ],
)
def test_a_value_that_a_field_does_not_take_is_refused_by_name(name, values):
    for value in values:
        with pytest.raises(UsageError, match=f"^{name}: takes .*, got {value!r}$"):
            Config(**{name: value})


@pytest.mark.parametrize(
    ("path", "name"),
    [("a/b", "b"), ("a/b/", "b"), ("/x/B-1_2.c", "B-1_2.c"), ("a/b.npz", "b"), ("b.npz", "b"), ("a/-", "-")],
)
def test_own_images_are_called_by_the_last_part_of_their_path(path, name):
    assert config.is_path(path) and config.dataset_name(path) == name


@pytest.mark.parametrize(
    "path", ["a/b c", "a/.b", "a/b:c", "a/b\n", "a/é", "/", ".npz", "a/b$", "a/digits", "mnist.npz"]
)
def test_own_images_with_another_name_are_refused(path):
    with pytest.raises(UsageError, match=r"^dataset: .*rename"):
        config.dataset_name(path)


def test_a_word_is_the_name_of_a_data_set_and_no_path():
    for name in config.DATASETS:
        assert not config.is_path(name) and config.dataset_name(name) == name
    for name in ("photos", "a.b", ".", ".."):
        with pytest.raises(UsageError, match=r"^dataset: takes mnist, .*path of your own images"):
            config.dataset_name(name)
