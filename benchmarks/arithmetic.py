"""The arithmetic of an epoch, and nothing else: matrix products, Adam, and the loss. benchmarks/limit.py times it.

The functions named make_..._epoch return a function that does one kind of arithmetic for a whole epoch.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

import cli
from benchmarks.turns import BATCH_SIZE

with cli.tensorflow_environment():
    import tensorflow as tf


class Layer(NamedTuple):
    """The arrays of a dense layer with i inputs and o outputs, in NumPy or as TensorFlow variables.

    They are the inputs [100, i], the weights [i, o], and the gradient of the outputs [100, o]. The products of a step:
        outputs                    inputs weights        [100, o]
        gradient of the weights    inputs^T gradient     [i, o]
        gradient of the inputs     gradient weights^T    [100, i]
    The first layer does without the last product, since the images need no gradient.
    """

    inputs: Any
    weights: Any
    gradient: Any


def make_layers(shapes: Sequence[tuple[int, int]]) -> list[Layer]:
    """Returns layers of random NumPy arrays. `shapes` has the number of inputs and outputs of each layer."""
    rng = np.random.default_rng(0)

    def draw(rows: int, columns: int) -> np.ndarray:
        return rng.standard_normal((rows, columns), dtype=np.float32) / np.float32(rows**0.5)

    layers = []
    for num_inputs, num_outputs in shapes:
        inputs = draw(BATCH_SIZE, num_inputs)
        weights = draw(num_inputs, num_outputs)
        gradient = draw(BATCH_SIZE, num_outputs)
        layers.append(Layer(inputs, weights, gradient))
    return layers


def make_variables(layers: Sequence[Layer]) -> list[Layer]:
    """Returns the layers as TensorFlow variables. With constants, TensorFlow would compute the products only once."""
    variables = []
    for layer in layers:
        inputs = tf.Variable(layer.inputs)
        weights = tf.Variable(layer.weights)
        gradient = tf.Variable(layer.gradient)
        variables.append(Layer(inputs, weights, gradient))
    return variables


def make_numpy_epoch(layers: Sequence[Layer], steps: int) -> Callable[[], None]:
    """Returns a function that computes the products of an epoch in NumPy."""

    def products(layer: Layer, is_first: bool) -> list[np.ndarray]:
        results = [layer.inputs @ layer.weights, layer.inputs.T @ layer.gradient]
        if not is_first:
            results.append(layer.gradient @ layer.weights.T)
        return results

    def run_epoch() -> None:
        for _ in range(steps):
            for index, layer in enumerate(layers):
                products(layer, is_first=index == 0)

    return run_epoch


def make_tensorflow_epoch(layers: Sequence[Layer], steps: int) -> Callable[[], None]:
    """Returns a function that computes the products of an epoch in TensorFlow, with one graph per step."""

    def products(layer: Layer, is_first: bool) -> list[tf.Tensor]:
        results = [
            tf.matmul(layer.inputs, layer.weights),
            tf.matmul(layer.inputs, layer.gradient, transpose_a=True),
        ]
        if not is_first:
            results.append(tf.matmul(layer.gradient, layer.weights, transpose_b=True))
        return results

    @tf.function(autograph=False)
    def run_step() -> tf.Tensor:
        results = []
        for index, layer in enumerate(layers):
            results += products(layer, is_first=index == 0)
        # TensorFlow leaves out products that the result does not depend on.
        return tf.add_n([result[0, 0] for result in results])

    def run_epoch() -> None:
        for _ in range(steps):
            run_step()

    return run_epoch


def make_xla_epoch(layers: Sequence[Layer], steps: int) -> Callable[[], np.ndarray]:
    """Returns a function that computes the products of an epoch in TensorFlow, in one loop compiled by XLA.

    The products follow one another as in the network, with nothing else in between. The outputs of a step are the
    images of the next step, because XLA would move products that are the same in every step out of the loop.
    """
    images = layers[0].inputs
    weights = [layer.weights for layer in layers]

    def forward(x: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor]:
        all_inputs = []
        outputs = x
        for w in weights:
            # The decoder takes L of the 2L outputs of the encoder.
            inputs = outputs[:, : w.shape[0]]
            all_inputs.append(inputs)
            outputs = tf.matmul(inputs, w)
        return all_inputs, outputs

    def backward(all_inputs: list[tf.Tensor], gradient: tf.Tensor) -> list[tf.Tensor]:
        weight_gradients = []
        for index in reversed(range(len(weights))):
            w = weights[index]
            # The gradient of the L inputs of the decoder becomes that of the 2L outputs of the encoder.
            gradient = tf.tile(gradient, (1, w.shape[1] // gradient.shape[1]))
            weight_gradients.append(tf.matmul(all_inputs[index], gradient, transpose_a=True))
            if index > 0:
                gradient = tf.matmul(gradient, w, transpose_b=True)
        return weight_gradients

    def run_step(i: tf.Tensor, x: tf.Tensor, *_: tf.Tensor) -> tuple[tf.Tensor, ...]:
        all_inputs, outputs = forward(x)
        weight_gradients = backward(all_inputs, gradient=x)
        return i + 1, outputs, *weight_gradients

    @tf.function(jit_compile=True, autograph=False)
    def run_steps() -> tf.Tensor:
        zeros = [tf.zeros(w.shape) for w in reversed(weights)]
        start = (0, images.read_value(), *zeros)
        _, outputs, *weight_gradients = tf.while_loop(lambda i, *_: i < steps, run_step, loop_vars=start)
        return tf.add_n([array[0, 0] for array in (outputs, *weight_gradients)])

    return lambda: run_steps().numpy()


def make_adam_epoch(shapes: Sequence[tuple[int, int]], steps: int) -> Callable[[], np.ndarray]:
    """Returns a function that applies Adam to all weights, once per step, in one loop compiled by XLA."""
    size = sum(num_inputs * num_outputs + num_outputs for num_inputs, num_outputs in shapes)
    weights = tf.Variable(tf.zeros(size))
    first_moment = tf.Variable(tf.zeros(size))
    second_moment = tf.Variable(tf.zeros(size))
    gradient = tf.constant(np.random.default_rng(0).standard_normal(size, dtype=np.float32))

    # Kingma & Ba 2015 (arXiv:1412.6980) without the bias correction; every array is [size]:
    #     m <- m + (1 - 0.9) (g - m)
    #     v <- v + (1 - 0.999) (g^2 - v)
    #     w <- w - 0.001 m / (sqrt(v) + 1e-8)
    def run_step(i: tf.Tensor) -> tuple[tf.Tensor]:
        m = first_moment.assign_add(0.1 * (gradient - first_moment))
        v = second_moment.assign_add(0.001 * (gradient * gradient - second_moment))
        weights.assign_sub(0.001 * m / (tf.sqrt(v) + 1e-8))
        return (i + 1,)

    @tf.function(jit_compile=True, autograph=False)
    def run_steps() -> tf.Tensor:
        (steps_done,) = tf.while_loop(lambda i: i < steps, run_step, loop_vars=(0,))
        return steps_done

    return lambda: run_steps().numpy()


def make_loss_epoch(pixels: int, steps: int) -> Callable[[], np.ndarray]:
    """Returns a function that computes the Bernoulli loss and its gradient in one loop compiled by XLA."""
    logits = tf.Variable(np.random.default_rng(0).standard_normal((BATCH_SIZE, pixels), dtype=np.float32))
    bits = np.random.default_rng(1).integers(0, 2, size=(BATCH_SIZE, pixels))
    x = tf.constant(bits.astype(np.float32))

    # For logits l and pixels x in {0, 1}, both [100, pixels]:
    #     loss = sum(log(1 + exp(l)) - x l)
    #     its gradient = sigmoid(l) - x
    def run_step(i: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        loss = tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(x, logits))
        logits.assign_sub(1e-6 * (tf.sigmoid(logits) - x))
        return i + 1, total + loss

    @tf.function(jit_compile=True, autograph=False)
    def run_steps() -> tf.Tensor:
        _, total = tf.while_loop(lambda i, _: i < steps, run_step, loop_vars=(0, 0.0))
        return total

    return lambda: run_steps().numpy()


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
