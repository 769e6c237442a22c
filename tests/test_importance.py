"""The importance-sampled log-likelihood against closed forms, quadrature, SciPy's densities and the ELBO."""

import functools
import math

import keras
import numpy as np
import pytest
import scipy.stats
from scipy.special import logit, logsumexp

import datasets
from config import Config
from vae import evaluation, gaussian_fit, importance, training
from vae.importance import effective_sample_size, estimator_error, importance_sampled_nll
from vae.likelihoods import LIKELIHOODS, LOGIT_SQUEEZE
from vae.model import VAE, create
from vae.randomness import TEST_SEED, generator

FLAT_TYPES = {"bernoulli": "flat_binarized", "normal": "flat_cont_normal", "logit_normal": "flat_cont_logit"}

# The rows of importance.log_weights.
OF_Q, OF_MIXTURE = range(2)


@pytest.fixture(scope="module")
def images():
    return datasets.load("digits").test_images


def create_for_digits(likelihood, network="flat", latent_dim=3, hidden_size=16, activation="relu"):
    """A small VAE for the digits."""
    vae_type = "conv3" if network == "conv3" else FLAT_TYPES[likelihood]
    config = Config(
        dataset="digits",
        vae_type=vae_type,
        likelihood=likelihood,
        latent_dim=latent_dim,
        hidden_size=hidden_size,
        activation=activation,
    )
    return create(config, image_shape=(8, 8, 1))


def train(images, latent_dim):
    """A VAE that has learned the images."""
    model = create_for_digits("bernoulli", latent_dim=latent_dim)
    state = training.create_state(model)
    rows = training.fit(
        state,
        images,
        training.compile_block(state, batch_size=60),
        num_epochs=30,
        batch_size=60,
        seed=0,
        learning_rate_of=lambda epoch: 1e-2,
        measure_test_elbo=lambda: 0.0,
    )
    list(rows)
    return model


def log_weights(model, x, num_samples, **options):
    """The log weights of images, [n, 2, num_samples]."""
    posterior = evaluation.posteriors(model, x)
    return np.array(list(importance.log_weights(model, x, posterior, num_samples, **options)))


def compile_once(monkeypatch):
    """Makes all calls of log_weights use the same compiled functions, which take seconds to compile."""
    for name in ("compile_fit", "compile_log_weights"):
        monkeypatch.setattr(importance, name, functools.cache(getattr(importance, name)))


def nlls_and_errors(weights):
    """The NLL of each image and its standard error, for log weights [n, num_samples]."""
    nlls = np.array([importance_sampled_nll(row) for row in weights])
    sizes = np.array([effective_sample_size(row) for row in weights])
    return nlls, estimator_error(sizes, weights.shape[1])


def linear_gaussian(scale, rng, latent_dim=2):
    """A VAE and the known distribution of its logit(y).

    logit(y) | z ~ N(W z + b, scale^2), so logit(y) ~ N(b, W W^T + scale^2 I).
    """
    likelihood = LIKELIHOODS["logit_normal"]
    weights = rng.normal(0, 1, (latent_dim, 4))
    bias = rng.normal(0, 0.5, 4)
    # The decoder output for which the learned scale is `scale`.
    raw_scale = -np.log(1 / (scale - likelihood.scale_floor) - np.exp(-likelihood.max_log_scale))

    decoder = keras.Sequential([keras.Input((latent_dim,)), keras.layers.Dense(8), keras.layers.Reshape((4, 2))])
    decoder_kernel = np.stack([weights, np.zeros((latent_dim, 4))], axis=-1).reshape(latent_dim, 8)
    decoder_bias = np.stack([bias, np.full(4, raw_scale)], axis=-1).ravel()
    decoder.layers[0].set_weights([decoder_kernel, decoder_bias])

    encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2 * latent_dim)])
    means = np.linspace(0.1, -0.1, latent_dim)
    log_stds = np.linspace(-0.3, -0.2, latent_dim)
    encoder.layers[0].set_weights([np.zeros((4, 2 * latent_dim)), np.concatenate([means, log_stds])])
    model = VAE(encoder, decoder, likelihood, (2, 2, 1), jit_compile=True)
    return model, scipy.stats.multivariate_normal(bias, weights.T @ weights + scale**2 * np.eye(4))


@pytest.mark.parametrize(
    ("latent_dim", "max_fitted"),
    [(3, 2), *(pytest.param(*sizes, marks=pytest.mark.slow) for sizes in ((1, 128), (2, 128)))],
)
def test_both_nlls_agree_with_the_closed_form_of_a_linear_gaussian_model(latent_dim, max_fitted, monkeypatch):
    """In the last case, one of the latents is not fitted."""
    monkeypatch.setattr(gaussian_fit, "MAX_FITTED", max_fitted)
    model, marginal = linear_gaussian(0.8, np.random.default_rng(0), latent_dim)
    x = np.random.default_rng(1).uniform(0.2, 0.8, (6, 4)).astype(np.float32)
    y = LOGIT_SQUEEZE + (1 - 2 * LOGIT_SQUEEZE) * x.astype(float)
    log_jacobian = np.log((1 - 2 * LOGIT_SQUEEZE) / (y * (1 - y))).sum(-1)
    exact_nlls = -marginal.logpdf(logit(y)) - log_jacobian
    weights = log_weights(model, x, 20_000)
    for row in (OF_Q, OF_MIXTURE):
        nlls, errors = nlls_and_errors(weights[:, row])
        assert (errors < 0.05).all()  # so the bias, about error^2 / 2, is negligible
        assert (np.abs(nlls - exact_nlls) < 4 * errors).all()


def exact_nlls(model, x):
    """The NLLs of binarized images under a model with two latents, by quadrature over the plane of z."""
    step = 0.04
    axis = np.arange(-7, 7 + step / 2, step)
    z = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    logits = model.decode(z.astype(np.float32)).numpy()[..., 0].astype(float)
    log_joint = logits @ x.T.astype(float) - np.logaddexp(0, logits).sum(-1, keepdims=True)
    log_joint += scipy.stats.norm.logpdf(z).sum(-1, keepdims=True)
    return -logsumexp(log_joint, axis=0) - 2 * math.log(step)


@pytest.mark.parametrize("is_trained", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_nll_agrees_with_quadrature_to_within_its_stated_error(is_trained, images):
    model = train(images, latent_dim=2) if is_trained else create_for_digits("bernoulli", latent_dim=2)
    x = evaluation.prepare_test(model.likelihood, images[:60])
    nlls, errors = nlls_and_errors(log_weights(model, x, 5000)[:, OF_MIXTURE])
    differences = nlls - exact_nlls(model, x)
    assert abs(differences.mean()) < 0.007
    assert (np.abs(differences) < 4 * errors).all()


def test_the_effective_sample_size_lies_between_one_and_the_number_of_samples():
    assert effective_sample_size(np.full(50, -1e4)) == pytest.approx(50)
    assert effective_sample_size(np.array([0.0, -1e4, -1e4])) == pytest.approx(1)
    weights = np.random.default_rng(0).uniform(0.1, 1, 1000)
    size = effective_sample_size(np.log(weights) + 800)
    assert size == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    error_of_mean_weight = weights.std() / math.sqrt(len(weights))
    assert estimator_error(size, 1000) == pytest.approx(error_of_mean_weight / weights.mean())


@pytest.mark.slow
def test_the_nll_is_the_elbo_for_one_sample_and_falls_with_more_samples(images, monkeypatch):
    model = train(images, latent_dim=8)
    x = evaluation.prepare_test(model.likelihood, images[:120])
    compile_once(monkeypatch)

    def mean_nlls(num_samples):
        """The mean NLL from samples of q(z|x), and from those of the mixture."""
        weights = log_weights(model, x, num_samples)
        return [nlls_and_errors(weights[:, row])[0].mean() for row in (OF_Q, OF_MIXTURE)]

    means = np.array([mean_nlls(num_samples) for num_samples in (1, 10, 100)])
    assert (np.diff(means, axis=0) < 0).all()
    assert means[-1, OF_MIXTURE] < means[-1, OF_Q]
    elbo = evaluation.make_elbo_evaluator(model, x)()
    standard_error = float(elbo.value.std()) / math.sqrt(len(x))
    assert means[0, OF_Q] == pytest.approx(-elbo.value.mean(), abs=5 * standard_error)


@pytest.mark.slow
def test_the_weights_depend_neither_on_the_other_images_nor_on_how_many_samples_are_decoded_at_once(
    images, monkeypatch
):
    """Of large images, fewer are decoded at once."""
    model = create_for_digits("normal")
    x = evaluation.prepare_test(model.likelihood, images[:4])
    compile_once(monkeypatch)
    numbers_of_rows = []
    draw_noise = importance.draw_noise

    def watched_draw_noise(latent_dim, num_images, components, num_rows):
        numbers_of_rows.append(num_rows)
        return draw_noise(latent_dim, num_images, components, num_rows)

    monkeypatch.setattr(importance, "draw_noise", watched_draw_noise)
    expected = log_weights(model, x, 50)
    np.testing.assert_allclose(log_weights(model, x[:2], 50, max_rows=7), expected[:2], atol=1e-3, rtol=0)
    monkeypatch.setattr(importance, "MAX_DECODED_PIXELS", 10 * 64)
    np.testing.assert_allclose(log_weights(model, x[:2], 50), expected[:2], atol=1e-3, rtol=0)
    monkeypatch.setattr(importance, "MAX_DECODED_PIXELS", 1)
    np.testing.assert_allclose(log_weights(model, x[:1], 50), expected[:1], atol=1e-3, rtol=0)
    assert numbers_of_rows == [100, 7, 10, 1]


@pytest.mark.parametrize("max_fitted", [pytest.param(128, marks=pytest.mark.slow), 2])
def test_the_log_weights_are_those_of_scipys_densities(max_fitted, images, monkeypatch):
    monkeypatch.setattr(gaussian_fit, "MAX_FITTED", max_fitted)
    model = create_for_digits("bernoulli", hidden_size=8, activation="tanh")
    x = evaluation.prepare_test(model.likelihood, images[:1])
    compile_once(monkeypatch)
    weights = log_weights(model, x, 25)[0]

    posterior = evaluation.posteriors(model, x)
    fits = importance.compile_fit(model)(x.astype(np.float32), posterior.mean, posterior.log_std)
    fit = gaussian_fit.Fit(*[part[0] for part in fits])
    fitted = fit.latents.numpy()
    others = np.setdiff1d(range(3), fitted)
    covariance = np.linalg.inv(fit.factor.numpy() @ fit.factor.numpy().T)
    mean = posterior.mean[0].astype(float)
    std = np.exp(posterior.log_std[0].astype(float))

    # The noise of 25 samples of q(z|x), and then of 25 of the mixture: the 19th is of q(z|x), the 20th of the prior.
    rng = generator(TEST_SEED, "importance", 0)
    stretch = np.sqrt(5 / rng.chisquare(5, 50))
    noise = rng.standard_normal((50, 3), dtype=np.float32).astype(float)
    z = mean + std * noise
    of_t = np.delete(np.arange(25, 50), [18, 19])
    root = np.linalg.inv(fit.factor.numpy()).T
    z[np.ix_(of_t, fitted)] = fit.mean.numpy() + (noise * stretch[:, None])[np.ix_(of_t, fitted)] @ root.T
    z[44] = noise[44]

    logits = model.decode(z.astype(np.float32)).numpy()[..., 0].astype(float)
    log_likelihood = scipy.stats.bernoulli.logpmf(x, 1 / (1 + np.exp(-logits))).sum(-1)
    log_prior = scipy.stats.norm.logpdf(z).sum(-1)
    log_q = scipy.stats.norm.logpdf(z, mean, std)
    log_t = scipy.stats.multivariate_t.logpdf(z[:, fitted], fit.mean.numpy(), covariance, df=5)
    log_t += log_q[:, others].sum(-1)
    shares = np.array([23, 1, 1])[:, None] / 25
    log_mixture = logsumexp(np.stack([log_t, log_q.sum(-1), log_prior]), axis=0, b=shares)
    log_joint = log_likelihood + log_prior
    np.testing.assert_allclose(weights[OF_Q], (log_joint - log_q.sum(-1))[:25], rtol=1e-5)
    np.testing.assert_allclose(weights[OF_MIXTURE], (log_joint - log_mixture)[25:], rtol=1e-5)


KINDS = [
    ("conv3", "bernoulli", 3, "elu"),
    *(
        pytest.param(*kind, marks=pytest.mark.slow)
        for kind in (
            ("flat", "bernoulli", 1, "tanh"),
            ("flat", "normal", 1, "softplus"),
            ("flat", "normal", 128, "softplus"),
            ("flat", "logit_normal", 200, "relu"),
            ("conv3", "normal", 1, "selu"),
            ("conv3", "logit_normal", 20, "sigmoid"),
        )
    ),
]


@pytest.mark.parametrize(("network", "likelihood", "latent_dim", "activation"), KINDS)
def test_every_kind_of_model_has_both_nlls(network, likelihood, latent_dim, activation, images):
    model = create_for_digits(likelihood, network, latent_dim, activation=activation)
    x = evaluation.prepare_test(model.likelihood, images[:3])
    weights = log_weights(model, x, 200)
    assert np.isfinite(weights).all()
    nlls_of_q, errors_of_q = nlls_and_errors(weights[:, OF_Q])
    nlls, errors = nlls_and_errors(weights[:, OF_MIXTURE])
    assert (nlls < nlls_of_q + 4 * errors_of_q + 4 * errors).all()


@pytest.mark.parametrize(
    "likelihood", ["logit_normal", *(pytest.param(name, marks=pytest.mark.slow) for name in ("bernoulli", "normal"))]
)
def test_weights_stay_finite_where_the_curvature_is_huge_or_pixels_are_saturated(likelihood, images, monkeypatch):
    model = create_for_digits(likelihood)
    x = evaluation.prepare_test(model.likelihood, images[:3])
    compile_once(monkeypatch)
    kernel = model.decoder.layers[0].kernel
    for factor in (1e2, 1e3):
        # The second time it is 1e5 times the first kernel.
        kernel.assign(factor * kernel)
        assert np.isfinite(log_weights(model, x, 100)).all()
