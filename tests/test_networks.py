"""The networks: shapes, numbers of parameters, and first weights."""

import math

import numpy as np
import pytest

from vae.networks import NETWORKS, multiply_adds

# A flat network sees the number of pixels only.
SHAPES = [("flat", (28, 20, 1)), ("flat", (5, 4, 3))]
SHAPES += [("conv3", shape) for shape in ((28, 28, 1), (28, 20, 1), (8, 8, 3), (32, 32, 3), (4, 4, 1), (5, 4, 3))]
SHAPES += [("conv3", (97, 61, 3))]


def build(name, image_shape, num_params=1, latent_dim=5, hidden_size=11):
    """The encoder and the decoder of a small network."""
    return NETWORKS[name].build(
        image_shape=image_shape,
        latent_dim=latent_dim,
        num_params=num_params,
        hidden_size=hidden_size,
        activation="relu",
        seeds=iter(range(16)),
    )


@pytest.mark.parametrize(("name", "image_shape"), SHAPES)
def test_the_encoder_has_two_outputs_per_latent_and_the_decoder_num_params_per_pixel(name, image_shape):
    d = math.prod(image_shape)
    for num_params in (1, 2):
        encoder, decoder = build(name, image_shape, num_params)
        assert encoder(np.zeros((3, d), np.float32)).shape == (3, 10)
        assert decoder(np.zeros((3, 5), np.float32)).shape == (3, d, num_params)


def test_the_flat_network_has_the_expected_number_of_parameters():
    encoder, decoder = build("flat", (28, 28, 1), num_params=2)
    assert encoder.count_params() == (784 * 11 + 11) + (11 * 11 + 11) + (11 * 10 + 10)
    assert decoder.count_params() == (5 * 11 + 11) + (11 * 11 + 11) + (11 * 1568 + 1568)


@pytest.mark.parametrize(
    ("image_shape", "num_positions"), [((28, 28, 1), 16), ((28, 20, 1), 12), ((8, 8, 3), 1), ((32, 32, 3), 16)]
)
def test_conv3_has_the_expected_number_of_parameters(image_shape, num_positions):
    """num_positions: those left after three halvings that round up, e.g. 4 x 4 for 28 -> 14 -> 7 -> 4."""
    encoder, decoder = build("conv3", image_shape, num_params=2)
    c = image_shape[2]
    convolutions = (9 * c * 32 + 32) + (49 * 32 * 64 + 64) + (25 * 64 * 128 + 128)
    assert encoder.count_params() == convolutions + (num_positions * 128 * 10 + 10)
    transposed = (25 * 128 * 64 + 64) + (49 * 64 * 32 + 32) + (9 * 32 * 2 * c + 2 * c)
    assert decoder.count_params() == (5 * num_positions * 128 + num_positions * 128) + transposed


def test_the_decoder_of_conv3_passes_through_the_sizes_that_the_encoder_saw():
    encoder, decoder = build("conv3", (28, 20, 1))
    encoder_sizes = image_sizes(encoder)
    assert list(dict.fromkeys(encoder_sizes)) == [(28, 20), (14, 10), (7, 5), (4, 3)]
    assert image_sizes(decoder) == [(4, 3), (7, 5), (14, 10), (28, 20)]


def image_sizes(network):
    """(h, w) after each layer whose output is an image."""
    return [layer.output.shape[1:3] for layer in network.layers if len(layer.output.shape) == 4]


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_are_glorot_uniform_and_no_two_layers_have_the_same(name):
    encoder, decoder = build(name, (28, 28, 1), hidden_size=20, latent_dim=20)
    layers = [layer for layer in (*encoder.layers, *decoder.layers) if hasattr(layer, "kernel")]
    beginnings = set()
    for layer in layers:
        kernel = layer.kernel.numpy()
        receptive_field = math.prod(kernel.shape[:-2])
        limit = math.sqrt(6 / (receptive_field * (kernel.shape[-2] + kernel.shape[-1])))
        assert 0.97 * limit < np.abs(kernel).max() <= limit
        assert not layer.bias.numpy().any()
        beginnings.add(tuple((kernel.ravel()[:5] / limit).round(5)))
    assert len(beginnings) == len(layers)


def test_the_multiply_adds_of_a_network_are_those_of_a_count_by_hand():
    encoder, _ = build("flat", (28, 28, 1))
    assert multiply_adds(encoder) == 784 * 11 + 11 * 11 + 11 * 10
    encoder, decoder = build("conv3", (8, 8, 3))
    assert multiply_adds(encoder) == 64 * 9 * 3 * 32 + 16 * 49 * 32 * 64 + 4 * 25 * 64 * 128 + 128 * 10
    assert multiply_adds(decoder) == 5 * 128 + 1 * 25 * 128 * 64 + 4 * 49 * 64 * 32 + 16 * 9 * 32 * 3
