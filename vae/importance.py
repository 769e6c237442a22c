"""Importance sampling of log p(x), in two ways.

The literature takes the samples from q(z|x) (Burda et al. 2016, arXiv:1509.00519, equation 8). On test images q(z|x) is
often too narrow and too far off, and its samples miss much of p(x). The better way takes them from a mixture. Its main
component comes from a Gaussian that vae.gaussian_fit fits to the posterior p(z|x) of each image.

In both, the mean of the weights is an unbiased estimate of p(x). By Jensen's inequality, its negative logarithm is an
upper bound on the NLL, -log p(x), in expectation.

Symbols: L is the number of latents, F the number of those that are fitted, d the number of an image's pixels, and K the
number of samples per image in each way.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf
from scipy.special import logsumexp

from vae.gaussian_fit import Fit, compile_fit, count_fitted, count_images, log_joint
from vae.model import MAX_DECODED_PIXELS, VAE, Posterior
from vae.prefetch import prefetch
from vae.randomness import TEST_SEED, generator

# A sample comes from one of three densities: the t, a multivariate Student t with the location and scale of the fitted
# Gaussian; q(z|x); or p(z). make_samples and log_densities use this order.
FITTED, ENCODER, PRIOR = range(3)
# The components of the mixture, which are sampled in turn.
MIXTURE = (FITTED,) * 18 + (ENCODER, PRIOR)

# How many samples are decoded at once. Of large images, MAX_DECODED_PIXELS allows fewer.
MAX_ROWS = 2500


def log_weights(
    model: VAE, x: np.ndarray, posterior: Posterior, num_samples: int, max_rows: int = MAX_ROWS
) -> Iterator[np.ndarray]:
    """Yields log w_k = log p(x|z_k) + log p(z_k) - log r(z_k) image by image, [2, K], for two densities r.

    In the first row, r is q(z|x), and the z_k are samples of it (Burda et al. 2016).

    In the second row, r is the mixture, and the z_k are K other samples. From 20 samples on, the prior is one of the
    mixture's components, and the weights are at most p(x|z_k) over its share (Hesterberg 1995, "Weighted average
    importance sampling and defensive mixture distributions"; Veach & Guibas 1995, the balance heuristic). The fit does
    not depend on the samples, so the estimate is unbiased.

    x: prepared images [n, d]; posterior: their q(z|x), [n, L]. Each image has a noise stream of its own, drawn in the
    order of the samples, so that neither the other images nor max_rows change its weights, except by rounding.
    """
    components = np.concatenate([np.full(num_samples, ENCODER), np.resize(MIXTURE, num_samples)])
    max_rows_of_size = max(1, MAX_DECODED_PIXELS // x.shape[1])
    num_rows = min(max_rows, max_rows_of_size, len(components))
    compute_log_weights = compile_log_weights(model, num_samples)
    draws = prefetch(draw_noise(model.latent_dim, len(x), components, num_rows))
    fits = fit_each(model, x, posterior)
    for image, mean, log_std, fit in zip(x, posterior.mean, posterior.log_std, fits, strict=True):
        weights = []
        for _ in range(0, len(components), num_rows):
            noise, stretch, component = next(draws)
            weights.append(compute_log_weights(image, mean, log_std, fit, noise, stretch, component).numpy())
        under_q, under_mixture = np.concatenate(weights, axis=1)
        yield np.stack([under_q[:num_samples], under_mixture[num_samples : 2 * num_samples]])


def fit_each(model: VAE, x: np.ndarray, posterior: Posterior) -> Iterator[Fit]:
    """Yields each image's row of a Fit: latents and mean [F], factor [F, F]. Some images are fitted at once."""
    fit_posteriors = compile_fit(model)
    num_images = count_images(model)
    for first in range(0, len(x), num_images):
        some = slice(first, first + num_images)
        fits = fit_posteriors(x[some].astype(np.float32), posterior.mean[some], posterior.log_std[some])
        for parts in zip(*fits, strict=True):
            yield Fit(*parts)


def draw_noise(
    latent_dim: int, num_images: int, components: np.ndarray, num_rows: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields noise [num_rows, L], the stretch that makes it a t, [num_rows], and each row's component, [num_rows].

    The last draw of an image is filled up with zeros.
    """
    df = degrees_of_freedom(latent_dim)
    for image in range(num_images):
        rng = generator(TEST_SEED, "importance", image)
        stretch = np.sqrt(df / rng.chisquare(df, len(components)))
        for first in range(0, len(components), num_rows):
            rows = slice(first, first + num_rows)
            noise = rng.standard_normal((len(components[rows]), latent_dim), dtype=np.float32)
            padding = (0, num_rows - len(noise))
            yield (
                np.pad(noise, (padding, (0, 0))),
                np.pad(stretch[rows], padding),
                np.pad(components[rows], padding),
            )


def degrees_of_freedom(latent_dim: int) -> float:
    """The degrees of freedom of the t.

    Few of them give heavy tails. With many latents, samples with such tails scatter too widely.
    """
    return max(5.0, count_fitted(latent_dim) / 2)


def compile_log_weights(model: VAE, num_samples: int) -> Callable[..., tf.Tensor]:
    """A compiled function of an image [d], its mean and log_std [L], its row of a Fit, and what draw_noise yields.

    It returns the log weights, [2, num_rows]: under q(z|x), and under the mixture. The densities of z are computed in
    float64, as p(z|x) can be very narrow.
    """
    # With fewer than 20 samples, the components that are never sampled have no share.
    counts = np.bincount(np.resize(MIXTURE, num_samples), minlength=len(set(MIXTURE)))
    with np.errstate(divide="ignore"):
        log_shares = np.log(counts / num_samples)

    @tf.function(jit_compile=model.jit_compile, autograph=False)
    def compute_log_weights(
        image: tf.Tensor,
        mean: tf.Tensor,
        log_std: tf.Tensor,
        fit: Fit,
        noise: tf.Tensor,
        stretch: tf.Tensor,
        component: tf.Tensor,
    ) -> tf.Tensor:
        q = Posterior(tf.cast(mean, tf.float64), tf.cast(log_std, tf.float64))
        z = make_samples(q, fit, tf.cast(noise, tf.float64), stretch, component)
        log_components = log_densities(q, fit, z)
        # log r(z_k) = log sum_c share_c r_c(z_k), over the components c                                   [num_rows]
        log_mixture = tf.reduce_logsumexp(log_shares + tf.stack(log_components, axis=-1), axis=-1)
        images = tf.broadcast_to(tf.cast(image, tf.float32), (z.shape[0], image.shape[0]))
        return log_joint(model, images, z) - tf.stack([log_components[ENCODER], log_mixture])

    return compute_log_weights


def make_samples(q: Posterior, fit: Fit, noise: tf.Tensor, stretch: tf.Tensor, component: tf.Tensor) -> tf.Tensor:
    """The z_k, each from its row's component, [num_rows, L], in float64.

    q: q(z|x) of an image, [L] each, and fit: its row of a Fit. noise, stretch and component: what draw_noise yields.
    """
    z_of_q = q.sample(noise)
    # Each latent of the t is fit.mean + C'^-1 noise stretch if it is fitted, and as in q(z|x) if not.
    t_noise = tf.gather(noise, fit.latents, axis=1) * stretch[:, None]
    deviation = tf.transpose(tf.linalg.triangular_solve(fit.factor, tf.transpose(t_noise), adjoint=True))
    is_fitted = find_fitted(q, fit)
    index_if_fitted = tf.cumsum(tf.cast(is_fitted, tf.int32)) - 1
    num_fitted = fit.latents.shape[0]
    index = tf.where(is_fitted, index_if_fitted, num_fitted + tf.range(is_fitted.shape[0]))
    z_of_t = tf.gather(tf.concat([fit.mean + deviation, z_of_q], axis=1), index, axis=1)
    return tf.gather(tf.stack([z_of_t, z_of_q, noise], axis=1), component, batch_dims=1)


def log_densities(q: Posterior, fit: Fit, z: tf.Tensor) -> list[tf.Tensor]:
    """The log densities of z [num_rows, L] under the t, q(z|x) and the prior, [num_rows] each.

    The factor (2 pi)^(-L/2), which p(z) has too, is left out of each.
    """
    # log q(z) = sum over the latents of -1/2 ((z - mean) / std)^2 - log std                             [num_rows, L]
    log_q = -0.5 * tf.square((z - q.mean) / tf.exp(q.log_std)) - q.log_std
    # The t has the latents that are not fitted as they are in q(z|x).
    log_q_of_the_rest = tf.where(find_fitted(q, fit), tf.zeros_like(log_q), log_q)
    return [
        log_t_density(fit, z, degrees_of_freedom(z.shape[-1])) + tf.reduce_sum(log_q_of_the_rest, axis=-1),
        tf.reduce_sum(log_q, axis=-1),
        -0.5 * tf.reduce_sum(tf.square(z), axis=-1),
    ]


def log_t_density(fit: Fit, z: tf.Tensor, df: float) -> tf.Tensor:
    """The log density of the t around the Fit in the fitted latents of z [num_rows, L], without (2 pi)^(-F/2).

    It is log constant + log |C| - (df + F)/2 log(1 + |C'(z - fit.mean)|^2 / df), [num_rows].
    """
    num_fitted = fit.latents.shape[0]
    log_constant = math.lgamma((df + num_fitted) / 2) - math.lgamma(df / 2)
    log_constant -= num_fitted / 2 * math.log(df / 2)
    log_volume = tf.reduce_sum(tf.math.log(tf.linalg.diag_part(fit.factor)))
    whitened = tf.matmul(tf.gather(z, fit.latents, axis=1) - fit.mean, fit.factor)
    log_tail = tf.math.log1p(tf.reduce_sum(tf.square(whitened), axis=-1) / df)
    return log_constant + log_volume - (df + num_fitted) / 2 * log_tail


def find_fitted(q: Posterior, fit: Fit) -> tf.Tensor:
    """Whether each latent is a fitted one, bool [L]."""
    return tf.reduce_any(tf.range(q.mean.shape[-1]) == fit.latents[:, None], axis=0)


def importance_sampled_nll(image_log_weights: np.ndarray) -> float:
    """-log(1/K sum_k w_k) in nats for one image's log weights, [K].

    In expectation, it is an upper bound on the NLL (Burda et al. 2016, arXiv:1509.00519, equation 8 and theorem 1).
    """
    return math.log(len(image_log_weights)) - float(logsumexp(image_log_weights))


def effective_sample_size(image_log_weights: np.ndarray) -> float:
    """(sum_k w_k)^2 / sum_k w_k^2 for one image's log weights, [K] (Kong 1992).

    It lies between 1, where one sample has all the weight, and K, where all samples have the same.
    """
    return math.exp(2 * logsumexp(image_log_weights) - logsumexp(2 * image_log_weights))


def estimator_error(effective_sample_size: np.ndarray, num_samples: int) -> np.ndarray:
    """The standard error of importance_sampled_nll, in nats, to first order (the delta method).

    It is std(w) / (mean(w) sqrt(K)) = sqrt(1/ESS - 1/K), [n], for effective sample sizes [n]. Where the ESS is only a
    few samples, the true error is larger.
    """
    return np.sqrt(np.maximum(1 / effective_sample_size - 1 / num_samples, 0.0))
