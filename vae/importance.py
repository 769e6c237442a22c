"""Importance sampling of log p(x).

q(z|x) is often too narrow for test images, so that its samples alone would miss most of p(x). The proposal here is a
mixture of q(z|x) and of wider copies of it.

Symbols: L is the number of latents, d the number of an image's pixels, S = len(SPREADS) the parts of the mixture, and
K the number of samples per image.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf
from scipy.special import logsumexp

from vae.model import VAE, Posterior
from vae.prefetch import prefetch
from vae.randomness import TEST_SEED, generator

# The widths of the mixture's parts, in standard deviations of q(z|x). The first part is q(z|x) itself.
SPREADS = (1, 2**0.5, 2, 8**0.5, 4)

# How many samples are decoded at once: fewer of images larger than those of the report's data sets.
MAX_ROWS = 2500
MAX_PIXELS = MAX_ROWS * 32 * 32 * 3


def log_weights(
    model: VAE, x: np.ndarray, posterior: Posterior, num_samples: int, max_rows: int = MAX_ROWS
) -> Iterator[np.ndarray]:
    """Yields log w_k = log p(x|z_k) + log p(z_k) - log r(z_k) image by image, [2, K], for two densities r.

    In the first row, r is the mixture that all z_k are drawn from: q(z|x), and the same with SPREADS times its standard
    deviations (but none is widened beyond the prior's 1). The parts are sampled in turn. The mixture's weights are at
    most those under any one part, over that part's share (Hesterberg 1995, "Weighted average importance sampling and
    defensive mixture distributions"; Veach & Guibas 1995, the balance heuristic).

    In the second row, r = q(z|x). Every S-th z_k is a sample of it: log_weights[1, ::S] are those of Burda et al. 2016.

    x: prepared images [n, d]; posterior: their q(z|x), [n, L]. Each image has a noise stream of its own, drawn in the
    order of the samples, so that neither the other images nor max_rows change its weights.
    """
    max_rows_of_size = max(1, MAX_PIXELS // x.shape[1])
    num_rows = min(max_rows, max_rows_of_size, num_samples)
    compute_log_weights = compile_log_weights(model, num_samples, num_rows)
    draws = prefetch(draw_noise(model.latent_dim, len(x), num_samples=num_samples, num_rows=num_rows))
    for image, mean, log_std in zip(x, posterior.mean, posterior.log_std, strict=True):
        weights = []
        for _ in range(0, num_samples, num_rows):
            noise, part = next(draws)
            weights.append(compute_log_weights(image, mean, log_std, noise, part).numpy())
        yield np.concatenate(weights, axis=1)[:, :num_samples]


def draw_noise(
    latent_dim: int, num_images: int, num_samples: int, num_rows: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields noise [num_rows, L] and the part of the mixture that each row belongs to, [num_rows].

    The last draw of an image is filled up with zeros.
    """
    parts = np.arange(num_samples) % len(SPREADS)
    for image in range(num_images):
        rng = generator(TEST_SEED, "importance", image)
        for first in range(0, num_samples, num_rows):
            part = parts[first : first + num_rows]
            noise = rng.standard_normal((len(part), latent_dim), dtype=np.float32)
            missing = (0, num_rows - len(part))
            yield np.pad(noise, (missing, (0, 0))), np.pad(part, missing)


def compile_log_weights(model: VAE, num_samples: int, num_rows: int) -> Callable[..., tf.Tensor]:
    """Returns a compiled function of an image [d], its mean and log_std [L], noise [num_rows, L] and parts [num_rows].

    It returns the log weights, [2, num_rows]: under the mixture, and under q(z|x).
    """
    # With fewer samples than parts, the parts that are never sampled have no share.
    log_spreads = np.log(SPREADS[:num_samples]).astype(np.float32)[:, None]
    counts = np.bincount(np.arange(num_samples) % len(SPREADS))
    log_shares = np.log(counts / num_samples).astype(np.float32)

    @tf.function(jit_compile=model.jit_compile, autograph=False)
    def compute_log_weights(
        image: tf.Tensor, mean: tf.Tensor, log_std: tf.Tensor, noise: tf.Tensor, part: tf.Tensor
    ) -> tf.Tensor:
        # log std_s = log std + log spread_s, but at most max(log std, 0)                                       [S, L]
        log_stds = tf.minimum(log_std + log_spreads, tf.maximum(log_std, 0.0))
        # z_k = mean + std_part(k) noise_k                                                               [num_rows, L]
        z = Posterior(mean, tf.gather(log_stds, part)).sample(noise)

        # The factor (2 pi)^(-L/2) of p(z) and of each part cancels in the weight, and is left out below.
        # log p(x, z_k) = log p(x|z_k) - 1/2 |z_k|^2                                                        [num_rows]
        x = tf.broadcast_to(tf.cast(image, tf.float32), (num_rows, image.shape[0]))
        log_joint = model.likelihood.log_prob(x, model.decode(z)) - 0.5 * tf.reduce_sum(tf.square(z), axis=-1)
        # log r_s(z_k) = -1/2 |(z_k - mean) / std_s|^2 - sum log std_s                                   [num_rows, S]
        squared_distances = tf.reduce_sum(tf.square((z[:, None] - mean) / tf.exp(log_stds)), axis=-1)
        log_densities = -0.5 * squared_distances - tf.reduce_sum(log_stds, axis=-1)
        # log r(z_k) = log sum_s share_s r_s(z_k)                                                           [num_rows]
        log_mixture = tf.reduce_logsumexp(log_shares + log_densities, axis=-1)
        return log_joint - tf.stack([log_mixture, log_densities[:, 0]])

    return compute_log_weights


def importance_sampled_nll(image_log_weights: np.ndarray) -> float:
    """Returns -log(1/K sum_k w_k) in nats for one image's log weights, [K].

    Burda et al. 2016, arXiv:1509.00519, equation 8.
    """
    return math.log(len(image_log_weights)) - float(logsumexp(image_log_weights.astype(np.float64)))
