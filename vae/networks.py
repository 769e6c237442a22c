"""Encoder and decoder networks: shapes, no probabilities.

A builder takes the image shape (h, w, c), the latent size L, the decoder outputs per pixel P, the size of the hidden
layers, the activation's name and an iterator of seeds, one per layer. It returns (encoder, decoder), Keras models with
d = h w c:

    encoder [batch, d] -> [batch, 2L]        decoder [batch, L] -> [batch, d, P]

Weights are Glorot uniform ("Xavier": Glorot & Bengio 2010), biases are zero.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import keras
from keras import layers

# The feature maps of each convolution, and the width of its filters (the report, section 2).
CONV3_FILTERS = (32, 64, 128)
CONV3_KERNELS = (3, 7, 5)


def glorot_uniform(seeds: Iterator[int]) -> keras.initializers.Initializer:
    """The initializer of the next layer.

    Layers of the same shape need different seeds; otherwise they start with equal weights.
    """
    return keras.initializers.GlorotUniform(seed=int(next(seeds)))


def build_flat(
    image_shape: tuple[int, ...],
    latent_dim: int,
    num_params: int,
    hidden_size: int,
    activation: str,
    seeds: Iterator[int],
) -> tuple[keras.Model, keras.Model]:
    """Builds the report's simple network: d -> H -> H -> 2L, and L -> H -> H -> d P."""
    d = math.prod(image_shape)

    def dense_layers(num_inputs: int, num_outputs: int) -> list:
        return [
            keras.Input((num_inputs,)),
            layers.Dense(hidden_size, activation, kernel_initializer=glorot_uniform(seeds)),
            layers.Dense(hidden_size, activation, kernel_initializer=glorot_uniform(seeds)),
            layers.Dense(num_outputs, kernel_initializer=glorot_uniform(seeds)),
        ]

    encoder = keras.Sequential(dense_layers(d, 2 * latent_dim))
    # The d values of each parameter lie together in memory. XLA's loops over them are faster than over strides of P.
    by_pixel = [layers.Reshape((num_params, d)), layers.Permute((2, 1))]
    decoder = keras.Sequential([*dense_layers(latent_dim, d * num_params), *by_pixel])
    return encoder, decoder


def build_conv3(
    image_shape: tuple[int, ...],
    latent_dim: int,
    num_params: int,
    hidden_size: int,
    activation: str,
    seeds: Iterator[int],
) -> tuple[keras.Model, keras.Model]:
    """Builds the report's convolutional network; the decoder mirrors the encoder. `hidden_size` is not used.

    The encoder repeats convolution, 2x2 max-pooling (odd sizes round up) and activation three times; a dense layer
    follows. The decoder has a dense layer, then three transposed convolutions of stride 2, which produce exactly the
    sizes that the encoder saw.
    """
    sizes = pooled_sizes(image_shape[:2], num_pools=len(CONV3_FILTERS))
    encoder = build_conv3_encoder(image_shape, latent_dim, activation, seeds)
    decoder = build_conv3_decoder(image_shape, latent_dim, num_params, activation, seeds, sizes)
    return encoder, decoder


def build_conv3_encoder(
    image_shape: tuple[int, ...], latent_dim: int, activation: str, seeds: Iterator[int]
) -> keras.Model:
    """Builds the encoder of build_conv3."""
    encoder = [keras.Input((math.prod(image_shape),)), layers.Reshape(image_shape)]
    for filters, kernel in zip(CONV3_FILTERS, CONV3_KERNELS, strict=True):
        encoder.append(layers.Conv2D(filters, kernel, padding="same", kernel_initializer=glorot_uniform(seeds)))
        # The activations of config.py are monotonic, so pooling first gives the same numbers for a quarter of the work.
        encoder.append(layers.MaxPooling2D(2, padding="same"))
        encoder.append(layers.Activation(activation))
    encoder.append(layers.Flatten())
    encoder.append(layers.Dense(2 * latent_dim, kernel_initializer=glorot_uniform(seeds)))
    return keras.Sequential(encoder)


def build_conv3_decoder(
    image_shape: tuple[int, ...],
    latent_dim: int,
    num_params: int,
    activation: str,
    seeds: Iterator[int],
    sizes: list[tuple[int, ...]],
) -> keras.Model:
    """Builds the decoder of build_conv3. `sizes`: what the encoder saw, from pooled_sizes."""
    smallest_shape = (*sizes[-1], CONV3_FILTERS[-1])
    decoder = [
        keras.Input((latent_dim,)),
        layers.Dense(math.prod(smallest_shape), activation, kernel_initializer=glorot_uniform(seeds)),
        layers.Reshape(smallest_shape),
    ]
    outputs = (CONV3_FILTERS[1], CONV3_FILTERS[0], image_shape[2] * num_params)
    activations = (activation, activation, None)
    for stage, kernel in enumerate(reversed(CONV3_KERNELS)):
        decoder.append(
            layers.Conv2DTranspose(
                outputs[stage],
                kernel,
                strides=2,
                padding="same",
                output_padding=transposed_padding(sizes[-1 - stage], sizes[-2 - stage]),
                activation=activations[stage],
                kernel_initializer=glorot_uniform(seeds),
            )
        )
    decoder.append(layers.Reshape((math.prod(image_shape), num_params)))
    return keras.Sequential(decoder)


def pooled_sizes(size: tuple[int, ...], num_pools: int) -> list[tuple[int, ...]]:
    """(h, w) before each 2x2 pooling that rounds up, and after the last one."""
    sizes = [size]
    for _ in range(num_pools):
        sizes.append(tuple(math.ceil(n / 2) for n in sizes[-1]))
    return sizes


def transposed_padding(size: tuple[int, ...], target: tuple[int, ...]) -> tuple[int, ...]:
    """The output padding with which a transposed convolution of stride 2 turns `size` into `target`.

    Padding "same" turns n pixels into 2n - 1; the output padding adds what is missing, 0 or 1.
    """
    return tuple(m - (2 * n - 1) for n, m in zip(size, target, strict=True))


def multiply_adds(network: keras.Model) -> int:
    """The multiply-adds of one example's forward pass through a model of dense and convolution layers."""
    total = 0
    for layer in network.layers:
        if not hasattr(layer, "kernel"):
            continue
        # A convolution applies its kernel at each output position, a transposed one at each input position.
        is_transposed = isinstance(layer, layers.Conv2DTranspose)
        shape = layer.input.shape if is_transposed else layer.output.shape
        num_positions = math.prod(shape[1:-1])
        total += math.prod(layer.kernel.shape) * num_positions
    return total


class Network(NamedTuple):
    """A builder, and whether XLA compiles its networks well on a CPU.

    Convolutions are slow under XLA. Without it, each core computes a part of the batch (vae.cores).
    """

    build: Callable[..., tuple[keras.Model, keras.Model]]
    jit_compile: bool


NETWORKS = {
    "flat": Network(build_flat, jit_compile=True),
    "conv3": Network(build_conv3, jit_compile=False),
}
