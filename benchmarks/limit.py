"""What the machine's arithmetic alone takes for an epoch, part by part, taking turns with the contenders.

flat: the matrix products of forward and backward pass (the fastest of NumPy, TensorFlow op by op, and TensorFlow
compiled by XLA in one loop), one pass of Adam over the weights a step, and one pass of the Bernoulli loss and its
gradient over the outputs a step. conv3: the operations, counted, over the rate of the machine's fastest large product.
"""

import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "peers"))
sys.path.insert(0, str(Path(__file__).parents[1]))
from turns import BATCH, LATENT, arguments, start

import config

SIZES = (2048, 4096)  # of the square products that the machine's rate is measured with


def products(tf, shapes, steps):
    """A function for each of NumPy, TensorFlow and XLA that runs one epoch's matrix products."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.standard_normal(shape, dtype=np.float32) / np.float32(shape[0] ** 0.5)

    layers = [(draw(BATCH, i), draw(i, o), draw(BATCH, o)) for i, o in shapes]

    def with_numpy():
        for _ in range(steps):
            for place, (inputs, weights, gradient) in enumerate(layers):
                _ = inputs @ weights, inputs.T @ gradient
                if place:  # nothing asks for the gradient of the images
                    _ = gradient @ weights.T

    # A constant's products would be computed once and for all: variables are not folded away.
    variables = [tuple(map(tf.Variable, layer)) for layer in layers]

    @tf.function(autograph=False)
    def one_step():
        results = []
        for place, (inputs, weights, gradient) in enumerate(variables):
            results += [tf.matmul(inputs, weights), tf.matmul(inputs, gradient, transpose_a=True)]
            results += [tf.matmul(gradient, weights, transpose_b=True)] if place else []
        return tf.add_n([result[0, 0] for result in results])

    def with_tensorflow():
        for _ in range(steps):
            one_step()

    @tf.function(jit_compile=True, autograph=False)
    def compiled():
        # A chain of products only, as the network without all else; what a step makes goes into the next, since XLA
        # would move what never changes out of the loop.
        def body(i, x, *_):
            inputs, h, weights = [], x, [layer[1] for layer in variables]
            for w in weights:
                inputs.append(h[:, : w.shape[0]])  # of the 2L outputs of the encoder, L
                h = tf.matmul(inputs[-1], w)
            gradient, gradients = x, []
            for place in reversed(range(len(weights))):
                gradient = tf.tile(gradient, (1, weights[place].shape[1] // gradient.shape[1]))  # from L to 2L
                gradients.append(tf.matmul(inputs[place], gradient, transpose_a=True))
                if place:
                    gradient = tf.matmul(gradient, weights[place], transpose_b=True)
            return i + 1, h, *gradients

        zeros = [tf.zeros(shape) for shape in reversed(shapes)]
        last = tf.while_loop(lambda i, *_: i < steps, body, (0, variables[0][0].read_value(), *zeros))
        return tf.add_n([array[0, 0] for array in last[1:]])

    return {"NumPy": with_numpy, "TensorFlow": with_tensorflow, "XLA": lambda: compiled().numpy()}


def adam(tf, shapes, steps):
    """One epoch's passes of Adam over weights, moments and gradient, in one compiled loop."""
    size = sum(i * o + o for i, o in shapes)
    weights, first, second = (tf.Variable(tf.zeros(size)) for _ in range(3))
    gradient = tf.constant(np.random.default_rng(0).standard_normal(size, dtype=np.float32))

    @tf.function(jit_compile=True, autograph=False)
    def run():
        def body(i):
            m = first.assign_add(0.1 * (gradient - first))
            v = second.assign_add(0.001 * (gradient * gradient - second))
            weights.assign_sub(0.001 * m / (tf.sqrt(v) + 1e-8))
            return (i + 1,)

        return tf.while_loop(lambda i: i < steps, body, (0,))[0]

    return lambda: run().numpy()


def loss(tf, pixels, steps):
    """One epoch's passes of the Bernoulli log-likelihood and its gradient over logits [100, pixels]."""
    logits = tf.Variable(np.random.default_rng(0).standard_normal((BATCH, pixels), dtype=np.float32))
    x = tf.constant(np.random.default_rng(1).integers(0, 2, (BATCH, pixels)).astype(np.float32))

    @tf.function(jit_compile=True, autograph=False)
    def run():
        def body(i, total):
            value = tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(x, logits))
            logits.assign_sub(1e-6 * (tf.sigmoid(logits) - x))
            return i + 1, total + value

        return tf.while_loop(lambda i, _: i < steps, body, (0, 0.0))[1]

    return lambda: run().numpy()


def seconds(function):
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def flat_turns(tf, images, hidden_size, turn):
    h, d, steps = hidden_size, images[0].size, len(images) // BATCH
    shapes = [(d, h), (h, h), (h, 2 * LATENT), (LATENT, h), (h, h), (h, d)]
    parts = {**products(tf, shapes, steps), "Adam": adam(tf, shapes, steps), "loss": loss(tf, d, steps)}
    while True:
        times = {name: seconds(function) for name, function in parts.items()}
        fastest = min(times[name] for name in ("NumPy", "TensorFlow", "XLA"))
        turn(**times, limit=fastest + times["Adam"] + times["loss"])


def conv3_turns(tf, images, turn):
    from vae import runs
    from vae.networks import multiply_adds

    model = runs.build(config.Config(vae_type="conv3"), images.shape[1:])
    # A multiply and an add, three times over: forward, and the gradients of inputs and of weights; but no gradient of
    # the images, whose layer is the first with weights.
    first = next(layer for layer in model.encoder.layers if hasattr(layer, "kernel"))
    of_images = np.prod(first.kernel.shape) * np.prod(first.output.shape[1:-1])
    flops = 2 * len(images) * (3 * (multiply_adds(model.encoder) + multiply_adds(model.decoder)) - of_images)
    squares = [np.random.default_rng(0).random((n, n), dtype=np.float32) for n in SIZES]
    makers = [lambda a=a: a @ a for a in squares]
    makers += [lambda a=a: tf.matmul(a, a)[0, 0].numpy() for a in map(tf.constant, squares)]
    while True:
        rates = [2 * n**3 / min(seconds(make) for _ in range(3)) for n, make in zip(2 * SIZES, makers, strict=True)]
        turn(rate=max(rates), limit=flops / max(rates))


def main():
    args = arguments(__doc__, "flat", "conv3")
    images = np.load(args.images)
    with config.tensorflow_environment():
        import tensorflow as tf
    turn = start(epochs=1)
    flat_turns(tf, images, args.hidden_size, turn) if args.kind == "flat" else conv3_turns(tf, images, turn)


if __name__ == "__main__":
    main()
