"""The limit: how long an epoch's operations would take at the machine's highest rate. It takes turns like a contender.

The operations are the network's matrix products or convolutions, forward and backward. The rate is the one of the
fastest product of two large square matrices, in float32. Activations, the loss and Adam count as free.
"""

import math
import time

import numpy as np

import cli
from benchmarks import turns
from config import VAE_TYPES, Config

# vae sets the variables that TensorFlow reads, so it comes first.
with cli.tensorflow_messages_held_back():
    from vae import model, networks
import tensorflow as tf

# The sizes of the square matrices that the machine's rate is measured with, and how often each product is repeated.
SQUARE_SIZES = (2048, 4096)
REPEATS = 3


def count_operations(images: np.ndarray, config: Config) -> int:
    """The number of multiplications and additions in an epoch of training on images [n, h, w, c]."""
    vae = model.create(config, images.shape[1:])
    forward = networks.multiply_adds(vae.encoder) + networks.multiply_adds(vae.decoder)
    # The backward pass has two multiply-adds for each one of the forward pass: one for the gradient of the weights, and
    # one for the gradient of the inputs. Only the inputs of the first layer, which are the images, need no gradient.
    first_layer = next(layer for layer in vae.encoder.layers if hasattr(layer, "kernel"))
    positions = math.prod(first_layer.output.shape[1:-1])
    image_gradient = math.prod(first_layer.kernel.shape) * positions
    return 2 * len(images) * (3 * forward - image_gradient)


def measure_rate() -> float:
    """The operations per second of the fastest product of two large square matrices, in NumPy or in TensorFlow."""
    rates = []
    for size in SQUARE_SIZES:
        square = np.random.default_rng(0).random((size, size), dtype=np.float32)
        for multiply, matrix in ((np.matmul, square), (tf.matmul, tf.constant(square))):
            for _ in range(REPEATS):
                started = time.perf_counter()
                product = multiply(matrix, matrix)
                # TensorFlow may return before it is done. An element is known only once the product is complete.
                float(product[0, 0])
                seconds = time.perf_counter() - started
                # Each of the size^2 results takes `size` multiplications and as many additions.
                rates.append(2 * size**3 / seconds)
    return max(rates)


def main() -> None:
    """Measures the limit once in each turn, without end."""
    args = turns.parse_arguments(__doc__, *VAE_TYPES)
    config = Config(vae_type=args.kind, hidden_size=args.hidden_size)
    operations = count_operations(np.load(args.images), config)
    while True:
        turns.wait_for_turn()
        rate = measure_rate()
        turns.print_measurement(seconds=operations / rate, rate=rate)


if __name__ == "__main__":
    main()
