"""Times training epochs of binarized MNIST against what the machine's arithmetic alone takes.

python benchmarks/limit.py [--hidden_size 200] [--rounds 5]

The limit of an epoch is the sum of three parts, each timed alone in the same minute with the same threads: the matrix
products of forward and backward pass (NumPy's BLAS or TensorFlow's, whichever is faster), one pass of Adam over the
weights a step, and one pass of the Bernoulli loss and its gradient over the outputs a step. The epochs are those of
vae.training.fit with preparation included, on random images of MNIST's size, test ELBO left out; rounds of limit
and epochs alternate, medians are compared.
"""

import argparse
import resource
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import config

STEPS, BATCH, PIXELS, LATENT = 600, 100, 784, 20


def products(np, tf, shapes):
    """A function for each of NumPy and TensorFlow that runs one epoch's matrix products."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.standard_normal(shape, dtype=np.float32)

    layers = [(draw(BATCH, i), draw(i, o), draw(BATCH, o)) for i, o in shapes]

    def with_numpy():
        for _ in range(STEPS):
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
        for _ in range(STEPS):
            one_step()

    return {"NumPy": with_numpy, "TensorFlow": with_tensorflow}


def adam(np, tf, shapes):
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

        return tf.while_loop(lambda i: i < STEPS, body, (0,))

    return run


def loss(np, tf):
    """One epoch's passes of the Bernoulli log-likelihood and its gradient over logits [100, 784]."""
    logits = tf.Variable(np.random.default_rng(0).standard_normal((BATCH, PIXELS), dtype=np.float32))
    x = tf.constant(np.random.default_rng(1).integers(0, 2, (BATCH, PIXELS)).astype(np.float32))

    @tf.function(jit_compile=True, autograph=False)
    def run():
        def body(i, total):
            value = tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(x, logits))
            logits.assign_sub(1e-6 * (tf.sigmoid(logits) - x))
            return i + 1, total + value

        return tf.while_loop(lambda i, _: i < STEPS, body, (0, 0.0))

    return run


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def epochs(np, hidden_size):
    """The seconds of each epoch of the training that train.py runs; endless."""
    from vae import runs, training

    images = np.random.default_rng(0).integers(0, 256, (STEPS * BATCH, 28, 28, 1), dtype=np.uint8)
    c = config.Config(hidden_size=hidden_size)
    state = training.create_state(runs.build(c, images.shape[1:]), c.learning_rate)
    for row in training.fit(state, images, 10**6, BATCH, 0, test_elbo=lambda: 0.0):
        yield row["seconds"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden_size", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with config.tensorflow_environment():
        import numpy as np
        import tensorflow as tf

    h = args.hidden_size
    shapes = [(PIXELS, h), (h, h), (h, 2 * LATENT), (LATENT, h), (h, h), (h, PIXELS)]
    parts = {**products(np, tf, shapes), "Adam": adam(np, tf, shapes), "loss": loss(np, tf)}
    for function in parts.values():
        function()
    training = epochs(np, h)
    next(training)  # compiles
    times = {name: [] for name in (*parts, "epoch")}
    for _ in range(args.rounds):
        time.sleep(1)  # until the worker has prepared the next block
        for name, function in parts.items():
            times[name].append(seconds(function))
        next(training)  # its preparation ran while the parts were timed
        times["epoch"] += [next(training), next(training)]
    medians = {name: statistics.median(values) for name, values in times.items()}
    best = min(medians["NumPy"], medians["TensorFlow"])
    limit = best + medians["Adam"] + medians["loss"]
    print(f"hidden size {h}, {STEPS} steps of {BATCH} images, medians of {args.rounds} rounds, seconds an epoch")
    print(f"  matrix products   {best:.3f}  (NumPy {medians['NumPy']:.3f}, TensorFlow {medians['TensorFlow']:.3f})")
    print(f"  Adam passes       {medians['Adam']:.3f}\n  loss passes       {medians['loss']:.3f}")
    print(f"  limit             {limit:.3f}\n  training epoch    {medians['epoch']:.3f}")
    print(f"  ratio             {medians['epoch'] / limit:.2f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"  peak memory of this process {peak / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()
