"""What a trained model is worth on the test set."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow as tf
from scipy.special import logsumexp

from vae.model import Elbo, Posterior, generator

TEST_SEED = 0  # of the test set's binarization or noise, and of its z: the same for every run
ACTIVE = 0.01  # variance of a latent's posterior mean from which it counts as in use
SPREADS = (1, 2**0.5, 2, 8**0.5, 4)  # widths of the proposal's parts, in standard deviations of q(z|x)
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


def posteriors(model, x):
    """The Posterior q(z|x) of prepared images x [n, d], in NumPy: mean and log_std, each [n, L]."""
    parts = [model.encode(x[first : first + CHUNK]) for first in range(0, len(x), CHUNK)]
    return Posterior(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def posterior_means(model, images):
    """The means of q(z|x), NumPy [n, L], for test images uint8 [n, h, w, c]."""
    return posteriors(model, prepare_test(model.likelihood, images)).mean


def importance_log_weights(model, x, num_samples, rows=2500):
    """Yields log w_k = log p(x|z_k) + log p(z_k) - log r(z_k) image by image: NumPy [2, num_samples], for two r.

    The first row is for all z_k, whose density r is a mixture of q(z|x) and of the same with SPREADS times its
    standard deviations, but none above the prior's 1 that was below; the parts are sampled in turn. q(z|x) is often
    too narrow for test images, and alone would miss most of p(x); the mixture's weights are at most those under any one
    part, over that part's share (Hesterberg 1995, "Weighted average importance sampling and defensive mixture
    distributions"; Veach & Guibas 1995, the balance heuristic). The second row is for r = q(z|x), of which every
    len(SPREADS)-th z_k is a sample: log_weights[1, ::len(SPREADS)] are those of Burda et al. 2016.

    x: prepared images [n, d]. An image's noise is a stream of its own, drawn in the order of the samples, so that
    neither other images nor `rows`, the samples decoded at once, change its weights.
    """
    rows = min(rows, num_samples)
    log_weights = _compile_log_weights(model, num_samples, rows)
    drawn = _draws(model, len(x), num_samples, rows)
    with ThreadPoolExecutor(1) as preparer:  # draws the next noise while this one is decoded
        upcoming = preparer.submit(next, drawn, None)
        for image, mean, log_std in zip(x, *posteriors(model, x), strict=True):
            weights = []
            for _ in range(0, num_samples, rows):
                draw, upcoming = upcoming.result(), preparer.submit(next, drawn, None)
                weights.append(log_weights(image, mean, log_std, *draw).numpy())
            yield np.concatenate(weights, axis=1)[:, :num_samples]


def _draws(model, num_images, num_samples, rows):
    """Yields (noise [rows, L], the part of the mixture that each is for [rows]); an image's last rows may be filler."""
    parts = np.arange(num_samples) % len(SPREADS)
    for image in range(num_images):
        rng = generator(TEST_SEED, "importance", image)
        for first in range(0, num_samples, rows):
            part = parts[first : first + rows]
            noise = rng.standard_normal((len(part), model.latent_dim), dtype=np.float32)
            fill = (0, rows - len(part))
            yield np.pad(noise, (fill, (0, 0))), np.pad(part, fill)


def _compile_log_weights(model, num_samples, rows):
    """The function of one image [d], its mean and log_std [L], and a draw, that gives its log weights [2, rows]."""
    spreads = np.log(SPREADS[:num_samples]).astype(np.float32)[:, None]
    counts = np.bincount(np.arange(num_samples) % len(SPREADS))
    log_shares = np.log(counts / num_samples).astype(np.float32)

    @tf.function(jit_compile=model.jit_compile, autograph=False)
    def log_weights(x, mean, log_std, noise, part):
        log_stds = tf.minimum(log_std + spreads, tf.maximum(log_std, 0.0))  # [parts, L]
        z = Posterior(mean, tf.gather(log_stds, part)).sample(noise)  # [rows, L]
        x = tf.broadcast_to(tf.cast(x, tf.float32), (rows, x.shape[0]))
        # The Gaussians' normalizations, (2 pi)^(-L/2), cancel and are left out.
        log_joint = model.likelihood.log_prob(x, model.decode(z)) - 0.5 * tf.reduce_sum(tf.square(z), axis=-1)
        distances = tf.reduce_sum(tf.square((z[:, None] - mean) / tf.exp(log_stds)), axis=-1)  # [rows, parts]
        log_densities = -0.5 * distances - tf.reduce_sum(log_stds, axis=-1)
        mixture = tf.reduce_logsumexp(log_shares + log_densities, axis=-1)
        return log_joint - tf.stack([mixture, log_densities[:, 0]])

    return log_weights


def importance_sampled_nll(log_weights):
    """-log(1/k sum_k w_k) for an image's log weights [k], in nats (Burda et al. 2016, arXiv:1509.00519, eq. 8)."""
    return math.log(len(log_weights)) - float(logsumexp(log_weights.astype(np.float64)))


def metrics(model, images, num_samples, on_image=lambda: None):
    """What evaluate.py reports of test images uint8 [n, h, w, c]: a dict that JSON can hold, in nats but for bits/dim.

    Each mean has its standard error over the images. Active units are those whose posterior mean varies by more than
    ACTIVE over the images (Burda et al. 2016, section 4.2). nll and nll_of_q, the estimate from the samples of q(z|x)
    alone, are None where log_prob is no likelihood. on_image() is called after each image's importance samples.
    """
    x = prepare_test(model.likelihood, images)
    elbo = elbo_evaluator(model, x)()
    values = {"elbo": elbo.value, "log_likelihood": elbo.log_likelihood, "kl": elbo.kl}
    if model.likelihood.normalized:
        values |= {"nll": np.empty(len(x)), "nll_of_q": np.empty(len(x))}
        for image, (log_weights, of_q) in enumerate(importance_log_weights(model, x, num_samples)):
            values["nll"][image] = importance_sampled_nll(log_weights)
            values["nll_of_q"][image] = importance_sampled_nll(of_q[:: len(SPREADS)])
            on_image()
    results = {name: _mean(value) for name, value in values.items()}
    d = math.prod(model.image_shape)
    nlls = {name: results[name]["mean"] for name in ("nll", "nll_of_q") if name in results}
    nlls["elbo"] = -results["elbo"]["mean"]
    bits = {name: model.likelihood.bits_per_dim(nll, d) for name, nll in nlls.items()}
    active = np.flatnonzero(posteriors(model, x).mean.var(axis=0) > ACTIVE)
    counts = {"num_images": len(x), "num_samples": num_samples, "seed": TEST_SEED}
    counts["num_samples_of_q"] = -(-num_samples // len(SPREADS))
    return counts | {"nll": None, "nll_of_q": None} | results | {"bits_per_dim": bits, "active_units": active.tolist()}


def _mean(values):
    error = values.std(dtype=np.float64, ddof=1) / math.sqrt(len(values))
    return {"mean": float(values.mean(dtype=np.float64)), "standard_error": float(error)}
