"""The likelihoods: their draws, their densities against SciPy, and their values at the extremes."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from scipy.integrate import quad
from scipy.special import expit, logit

from vae.likelihoods import LIKELIHOODS, LOGIT_SQUEEZE, MIN_SHARING_ROWS, bernoulli_log_prob

A = LOGIT_SQUEEZE
CONTINUOUS = ("normal", "logit_normal")


def new_rng():
    return np.random.default_rng(1)


def learned_scale(raw_scale, name):
    """The scale that a decoder output stands for.

    It is written another way than in vae.likelihoods: log_scale = -log(exp(-max_log_scale) + exp(-raw_scale)).
    """
    max_log_scale, floor = {"normal": (0, 0.01), "logit_normal": (2, 0.001)}[name]
    return np.exp(-np.logaddexp(-max_log_scale, -raw_scale)) + floor


@pytest.mark.parametrize("pixel", [0, 1, 128, 254, 255])
def test_bernoulli_draws_one_with_probability_pixel_over_255(pixel):
    n = 2**23
    x = LIKELIHOODS["bernoulli"].prepare(np.full((n, 1), pixel, np.uint8), new_rng())
    p = pixel / 255
    assert x.dtype == np.uint8
    assert set(np.unique(x)) <= {0, 1}
    # At 128, pixel/256 is 11 standard errors away.
    assert abs(x.mean() - p) <= 4.5 * math.sqrt(p * (1 - p) / n)


def test_bernoulli_draws_are_independent_across_pixels():
    x = LIKELIHOODS["bernoulli"].prepare(np.full((200_000, 9), 128, np.uint8), new_rng()).astype(float)
    correlations = np.corrcoef(x.T)[np.triu_indices(9, 1)]
    assert np.abs(correlations).max() < 4.5 / math.sqrt(200_000)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_dequantization_is_uniform_in_the_cell_of_the_pixel(name):
    for pixel in (0, 77, 255):
        x = LIKELIHOODS[name].prepare(np.full((100_000, 2), pixel, np.uint8), new_rng())
        assert x.dtype == np.float32
        u = x.ravel().astype(float) * 256 - pixel
        assert scipy.stats.kstest(u, "uniform").pvalue > 1e-4


def test_bernoulli_log_prob_is_that_of_scipy():
    logits = new_rng().normal(0, 3, (5, 7)).astype(np.float32)
    x = new_rng().integers(0, 2, (5, 7)).astype(np.float32)
    log_prob = LIKELIHOODS["bernoulli"].log_prob(x, logits[..., None]).numpy()
    expected = scipy.stats.bernoulli.logpmf(x, 1 / (1 + np.exp(-logits.astype(float)))).sum(-1)
    np.testing.assert_allclose(log_prob, expected, rtol=1e-5)


@pytest.mark.parametrize("num_rows", [3, MIN_SHARING_ROWS])
def test_the_gradients_of_bernoulli_log_prob_are_the_derivatives(num_rows):
    logits = tf.constant(new_rng().normal(0, 3, (num_rows, 7)))
    x = tf.constant(new_rng().uniform(0, 1, (num_rows, 7)))
    with tf.GradientTape() as tape:
        tape.watch([x, logits])
        log_prob = bernoulli_log_prob(x, logits)
    slopes_in_x, slopes_in_logits = tape.gradient(log_prob, [x, logits])
    np.testing.assert_allclose(slopes_in_x, logits, rtol=1e-12)
    np.testing.assert_allclose(slopes_in_logits, x - 1 / (1 + np.exp(-logits)), rtol=1e-12)


def test_bernoulli_sums_to_one():
    logits = tf.constant([[[0.3], [-2.0]]])
    x = np.array(list(itertools.product((0, 1), repeat=2)), np.float32)
    log_prob = LIKELIHOODS["bernoulli"].log_prob(x, tf.repeat(logits, 4, axis=0))
    assert np.exp(log_prob.numpy()).sum() == pytest.approx(1, abs=1e-6)


def test_normal_log_prob_is_that_of_scipy():
    params = new_rng().normal(0, 2, (5, 7, 2))
    x = new_rng().random((5, 7))
    log_prob = LIKELIHOODS["normal"].log_prob(x, params).numpy()
    mean = 1 / (1 + np.exp(-params[..., 0]))
    expected = scipy.stats.norm.logpdf(x, mean, learned_scale(params[..., 1], "normal")).sum(-1)
    np.testing.assert_allclose(log_prob, expected, rtol=1e-10)


def test_logit_normal_log_prob_is_that_of_scipy_with_the_jacobian_from_differences():
    params = new_rng().normal(0, 2, (5, 7, 2))
    x = new_rng().uniform(0.01, 0.99, (5, 7))
    h = 1e-6

    def squeezed_logit(x):
        return logit(A + (1 - 2 * A) * x)

    slope = (squeezed_logit(x + h) - squeezed_logit(x - h)) / (2 * h)
    scale = learned_scale(params[..., 1], "logit_normal")
    expected = scipy.stats.norm.logpdf(squeezed_logit(x), params[..., 0], scale) + np.log(slope)
    log_prob = LIKELIHOODS["logit_normal"].log_prob(x, params).numpy()
    np.testing.assert_allclose(log_prob, expected.sum(-1), rtol=1e-7)


def density_of_one_pixel(name, params):
    """The function x -> p(x|z) for an image of one pixel."""

    def density(x):
        log_prob = LIKELIHOODS[name].log_prob(np.array([[x]]), np.array([[params]]))
        return math.exp(log_prob.numpy()[0])

    return density


def integral(density, edges):
    """The integral of a density from the first edge to the last, piece by piece."""
    return sum(quad(density, low, high, limit=200)[0] for low, high in itertools.pairwise(edges))


@pytest.mark.parametrize("params", [(0.0, 0.0), (2.0, -3.0), (-4.0, 3.0), (0.5, -9.0), (3.0, 50.0)])
def test_normal_integrates_to_one_over_the_line(params):
    edges = expit(params[0]) + learned_scale(params[1], "normal") * np.array([-40, -9, -3, 0, 3, 9, 40])
    assert integral(density_of_one_pixel("normal", params), edges) == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("params", [(0.0, 0.0), (2.0, -3.0), (-4.0, 1.0), (0.5, -9.0), (1.0, 1.0)])
def test_logit_normal_integrates_to_one_over_its_whole_support(params):
    """The squeeze leaves room on both sides of the data: the support is -a/(1 - 2a) to 1 + a/(1 - 2a)."""
    low = -A / (1 - 2 * A)
    high = 1 + A / (1 - 2 * A)
    t = params[0] + learned_scale(params[1], "logit_normal") * np.array([-9, -6, -3, 0, 3, 6, 9])
    points = (expit(t) - A) / (1 - 2 * A)
    inner_edges = points[(points > low + 1e-9) & (points < high - 1e-9)]
    edges = [low + 1e-12, *inner_edges, high - 1e-12]
    assert integral(density_of_one_pixel("logit_normal", params), edges) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", LIKELIHOODS)
@pytest.mark.parametrize("output", [-1e4, -100.0, -30.0, 0.0, 30.0, 100.0, 1e4])
@pytest.mark.parametrize("pixel", [0, 255])
def test_value_and_gradient_stay_finite_at_extreme_outputs(name, output, pixel):
    likelihood = LIKELIHOODS[name]
    x = tf.constant(likelihood.prepare(np.full((3, 784), pixel, np.uint8), new_rng()), tf.float32)
    for last_output in (-output, output):
        params = tf.Variable(np.full((3, 784, likelihood.num_params), output, np.float32))
        params[..., -1].assign(np.full((3, 784), last_output, np.float32))
        with tf.GradientTape() as tape:
            log_prob = likelihood.log_prob(x, params)
        gradient = tape.gradient(log_prob, params)
        assert np.isfinite(log_prob).all()
        assert np.isfinite(gradient).all()
        image = likelihood.image(params).numpy()
        assert ((image >= 0) & (image <= 1)).all()


@pytest.mark.parametrize("name", CONTINUOUS)
def test_log_prob_is_finite_where_the_byte_255_rounds_to_one(name):
    log_prob = LIKELIHOODS[name].log_prob(tf.ones((1, 4)), tf.zeros((1, 4, 2)))
    assert np.isfinite(log_prob).all()


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_float32_agrees_with_float64(name):
    likelihood = LIKELIHOODS[name]
    x = likelihood.prepare(new_rng().integers(0, 256, (20, 100), dtype=np.uint8), new_rng()).astype(np.float64)
    params = new_rng().normal(0, 3, (20, 100, likelihood.num_params))
    in_float32 = likelihood.log_prob(x.astype(np.float32), params.astype(np.float32)).numpy()
    in_float64 = likelihood.log_prob(x, params).numpy()
    np.testing.assert_allclose(in_float32, in_float64, rtol=2e-4)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_bits_per_dim_of_a_density(name):
    """A uniform density on [0, 1) needs 8 bits per byte; one that is twice as high everywhere would need 7."""
    assert LIKELIHOODS[name].bits_per_dim(0.0, 10) == 8
    assert LIKELIHOODS[name].bits_per_dim(-10 * math.log(2), 10) == pytest.approx(7)


@pytest.mark.parametrize("name", ["bernoulli", "cross_entropy"])
def test_there_are_no_bits_per_dim_without_a_density_of_the_bytes(name):
    assert LIKELIHOODS[name].bits_per_dim(1.0, 10) is None


def test_the_pictures_of_bernoulli_and_normal_are_the_mean():
    logits = np.array([[[-1.0], [2.0]]])
    np.testing.assert_allclose(LIKELIHOODS["bernoulli"].image(logits), expit(logits[..., 0]))
    params = np.array([[[0.7, 0.0], [-1.0, 1.0]]])
    np.testing.assert_allclose(LIKELIHOODS["normal"].image(params), expit(params[..., 0]))


def test_the_picture_of_logit_normal_is_the_median():
    t = new_rng().normal(0.7, learned_scale(0.0, "logit_normal"), 200_001)
    median = np.median((expit(t) - A) / (1 - 2 * A))
    image = LIKELIHOODS["logit_normal"].image(np.array([[[0.7, 0.0], [-1.0, 1.0]]])).numpy()
    assert image[0, 0] == pytest.approx(median, abs=0.01)
