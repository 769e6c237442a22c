"""The importance-sampled log-likelihood against closed forms, SciPy's densities and the ELBO."""

import math

import keras
import numpy as np
import pytest
import scipy.stats
from scipy.special import logit, logsumexp

import datasets
from vae import evaluation, importance, training
from vae.importance import SPREADS, importance_sampled_nll
from vae.likelihoods import LIKELIHOODS, LOGIT_SQUEEZE
from vae.model import VAE, create
from vae.randomness import TEST_SEED, generator


@pytest.fixture(scope="module")
def images():
    return datasets.load("digits").test_images


def create_for_digits(likelihood, latent_dim=3, hidden_size=16, activation="relu"):
    """Returns a small VAE for the digits."""
    return create(
        network="flat",
        likelihood=likelihood,
        image_shape=(8, 8, 1),
        latent_dim=latent_dim,
        hidden_size=hidden_size,
        activation=activation,
        seed=0,
    )


def log_weights(model, x, num_samples, **options):
    """Returns each image's log weights, [2, num_samples]."""
    posterior = evaluation.posteriors(model, x)
    return list(importance.log_weights(model, x, posterior, num_samples, **options))


def linear_gaussian(scale, rng):
    """Returns a VAE and the known distribution of its logit(y).

    logit(y) | z ~ N(W z + b, scale^2), so logit(y) ~ N(b, W W^T + scale^2 I).
    """
    likelihood = LIKELIHOODS["logit_normal"]
    weights = rng.normal(0, 1, (2, 4))
    bias = rng.normal(0, 0.5, 4)
    # The decoder output for which the learned scale is `scale`.
    raw_scale = -np.log(1 / (scale - likelihood.scale_floor) - np.exp(-likelihood.max_log_scale))

    decoder = keras.Sequential([keras.Input((2,)), keras.layers.Dense(8), keras.layers.Reshape((4, 2))])
    decoder_kernel = np.stack([weights, np.zeros((2, 4))], axis=-1).reshape(2, 8)
    decoder_bias = np.stack([bias, np.full(4, raw_scale)], axis=-1).ravel()
    decoder.layers[0].set_weights([decoder_kernel, decoder_bias])

    encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    encoder.layers[0].set_weights([np.zeros((4, 4)), np.array([0.1, -0.1, -0.3, -0.3])])
    model = VAE(encoder, decoder, likelihood, (2, 2, 1), jit_compile=True)
    return model, scipy.stats.multivariate_normal(bias, weights.T @ weights + scale**2 * np.eye(4))


def test_the_nll_agrees_with_the_closed_form_of_a_linear_gaussian_model():
    model, marginal = linear_gaussian(0.8, np.random.default_rng(0))
    x = np.random.default_rng(1).uniform(0.2, 0.8, (20, 4)).astype(np.float32)
    y = LOGIT_SQUEEZE + (1 - 2 * LOGIT_SQUEEZE) * x.astype(float)
    log_jacobian = np.log((1 - 2 * LOGIT_SQUEEZE) / (y * (1 - y))).sum(-1)
    exact_nlls = -marginal.logpdf(logit(y)) - log_jacobian
    for (under_mixture, under_q), exact_nll in zip(log_weights(model, x, 200_000), exact_nlls, strict=True):
        for image_log_weights in (under_mixture, under_q[:: len(SPREADS)]):
            error = standard_error_of_nll(image_log_weights)
            assert error < 0.02  # so the bias, about error^2 / 2, is negligible
            assert abs(importance_sampled_nll(image_log_weights) - exact_nll) < 3 * error


def standard_error_of_nll(image_log_weights):
    """Returns the standard error of the log of the mean weight, to first order."""
    weights = np.exp(image_log_weights.astype(float) - image_log_weights.max())
    return weights.std() / weights.mean() / math.sqrt(len(weights))


def test_the_nll_is_the_elbo_for_one_sample_and_falls_with_more_samples(images):
    model = create_for_digits("bernoulli")
    state = training.create_state(model, learning_rate=1e-2)
    rows = training.fit(
        state,
        images,
        num_epochs=30,
        batch_size=60,
        seed=0,
        learning_rate_of=lambda epoch: 1e-2,
        measure_test_elbo=lambda: 0.0,
    )
    list(rows)
    x = evaluation.prepare_test(model.likelihood, images)

    def mean_nlls(num_samples):
        """Returns the mean NLL from all samples, and from those of q(z|x) alone."""
        nlls = []
        for under_mixture, under_q in log_weights(model, x, num_samples):
            samples_of_q = under_q[:: len(SPREADS)]
            nlls.append((importance_sampled_nll(under_mixture), importance_sampled_nll(samples_of_q)))
        return np.mean(nlls, axis=0)

    means = np.array([mean_nlls(num_samples) for num_samples in (1, 5, 25, 125, 625)])
    assert (np.diff(means[1:], axis=0) < 0).all()
    nll, nll_of_q = means[-1]
    assert nll < nll_of_q
    elbo = evaluation.make_elbo_evaluator(model, x)()
    standard_error = float(elbo.value.std()) / math.sqrt(len(x))
    assert means[0] == pytest.approx(-elbo.value.mean(), abs=5 * standard_error)


def test_the_nll_does_not_depend_on_the_rows_at_once_or_on_the_other_images(images):
    model = create_for_digits("normal")
    x = evaluation.prepare_test(model.likelihood, images[:6])

    def nlls(x, max_rows):
        return [
            importance_sampled_nll(under_mixture) for under_mixture, _ in log_weights(model, x, 100, max_rows=max_rows)
        ]

    expected = nlls(x, max_rows=100)
    np.testing.assert_allclose(nlls(x, max_rows=7), expected, atol=1e-4, rtol=0)
    np.testing.assert_allclose(nlls(x[:3], max_rows=1000), expected[:3], atol=1e-4, rtol=0)


def test_fewer_samples_of_large_images_are_decoded_at_once(images, monkeypatch):
    model = create_for_digits("bernoulli")
    x = evaluation.prepare_test(model.likelihood, images[:2])
    expected = log_weights(model, x, 100)
    sizes = []
    draw_noise = importance.draw_noise

    def watched_draw_noise(*args, num_rows, **options):
        sizes.append(num_rows)
        return draw_noise(*args, num_rows=num_rows, **options)

    monkeypatch.setattr(importance, "draw_noise", watched_draw_noise)
    for max_pixels, num_rows in ((importance.MAX_PIXELS, 100), (10 * 64, 10), (1, 1)):
        monkeypatch.setattr(importance, "MAX_PIXELS", max_pixels)
        np.testing.assert_allclose(log_weights(model, x, 100), expected, atol=1e-4, rtol=0)
        assert sizes.pop() == num_rows


def test_the_log_weights_are_those_of_scipys_densities(images):
    model = create_for_digits("bernoulli", latent_dim=2, hidden_size=8, activation="tanh")
    x = evaluation.prepare_test(model.likelihood, images[:1])
    ((under_mixture, under_q),) = log_weights(model, x, 7)

    posterior = model.encode(x)
    mean = posterior.mean.numpy()
    std = np.exp(posterior.log_std.numpy())
    stds = np.minimum(std * np.array(SPREADS)[:, None], np.maximum(std, 1))
    part = np.array([0, 1, 2, 3, 4, 0, 1])
    noise = generator(TEST_SEED, "importance", 0).standard_normal((7, 2), dtype=np.float32)
    z = mean + stds[part] * noise
    logits = model.decode(z.astype(np.float32)).numpy()[..., 0].astype(float)
    log_likelihood = scipy.stats.bernoulli.logpmf(x, 1 / (1 + np.exp(-logits))).sum(-1)
    log_joint = log_likelihood + scipy.stats.norm.logpdf(z).sum(-1)
    log_densities = np.array([scipy.stats.norm.logpdf(z, mean, part_std).sum(-1) for part_std in stds])
    shares = np.bincount(part) / 7
    log_mixture = logsumexp(log_densities, axis=0, b=shares[:, None])
    np.testing.assert_allclose(under_mixture, log_joint - log_mixture, rtol=1e-5)
    np.testing.assert_allclose(under_q, log_joint - log_densities[0], rtol=1e-5)
