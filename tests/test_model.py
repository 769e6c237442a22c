"""The VAE: KL and ELBO against closed forms and quadrature, and its weights."""

import json
import math
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from conftest import ROOT
from scipy.integrate import quad
from scipy.special import expit, logit

import config
import datasets
from config import Config
from vae import model, training
from vae.likelihoods import LIKELIHOODS, LOGIT_SQUEEZE
from vae.model import VAE, Posterior
from vae.networks import NETWORKS

# The types of VAE whose names do not matter here: the flat ones, by the likelihood that they take.
FLAT_TYPES = {"bernoulli": "flat_binarized", "normal": "flat_cont_normal", "logit_normal": "flat_cont_logit"}


def create(likelihood, network="flat", image_shape=(4, 3, 1), **options):
    """A small VAE with two latents."""
    vae_type = "conv3" if network == "conv3" else FLAT_TYPES[likelihood]
    small = Config(vae_type=vae_type, likelihood=likelihood, latent_dim=2, hidden_size=8, **options)
    return model.create(small, image_shape)


def test_the_names_of_config_are_those_of_the_tables():
    assert set(config.DATASETS) == set(datasets.LOADERS)
    assert set(config.LIKELIHOODS) == set(LIKELIHOODS)
    assert set(config.LEARNING_RATE_SCHEDULES) == set(training.LEARNING_RATE_SCHEDULES)
    assert {vae_type.network for vae_type in config.VAE_TYPES.values()} == set(NETWORKS)
    assert {vae_type.likelihood for vae_type in config.VAE_TYPES.values()} <= set(LIKELIHOODS)


def raw_scale(scale, likelihood):
    """The decoder output for which the learned scale is `scale`."""
    return -np.log(1 / (scale - likelihood.scale_floor) - np.exp(-likelihood.max_log_scale))


def test_kl_is_the_monte_carlo_estimate():
    rng = np.random.default_rng(0)
    mean = rng.normal(size=(2, 4))
    log_std = rng.normal(0, 0.5, (2, 4))
    z = mean + np.exp(log_std) * rng.normal(size=(400_000, 2, 4))
    log_q = scipy.stats.norm.logpdf(z, mean, np.exp(log_std)).sum(-1)
    samples = log_q - scipy.stats.norm.logpdf(z).sum(-1)
    standard_error = samples.std(axis=0) / np.sqrt(len(samples))
    kl = Posterior(mean, log_std).kl().numpy()
    assert (np.abs(kl - samples.mean(axis=0)) < 4 * standard_error).all()


def test_kl_from_the_prior_to_itself_is_zero():
    zeros = np.zeros((2, 3))
    assert not Posterior(zeros, zeros).kl().numpy().any()


def test_kl_is_summed_over_the_latents():
    np.testing.assert_allclose(Posterior(np.ones((2, 3)), np.zeros((2, 3))).kl(), 1.5)


def test_elbo_is_the_log_likelihood_if_the_posterior_is_exact():
    """With orthogonal columns, a linear Gaussian decoder has a diagonal posterior, and logit(y) is Gaussian."""
    rng = np.random.default_rng(0)
    scale = 0.3
    basis = np.linalg.qr(rng.normal(size=(5, 2)))[0] * [1.5, 0.7]  # d = 5, L = 2
    bias = rng.normal(0, 0.5, 5)
    x = rng.random(5)
    y = LOGIT_SQUEEZE + (1 - 2 * LOGIT_SQUEEZE) * x
    t = logit(y)
    covariance = basis @ basis.T + scale**2 * np.eye(5)
    log_jacobian = np.log((1 - 2 * LOGIT_SQUEEZE) / (y * (1 - y))).sum()
    log_p = scipy.stats.multivariate_normal.logpdf(t, bias, covariance) + log_jacobian

    precision = 1 + (basis**2).sum(0) / scale**2
    mean = basis.T @ (t - bias) / scale**2 / precision
    log_std = -0.5 * np.log(precision)
    likelihood = LIKELIHOODS["logit_normal"]

    def log_likelihoods(z):
        means = z @ basis.T + bias
        params = np.stack([means, np.full_like(means, raw_scale(scale, likelihood))], axis=-1)
        return likelihood.log_prob(np.tile(x, (len(z), 1)), params).numpy()

    z = mean + np.exp(log_std) * rng.normal(size=(200_000, 2))
    log_likelihood = log_likelihoods(z)
    kl = Posterior(mean[None], log_std[None]).kl().numpy()[0]
    elbo = log_likelihood.mean() - kl
    standard_error = log_likelihood.std() / np.sqrt(len(z))
    assert abs(elbo - log_p) < 4 * standard_error + 1e-9

    kl_of_moved = Posterior(mean[None] + 0.1, log_std[None]).kl().numpy()[0]
    elbo_of_moved = log_likelihoods(z + 0.1).mean() - kl_of_moved
    assert elbo_of_moved < log_p - 10 * standard_error


def test_elbo_is_the_log_likelihood_less_the_kl_to_the_true_posterior():
    """log p(x) = ELBO + KL(q(z|x) || p(z|x)), each by quadrature over one latent, under Normal."""
    x = np.array([[0.2, 0.7, 0.4]])
    scale = 0.15
    weights = np.array([1.0, -2.0, 0.5])
    bias = np.array([0.1, 0.3, -0.5])
    likelihood = LIKELIHOODS["normal"]

    def log_likelihood(z):
        params = np.stack([z * weights + bias, np.full(3, raw_scale(scale, likelihood))], axis=-1)
        return likelihood.log_prob(x, params[None]).numpy()[0]

    def joint(z):
        return np.exp(log_likelihood(z)) * scipy.stats.norm.pdf(z)

    def joint_by_scipy(z):
        return scipy.stats.norm.pdf(x[0], expit(z * weights + bias), scale).prod() * scipy.stats.norm.pdf(z)

    evidence = quad(joint, -8, 8)[0]
    assert evidence == pytest.approx(quad(joint_by_scipy, -8, 8)[0], rel=1e-9)

    q = scipy.stats.norm(0.1, 0.4)
    kl_to_prior = Posterior(np.array([[0.1]]), np.log([[0.4]])).kl().numpy()[0]
    elbo = quad(lambda z: q.pdf(z) * log_likelihood(z), -4, 4)[0] - kl_to_prior
    kl_to_true_posterior = quad(lambda z: q.pdf(z) * (q.logpdf(z) - np.log(joint(z) / evidence)), -3, 3)[0]
    assert elbo + kl_to_true_posterior == pytest.approx(np.log(evidence), abs=1e-6)


def test_the_elbo_of_a_vae_joins_encoder_noise_decoder_and_likelihood():
    rng = np.random.default_rng(0)
    vae = create("bernoulli", activation="tanh")
    x = rng.integers(0, 2, (6, 12)).astype(np.uint8)
    noise = rng.normal(size=(6, 2)).astype(np.float32)
    elbo = vae.elbo(x, noise)
    mean, log_std = np.split(vae.encoder(x.astype(np.float32)).numpy(), 2, axis=-1)
    logits = vae.decoder(mean + np.exp(log_std) * noise).numpy()[..., 0].astype(float)
    log_likelihood = scipy.stats.bernoulli.logpmf(x, expit(logits)).sum(-1)
    kl = 0.5 * (mean**2 + np.exp(2 * log_std) - 1 - 2 * log_std).sum(-1)
    np.testing.assert_allclose(elbo.log_likelihood, log_likelihood, rtol=1e-4)
    np.testing.assert_allclose(elbo.kl, kl, rtol=1e-4)
    np.testing.assert_allclose(elbo.value, elbo.log_likelihood - elbo.kl)
    assert elbo.value.shape == (6,)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_seed_decides_the_weights_and_their_names_are_the_same_in_each_model(network):
    first, second, other = [create("bernoulli", network, (8, 8, 1), seed=seed).named_weights() for seed in (1, 1, 2)]
    assert list(first) == list(second) == list(other)
    for name, weight in first.items():
        assert np.array_equal(weight, second[name])
        is_bias = weight.ndim == 1
        assert is_bias or not np.array_equal(weight, other[name])


@pytest.mark.parametrize(
    ("network", "names"),
    [
        ("flat", [f"{part}/dense_{number}" for part in ("encoder", "decoder") for number in (1, 2, 3)]),
        (
            "conv3",
            [
                *(f"encoder/conv2d_{number}" for number in (1, 2, 3)),
                *("encoder/dense_1", "decoder/dense_1"),
                *(f"decoder/conv2dtranspose_{number}" for number in (1, 2, 3)),
            ],
        ),
    ],
)
def test_the_names_of_weights_are_those_that_the_pages_have(network, names):
    expected = [f"{name}/{part}" for name in names for part in ("kernel", "bias")]
    vae = create("bernoulli", network, (8, 8, 1))
    assert list(vae.named_weights()) == expected and len(vae.trainable_variables) == len(expected)


@pytest.mark.parametrize("leading_shape", [(5,), (2, 3)])
def test_images_returns_pictures(leading_shape):
    vae = create("normal", network="conv3", image_shape=(8, 8, 3))
    images = vae.images(np.zeros((*leading_shape, 2), np.float32))
    assert images.shape == (*leading_shape, 8, 8, 3)
    assert images.min() >= 0
    assert images.max() <= 1


@pytest.mark.parametrize("num_images", [1, 5])
def test_images_decodes_many_pictures_in_chunks(num_images, monkeypatch):
    vae = create("normal")
    z = np.random.default_rng(0).standard_normal((num_images, 2), dtype=np.float32)
    expected = vae.images(z)
    rows_at_once = []

    def decode(rows):
        rows_at_once.append(len(rows))
        return VAE.decode(vae, rows)

    monkeypatch.setattr(vae, "decode", decode)
    monkeypatch.setattr(model, "MAX_DECODED_PIXELS", 2 * math.prod(vae.image_shape))
    np.testing.assert_allclose(vae.images(z), expected, rtol=1e-6)
    assert max(rows_at_once) <= 2 and sum(rows_at_once) == num_images


def test_images_that_were_not_prepared_are_refused_with_the_way_to_prepare_them():
    vae = create("bernoulli")
    with pytest.raises(ValueError, match=r"\[n, 12\], got shape \(5, 4, 3, 1\): evaluation\.prepare_test") as error:
        vae.encode(np.zeros((5, 4, 3, 1), np.uint8))
    assert "\n" not in str(error.value)


def test_a_z_of_the_wrong_width_is_refused():
    vae = create("bernoulli")
    with pytest.raises(ValueError, match="z has 3 latents, but the model has 2"):
        vae.images(np.zeros((5, 3), np.float32))


@pytest.mark.parametrize(
    ("network", "likelihood"),
    [("flat", "bernoulli"), ("flat", "logit_normal"), ("conv3", "cross_entropy"), ("conv3", "normal")],
)
def test_mixed_bfloat16_changes_the_networks_alone(network, likelihood):
    """Weights, posterior, decoder outputs and ELBO are float32, and the ELBO is that of float32 to a percent."""
    expected, vae = (create(likelihood, network=network, precision=name) for name in ("float32", "mixed_bfloat16"))
    for weight, expected_weight in zip(vae.trainable_variables, expected.trainable_variables, strict=True):
        assert weight.dtype == "float32"
        np.testing.assert_array_equal(weight, expected_weight)
    assert vae.encoder.compute_dtype == vae.decoder.compute_dtype == "bfloat16"
    rng = np.random.default_rng(0)
    x = vae.likelihood.prepare(rng.integers(0, 256, (50, 12), dtype=np.uint8), rng)
    noise = rng.standard_normal((50, 2), dtype=np.float32)
    elbo = vae.elbo(x, noise)
    tensors = [*vae.encode(x), vae.decode(noise), *elbo]
    assert {tensor.dtype for tensor in tensors} == {tf.float32}
    np.testing.assert_allclose(elbo.value.numpy().mean(), expected.elbo(x, noise).value.numpy().mean(), rtol=0.01)


def test_the_dtype_policy_of_other_models_stays():
    create("bernoulli", precision="mixed_bfloat16")
    assert keras.config.dtype_policy().name == "float32"


def elbos_and_weights():
    """The ELBOs and first weights of three models by name, in NumPy."""
    arrays = {}
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, (6, 64)).astype(np.uint8)
    noise = rng.standard_normal((6, 2), dtype=np.float32)
    for network, precision in (("flat", "float32"), ("conv3", "float32"), ("conv3", "mixed_bfloat16")):
        vae = create("bernoulli", network, (8, 8, 1), precision=precision)
        arrays[f"{network} {precision}"] = vae.elbo(x, noise).value.numpy()
        for name, weight in vae.named_weights().items():
            arrays[f"{network} {precision} {name}"] = weight.numpy()
    return arrays


@pytest.mark.slow
def test_the_users_own_settings_of_keras_change_nothing(tmp_path):
    """Keras reads them when it is imported: from a file in the home folder, and from the environment."""
    (tmp_path / ".keras").mkdir()
    settings = {"floatx": "float64", "image_data_format": "channels_first", "epsilon": 0.1, "backend": "jax"}
    (tmp_path / ".keras" / "keras.json").write_text(json.dumps(settings))
    code = f"import vae, numpy, test_model\nnumpy.savez({str(tmp_path / 'a.npz')!r}, **test_model.elbos_and_weights())"
    environment = {"HOME": str(tmp_path), "KERAS_BACKEND": "jax", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    subprocess.run([sys.executable, "-c", code], env=os.environ | environment, check=True)
    expected = elbos_and_weights()
    with np.load(tmp_path / "a.npz") as arrays:
        assert set(arrays.files) == set(expected)
        for name, array in expected.items():
            assert arrays[name].dtype == array.dtype == np.float32
            np.testing.assert_allclose(arrays[name], array, rtol=1e-5, err_msg=name)
