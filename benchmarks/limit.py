"""The limit: how long the arithmetic of an epoch alone takes on this machine. It takes turns like a contender.

flat: the matrix products of the forward and the backward pass, and for each step one pass of Adam over the weights and
one pass of the Bernoulli loss and its gradient over the outputs. The products are computed in NumPy, in TensorFlow one
by one, and in TensorFlow in one loop compiled by XLA. The fastest of the three counts.

conv3: the number of operations, divided by the rate of the machine's fastest product of two large matrices.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

import cli
from benchmarks import arithmetic, turns
from config import Config

with cli.tensorflow_environment():
    from vae import networks, runs

PRODUCTS_ONE_BY_ONE = ("NumPy", "TensorFlow")
ALL_PRODUCTS = (*PRODUCTS_ONE_BY_ONE, "XLA")
# The sizes of the square matrices that the machine's rate is measured with, and how often each product is repeated.
SQUARE_SIZES = (2048, 4096)
REPEATS = 3


def measure_flat(images: np.ndarray, hidden_size: int) -> Iterator[dict[str, float]]:
    """Yields for each turn the limit of the flat model, in seconds per epoch, and the seconds of its parts.

    `seconds_one_by_one` is the limit without XLA's loop of products.
    """
    steps = len(images) // turns.BATCH_SIZE
    pixels = images[0].size
    shapes = [
        (pixels, hidden_size),
        (hidden_size, hidden_size),
        (hidden_size, 2 * turns.LATENT_DIM),
        (turns.LATENT_DIM, hidden_size),
        (hidden_size, hidden_size),
        (hidden_size, pixels),
    ]
    layers = arithmetic.make_layers(shapes)
    variables = arithmetic.make_variables(layers)
    parts = {
        "NumPy": arithmetic.make_numpy_epoch(layers, steps),
        "TensorFlow": arithmetic.make_tensorflow_epoch(variables, steps),
        "XLA": arithmetic.make_xla_epoch(variables, steps),
        "Adam": arithmetic.make_adam_epoch(shapes, steps),
        "loss": arithmetic.make_loss_epoch(pixels, steps),
    }
    while True:
        times = {name: seconds_of(run_epoch) for name, run_epoch in parts.items()}
        yield {
            "seconds": sum_of_parts(times, ALL_PRODUCTS),
            "seconds_one_by_one": sum_of_parts(times, PRODUCTS_ONE_BY_ONE),
            **times,
        }


def sum_of_parts(times: dict[str, float], products: Sequence[str]) -> float:
    """Returns the sum of the seconds of the fastest of these kinds of products, of Adam, and of the loss."""
    return min(times[name] for name in products) + times["Adam"] + times["loss"]


def seconds_of(function: Callable[[], object]) -> float:
    """Returns how long a call takes, in seconds."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def measure_conv3(images: np.ndarray) -> Iterator[dict[str, float]]:
    """Yields for each turn the limit of conv3, in seconds per epoch, and the operations per second behind it."""
    operations = count_conv3_operations(images)
    products = arithmetic.make_square_products(SQUARE_SIZES)
    while True:
        rate = max(measure_rate(size, product) for size, product in products)
        yield {"seconds": operations / rate, "rate": rate}


def count_conv3_operations(images: np.ndarray) -> int:
    """Returns the number of multiplications and additions in an epoch of conv3."""
    model = runs.build(Config(vae_type="conv3"), images.shape[1:])
    forward = networks.multiply_adds(model.encoder) + networks.multiply_adds(model.decoder)
    # The backward pass has two multiply-adds for each one of the forward pass: one for the gradient of the weights, and
    # one for the gradient of the inputs. Only the inputs of the first layer, which are the images, need no gradient.
    first_layer = next(layer for layer in model.encoder.layers if hasattr(layer, "kernel"))
    positions = math.prod(first_layer.output.shape[1:-1])
    image_gradient = math.prod(first_layer.kernel.shape) * positions
    return 2 * len(images) * (3 * forward - image_gradient)


def measure_rate(size: int, product: Callable[[], object]) -> float:
    """Returns the operations per second of a product of two matrices [size, size], from the fastest of its repeats."""
    seconds = min(seconds_of(product) for _ in range(REPEATS))
    # Each of the size^2 results takes `size` multiplications and as many additions.
    return 2 * size**3 / seconds


def main() -> None:
    """Measures the limit once in each turn, without end."""
    args = turns.parse_arguments(__doc__, "flat", "conv3")
    images = np.load(args.images)
    if args.kind == "flat":
        measurements = measure_flat(images, args.hidden_size)
    else:
        measurements = measure_conv3(images)
    while True:
        turns.wait_for_turn()
        turns.print_measurement(**next(measurements))


if __name__ == "__main__":
    main()
