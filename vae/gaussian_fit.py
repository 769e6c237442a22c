"""Fits a Gaussian to the posterior p(z|x) of one image. vae.importance takes its samples from there.

Symbols: L is the number of latents, F the number of those that are fitted, M a number of points z, d the number of an
image's pixels, and P the decoder outputs per pixel.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from vae.likelihoods import Likelihood
from vae.model import MAX_DECODED_PIXELS, VAE, Posterior
from vae.randomness import TEST_SEED, generator

# If there are more latents than this, only those with the smallest standard deviations in q(z|x) are fitted. The fit of
# an image takes the time of some 60 F decoded images, and memory for 2 F d P + F^2 numbers.
MAX_FITTED = 128

# The search for the mode ends after this many steps, or with the first one that gains no more than this many nats.
MAX_STEPS = 20
SMALL_GAIN = 0.1
# Each step tries these multiples of the Gauss-Newton step. With the last one, z stays where it is.
STEP_LENGTHS = (*(2**-halvings for halvings in range(9)), 0)

# The curvature is averaged over this many pairs of points.
NUM_PAIRS = 10


class Fit(NamedTuple):
    """A Gaussian that approximates p(z|x) in the fitted latents.

    latents: the indices of these latents, in increasing order, [F]. mean: [F]. factor: the lower triangular matrix C
    for which C C' is the inverse of the covariance, [F, F]. Mean and factor are float64.
    """

    latents: tf.Tensor
    mean: tf.Tensor
    factor: tf.Tensor


def count_fitted(latent_dim: int) -> int:
    """F for L = latent_dim."""
    return min(latent_dim, MAX_FITTED)


def compile_fit(model: VAE) -> Callable[..., Fit]:
    """A compiled function (image, mean, log_std) -> Fit, for an image [d] and its q(z|x), [L] each.

    First, the mode of p(x, z) is found. The curvature there would give Laplace's approximation, but a network of relus
    has kinks, and the mode is often at one. So the curvature is averaged: see average_over_pairs.

    The points are drawn with the same noise for all images. If a number overflows, or a Cholesky factor does not exist,
    the Fit is q(z|x).
    """
    num_fitted = count_fitted(model.latent_dim)
    pair_noise = generator(TEST_SEED, "fit").standard_normal((NUM_PAIRS, num_fitted))

    # This is not for XLA, whose Cholesky factorization is slow.
    @tf.function(autograph=False)
    def fit_posterior(image: tf.Tensor, mean: tf.Tensor, log_std: tf.Tensor) -> Fit:
        image = tf.cast(image, tf.float32)
        q = Posterior(tf.cast(mean, tf.float64), tf.cast(log_std, tf.float64))
        latents = tf.sort(tf.argsort(log_std)[:num_fitted])
        directions = tf.one_hot(latents, model.latent_dim, dtype=tf.float64)

        center = find_mode(model, image, q.mean, directions)
        _, precision = differentiate(model, image, center[None], directions)
        center, precision = average_over_pairs(model, image, center, precision, directions, tf.constant(pair_noise))
        fit = Fit(latents, tf.gather(center, latents), tf.linalg.cholesky(precision))
        factor_of_q = tf.linalg.diag(tf.exp(-tf.gather(q.log_std, latents)))
        fit_of_q = Fit(latents, tf.gather(q.mean, latents), factor_of_q)
        is_finite = tf.reduce_all(tf.math.is_finite(fit.mean)) & tf.reduce_all(tf.math.is_finite(fit.factor))
        return Fit(
            latents,
            mean=tf.where(is_finite, fit.mean, fit_of_q.mean),
            factor=tf.where(is_finite, fit.factor, fit_of_q.factor),
        )

    return fit_posterior


def find_mode(model: VAE, image: tf.Tensor, start: tf.Tensor, directions: tf.Tensor) -> tf.Tensor:
    """Takes Gauss-Newton steps from `start`, [L], and returns the point near a mode of p(x, z) that they reach, [L]."""
    lengths = tf.constant(STEP_LENGTHS, tf.float64)[:, None]

    def climb(num_steps: tf.Tensor, z: tf.Tensor, gain: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        gradient, precision = differentiate(model, image, z[None], directions)
        candidates = z + lengths * newton_step(gradient, precision, directions)
        values = compute_in_chunks(
            lambda rows: log_joint(model, image, rows), candidates, max_rows=MAX_DECODED_PIXELS // image.shape[0]
        )
        values = tf.where(tf.math.is_finite(values), values, -math.inf)
        best = tf.argmax(values)
        return num_steps + 1, tf.gather(candidates, best), tf.gather(values, best) - values[-1]

    def goes_on(num_steps: tf.Tensor, z: tf.Tensor, gain: tf.Tensor) -> tf.Tensor:
        return (num_steps < MAX_STEPS) & (gain > SMALL_GAIN)

    _, mode, _ = tf.while_loop(goes_on, climb, (0, start, tf.constant(math.inf, tf.float64)))
    return mode


def average_over_pairs(
    model: VAE,
    image: tf.Tensor,
    mode: tf.Tensor,
    precision_at_mode: tf.Tensor,
    directions: tf.Tensor,
    pair_noise: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """The center, [L], and the inverse covariance, [F, F], of a Gaussian around the mode, [L], of p(x, z).

    In each round, two opposite points are drawn from the current Gaussian, with a row of pair_noise [NUM_PAIRS, F]. The
    inverse covariance becomes the mean of the curvatures at all points so far, and the center moves by ever shorter
    Newton steps. Up to the decoder's own curvature, this leads to the Gaussian with the smallest
    KL(Gaussian || p(z|x)) (Opper & Archambeau 2009, "The variational Gaussian approximation revisited").
    """

    def add_pair(index: tf.Tensor, center: tf.Tensor, precision: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        noise = tf.gather(pair_noise, index)
        deviation = tf.linalg.triangular_solve(tf.linalg.cholesky(precision), noise[:, None], adjoint=True)[:, 0]
        offset = tf.linalg.matvec(directions, deviation, transpose_a=True)
        gradient, pair_precision = differentiate(model, image, tf.stack([center + offset, center - offset]), directions)
        weight = 1 / tf.cast(index + 1, tf.float64)
        precision += weight * (pair_precision - precision)
        center += weight * newton_step(gradient, precision, directions)
        return index + 1, center, precision

    _, center, precision = tf.while_loop(lambda index, *_: index < NUM_PAIRS, add_pair, (0, mode, precision_at_mode))
    return center, precision


def newton_step(gradient: tf.Tensor, precision: tf.Tensor, directions: tf.Tensor) -> tf.Tensor:
    """The step in z, [L], that solves precision step = gradient in the fitted latents."""
    step = tf.linalg.cholesky_solve(tf.linalg.cholesky(precision), gradient[:, None])[:, 0]
    return tf.linalg.matvec(directions, step, transpose_a=True)


def log_joint(model: VAE, image: tf.Tensor, z: tf.Tensor) -> tf.Tensor:
    """log p(x|z) - 1/2 |z|^2, [M] in nats, for an image [d] and points z [M, L].

    This is log p(x, z) without the constant L/2 log(2 pi).
    """
    x = tf.broadcast_to(image, (z.shape[0], image.shape[0]))
    log_likelihood = model.likelihood.log_prob(x, model.decode(tf.cast(z, tf.float32)))
    return tf.cast(log_likelihood, tf.float64) - 0.5 * tf.reduce_sum(tf.square(z), axis=-1)


def differentiate(model: VAE, image: tf.Tensor, z: tf.Tensor, directions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The gradient of log p(x, z) in the fitted latents, [F], and the Gauss-Newton matrix I + J'DJ, [F, F].

    Both are averaged over the points z, [M, L]. J is the decoder's Jacobian. D is diagonal: its entries are
    -d^2 log p(x|z) / d(output)^2 for each decoder output, or 0 where that is negative, so the matrix is positive
    definite.
    """
    num_points = z.shape[0]
    points = tf.cast(z, tf.float32)
    slopes, curvatures = differentiate_pixels(model.likelihood, image, model.decode(points))
    slopes = tf.reshape(tf.cast(slopes, tf.float64), (num_points, -1))
    curvatures = tf.reshape(tf.cast(curvatures, tf.float64), (num_points, -1))
    jacobians = compute_in_chunks(
        lambda some_directions: differentiate_decoder(model, points, some_directions),
        tf.cast(directions, tf.float32),
        max_rows=MAX_DECODED_PIXELS // (num_points * image.shape[0]),
    )

    gradients = []
    precisions = []
    for point in range(num_points):
        # In float32, rounding could make the sum of a large J'DJ and I singular.
        jacobian = tf.cast(jacobians[:, point], tf.float64)
        gradients.append(tf.linalg.matvec(jacobian, slopes[point]) - tf.linalg.matvec(directions, z[point]))
        curvature = tf.maximum(curvatures[point], 0.0)
        precisions.append(tf.matmul(jacobian * curvature, jacobian, transpose_b=True))
    identity = tf.eye(directions.shape[0], dtype=tf.float64)
    return tf.add_n(gradients) / num_points, tf.add_n(precisions) / num_points + identity


def differentiate_decoder(model: VAE, z: tf.Tensor, directions: tf.Tensor) -> tf.Tensor:
    """The derivatives of the decoder's outputs, [F, M, d P], at z [M, L] in the directions [F, L]."""
    num_points = z.shape[0]
    num_directions = directions.shape[0]
    # TensorFlow differentiates each row in one direction, so the points are repeated F times.
    rows = tf.tile(z, (num_directions, 1))
    tangents = tf.repeat(directions, num_points, axis=0)
    # Two reverse passes give forward derivatives: u'J is linear in u, so its derivative by u is J for any u. TensorFlow
    # traces this far faster than tf.autodiff.ForwardAccumulator.
    with tf.GradientTape() as tape_of_u:
        with tf.GradientTape() as tape:
            tape.watch(rows)
            params = model.decode(rows)
        u = tf.zeros_like(params)
        tape_of_u.watch(u)
        u_times_jacobian = tape.gradient(params, rows, output_gradients=u)
    derivatives = tape_of_u.gradient(u_times_jacobian, u, output_gradients=tangents)
    return tf.reshape(derivatives, (num_directions, num_points, -1))


def compute_in_chunks(function: Callable[[tf.Tensor], tf.Tensor], rows: tf.Tensor, max_rows: int) -> tf.Tensor:
    """function(rows), [n, ...], for rows [n, L]. The function gets at most max_rows of them, or 1, at once.

    It computes each row on its own, and its results have the type of the rows.
    """
    num_rows = rows.shape[0]
    num_chunks = math.ceil(num_rows / max(1, max_rows))
    if num_chunks == 1:
        return function(rows)
    chunk_size = math.ceil(num_rows / num_chunks)
    filled_up = tf.pad(rows, ((0, num_chunks * chunk_size - num_rows), (0, 0)))
    chunks = tf.reshape(filled_up, (num_chunks, chunk_size, rows.shape[1]))
    # TensorFlow would compute several chunks at the same time, but they are to share the memory.
    results = tf.map_fn(function, chunks, parallel_iterations=1)
    return tf.reshape(results, (num_chunks * chunk_size, *results.shape[2:]))[:num_rows]


def differentiate_pixels(likelihood: Likelihood, image: tf.Tensor, params: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The derivative of log p(x|z) by each decoder output, and minus its second derivative.

    image: [d]; params and both results: [M, d, P].
    """
    x = tf.broadcast_to(image, (params.shape[0], image.shape[0]))
    with tf.GradientTape(persistent=True) as tape_of_slopes:
        tape_of_slopes.watch(params)
        with tf.GradientTape() as tape:
            tape.watch(params)
            log_likelihood = likelihood.log_prob(x, params)
        slopes = tape.gradient(log_likelihood, params)
        slopes_by_parameter = tf.unstack(slopes, axis=-1)
    # log p(x|z) is a sum over the pixels, so the gradient of all pixels' slopes has each pixel's own derivative.
    curvatures = []
    for parameter, slope in enumerate(slopes_by_parameter):
        curvatures.append(-tape_of_slopes.gradient(slope, params)[..., parameter])
    return slopes, tf.stack(curvatures, axis=-1)
