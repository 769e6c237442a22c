"""Fits Gaussians to the posteriors p(z|x) of some images at once. vae.importance takes its samples from there.

Symbols: N is the number of images, L the number of latents, F the number of those that are fitted, M a number of points
z per image, d the number of an image's pixels, and P the decoder outputs per pixel.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from vae.likelihoods import Likelihood
from vae.model import MAX_DECODED_PIXELS, VAE, Posterior
from vae.randomness import TEST_SEED, generator

# If there are more latents than this, only those with the smallest standard deviations in q(z|x) are fitted. The fit of
# an image takes the time of 20 to 30 F decoded images, and memory for 6 F d P + F^2 numbers.
MAX_FITTED = 128

# So many images are fitted at once, or fewer large ones.
MAX_IMAGES = 20

# The search for the mode ends after this many steps, or with the first one that gains no more than this many nats.
MAX_STEPS = 20
SMALL_GAIN = 0.1
# Each step tries these multiples of the Gauss-Newton step. With the last one, z stays where it is.
STEP_LENGTHS = (*(2**-halvings for halvings in range(9)), 0)

# The curvature is averaged over this many pairs of points.
NUM_PAIRS = 10


class Fit(NamedTuple):
    """Gaussians that approximate p(z|x) in the fitted latents, one for each image.

    latents: the indices of these latents, in increasing order, [N, F]. mean: [N, F]. factor: the lower triangular
    matrices C for which C C' is the inverse of the covariance, [N, F, F]. Mean and factor are float64.
    """

    latents: tf.Tensor
    mean: tf.Tensor
    factor: tf.Tensor


def count_fitted(latent_dim: int) -> int:
    """F for L = latent_dim."""
    return min(latent_dim, MAX_FITTED)


def count_images(model: VAE) -> int:
    """N: the number of images that are to be fitted at once, so that no more than MAX_DECODED_PIXELS are decoded."""
    rows_per_image = max(2 * count_fitted(model.latent_dim), len(STEP_LENGTHS))
    return max(1, min(MAX_IMAGES, MAX_DECODED_PIXELS // (rows_per_image * math.prod(model.image_shape))))


def compile_fit(model: VAE) -> Callable[..., Fit]:
    """A compiled function (images, mean, log_std) -> Fit, for images float32 [N, d] and their q(z|x), [N, L] each.

    First, the mode of p(x, z) is found. The curvature there would give Laplace's approximation, but a network of relus
    has kinks, and the mode is often at one. So the curvature is averaged: see average_over_pairs.

    The points are drawn with the same noise for all images. If a number overflows, or a Cholesky factor does not exist,
    the image's Gaussian is q(z|x).
    """
    num_fitted = count_fitted(model.latent_dim)
    pair_noise = generator(TEST_SEED, "fit").standard_normal((NUM_PAIRS, num_fitted))
    widths = (math.prod(model.image_shape), model.latent_dim, model.latent_dim)

    # Without XLA, whose Cholesky factorization is slow.
    @tf.function(input_signature=[tf.TensorSpec((None, width)) for width in widths], autograph=False)
    def fit_posteriors(images: tf.Tensor, mean: tf.Tensor, log_std: tf.Tensor) -> Fit:
        q = Posterior(tf.cast(mean, tf.float64), tf.cast(log_std, tf.float64))
        latents = tf.sort(tf.argsort(log_std)[:, :num_fitted])
        directions = tf.one_hot(latents, model.latent_dim, dtype=tf.float64)

        center = find_modes(model, images, q.mean, directions)
        _, precision = differentiate(model, images, center[:, None], directions)
        center, precision = average_over_pairs(model, images, center, precision, directions, tf.constant(pair_noise))
        fit = Fit(latents, tf.gather(center, latents, batch_dims=1), tf.linalg.cholesky(precision))
        factor_of_q = tf.linalg.diag(tf.exp(-tf.gather(q.log_std, latents, batch_dims=1)))
        fit_of_q = Fit(latents, tf.gather(q.mean, latents, batch_dims=1), factor_of_q)
        is_finite = tf.math.is_finite(tf.reduce_sum(fit.mean, axis=1) + tf.reduce_sum(fit.factor, axis=(1, 2)))
        mean = tf.where(is_finite[:, None], fit.mean, fit_of_q.mean)
        return Fit(latents, mean, tf.where(is_finite[:, None, None], fit.factor, fit_of_q.factor))

    return fit_posteriors


def find_modes(model: VAE, images: tf.Tensor, start: tf.Tensor, directions: tf.Tensor) -> tf.Tensor:
    """Takes Gauss-Newton steps from `start`, [N, L], and returns points near modes of p(x, z) that they reach, [N, L].

    images: [N, d]; directions: [N, F, L], the unit vectors of the fitted latents.
    """
    lengths = tf.constant(STEP_LENGTHS, tf.float64)

    def climb(num_steps: tf.Tensor, z: tf.Tensor, gain: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        # The search goes on for these images only.
        indices = tf.where(gain > SMALL_GAIN)
        some_z = tf.gather_nd(z, indices)
        some_images = tf.gather_nd(images, indices)
        some_directions = tf.gather_nd(directions, indices)

        gradient, precision = differentiate(model, some_images, some_z[:, None], some_directions)
        step = newton_step(gradient, precision, some_directions)
        candidates = some_z + lengths[:, None, None] * step
        values = map_rows(lambda rows: log_joint(model, some_images, rows), candidates, d=images.shape[1])
        values = tf.where(tf.math.is_finite(values), values, -math.inf)
        z_of_best = some_z + tf.gather(lengths, tf.argmax(values))[:, None] * step
        gain_of_best = tf.reduce_max(values, axis=0) - values[-1]
        z = tf.tensor_scatter_nd_update(z, indices, z_of_best)
        return num_steps + 1, z, tf.tensor_scatter_nd_update(gain, indices, gain_of_best)

    def goes_on(num_steps: tf.Tensor, z: tf.Tensor, gain: tf.Tensor) -> tf.Tensor:
        return (num_steps < MAX_STEPS) & tf.reduce_any(gain > SMALL_GAIN)

    gain = tf.fill(tf.shape(start)[:1], tf.constant(math.inf, tf.float64))
    return tf.while_loop(goes_on, climb, (0, start, gain))[1]


def average_over_pairs(
    model: VAE,
    images: tf.Tensor,
    modes: tf.Tensor,
    precision_at_mode: tf.Tensor,
    directions: tf.Tensor,
    pair_noise: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """The centers, [N, L], and the inverse covariances, [N, F, F], of Gaussians around the modes, [N, L], of p(x, z).

    In each round, two opposite points are drawn from the current Gaussian, with a row of pair_noise [NUM_PAIRS, F]. The
    inverse covariance becomes the mean of the curvatures at all points so far, and the center moves by ever shorter
    Newton steps. Up to the decoder's own curvature, this leads to the Gaussian with the smallest
    KL(Gaussian || p(z|x)) (Opper & Archambeau 2009, "The variational Gaussian approximation revisited").
    """

    def add_pair(index: tf.Tensor, center: tf.Tensor, precision: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        factor = tf.linalg.cholesky(precision)
        noise = tf.broadcast_to(tf.gather(pair_noise, index)[:, None], tf.shape(factor[..., :1]))
        deviation = tf.linalg.triangular_solve(factor, noise, adjoint=True)[..., 0]
        offset = tf.linalg.matvec(directions, deviation, transpose_a=True)
        pair = tf.stack([center + offset, center - offset], axis=1)
        gradient, pair_precision = differentiate(model, images, pair, directions)
        weight = 1 / tf.cast(index + 1, tf.float64)
        precision += weight * (pair_precision - precision)
        center += weight * newton_step(gradient, precision, directions)
        return index + 1, center, precision

    _, center, precision = tf.while_loop(lambda index, *_: index < NUM_PAIRS, add_pair, (0, modes, precision_at_mode))
    return center, precision


def newton_step(gradient: tf.Tensor, precision: tf.Tensor, directions: tf.Tensor) -> tf.Tensor:
    """The steps in z, [N, L], that solve precision step = gradient in the fitted latents."""
    step = tf.linalg.cholesky_solve(tf.linalg.cholesky(precision), gradient[..., None])[..., 0]
    return tf.linalg.matvec(directions, step, transpose_a=True)


def log_joint(model: VAE, x: tf.Tensor, z: tf.Tensor) -> tf.Tensor:
    """log p(x|z) - 1/2 |z|^2, [rows] in nats, for images x [rows, d] and points z [rows, L].

    This is log p(x, z) without the constant L/2 log(2 pi).
    """
    log_likelihood = model.likelihood.log_prob(x, model.decode(tf.cast(z, tf.float32)))
    return tf.cast(log_likelihood, tf.float64) - 0.5 * tf.reduce_sum(tf.square(z), axis=-1)


def differentiate(model: VAE, images: tf.Tensor, z: tf.Tensor, directions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The gradient of log p(x, z) in the fitted latents, [N, F], and the Gauss-Newton matrix I + J'DJ, [N, F, F].

    Both are averaged over the points z, [N, M, L]. J is the decoder's Jacobian. D is diagonal: its entries are
    -d^2 log p(x|z) / d(output)^2 for each decoder output, or 0 where that is negative, so the matrix is positive
    definite.
    """
    num_points = z.shape[1]
    num_fitted = directions.shape[1]
    points = tf.cast(tf.reshape(z, (-1, z.shape[-1])), tf.float32)
    x = tf.repeat(images, num_points, axis=0)
    # The direction is the first axis here: each is taken at all points, [F, N M, L].
    tangents = tf.repeat(tf.transpose(tf.cast(directions, tf.float32), (1, 0, 2)), num_points, axis=1)
    params, jacobians = differentiate_decoder(model, points, tangents)
    slopes, curvatures = differentiate_pixels(model.likelihood, x, params)

    # The sums over the outputs run over those of all points of an image, M d P.
    num_outputs = num_points * slopes.shape[1] * slopes.shape[2]
    jacobians = tf.transpose(tf.reshape(jacobians, (num_fitted, -1, num_outputs)), (1, 0, 2))
    gradient = tf.linalg.matvec(jacobians, tf.reshape(slopes, (-1, num_outputs)))
    scales = tf.sqrt(tf.reshape(tf.maximum(curvatures, 0.0), (-1, 1, num_outputs)))
    # In float32, rounding could make the sum of a large J'DJ and I singular.
    scaled = tf.cast(scales * jacobians, tf.float64)
    precision = tf.matmul(scaled, scaled, transpose_b=True) / num_points
    gradient = tf.cast(gradient, tf.float64) / num_points - tf.linalg.matvec(directions, tf.reduce_mean(z, axis=1))
    return gradient, precision + tf.eye(num_fitted, dtype=tf.float64)


def differentiate_decoder(model: VAE, z: tf.Tensor, tangents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The decoder's outputs at z [rows, L], and their derivatives in the directions of tangents [F, rows, L].

    The outputs are [rows, d, P], and the derivatives [F, rows, d, P].
    """
    # Two reverse passes give forward derivatives: u'J is linear in u, so its derivative by u is J for any u. TensorFlow
    # traces this far faster than tf.autodiff.ForwardAccumulator.
    with tf.GradientTape(persistent=True) as tape_of_u:
        with tf.GradientTape() as tape:
            tape.watch(z)
            params = model.decode(z)
        u = tf.zeros_like(params)
        tape_of_u.watch(u)
        u_times_jacobian = tape.gradient(params, z, output_gradients=u)

    def differentiate_along(tangent: tf.Tensor) -> tf.Tensor:
        return tape_of_u.gradient(u_times_jacobian, u, output_gradients=tangent)

    return params, map_rows(differentiate_along, tangents, d=params.shape[1])


def map_rows(function: Callable[[tf.Tensor], tf.Tensor], rows: tf.Tensor, d: int) -> tf.Tensor:
    """function(row), stacked, for rows [n, ...]: all at once, or one by one for large images."""
    if 2 * d * rows.shape[0] <= MAX_DECODED_PIXELS:
        return tf.vectorized_map(function, rows)
    return tf.map_fn(function, rows, parallel_iterations=1)


def differentiate_pixels(likelihood: Likelihood, x: tf.Tensor, params: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The derivative of log p(x|z) by each decoder output, and minus its second derivative.

    x: [rows, d]; params and both results: [rows, d, P].
    """
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
