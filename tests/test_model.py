import numpy as np
import pytest
import scipy.stats
from scipy.integrate import quad
from scipy.special import expit, logit

from vae.likelihoods import LIKELIHOODS, LOGIT_SQUEEZE
from vae.model import PURPOSES, VAE, Posterior, create, generator


def raw_scale(scale, likelihood):
    """The decoder output for which the learned scale is `scale`: the inverse of the soft minimum."""
    return -np.log(1 / (scale - likelihood.scale_floor) - np.exp(-likelihood.max_log_scale))


def test_kl_is_the_monte_carlo_estimate():
    rng = np.random.default_rng(0)
    mean, log_std = rng.normal(size=(2, 4)), rng.normal(0, 0.5, (2, 4))
    z = mean + np.exp(log_std) * rng.normal(size=(400_000, 2, 4))
    log_q = scipy.stats.norm.logpdf(z, mean, np.exp(log_std)).sum(-1)
    samples = log_q - scipy.stats.norm.logpdf(z).sum(-1)
    error = samples.std(axis=0) / np.sqrt(len(samples))
    assert (np.abs(Posterior(mean, log_std).kl().numpy() - samples.mean(axis=0)) < 4 * error).all()


def test_kl_to_the_prior_itself_is_zero_and_is_summed_over_latents():
    zeros = np.zeros((2, 3))
    assert not Posterior(zeros, zeros).kl().numpy().any()
    np.testing.assert_allclose(Posterior(zeros + 1, zeros).kl(), 1.5)


def test_elbo_is_the_exact_log_likelihood_where_the_posterior_is_exact():
    """A linear-Gaussian decoder in logit space: with orthogonal columns its posterior is diagonal, p(x) a Gaussian."""
    rng, scale = np.random.default_rng(0), 0.3
    basis = np.linalg.qr(rng.normal(size=(5, 2)))[0] * [1.5, 0.7]  # d = 5, L = 2
    bias = rng.normal(0, 0.5, 5)
    x = rng.random(5)
    y = LOGIT_SQUEEZE + (1 - 2 * LOGIT_SQUEEZE) * x
    t = logit(y)
    covariance = basis @ basis.T + scale**2 * np.eye(5)
    jacobian = np.log((1 - 2 * LOGIT_SQUEEZE) / (y * (1 - y))).sum()
    log_p = scipy.stats.multivariate_normal.logpdf(t, bias, covariance) + jacobian

    precision = 1 + (basis**2).sum(0) / scale**2
    mean, log_std = basis.T @ (t - bias) / scale**2 / precision, -0.5 * np.log(precision)
    raw = raw_scale(scale, LIKELIHOODS["logit_normal"])

    def log_likelihoods(z):
        means = z @ basis.T + bias
        params = np.stack([means, np.full_like(means, raw)], axis=-1)
        return LIKELIHOODS["logit_normal"].log_prob(np.tile(x, (len(z), 1)), params).numpy()

    z = mean + np.exp(log_std) * rng.normal(size=(200_000, 2))
    log_likelihood = log_likelihoods(z)
    kl = Posterior(mean[None], log_std[None]).kl().numpy()[0]
    elbo, error = log_likelihood.mean() - kl, log_likelihood.std() / np.sqrt(len(z))
    assert abs(elbo - log_p) < 4 * error + 1e-9
    worse = Posterior(mean[None] + 0.1, log_std[None])
    assert log_likelihoods(z + 0.1).mean() - worse.kl().numpy()[0] < log_p - 10 * error


def test_elbo_is_the_log_likelihood_less_the_kl_to_the_true_posterior():
    """log p(x) = ELBO + KL(q(z|x) || p(z|x)), each by quadrature over one latent, under Normal."""
    x, scale = np.array([[0.2, 0.7, 0.4]]), 0.15
    weights, bias = np.array([[1.0, -2.0, 0.5]]), np.array([0.1, 0.3, -0.5])
    raw = raw_scale(scale, LIKELIHOODS["normal"])

    def log_likelihood(z):
        params = np.stack([z * weights[0] + bias, np.full(3, raw)], -1)[None]
        return LIKELIHOODS["normal"].log_prob(x, params).numpy()[0]

    def joint(z):
        return np.exp(log_likelihood(z)) * scipy.stats.norm.pdf(z)

    by_scipy = quad(
        lambda z: scipy.stats.norm.pdf(x[0], expit(z * weights[0] + bias), scale).prod() * scipy.stats.norm.pdf(z),
        -8,
        8,
    )[0]
    evidence = quad(joint, -8, 8)[0]
    assert evidence == pytest.approx(by_scipy, rel=1e-9)

    q = scipy.stats.norm(0.1, 0.4)
    elbo = (
        quad(lambda z: q.pdf(z) * log_likelihood(z), -4, 4)[0]
        - Posterior(np.array([[0.1]]), np.log([[0.4]])).kl().numpy()[0]
    )
    gap = quad(lambda z: q.pdf(z) * (q.logpdf(z) - np.log(joint(z) / evidence)), -3, 3)[0]
    assert elbo + gap == pytest.approx(np.log(evidence), abs=1e-6)


def test_vae_elbo_puts_encoder_noise_decoder_and_likelihood_together():
    rng = np.random.default_rng(0)
    model = create("mlp", "bernoulli", (4, 3, 1), 2, 8, "tanh", seed=0)
    x, noise = rng.integers(0, 2, (6, 12)).astype(np.uint8), rng.normal(size=(6, 2)).astype(np.float32)
    elbo = model.elbo(x, noise)
    mean, log_std = np.split(model.encoder(x.astype(np.float32)).numpy(), 2, axis=-1)
    logits = model.decoder(mean + np.exp(log_std) * noise).numpy()[..., 0].astype(float)
    np.testing.assert_allclose(elbo.log_likelihood, scipy.stats.bernoulli.logpmf(x, expit(logits)).sum(-1), rtol=1e-4)
    np.testing.assert_allclose(elbo.kl, 0.5 * (mean**2 + np.exp(2 * log_std) - 1 - 2 * log_std).sum(-1), rtol=1e-4)
    np.testing.assert_allclose(elbo.value, elbo.log_likelihood - elbo.kl)
    assert elbo.value.shape == (6,)


def test_all_weights_are_trainable_variables():
    model = create("mlp", "normal", (4, 3, 1), 2, 8, "relu", seed=0)
    assert len(model.trainable_variables) == 12


def test_the_seed_decides_the_weights():
    same, again, other = (create("mlp", "bernoulli", (4, 3, 1), 2, 8, "relu", seed) for seed in (1, 1, 2))
    for a, b, c in zip(*(m.trainable_variables for m in (same, again, other)), strict=True):
        assert np.array_equal(a, b)
        assert a.ndim == 1 or not np.array_equal(a, c)


def test_images_are_pictures():
    model = create("conv3", "normal", (8, 8, 3), 2, 8, "relu", seed=0)
    images = model.images(np.zeros((5, 2), np.float32))
    assert images.shape == (5, 8, 8, 3) and images.min() >= 0 and images.max() <= 1
    assert isinstance(model, VAE)


def test_streams_are_of_their_own():
    draws = {tuple(generator(seed, p, e).integers(0, 2**32, 4)) for seed in (0, 1) for p in PURPOSES for e in (0, 1)}
    assert len(draws) == 4 * len(PURPOSES)
