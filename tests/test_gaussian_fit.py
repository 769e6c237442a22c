"""The Gaussian that is fitted to the posterior of an image."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import logit
from test_importance import create_for_digits, linear_gaussian

import datasets
from vae import evaluation, gaussian_fit
from vae.likelihoods import LOGIT_SQUEEZE
from vae.model import VAE


@pytest.fixture(scope="module")
def images():
    return datasets.load("digits").test_images


def fit_image(model, x):
    """The Fit of the first of the prepared images x, in NumPy, and the q(z|x) of all of them."""
    posterior = evaluation.posteriors(model, x)
    fit = gaussian_fit.compile_fit(model)(x[0], posterior.mean[0], posterior.log_std[0])
    return gaussian_fit.Fit(*[part.numpy() for part in fit]), posterior


def test_the_fit_of_a_linear_gaussian_model_is_its_exact_posterior():
    model, _ = linear_gaussian(0.01, np.random.default_rng(0))
    x = np.random.default_rng(1).uniform(0.2, 0.8, (1, 4)).astype(np.float32)
    fit, _ = fit_image(model, x)
    kernel, bias = model.decoder.layers[0].get_weights()
    weights = kernel.astype(float).reshape(2, 4, 2)[..., 0]
    y = logit(LOGIT_SQUEEZE + (1 - 2 * LOGIT_SQUEEZE) * x[0].astype(float))
    precision = np.eye(2) + weights @ weights.T / 0.01**2
    mean = np.linalg.solve(precision, weights @ (y - bias.reshape(4, 2)[:, 0]) / 0.01**2)
    assert fit.latents.tolist() == [0, 1]
    np.testing.assert_allclose(fit.factor @ fit.factor.T, precision, rtol=1e-4)
    np.testing.assert_allclose(fit.mean, mean, atol=1e-4)


@pytest.mark.parametrize("network", ["flat", pytest.param("conv3", marks=pytest.mark.slow)])
def test_gradient_and_matrix_are_the_derivatives_of_the_log_joint(network, images):
    """With relu, the decoder is linear around each point, and the Gauss-Newton matrix is minus the exact Hessian."""
    model = create_for_digits("bernoulli", network)
    image = tf.constant(evaluation.prepare_test(model.likelihood, images[:1])[0], tf.float32)
    points = tf.constant(np.random.default_rng(0).standard_normal((2, 3)))
    gradient, precision = gaussian_fit.differentiate(model, image, points, tf.eye(3, dtype=tf.float64))
    gradients = []
    hessians = []
    for point in points:
        with tf.GradientTape() as outer:
            outer.watch(point)
            with tf.GradientTape() as inner:
                inner.watch(point)
                value = gaussian_fit.log_joint(model, image, point[None])[0]
            gradients.append(inner.gradient(value, point))
        hessians.append(outer.jacobian(gradients[-1], point))
    np.testing.assert_allclose(gradient, np.mean(gradients, axis=0), atol=1e-4)
    np.testing.assert_allclose(precision, -np.mean(hessians, axis=0), atol=1e-4)


@pytest.mark.parametrize("likelihood", ["bernoulli", "normal", "logit_normal"])
def test_the_mode_has_a_higher_density_than_the_encoders_mean_and_almost_no_gradient(likelihood, images):
    model = create_for_digits(likelihood, activation="tanh")
    x = evaluation.prepare_test(model.likelihood, images[:1])
    image = tf.constant(x[0], tf.float32)
    start = tf.cast(evaluation.posteriors(model, x).mean[0], tf.float64)
    directions = tf.eye(3, dtype=tf.float64)
    mode = gaussian_fit.find_mode(model, image, start, directions)
    before, after = gaussian_fit.log_joint(model, image, tf.stack([start, mode])).numpy()
    assert after > before
    gradient, precision = gaussian_fit.differentiate(model, image, mode[None], directions)
    # What a Newton step could still gain.
    assert 0.5 * gradient.numpy() @ np.linalg.solve(precision, gradient) < 2 * gaussian_fit.SMALL_GAIN


def test_of_many_latents_those_that_q_is_surest_of_are_fitted(images, monkeypatch):
    monkeypatch.setattr(gaussian_fit, "MAX_FITTED", 2)
    model = create_for_digits("bernoulli", latent_dim=5)
    x = evaluation.prepare_test(model.likelihood, images[:1])
    fit, posterior = fit_image(model, x)
    assert fit.latents.tolist() == sorted(np.argsort(posterior.log_std[0])[:2])
    assert fit.mean.shape == (2,)
    assert fit.factor.shape == (2, 2)


@pytest.fixture
def decoded_sizes(monkeypatch):
    """A list that receives the number of points of each call of VAE.decode."""
    sizes = []
    decode = VAE.decode

    def watched_decode(self, z):
        sizes.append(z.shape[0])
        return decode(self, z)

    monkeypatch.setattr(VAE, "decode", watched_decode)
    return sizes


@pytest.mark.parametrize(("max_images", "sizes"), [(1, [2, 2, 2, 2, 2, 2]), (5, [2, 4, 4, 4]), (10, [2, 10])])
def test_no_more_pixels_are_decoded_at_once_for_the_derivatives_than_allowed(
    max_images, sizes, images, decoded_sizes, monkeypatch
):
    """Two points are decoded, and then differentiated in five directions; in each, at least both points together."""
    model = create_for_digits("normal", latent_dim=5)
    image = tf.constant(evaluation.prepare_test(model.likelihood, images[:1])[0], tf.float32)
    points = tf.constant(np.random.default_rng(0).standard_normal((2, 5)))
    directions = tf.eye(5, dtype=tf.float64)
    expected_gradient, expected_precision = gaussian_fit.differentiate(model, image, points, directions)

    decoded_sizes.clear()
    monkeypatch.setattr(gaussian_fit, "MAX_DECODED_PIXELS", max_images * 64)
    gradient, precision = gaussian_fit.differentiate(model, image, points, directions)
    assert decoded_sizes == sizes
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(precision, expected_precision, rtol=1e-4, atol=1e-4)


def test_no_more_pixels_are_decoded_at_once_in_the_search_for_the_mode_than_allowed(images, decoded_sizes, monkeypatch):
    model = create_for_digits("normal", latent_dim=5)
    image = tf.constant(evaluation.prepare_test(model.likelihood, images[:1])[0], tf.float32)
    start = tf.zeros(5, tf.float64)
    directions = tf.eye(5, dtype=tf.float64)
    expected = gaussian_fit.find_mode(model, image, start, directions)
    assert max(decoded_sizes) == len(gaussian_fit.STEP_LENGTHS) == 10

    decoded_sizes.clear()
    monkeypatch.setattr(gaussian_fit, "MAX_DECODED_PIXELS", 3 * 64)
    mode = gaussian_fit.find_mode(model, image, start, directions)
    assert max(decoded_sizes) == 3
    np.testing.assert_allclose(mode, expected, atol=1e-4)


@pytest.mark.parametrize(("max_rows", "sizes"), [(0, [1] * 7), (1, [1] * 7), (3, [3, 3, 3]), (6, [4, 4]), (7, [7])])
def test_a_function_is_computed_in_equal_chunks_of_at_most_so_many_rows(max_rows, sizes):
    rows = tf.constant(np.arange(14.0).reshape(7, 2))
    sizes_of_chunks = []

    def outer_products(chunk):
        sizes_of_chunks.append(chunk.shape[0])
        return chunk[:, :, None] * chunk[:, None, :]

    products = gaussian_fit.compute_in_chunks(outer_products, rows, max_rows)
    assert sizes_of_chunks == sizes
    np.testing.assert_array_equal(products, rows[:, :, None] * rows[:, None, :])


@pytest.mark.parametrize("network", ["flat", pytest.param("conv3", marks=pytest.mark.slow)])
def test_if_a_number_overflows_the_fit_is_q(network, images):
    model = create_for_digits("normal", network)
    kernels = [layer.kernel for layer in model.decoder.layers if hasattr(layer, "kernel")]
    for kernel in kernels[:2]:
        kernel.assign(1e30 * kernel)
    x = evaluation.prepare_test(model.likelihood, images[:1])
    fit, posterior = fit_image(model, x)
    np.testing.assert_allclose(fit.mean, posterior.mean[0])
    np.testing.assert_allclose(fit.factor, np.diag(np.exp(-posterior.log_std[0])), rtol=1e-6)
