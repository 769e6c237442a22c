"""Encoder and decoder networks: shapes, no probabilities.

A builder takes image_shape (h, w, c), latent_dim L, num_params P, hidden_size, activation and one seed a layer, and
returns (encoder, decoder), Keras models with d = h w c:

    encoder [batch, d] -> [batch, 2L]        decoder [batch, L] -> [batch, d, P]

Weights are Glorot uniform ("Xavier": Glorot & Bengio 2010), biases zero.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import keras
from keras import layers

CONV3 = ((32, 3), (64, 7), (128, 5))  # the report's section 2: feature maps and filter size of each layer


def _glorot(seeds):
    """The next layer's initializer; equal integer seeds would give layers of one shape equal kernels."""
    return keras.initializers.GlorotUniform(seed=int(next(seeds)))


def mlp(image_shape, latent_dim, num_params, hidden_size, activation, seeds):
    """The report's simple network: d -> H -> H -> 2L, and L -> H -> H -> d P."""
    d, seeds = math.prod(image_shape), iter(seeds)

    def stack(num_inputs, num_outputs):
        return [
            keras.Input((num_inputs,)),
            layers.Dense(hidden_size, activation, kernel_initializer=_glorot(seeds)),
            layers.Dense(hidden_size, activation, kernel_initializer=_glorot(seeds)),
            layers.Dense(num_outputs, kernel_initializer=_glorot(seeds)),
        ]

    encoder = keras.Sequential(stack(d, 2 * latent_dim))
    # Each parameter's d values lie together in memory: XLA's loops over them run faster than over [d, P] strides.
    outputs = [layers.Reshape((num_params, d)), layers.Permute((2, 1))]
    decoder = keras.Sequential([*stack(latent_dim, d * num_params), *outputs])
    return encoder, decoder


def conv3(image_shape, latent_dim, num_params, hidden_size, activation, seeds):
    """The report's convolutional network; the decoder mirrors it to the very sizes the encoder saw.

    Three times convolution, activation, 2x2 max-pool (odd sizes round up), then one dense layer; the decoder is a
    dense layer, then three transposed convolutions of stride 2. `hidden_size` has no part in it.
    """
    seeds = iter(seeds)
    sizes = [image_shape[:2]]  # (h, w) before each pool, and after the last
    encoder = [keras.Input((math.prod(image_shape),)), layers.Reshape(image_shape)]
    for filters, kernel in CONV3:
        convolution = layers.Conv2D(filters, kernel, padding="same", kernel_initializer=_glorot(seeds))
        # config.ACTIVATIONS are monotonic, so the pool may come first: the same numbers from a quarter of the work
        encoder += [convolution, layers.MaxPooling2D(2, padding="same"), layers.Activation(activation)]
        sizes.append(tuple(-(-n // 2) for n in sizes[-1]))
    encoder += [layers.Flatten(), layers.Dense(2 * latent_dim, kernel_initializer=_glorot(seeds))]

    smallest = (*sizes[-1], CONV3[-1][0])
    decoder = [
        keras.Input((latent_dim,)),
        layers.Dense(math.prod(smallest), activation, kernel_initializer=_glorot(seeds)),
        layers.Reshape(smallest),
    ]
    outputs = [CONV3[1][0], CONV3[0][0], image_shape[2] * num_params]
    activations = [activation, activation, None]
    kernels = [kernel for _, kernel in reversed(CONV3)]
    stages = zip(outputs, kernels, activations, sizes[:0:-1], sizes[-2::-1], strict=True)
    for filters, kernel, act, small, target in stages:
        # "same" padding with stride 2 gives 2n - 1 pixels an axis, and output_padding the rest
        padding = tuple(t - (2 * n - 1) for n, t in zip(small, target, strict=True))
        options = {"strides": 2, "padding": "same", "output_padding": padding, "activation": act}
        decoder.append(layers.Conv2DTranspose(filters, kernel, **options, kernel_initializer=_glorot(seeds)))
    decoder.append(layers.Reshape((math.prod(image_shape), num_params)))
    return keras.Sequential(encoder), keras.Sequential(decoder)


def multiply_adds(network):
    """Multiply-adds of one example's forward pass through a Keras model of dense and convolution layers."""
    total = 0
    for layer in network.layers:
        if hasattr(layer, "kernel"):
            transposed = isinstance(layer, layers.Conv2DTranspose)
            positions = (layer.input if transposed else layer.output).shape[1:-1]
            total += math.prod(layer.kernel.shape) * math.prod(positions)
    return total


class Network(NamedTuple):
    """A builder, and whether XLA compiles it well on a CPU (its convolutions are slow there)."""

    build: Callable
    jit_compile: bool


NETWORKS = {"mlp": Network(mlp, jit_compile=True), "conv3": Network(conv3, jit_compile=False)}
