import itertools
import math

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from scipy.integrate import quad

from vae.likelihoods import LIKELIHOODS, LOGIT_SQUEEZE

A = LOGIT_SQUEEZE
CONTINUOUS = ("normal", "logit_normal")


def rng():
    return np.random.default_rng(1)


def scale_of(raw, name):
    """The learned scale, written another way: log_scale = -log(exp(-most) + exp(-raw)), a soft minimum of the two."""
    most, floor = {"normal": (0, 0.01), "logit_normal": (2, 0.001)}[name]
    return np.exp(-np.logaddexp(-most, -raw)) + floor


@pytest.mark.parametrize("pixel", [0, 1, 128, 254, 255])
def test_bernoulli_draws_one_with_probability_pixel_over_255(pixel):
    n = 2**23
    x = LIKELIHOODS["bernoulli"].prepare(np.full((n, 1), pixel, np.uint8), rng())
    p = pixel / 255
    assert x.dtype == np.uint8 and set(np.unique(x)) <= {0, 1}
    assert abs(x.mean() - p) <= 4.5 * math.sqrt(p * (1 - p) / n)  # at 128, pixel/256 is 11 standard errors away


def test_bernoulli_draws_are_independent_across_pixels():
    x = LIKELIHOODS["bernoulli"].prepare(np.full((200_000, 9), 128, np.uint8), rng()).astype(float)
    correlations = np.corrcoef(x.T)[np.triu_indices(9, 1)]
    assert np.abs(correlations).max() < 4.5 / math.sqrt(200_000)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_dequantization_is_uniform_in_the_pixels_cell(name):
    for pixel in (0, 77, 255):
        x = LIKELIHOODS[name].prepare(np.full((100_000, 2), pixel, np.uint8), rng())
        assert x.dtype == np.float32
        assert scipy.stats.kstest(x.ravel().astype(float) * 256 - pixel, "uniform").pvalue > 1e-4


def test_bernoulli_log_prob_is_scipys():
    logits = rng().normal(0, 3, (5, 7)).astype(np.float32)
    x = rng().integers(0, 2, (5, 7)).astype(np.float32)
    got = LIKELIHOODS["bernoulli"].log_prob(x, logits[..., None]).numpy()
    want = scipy.stats.bernoulli.logpmf(x, 1 / (1 + np.exp(-logits.astype(float)))).sum(-1)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_bernoulli_sums_to_one():
    logits = tf.constant([[[0.3], [-2.0]]])
    x = np.array([[a, b] for a in (0, 1) for b in (0, 1)], np.float32)
    log_prob = LIKELIHOODS["bernoulli"].log_prob(x, tf.repeat(logits, 4, axis=0))
    assert np.exp(log_prob.numpy()).sum() == pytest.approx(1, abs=1e-6)


def test_normal_log_prob_is_scipys():
    params, x = rng().normal(0, 2, (5, 7, 2)), rng().random((5, 7))
    got = LIKELIHOODS["normal"].log_prob(x, params).numpy()
    mean = 1 / (1 + np.exp(-params[..., 0]))
    want = scipy.stats.norm.logpdf(x, mean, scale_of(params[..., 1], "normal")).sum(-1)
    np.testing.assert_allclose(got, want, rtol=1e-10)


def test_logit_normal_log_prob_is_scipys_with_the_jacobian_by_differences():
    params, x, h = rng().normal(0, 2, (5, 7, 2)), rng().uniform(0.01, 0.99, (5, 7)), 1e-6

    def logit(x):
        return scipy.special.logit(A + (1 - 2 * A) * x)

    slope = (logit(x + h) - logit(x - h)) / (2 * h)
    want = scipy.stats.norm.logpdf(logit(x), params[..., 0], scale_of(params[..., 1], "logit_normal")) + np.log(slope)
    got = LIKELIHOODS["logit_normal"].log_prob(x, params).numpy()
    np.testing.assert_allclose(got, want.sum(-1), rtol=1e-7)


def integral(density, edges):
    return sum(quad(density, a, b, limit=200)[0] for a, b in itertools.pairwise(edges))


@pytest.mark.parametrize("params", [(0.0, 0.0), (2.0, -3.0), (-4.0, 3.0), (0.5, -9.0), (3.0, 50.0)])
def test_normal_integrates_to_one_over_the_line(params):
    def density(x):
        return math.exp(LIKELIHOODS["normal"].log_prob(np.array([[x]]), np.array([[params]])).numpy()[0])

    mean, scale = scipy.special.expit(params[0]), scale_of(params[1], "normal")
    assert integral(density, mean + scale * np.array([-40, -9, -3, 0, 3, 9, 40])) == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("params", [(0.0, 0.0), (2.0, -3.0), (-4.0, 1.0), (0.5, -9.0), (1.0, 1.0)])
def test_logit_normal_integrates_to_one_over_its_whole_support(params):
    """From -a/(1 - 2a) to 1 + a/(1 - 2a): that far the squeeze leaves room, though data stays within [0, 1]."""

    def density(x):
        return math.exp(LIKELIHOODS["logit_normal"].log_prob(np.array([[x]]), np.array([[params]])).numpy()[0])

    low, high = -A / (1 - 2 * A), 1 + A / (1 - 2 * A)
    t = params[0] + scale_of(params[1], "logit_normal") * np.array([-9, -6, -3, 0, 3, 6, 9])
    points = [x for x in (scipy.special.expit(t) - A) / (1 - 2 * A) if low + 1e-9 < x < high - 1e-9]
    assert integral(density, [low + 1e-12, *points, high - 1e-12]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", LIKELIHOODS)
@pytest.mark.parametrize("output", [-1e4, -100.0, -30.0, 0.0, 30.0, 100.0, 1e4])
@pytest.mark.parametrize("pixel", [0, 255])
def test_value_and_gradient_stay_finite_at_extreme_outputs(name, output, pixel):
    likelihood = LIKELIHOODS[name]
    x = tf.constant(likelihood.prepare(np.full((3, 784), pixel, np.uint8), rng()), tf.float32)
    for other in (-output, output):
        params = tf.Variable(np.full((3, 784, likelihood.num_params), output, np.float32))
        params[..., -1].assign(np.full((3, 784), other, np.float32))
        with tf.GradientTape() as tape:
            log_prob = likelihood.log_prob(x, params)
        gradient = tape.gradient(log_prob, params)
        assert np.isfinite(log_prob).all() and np.isfinite(gradient).all()
        image = likelihood.image(params).numpy()
        assert ((image >= 0) & (image <= 1)).all()


@pytest.mark.parametrize("name", CONTINUOUS)
def test_the_byte_255_that_rounds_to_one_is_finite(name):
    log_prob = LIKELIHOODS[name].log_prob(tf.ones((1, 4)), tf.zeros((1, 4, 2)))
    assert np.isfinite(log_prob).all()


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_float32_agrees_with_float64(name):
    likelihood = LIKELIHOODS[name]
    x = likelihood.prepare(rng().integers(0, 256, (20, 100), dtype=np.uint8), rng()).astype(np.float64)
    params = rng().normal(0, 3, (20, 100, likelihood.num_params))
    single = likelihood.log_prob(x.astype(np.float32), params.astype(np.float32)).numpy()
    np.testing.assert_allclose(single, likelihood.log_prob(x, params).numpy(), rtol=2e-4)


def test_bits_per_dim():
    """A uniform density on [0, 1) is 8 bits a byte; a density twice as high everywhere would be 7."""
    for name in CONTINUOUS:
        assert LIKELIHOODS[name].bits_per_dim(0.0, 10) == 8
        assert LIKELIHOODS[name].bits_per_dim(-10 * math.log(2), 10) == pytest.approx(7)
    assert LIKELIHOODS["bernoulli"].bits_per_dim(1.0, 10) is None
    assert LIKELIHOODS["cross_entropy"].bits_per_dim(1.0, 10) is None


def test_pictures_are_the_mean_or_the_median():
    logits = np.array([[[-1.0], [2.0]]])
    np.testing.assert_allclose(LIKELIHOODS["bernoulli"].image(logits), scipy.special.expit(logits[..., 0]))
    params = np.array([[[0.7, 0.0], [-1.0, 1.0]]])
    np.testing.assert_allclose(LIKELIHOODS["normal"].image(params), scipy.special.expit(params[..., 0]))
    t = rng().normal(0.7, scale_of(0.0, "logit_normal"), 200_001)
    median = np.median((scipy.special.expit(t) - A) / (1 - 2 * A))
    assert LIKELIHOODS["logit_normal"].image(params).numpy()[0, 0] == pytest.approx(median, abs=0.01)
