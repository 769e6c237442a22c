import math

import numpy as np
import pytest

from vae.networks import NETWORKS, multiply_adds

SHAPES = ((28, 28, 1), (28, 20, 1), (8, 8, 3), (32, 32, 3))


def build(name, shape, num_params=1, latent_dim=5, hidden_size=11):
    return NETWORKS[name].build(shape, latent_dim, num_params, hidden_size, "relu", range(16))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("num_params", [1, 2])
def test_shapes(name, shape, num_params):
    encoder, decoder = build(name, shape, num_params)
    d = math.prod(shape)
    assert encoder(np.zeros((3, d), np.float32)).shape == (3, 10)
    assert decoder(np.zeros((3, 5), np.float32)).shape == (3, d, num_params)


def test_mlp_parameter_count():
    encoder, decoder = build("mlp", (28, 28, 1), 2)
    assert encoder.count_params() == (784 * 11 + 11) + (11 * 11 + 11) + (11 * 10 + 10)
    assert decoder.count_params() == (5 * 11 + 11) + (11 * 11 + 11) + (11 * 1568 + 1568)


@pytest.mark.parametrize(
    ("shape", "smallest"), [((28, 28, 1), 16), ((28, 20, 1), 12), ((8, 8, 3), 1), ((32, 32, 3), 16)]
)
def test_conv3_parameter_count(shape, smallest):
    """smallest: positions after three halvings that round up, e.g. 28 -> 14 -> 7 -> 4."""
    encoder, decoder = build("conv3", shape, 2)
    c = shape[2]
    convolutions = (9 * c * 32 + 32) + (49 * 32 * 64 + 64) + (25 * 64 * 128 + 128)
    assert encoder.count_params() == convolutions + (smallest * 128 * 10 + 10)
    transposed = (25 * 128 * 64 + 64) + (49 * 64 * 32 + 32) + (9 * 32 * 2 * c + 2 * c)
    assert decoder.count_params() == (5 * smallest * 128 + smallest * 128) + transposed


def test_conv3_decoder_passes_through_the_sizes_the_encoder_saw():
    encoder, decoder = build("conv3", (28, 20, 1))
    seen = [layer.output.shape[1:3] for layer in encoder.layers if len(layer.output.shape) == 4]
    made = [layer.output.shape[1:3] for layer in decoder.layers if len(layer.output.shape) == 4]
    assert list(dict.fromkeys(seen)) == [(28, 20), (14, 10), (7, 5), (4, 3)]
    assert made == [(4, 3), (7, 5), (14, 10), (28, 20)]


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_are_glorot_uniform_and_no_two_layers_share_them(name):
    kernels, first_rows = [], set()
    for network in build(name, (28, 28, 1), hidden_size=20, latent_dim=20):
        for layer in network.layers:
            if hasattr(layer, "kernel"):
                kernel = layer.kernel.numpy()
                receptive = math.prod(kernel.shape[:-2])
                limit = math.sqrt(6 / (receptive * (kernel.shape[-2] + kernel.shape[-1])))
                assert 0.97 * limit < np.abs(kernel).max() <= limit
                assert not layer.bias.numpy().any()
                kernels.append(kernel)
                first_rows.add(tuple((kernel.ravel()[:5] / limit).round(5)))
    assert len(first_rows) == len(kernels)


def test_multiply_adds():
    encoder, decoder = build("mlp", (28, 28, 1))
    assert multiply_adds(encoder) == 784 * 11 + 11 * 11 + 11 * 10
    encoder, decoder = build("conv3", (8, 8, 3))
    assert multiply_adds(encoder) == 64 * 9 * 3 * 32 + 16 * 49 * 32 * 64 + 4 * 25 * 64 * 128 + 128 * 10
    assert multiply_adds(decoder) == 5 * 128 + 1 * 25 * 128 * 64 + 4 * 49 * 64 * 32 + 16 * 9 * 32 * 3
