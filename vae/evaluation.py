"""Measures a trained model on the test set.

The formulas are elsewhere: the ELBO's in vae.model, the NLL's in vae.importance, and bits/dim's in vae.likelihoods.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from vae import cores, importance
from vae.likelihoods import Likelihood
from vae.model import VAE, Elbo, Posterior
from vae.randomness import TEST_SEED, generator

# A latent counts as active if the variance of its posterior mean exceeds this (Burda et al. 2016, section 4.2).
ACTIVE_VARIANCE = 0.01

# At most this many test images, and at most this many of their pixels, go through the network at once.
CHUNK_SIZE = 1000
MAX_CHUNK_PIXELS = CHUNK_SIZE * 32 * 32 * 3


def chunk_size_for(x: np.ndarray) -> int:
    """Returns how many of the prepared images x, [n, d], go through the network at once."""
    num_images, d = x.shape
    return min(CHUNK_SIZE, max(1, MAX_CHUNK_PIXELS // d), num_images)


def prepare_test(likelihood: Likelihood, images: np.ndarray) -> np.ndarray:
    """Returns the test set as the model sees it, [n, d], for images uint8 [n, h, w, c].

    It is prepared with one fixed seed, so that evaluation and figures use the same binarization or noise.
    """
    pixels = images.reshape(len(images), -1)
    return likelihood.prepare(pixels, generator(TEST_SEED, "test_prepare"))


def make_elbo_evaluator(model: VAE, x: np.ndarray) -> Callable[[], Elbo]:
    """Returns a function () -> Elbo of NumPy arrays [n], for prepared images x [n, d] and one fixed z per image."""
    noise = generator(TEST_SEED, "test_noise").standard_normal((len(x), model.latent_dim), dtype=np.float32)
    chunk_size = chunk_size_for(x)
    num_parts = 1
    # Where each operation has one thread, only parts keep all cores busy. Elsewhere they gain nothing.
    if cores.has_one_thread_per_operation() and not model.jit_compile:
        num_parts = min(cores.count_cores(), chunk_size)
    sizes = cores.split_evenly(chunk_size, num_parts)

    @tf.function(jit_compile=model.jit_compile, autograph=False)
    def compiled_elbo(x: tf.Tensor, noise: tf.Tensor) -> Elbo:
        parts = zip(tf.split(x, sizes), tf.split(noise, sizes), strict=True)
        elbos = [model.elbo(x_part, noise_part) for x_part, noise_part in parts]
        log_likelihood = tf.concat([elbo.log_likelihood for elbo in elbos], axis=0)
        return Elbo(log_likelihood, tf.concat([elbo.kl for elbo in elbos], axis=0))

    def evaluate_elbo() -> Elbo:
        log_likelihoods = []
        kls = []
        for first in range(0, len(x), chunk_size):
            # All chunks have the same shape, so the function is compiled once. The last chunk starts earlier to fill
            # that shape, and the repeated results are dropped.
            start = min(first, len(x) - chunk_size)
            num_repeated = first - start
            elbo = compiled_elbo(x[start : start + chunk_size], noise[start : start + chunk_size])
            log_likelihoods.append(elbo.log_likelihood.numpy()[num_repeated:])
            kls.append(elbo.kl.numpy()[num_repeated:])
        return Elbo(np.concatenate(log_likelihoods), np.concatenate(kls))

    return evaluate_elbo


def make_test_elbo(model: VAE, images: np.ndarray) -> Callable[[], float]:
    """Returns a function () -> the mean test ELBO in nats, for test images uint8 [n, h, w, c]."""
    evaluate_elbo = make_elbo_evaluator(model, prepare_test(model.likelihood, images))

    def measure_test_elbo() -> float:
        return float(evaluate_elbo().value.mean(dtype=np.float64))

    return measure_test_elbo


def format_elbo(elbo: float, model: VAE) -> str:
    """Returns a mean ELBO (nats) as text, with bits per dimension for densities of dequantized pixels."""
    bits = model.likelihood.bits_per_dim(-elbo, math.prod(model.image_shape))
    if bits is None:
        return f"{elbo:.2f} nats"
    return f"{elbo:.2f} nats ({bits:.3f} bits/dim)"


def posteriors(model: VAE, x: np.ndarray) -> Posterior:
    """Returns q(z|x) of prepared images x [n, d], in NumPy: mean and log_std, [n, L] each."""
    chunk_size = chunk_size_for(x)
    chunks = [model.encode(x[first : first + chunk_size]) for first in range(0, len(x), chunk_size)]
    mean = np.concatenate([chunk.mean for chunk in chunks])
    log_std = np.concatenate([chunk.log_std for chunk in chunks])
    return Posterior(mean, log_std)


def posterior_means(model: VAE, images: np.ndarray) -> np.ndarray:
    """Returns the means of q(z|x), [n, L], for test images uint8 [n, h, w, c]."""
    return posteriors(model, prepare_test(model.likelihood, images)).mean


def compute_metrics(
    model: VAE, x: np.ndarray, num_samples: int, on_image: Callable[[], object] = lambda: None
) -> dict[str, Any]:
    """Returns what evaluate.py reports for prepared test images x, [n, d], as a dict that JSON can hold.

    "elbo", "log_likelihood", "kl", "nll" and "nll_of_q" have the mean over the images and its "standard_error", in
    nats. The standard error comes from the spread over the images.

    "nll_of_q" is the literature's estimate, from num_samples samples of q(z|x). "nll" is the better one, from as many
    samples of the mixture of vae.importance. In expectation, both are upper bounds on the true NLL. Their
    "estimator_error" is the standard error that comes from the importance samples, and None for a single one.
    "effective_sample_size" has the median over the images of that of "nll", and the number of images where it is below
    50. These entries are None if log_prob is not a likelihood.

    "bits_per_dim" has those of "elbo" and of the NLLs, "active_units" the indices of the latents in use (Burda et al.
    2016, section 4.2). on_image() is called after the importance samples of each image.
    """
    posterior = posteriors(model, x)
    elbo = make_elbo_evaluator(model, x)()
    metrics: dict[str, Any] = {
        "num_images": len(x),
        "num_samples": num_samples,
        "seed": TEST_SEED,
        "elbo": summarize(elbo.value),
        "log_likelihood": summarize(elbo.log_likelihood),
        "kl": summarize(elbo.kl),
        "nll": None,
        "nll_of_q": None,
        "effective_sample_size": None,
    }
    d = math.prod(model.image_shape)
    bits_per_dim = {"elbo": model.likelihood.bits_per_dim(-metrics["elbo"]["mean"], d)}
    if model.likelihood.normalized:
        of_q, of_mixture = estimate_nlls(model, x, posterior, num_samples, on_image)
        for name, estimates in (("nll", of_mixture), ("nll_of_q", of_q)):
            metrics[name] = {**summarize(estimates.nll), "estimator_error": estimates.error_of_mean(num_samples)}
            bits_per_dim[name] = model.likelihood.bits_per_dim(metrics[name]["mean"], d)
        metrics["effective_sample_size"] = {
            "median": float(np.median(of_mixture.effective_sample_size)),
            "num_below_50": int(np.sum(of_mixture.effective_sample_size < 50)),
        }
    metrics["bits_per_dim"] = bits_per_dim
    metrics["active_units"] = np.flatnonzero(posterior.mean.var(axis=0) > ACTIVE_VARIANCE).tolist()
    return metrics


class NllEstimates(NamedTuple):
    """The estimated NLLs of images, [n] in nats, and the effective sizes of their importance samples, [n]."""

    nll: np.ndarray
    effective_sample_size: np.ndarray

    def error_of_mean(self, num_samples: int) -> float | None:
        """Returns the standard error of the mean NLL that comes from the importance samples, in nats.

        It is None for one sample, which does not show how much samples differ.
        """
        if num_samples == 1:
            return None
        errors = importance.estimator_error(self.effective_sample_size, num_samples)
        return float(np.sqrt(np.sum(errors**2)) / len(errors))


def estimate_nlls(
    model: VAE, x: np.ndarray, posterior: Posterior, num_samples: int, on_image: Callable[[], object]
) -> tuple[NllEstimates, NllEstimates]:
    """Returns the estimates from num_samples samples of q(z|x), and from as many of the mixture of vae.importance."""
    nlls_of_images = []
    sizes_of_images = []
    for image_log_weights in importance.log_weights(model, x, posterior, num_samples):
        nlls_of_images.append([importance.importance_sampled_nll(row) for row in image_log_weights])
        sizes_of_images.append([importance.effective_sample_size(row) for row in image_log_weights])
        on_image()
    # The columns are those of q(z|x) and of the mixture, [n, 2].
    nlls = np.array(nlls_of_images)
    sizes = np.array(sizes_of_images)
    return NllEstimates(nlls[:, 0], sizes[:, 0]), NllEstimates(nlls[:, 1], sizes[:, 1])


def summarize(values: np.ndarray) -> dict[str, float]:
    """Returns the mean over the images and its standard error, which comes from how much they differ."""
    standard_error = values.std(dtype=np.float64, ddof=1) / math.sqrt(len(values))
    return {"mean": float(values.mean(dtype=np.float64)), "standard_error": float(standard_error)}
