"""What a trained model is worth on the test set."""

import math

import numpy as np
import tensorflow as tf

from vae.model import Elbo, generator

TEST_SEED = 0  # of the test set's binarization or noise, and of its z: the same for every run
CHUNK = 1000  # test images a call of the compiled function


def prepare_test(likelihood, images):
    """The test set as the encoder sees it, [n, d]: prepared with one fixed seed for evaluation and figures alike."""
    return likelihood.prepare(images.reshape(len(images), -1), generator(TEST_SEED, "test_prepare"))


def elbo_evaluator(model, x):
    """A function () -> Elbo of NumPy arrays [n] for prepared images x [n, d]; one fixed draw of z an image."""
    noise = generator(TEST_SEED, "test_noise").standard_normal((len(x), model.latent_dim), dtype=np.float32)
    chunk = min(CHUNK, len(x))
    compiled = tf.function(model.elbo, jit_compile=model.jit_compile, autograph=False)

    def evaluate():
        terms = []
        for first in range(0, len(x), chunk):
            # The last chunk reaches back to keep its shape; what it repeats is cut off.
            start = min(first, len(x) - chunk)
            elbo = compiled(x[start : start + chunk], noise[start : start + chunk])
            terms.append([term.numpy()[first - start :] for term in elbo])
        return Elbo(*(np.concatenate(term) for term in zip(*terms, strict=True)))

    return evaluate


def test_elbo(model, images):
    """A function () -> the mean test ELBO in nats, for test images uint8 [n, h, w, c]."""
    evaluate = elbo_evaluator(model, prepare_test(model.likelihood, images))
    return lambda: float(evaluate().value.mean(dtype=np.float64))


def in_units(elbo, model):
    """A mean ELBO (nats) in words, with bits a dimension where the likelihood is a density of the bytes."""
    bits = model.likelihood.bits_per_dim(-elbo, math.prod(model.image_shape))
    return f"{elbo:.2f} nats" + ("" if bits is None else f" ({bits:.3f} bits/dim)")


def posterior_means(model, images):
    """The means of q(z|x), NumPy [n, L], for test images uint8 [n, h, w, c]."""
    x = prepare_test(model.likelihood, images)
    return np.concatenate([model.encode(x[i : i + CHUNK]).mean.numpy() for i in range(0, len(x), CHUNK)])
