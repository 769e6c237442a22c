import math

import keras
import numpy as np
import pytest
import scipy.stats
from scipy.special import logit, logsumexp

import datasets
from vae import evaluation, training
from vae.evaluation import SPREADS
from vae.likelihoods import LIKELIHOODS, LOGIT_SQUEEZE
from vae.model import VAE, create, generator


@pytest.fixture(scope="module")
def images():
    return datasets.load("digits").test_images


def linear_gaussian(scale, rng):
    """A VAE whose marginal is known: logit(y) | z ~ N(W z + b, scale^2), so logit(y) ~ N(b, W W^T + scale^2 I)."""
    likelihood = LIKELIHOODS["logit_normal"]
    weights, bias = rng.normal(0, 1, (2, 4)), rng.normal(0, 0.5, 4)
    raw = -np.log(1 / (scale - likelihood.scale_floor) - np.exp(-likelihood.max_log_scale))
    decoder = keras.Sequential([keras.Input((2,)), keras.layers.Dense(8), keras.layers.Reshape((4, 2))])
    kernel = np.stack([weights, np.zeros((2, 4))], axis=-1).reshape(2, 8)
    decoder.layers[0].set_weights([kernel, np.stack([bias, np.full(4, raw)], axis=-1).ravel()])
    encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    encoder.layers[0].set_weights([np.zeros((4, 4)), np.array([0.1, -0.1, -0.3, -0.3])])
    model = VAE(encoder, decoder, likelihood, (2, 2, 1), jit_compile=True)
    return model, scipy.stats.multivariate_normal(bias, weights.T @ weights + scale**2 * np.eye(4))


def test_nll_agrees_with_the_closed_form_of_a_linear_gaussian_model():
    model, marginal = linear_gaussian(0.8, np.random.default_rng(0))
    x = np.random.default_rng(1).uniform(0.2, 0.8, (20, 4)).astype(np.float32)
    y = LOGIT_SQUEEZE + (1 - 2 * LOGIT_SQUEEZE) * x.astype(float)
    exact = -marginal.logpdf(logit(y)) - np.log((1 - 2 * LOGIT_SQUEEZE) / (y * (1 - y))).sum(-1)
    pairs = zip(evaluation.importance_log_weights(model, x, 200_000), exact, strict=True)
    for log_weights, nll in ((w, nll) for (mixture, of_q), nll in pairs for w in (mixture, of_q[:: len(SPREADS)])):
        weights = np.exp(log_weights.astype(float) - log_weights.max())
        error = weights.std() / weights.mean() / math.sqrt(len(weights))  # of log(mean of weights), to first order
        assert error < 0.02  # so the bias, about error^2 / 2, is negligible
        assert abs(evaluation.importance_sampled_nll(log_weights) - nll) < 3 * error


def test_nll_is_the_elbo_for_one_sample_and_falls_as_samples_grow(images):
    model = create("mlp", "bernoulli", (8, 8, 1), 3, 16, "relu", seed=0)
    list(training.fit(training.create_state(model, 1e-2), images, 30, 60, 0, lambda: 0.0))
    x = evaluation.prepare_test(model.likelihood, images)

    def nlls(num_samples):
        every = len(evaluation.SPREADS)
        return [
            np.array([evaluation.importance_sampled_nll(w[0]), evaluation.importance_sampled_nll(w[1, ::every])])
            for w in evaluation.importance_log_weights(model, x, num_samples)
        ]

    means = np.array([np.mean(nlls(k), axis=0) for k in (1, 5, 25, 125, 625)])
    assert (np.diff(means[1:], axis=0) < 0).all()
    assert means[-1, 0] < means[-1, 1]  # the mixture is the tighter
    elbo = evaluation.elbo_evaluator(model, x)()
    assert means[0] == pytest.approx(-elbo.value.mean(), abs=5 * float(elbo.value.std()) / math.sqrt(len(x)))


def test_nll_depends_neither_on_the_block_size_nor_on_the_other_images(images):
    model = create("mlp", "normal", (8, 8, 1), 3, 16, "relu", seed=0)
    x = evaluation.prepare_test(model.likelihood, images[:6])

    def nll(x, rows):
        return [evaluation.importance_sampled_nll(w) for w, _ in evaluation.importance_log_weights(model, x, 100, rows)]

    want = nll(x, 100)
    np.testing.assert_allclose(nll(x, 7), want, atol=1e-4, rtol=0)
    np.testing.assert_allclose(nll(x[:3], 1000), want[:3], atol=1e-4, rtol=0)


def test_log_weights_are_those_of_scipys_densities(images):
    model = create("mlp", "bernoulli", (8, 8, 1), 2, 8, "tanh", seed=0)
    x = evaluation.prepare_test(model.likelihood, images[:1])
    (got,) = evaluation.importance_log_weights(model, x, 7)
    mean, log_std = (part.numpy() for part in model.encode(x))
    noise = generator(evaluation.TEST_SEED, "importance", 0).standard_normal((7, 2), dtype=np.float32)
    stds = np.minimum(np.exp(log_std) * np.array(SPREADS)[:, None], np.maximum(np.exp(log_std), 1))
    part = np.array([0, 1, 2, 3, 4, 0, 1])
    z = mean + stds[part] * noise
    logits = model.decode(z.astype(np.float32)).numpy()[..., 0].astype(float)
    log_p = scipy.stats.bernoulli.logpmf(x, 1 / (1 + np.exp(-logits))).sum(-1) + scipy.stats.norm.logpdf(z).sum(-1)
    densities = np.array([scipy.stats.norm.logpdf(z, mean, std).sum(-1) for std in stds])
    shares = np.bincount(part) / 7
    np.testing.assert_allclose(got[0], log_p - logsumexp(densities, axis=0, b=shares[:, None]), rtol=1e-5)
    np.testing.assert_allclose(got[1], log_p - densities[0], rtol=1e-5)


def test_active_units_are_those_whose_means_vary(images):
    model = create("mlp", "bernoulli", (8, 8, 1), 3, 16, "relu", seed=0)
    head = model.encoder.layers[-1]
    kernel = head.kernel.numpy()
    kernel[:, 1] = 0  # the second latent's mean is the same for every image
    head.kernel.assign(kernel * 3)
    metrics = evaluation.metrics(model, images, 2)
    assert metrics["active_units"] == [0, 2]
    assert metrics["bits_per_dim"] == {"elbo": None, "nll": None, "nll_of_q": None}
