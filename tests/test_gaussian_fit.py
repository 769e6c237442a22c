"""The Gaussian that is fitted to the posterior of an image."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import logit
from test_importance import create_for_digits, linear_gaussian

import datasets
from vae import evaluation, gaussian_fit
from vae.likelihoods import LOGIT_SQUEEZE


@pytest.fixture(scope="module")
def images():
    return datasets.load("digits").test_images


@functools.cache
def create_normal(network):
    """A model with a Normal likelihood, and its compiled fit. Compiling takes seconds."""
    model = create_for_digits("normal", network, latent_dim=5)
    return model, gaussian_fit.compile_fit(model)


def fit_image(model, x, compiled_fit=None):
    """The Fit of the first of the prepared images x, in NumPy, and the q(z|x) of all of them."""
    posterior = evaluation.posteriors(model, x)
    compiled_fit = compiled_fit or gaussian_fit.compile_fit(model)
    fits = compiled_fit(x.astype(np.float32), posterior.mean, posterior.log_std)
    return gaussian_fit.Fit(*[part[0].numpy() for part in fits]), posterior


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
    x = tf.constant(evaluation.prepare_test(model.likelihood, images[:2]), tf.float32)
    points = tf.constant(np.random.default_rng(0).standard_normal((2, 2, 3)))
    directions = tf.eye(3, batch_shape=[2], dtype=tf.float64)
    computed = gaussian_fit.differentiate(model, x, points, directions)
    for image, points_of_image, gradient, precision in zip(x, points, *computed, strict=True):
        gradients = []
        hessians = []
        for point in points_of_image:
            with tf.GradientTape() as outer:
                outer.watch(point)
                with tf.GradientTape() as inner:
                    inner.watch(point)
                    value = gaussian_fit.log_joint(model, image[None], point[None])[0]
                gradients.append(inner.gradient(value, point))
            hessians.append(outer.jacobian(gradients[-1], point))
        np.testing.assert_allclose(gradient, np.mean(gradients, axis=0), atol=1e-4)
        np.testing.assert_allclose(precision, -np.mean(hessians, axis=0), atol=1e-4)


@pytest.mark.parametrize(
    "likelihood", ["logit_normal", *(pytest.param(name, marks=pytest.mark.slow) for name in ("bernoulli", "normal"))]
)
def test_the_mode_has_a_higher_density_than_the_encoders_mean_and_almost_no_gradient(likelihood, images):
    model = create_for_digits(likelihood, activation="tanh")
    x = tf.constant(evaluation.prepare_test(model.likelihood, images[:5]), tf.float32)
    start = tf.cast(evaluation.posteriors(model, x.numpy()).mean, tf.float64)
    directions = tf.eye(3, batch_shape=[5], dtype=tf.float64)
    modes = gaussian_fit.find_modes(model, x, start, directions)
    gains = gaussian_fit.log_joint(model, x, modes) - gaussian_fit.log_joint(model, x, start)
    assert np.all(gains > 0)
    gradients, precisions = gaussian_fit.differentiate(model, x, modes[:, None], directions)
    for gradient, precision in zip(gradients.numpy(), precisions.numpy(), strict=True):
        # What a Newton step could still gain.
        assert 0.5 * gradient @ np.linalg.solve(precision, gradient) < 2 * gaussian_fit.SMALL_GAIN


@pytest.mark.slow
def test_of_many_latents_those_that_q_is_surest_of_are_fitted(images, monkeypatch):
    monkeypatch.setattr(gaussian_fit, "MAX_FITTED", 2)
    model = create_for_digits("bernoulli", latent_dim=5)
    x = evaluation.prepare_test(model.likelihood, images[:1])
    fit, posterior = fit_image(model, x)
    assert fit.latents.tolist() == sorted(np.argsort(posterior.log_std[0])[:2])
    assert fit.mean.shape == (2,)
    assert fit.factor.shape == (2, 2)


@pytest.mark.parametrize(("max_images", "num_images"), [(1, 1), (19, 1), (20, 2), (49, 4), (10**6, 20)])
def test_no_more_pixels_are_decoded_at_once_than_allowed(max_images, num_images, monkeypatch):
    """An image needs ten decoded ones: pairs in five directions, or one for each length of a step."""
    monkeypatch.setattr(gaussian_fit, "MAX_DECODED_PIXELS", max_images * 64)
    assert gaussian_fit.count_images(create_for_digits("normal", latent_dim=5)) == num_images
    calls = []
    rows = tf.constant(np.arange(10.0).reshape(5, 2))

    def square(row):
        calls.append(row)
        return row**2

    np.testing.assert_array_equal(gaussian_fit.map_rows(square, rows, d=64), rows**2)
    # A function that is mapped at once is called once, to be traced.
    assert len(calls) == (1 if max_images >= 10 else 5)


@pytest.mark.parametrize(
    ("network", "is_large"),
    [("flat", False), *(pytest.param(name, True, marks=pytest.mark.slow) for name in ("flat", "conv3"))],
)
def test_images_are_fitted_alike_together_or_alone(network, is_large, images, monkeypatch):
    """Large images are fitted direction by direction, too."""
    model, fit_some = create_normal(network)
    x = evaluation.prepare_test(model.likelihood, images[:3])
    posterior = evaluation.posteriors(model, x)
    fit_one = fit_some
    together = fit_some(x, posterior.mean, posterior.log_std)
    assert gaussian_fit.count_images(model) == gaussian_fit.MAX_IMAGES
    if is_large:
        # As of images so large that two of them are at most decoded at once.
        monkeypatch.setattr(gaussian_fit, "MAX_DECODED_PIXELS", 2 * 64)
        assert gaussian_fit.count_images(model) == 1
        fit_one = gaussian_fit.compile_fit(model)
    for index in range(3):
        one = slice(index, index + 1)
        alone = fit_one(x[one], posterior.mean[one], posterior.log_std[one])
        for part, part_together in zip(alone, together, strict=True):
            np.testing.assert_allclose(part[0], part_together[index], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("network", ["flat", pytest.param("conv3", marks=pytest.mark.slow)])
def test_if_a_number_overflows_the_fit_is_q(network, images):
    model, compiled_fit = create_normal(network)
    weights = model.decoder.get_weights()
    x = evaluation.prepare_test(model.likelihood, images[:2])
    # The kernels of the first two layers, which have biases, too.
    model.decoder.set_weights([1e30 * array if index in (0, 2) else array for index, array in enumerate(weights)])
    fit, posterior = fit_image(model, x, compiled_fit)
    model.decoder.set_weights(weights)
    np.testing.assert_allclose(fit.mean, posterior.mean[0])
    np.testing.assert_allclose(fit.factor, np.diag(np.exp(-posterior.log_std[0])), rtol=1e-6)
