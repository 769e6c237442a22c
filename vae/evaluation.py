"""Measures a trained model on the test set.

The formulas are elsewhere: the ELBO's in vae.model, the NLL's in vae.importance, and bits/dim's in vae.likelihoods.
"""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
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


class Effort(NamedTuple):
    """How many of the test images are evaluated (None: all), and with how many importance samples for each NLL."""

    num_images: int | None
    num_samples: int


# By network. The decoder of conv3 costs some 100 times as much as a flat one.
DEFAULT_EFFORT = {"flat": Effort(None, 5000), "conv3": Effort(1000, 100)}


@dataclasses.dataclass(frozen=True)
class Metrics:
    """What evaluate.py measures of a model. The entries of metrics.json have the same names.

    The first `num_images` test images are measured. `elbo`, `log_likelihood`, `kl` and the NLLs have a "mean" over
    these images, in nats, and its "standard_error", which comes from the spread over the images.

    Each NLL is an estimate from `num_samples` importance samples per image: of q(z|x) for `nll_of_q`, which is the
    literature's, and of the mixture of vae.importance for `nll`, which is the better one. In expectation, both are
    upper bounds on the true NLL. Their "estimator_error" is the standard error that the importance samples add; it is
    None for a single sample. `effective_sample_size` says how many samples those of the mixture are worth: the "median"
    over the images, and the number of images where it is below 50, "num_below_50". All three are None if the model has
    no likelihood.

    `bits_per_dim` has an entry for the ELBO and for each NLL; it is None unless log p(x|z) is a density of dequantized
    pixels. `active_units` has the indices of the latents in use (Burda et al. 2016, section 4.2).

    `model` and `evaluation` say of training and of the evaluation whether the data was verified, "data_verified", and
    which "versions" of the libraries were used.
    """

    num_images: int
    num_samples: int
    seed: int
    elbo: dict[str, float]
    log_likelihood: dict[str, float]
    kl: dict[str, float]
    nll: dict[str, Any] | None
    nll_of_q: dict[str, Any] | None
    effective_sample_size: dict[str, Any] | None
    bits_per_dim: dict[str, Any]
    active_units: list[int]
    epoch: int
    model: dict[str, Any] = dataclasses.field(default_factory=dict)
    evaluation: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def data_verified(self) -> bool:
        """Whether both training and the evaluation used verified data."""
        return bool(self.model["data_verified"] and self.evaluation["data_verified"])

    @property
    def quality(self) -> tuple[bool, int, int, int]:
        """Ranks the evaluations of one run: the larger tuple is the better evaluation."""
        return self.data_verified, self.epoch, self.num_images, self.num_samples

    def describe_quality(self) -> str:
        """The quality in words, for messages on which evaluation is kept."""
        text = f"epoch {self.epoch}, {self.num_images} images, {self.num_samples} samples"
        # None, for the user's own images, is neither.
        if False in (self.model["data_verified"], self.evaluation["data_verified"]):
            return f"unverified data, {text}"
        return text

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def read(cls, run_folder: Path) -> "Metrics":
        """The metrics in a run's folder. Raises OSError, ValueError, KeyError or TypeError if they cannot be read."""
        entries = json.loads((run_folder / "metrics.json").read_text(encoding="utf-8"))
        return cls(**{field.name: entries[field.name] for field in dataclasses.fields(cls)})


def find_metrics(run_folder: Path) -> Metrics | None:
    """The metrics in a run's folder, or None if there are none that can be read; evaluate.py then writes new ones."""
    try:
        return Metrics.read(run_folder)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def chunk_size_for(x: np.ndarray) -> int:
    """The number of prepared images of x, [n, d], that go through the network at once."""
    num_images, d = x.shape
    return min(CHUNK_SIZE, max(1, MAX_CHUNK_PIXELS // d), num_images)


def prepare_test(likelihood: Likelihood, images: np.ndarray) -> np.ndarray:
    """The test set as the model sees it, [n, d], for images uint8 [n, h, w, c].

    It is prepared with one fixed seed, so that evaluation and figures use the same binarization or noise.
    """
    pixels = images.reshape(len(images), -1)
    return likelihood.prepare(pixels, generator(TEST_SEED, "test_prepare"))


def make_elbo_evaluator(model: VAE, x: np.ndarray) -> Callable[[], Elbo]:
    """A function () -> Elbo of NumPy arrays [n], for prepared images x [n, d] and one fixed z per image."""
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
    """A function () -> the mean test ELBO in nats, for test images uint8 [n, h, w, c]."""
    evaluate_elbo = make_elbo_evaluator(model, prepare_test(model.likelihood, images))

    def measure_test_elbo() -> float:
        return float(evaluate_elbo().value.mean(dtype=np.float64))

    return measure_test_elbo


def format_elbo(elbo: float, model: VAE) -> str:
    """A mean ELBO (nats) as text, with bits per dimension for densities of dequantized pixels."""
    bits = model.likelihood.bits_per_dim(-elbo, math.prod(model.image_shape))
    if bits is None:
        return f"{elbo:.2f} nats"
    return f"{elbo:.2f} nats ({bits:.3f} bits/dim)"


def posteriors(model: VAE, x: np.ndarray) -> Posterior:
    """q(z|x) of prepared images x [n, d], in NumPy: mean and log_std, [n, L] each."""
    chunk_size = chunk_size_for(x)
    chunks = [model.encode(x[first : first + chunk_size]) for first in range(0, len(x), chunk_size)]
    mean = np.concatenate([chunk.mean for chunk in chunks])
    log_std = np.concatenate([chunk.log_std for chunk in chunks])
    return Posterior(mean, log_std)


def posterior_means(model: VAE, images: np.ndarray) -> np.ndarray:
    """The means of q(z|x), [n, L], for test images uint8 [n, h, w, c]."""
    return posteriors(model, prepare_test(model.likelihood, images)).mean


def compute_metrics(
    model: VAE, x: np.ndarray, num_samples: int, on_image: Callable[[], object] = lambda: None
) -> Metrics:
    """The Metrics of prepared test images x, [n, d] with n >= 2, without the entries `model` and `evaluation`.

    on_image() is called after the importance samples of each image.
    """
    posterior = posteriors(model, x)
    elbo = make_elbo_evaluator(model, x)()
    elbo_summary = summarize(elbo.value)
    d = math.prod(model.image_shape)
    bits_per_dim = {"elbo": model.likelihood.bits_per_dim(-elbo_summary["mean"], d)}

    nll = None
    nll_of_q = None
    effective_sample_size = None
    if model.likelihood.normalized:
        # The columns are q(z|x) and the mixture, [n, 2].
        nlls = np.empty((len(x), 2))
        sizes = np.empty((len(x), 2))
        for index, log_weights in enumerate(importance.log_weights(model, x, posterior, num_samples)):
            nlls[index] = [importance.importance_sampled_nll(row) for row in log_weights]
            sizes[index] = [importance.effective_sample_size(row) for row in log_weights]
            on_image()
        nll = summarize_nll(nlls[:, 1], sizes[:, 1], num_samples)
        nll_of_q = summarize_nll(nlls[:, 0], sizes[:, 0], num_samples)
        bits_per_dim["nll"] = model.likelihood.bits_per_dim(nll["mean"], d)
        bits_per_dim["nll_of_q"] = model.likelihood.bits_per_dim(nll_of_q["mean"], d)
        sizes_of_mixture = sizes[:, 1]
        effective_sample_size = {
            "median": float(np.median(sizes_of_mixture)),
            "num_below_50": int(np.sum(sizes_of_mixture < 50)),
        }

    return Metrics(
        num_images=len(x),
        num_samples=num_samples,
        seed=TEST_SEED,
        elbo=elbo_summary,
        log_likelihood=summarize(elbo.log_likelihood),
        kl=summarize(elbo.kl),
        nll=nll,
        nll_of_q=nll_of_q,
        effective_sample_size=effective_sample_size,
        bits_per_dim=bits_per_dim,
        active_units=np.flatnonzero(posterior.mean.var(axis=0) > ACTIVE_VARIANCE).tolist(),
        epoch=model.epoch,
    )


def summarize(values: np.ndarray) -> dict[str, float]:
    """The mean over the images and its standard error, which comes from how much they differ."""
    standard_error = values.std(dtype=np.float64, ddof=1) / math.sqrt(len(values))
    return {"mean": float(values.mean(dtype=np.float64)), "standard_error": float(standard_error)}


def summarize_nll(nlls: np.ndarray, effective_sample_sizes: np.ndarray, num_samples: int) -> dict[str, Any]:
    """The mean NLL over the images, its standard error, and the error that comes from the importance samples."""
    estimator_error = None
    # One sample does not show how much samples differ.
    if num_samples > 1:
        errors = importance.estimator_error(effective_sample_sizes, num_samples)
        estimator_error = float(np.sqrt(np.sum(errors**2)) / len(errors))
    return {**summarize(nlls), "estimator_error": estimator_error}
