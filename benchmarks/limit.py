"""The limit: how long an epoch's operations would take at the machine's highest rate. It takes turns like a contender.

The operations are those of the network's matrix products or convolutions, forward and backward. The rate is that of the
fastest product of two large square matrices, in float32. Activations, the loss and Adam count as free.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

import cli
from benchmarks import turns
from config import VAE_TYPES, Config

with cli.tensorflow_environment():
    import tensorflow as tf

    from vae import networks, runs

# The sizes of the square matrices that the machine's rate is measured with, and how often each product is repeated.
SQUARE_SIZES = (2048, 4096)
REPEATS = 3


def measure(images: np.ndarray, config: Config) -> Iterator[dict[str, float]]:
    """Yields for each turn the limit in seconds per epoch, and the operations per second behind it."""
    operations = count_operations(images, config)
    products = make_square_products(SQUARE_SIZES)
    while True:
        rate = max(measure_rate(size, product) for size, product in products)
        yield {"seconds": operations / rate, "rate": rate}


def count_operations(images: np.ndarray, config: Config) -> int:
    """Returns the number of multiplications and additions in an epoch of training on images [n, h, w, c]."""
    model = runs.build(config, images.shape[1:])
    forward = networks.multiply_adds(model.encoder) + networks.multiply_adds(model.decoder)
    # The backward pass has two multiply-adds for each one of the forward pass: one for the gradient of the weights, and
    # one for the gradient of the inputs. Only the inputs of the first layer, which are the images, need no gradient.
    first_layer = next(layer for layer in model.encoder.layers if hasattr(layer, "kernel"))
    positions = math.prod(first_layer.output.shape[1:-1])
    image_gradient = math.prod(first_layer.kernel.shape) * positions
    return 2 * len(images) * (3 * forward - image_gradient)


def make_square_products(sizes: Sequence[int]) -> list[tuple[int, Callable[[], np.ndarray]]]:
    """Returns pairs of a size and a function that multiplies a matrix [size, size] with itself.

    There is a function in NumPy and one in TensorFlow for each size.
    """
    squares = [np.random.default_rng(0).random((size, size), dtype=np.float32) for size in sizes]
    products: list[tuple[int, Callable[[], np.ndarray]]] = []
    for square in squares:
        products.append((len(square), partial(multiply_in_numpy, square)))
    for square in squares:
        products.append((len(square), partial(multiply_in_tensorflow, tf.constant(square))))
    return products


def multiply_in_numpy(square: np.ndarray) -> np.ndarray:
    """Returns the product of a matrix with itself."""
    return square @ square


def multiply_in_tensorflow(square: tf.Tensor) -> np.ndarray:
    """Multiplies a matrix with itself, and returns one element, which is known only once the product is complete."""
    product = tf.matmul(square, square)
    return product[0, 0].numpy()


def measure_rate(size: int, product: Callable[[], object]) -> float:
    """Returns the operations per second of a product of two matrices [size, size], from the fastest of its repeats."""
    seconds = min(seconds_of(product) for _ in range(REPEATS))
    # Each of the size^2 results takes `size` multiplications and as many additions.
    return 2 * size**3 / seconds


def seconds_of(function: Callable[[], object]) -> float:
    """Returns how long a call takes, in seconds."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def main() -> None:
    """Measures the limit once in each turn, without end."""
    args = turns.parse_arguments(__doc__, *VAE_TYPES)
    images = np.load(args.images)
    config = Config(vae_type=args.kind, hidden_size=args.hidden_size)
    measurements = measure(images, config)
    while True:
        turns.wait_for_turn()
        turns.print_measurement(**next(measurements))


if __name__ == "__main__":
    main()
