"""The compiled training loop: blocks of prepared steps go in, one row of history an epoch comes out."""

import math
import time
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import tensorflow as tf

from vae.model import generator
from vae.networks import multiply_adds

HISTORY = ("epoch", "train_elbo", "train_log_likelihood", "train_kl", "test_elbo", "seconds")
BLOCK_FLOPS = 2e11  # a block is what fits into both: at most about 2 s on two cores,
BLOCK_BYTES = 2**27  # and 128 MB of prepared images


def create_state(model, learning_rate):
    """All that training changes, as one tf.train.Checkpoint: model, optimizer (Adam, Kingma & Ba 2015), epoch."""
    optimizer = keras.optimizers.Adam(learning_rate, epsilon=1e-8)  # the paper's epsilon; Keras's own is 1e-7
    optimizer.build(model.trainable_variables)
    return tf.train.Checkpoint(model=model, optimizer=optimizer, epoch=tf.Variable(0, dtype=tf.int64))


def tests_at(epoch):
    """Whether an epoch's row has a test ELBO: up to 10, then each tenth; by its number alone, so resumed runs agree."""
    return epoch <= 10 or epoch % 10 == 0


def describe(row):
    """A row of history in a few words."""
    test = "" if math.isnan(row["test_elbo"]) else f", test ELBO {row['test_elbo']:.2f}"
    return f"ELBO {row['train_elbo']:.2f}, KL {row['train_kl']:.2f}{test}"


def fit(state, images, num_epochs, batch_size, seed, test_elbo, on_steps=lambda steps: None):
    """Trains `state` from its epoch to `num_epochs`; yields a dict of HISTORY an epoch, once the epoch is in `state`.

    images: uint8 [n, h, w, c] with n >= batch_size. An epoch is floor(n / batch_size) steps over a fresh permutation;
    an epoch's draws depend on `seed` and its number alone. test_elbo() -> float is called at the epochs of `tests_at`,
    and on_steps(count) after every block of steps. Raises FloatingPointError where the ELBO is no finite number.
    """
    model = state.model
    pixels = images.reshape(len(images), -1)
    steps = len(images) // batch_size
    rows = block_steps(model, steps, batch_size) * batch_size
    epochs = range(int(state.epoch) + 1, num_epochs + 1)
    blocks = _blocks(model, pixels, epochs, steps * batch_size, rows, seed)
    train_block = compile_block(state, batch_size)
    with ThreadPoolExecutor(1) as preparer, ThreadPoolExecutor(1) as trainer:
        # The main thread only waits, so that it hears signals; while a block trains, the next one is prepared.
        last_end = time.perf_counter()
        upcoming = preparer.submit(next, blocks, None)
        for epoch in epochs:
            terms = []
            while sum(map(len, terms)) < steps:
                x, noise, count = upcoming.result()
                upcoming = preparer.submit(next, blocks, None)
                block = trainer.submit(lambda x, n, c: train_block(x, n, c).numpy(), x, noise, count // batch_size)
                terms.append(block.result()[: count // batch_size])
                on_steps(len(terms[-1]))
            log_likelihood, kl = np.concatenate(terms).mean(axis=0, dtype=np.float64)
            tested = test_elbo() if tests_at(epoch) else math.nan
            # The terms are from before each step: what the last one did shows in the weights alone.
            healthy = np.isfinite(log_likelihood - kl) and all(np.isfinite(v).all() for v in model.trainable_variables)
            if not healthy or (tests_at(epoch) and not math.isfinite(tested)):
                raise FloatingPointError(
                    f"the ELBO after epoch {epoch} is no finite number; what was saved before is kept: "
                    "try a lower --learning_rate, or another --activation"
                )
            state.epoch.assign(epoch)
            row = [epoch, log_likelihood - kl, log_likelihood, kl, tested]
            seconds, last_end = time.perf_counter() - last_end, time.perf_counter()
            yield dict(zip(HISTORY, [*row, seconds], strict=True))


def block_steps(model, steps, batch_size):
    """Steps a block: an epoch in as few equal blocks as the limits allow. By shapes alone: draws go block by block."""
    forward = multiply_adds(model.encoder) + multiply_adds(model.decoder)
    flops = 6 * batch_size * forward  # a multiply and an add, and the backward pass is two products for each one
    size = 4 * batch_size * math.prod(model.image_shape)
    most = max(1, min(steps, int(BLOCK_FLOPS // flops), BLOCK_BYTES // size))
    return math.ceil(steps / math.ceil(steps / most))


def _blocks(model, pixels, epochs, rows_an_epoch, rows, seed):
    """Yields (x [rows, d], noise [rows, L], how many of the rows count); an epoch's last block is filled with zeros."""
    for epoch in epochs:
        order = generator(seed, "order", epoch).permutation(len(pixels))[:rows_an_epoch]
        prepare_rng, noise_rng = generator(seed, "prepare", epoch), generator(seed, "noise", epoch)
        for first in range(0, rows_an_epoch, rows):
            chosen = order[first : first + rows]
            x = model.likelihood.prepare(pixels[chosen], prepare_rng)
            noise = noise_rng.standard_normal((len(chosen), model.latent_dim), dtype=np.float32)
            fill = ((0, rows - len(chosen)), (0, 0))
            yield (np.pad(x, fill), np.pad(noise, fill), len(chosen)) if fill[0][1] else (x, noise, len(chosen))


def compile_block(state, batch_size):
    """The function of (x [rows, d], noise [rows, L], count) that takes `count` optimizer steps, one trace for all.

    Returns float32 [rows / batch_size, 2]: each step's mean log-likelihood and mean KL.
    """
    model, optimizer = state.model, state.optimizer
    variables = model.trainable_variables

    def step(x, noise):
        with tf.GradientTape() as tape:
            elbo = model.elbo(x, noise)
            loss = -tf.reduce_mean(elbo.value)
        optimizer.apply(tape.gradient(loss, variables), variables)
        return tf.stack([tf.reduce_mean(elbo.log_likelihood), tf.reduce_mean(elbo.kl)])

    @tf.function(jit_compile=model.jit_compile, autograph=False, reduce_retracing=True)
    def block(x, noise, count):
        batches = tf.reshape(x, (-1, batch_size, x.shape[-1]))
        noises = tf.reshape(noise, (-1, batch_size, noise.shape[-1]))

        def body(i, terms):
            return i + 1, terms.write(i, step(batches[i], noises[i]))

        terms = tf.TensorArray(tf.float32, batches.shape[0], element_shape=(2,))
        _, terms = tf.while_loop(lambda i, _: i < count, body, (0, terms))
        return terms.stack()

    return lambda x, noise, count: block(x, noise, tf.constant(count))
