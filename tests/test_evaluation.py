"""What is measured on the test set: the ELBO, the NLLs and the active units."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from test_importance import compile_once

import datasets
import evaluate
import train
from config import Config
from vae import cores, evaluation, importance, model
from vae.randomness import TEST_SEED, generator


@pytest.fixture(scope="module")
def data():
    return datasets.load("digits")


def create(likelihood, network="flat"):
    """A small VAE for the digits."""
    flat_types = {"bernoulli": "flat_binarized", "normal": "flat_cont_normal"}
    vae_type = "conv3" if network == "conv3" else flat_types[likelihood]
    config = Config("digits", vae_type, likelihood=likelihood, latent_dim=3, hidden_size=16)
    return model.create(config, image_shape=(8, 8, 1))


def test_the_test_set_is_always_prepared_in_the_same_way(data):
    likelihood = create("bernoulli").likelihood
    x = evaluation.prepare_test(likelihood, data.test_images)
    assert np.array_equal(x, evaluation.prepare_test(likelihood, data.test_images))


@pytest.mark.parametrize(
    ("network", "num_threads"), [pytest.param("flat", 0, marks=pytest.mark.slow), ("conv3", 0), ("conv3", 1)]
)
def test_the_elbo_covers_every_image_once(network, num_threads, data, monkeypatch):
    """1100 images are more than one chunk, and less than two. With one thread per operation, a chunk has parts."""
    monkeypatch.setattr(tf.config.threading, "get_intra_op_parallelism_threads", lambda: num_threads)
    monkeypatch.setattr(cores, "count_cores", lambda: 3)
    images = data.train_images[:1100]
    vae = create("bernoulli", network)
    x = evaluation.prepare_test(vae.likelihood, images)
    elbo = evaluation.make_elbo_evaluator(vae, x)()
    noise = generator(TEST_SEED, "test_noise").standard_normal((1100, 3), dtype=np.float32)
    expected = vae.elbo(x, noise).value.numpy()
    np.testing.assert_allclose(elbo.value, expected, rtol=1e-4)
    assert evaluation.make_test_elbo(vae, images)() == pytest.approx(expected.mean(), rel=1e-5)


def test_large_images_go_through_the_network_in_smaller_chunks(data, monkeypatch):
    """As many as of the report's largest images, which have 32x32x3 pixels."""
    assert evaluation.chunk_size_for(np.empty((5000, 3072))) == evaluation.chunk_size_for(np.empty((5000, 64))) == 1000
    assert evaluation.chunk_size_for(np.empty((5000, 4 * 3072))) == 250
    assert evaluation.chunk_size_for(np.empty((2, 2000 * 3072), np.bool_)) == 1
    assert evaluation.chunk_size_for(np.empty((7, 64))) == 7
    vae = create("bernoulli")
    x = evaluation.prepare_test(vae.likelihood, data.test_images)
    whole = evaluation.make_elbo_evaluator(vae, x)().value, evaluation.posteriors(vae, x).mean
    monkeypatch.setattr(evaluation, "MAX_CHUNK_PIXELS", 64 * 70)
    chunked = evaluation.make_elbo_evaluator(vae, x)().value, evaluation.posteriors(vae, x).mean
    for array, expected in zip(chunked, whole, strict=True):
        np.testing.assert_allclose(array, expected, rtol=1e-4, atol=1e-5)


def test_the_posteriors_cover_every_image_once(data):
    images = data.train_images[:1100]
    vae = create("bernoulli")
    x = evaluation.prepare_test(vae.likelihood, images)
    posterior = evaluation.posteriors(vae, x)
    expected = vae.encode(x)
    np.testing.assert_allclose(posterior.mean, expected.mean, atol=1e-5)
    np.testing.assert_allclose(posterior.log_std, expected.log_std, atol=1e-5)
    assert np.array_equal(evaluation.posterior_means(vae, images), posterior.mean)


def test_format_elbo_adds_bits_per_dim_where_there_are_any():
    assert evaluation.format_elbo(-1.0, create("bernoulli")) == "-1.00 nats"
    assert evaluation.format_elbo(0.0, create("normal")) == "0.00 nats (8.000 bits/dim)"


def test_active_units_are_those_whose_means_vary(data):
    vae = create("cross_entropy", "conv3")
    last_layer = vae.encoder.layers[-1]
    kernel = 100 * last_layer.kernel.numpy()
    kernel[:, 1] = 0  # The second latent's mean is the same for every image.
    last_layer.kernel.assign(kernel)
    x = evaluation.prepare_test(vae.likelihood, data.test_images[:50])
    metrics = evaluation.compute_metrics(vae, x, num_samples=2)
    assert metrics.active_units == [0, 2]


def test_both_nlls_take_all_samples_and_have_their_own_errors(data, monkeypatch):
    vae = create("bernoulli")
    compile_once(monkeypatch)
    x = evaluation.prepare_test(vae.likelihood, data.test_images[:40])
    calls = []
    metrics = evaluation.compute_metrics(vae, x, num_samples=60, on_image=lambda: calls.append(1))
    assert len(calls) == 40
    assert metrics.num_samples == 60
    assert metrics.bits_per_dim == {"elbo": None, "nll": None, "nll_of_q": None}
    assert evaluate.format_table(metrics, num_test_images=40).count("estimator's error") == 3

    weights = np.array(list(importance.log_weights(vae, x, evaluation.posteriors(vae, x), 60)))
    sizes = np.array([[importance.effective_sample_size(row) for row in rows] for rows in weights])
    for row, name in enumerate(("nll_of_q", "nll")):
        nlls = -np.log(np.exp(weights[:, row]).mean(axis=-1))
        summary = getattr(metrics, name)
        assert summary["mean"] == pytest.approx(nlls.mean(), rel=1e-5)
        assert summary["standard_error"] == pytest.approx(nlls.std(ddof=1) / np.sqrt(40), rel=1e-3)
        errors = importance.estimator_error(sizes[:, row], 60)
        assert summary["estimator_error"] == pytest.approx(np.sqrt(np.sum(errors**2)) / 40, rel=1e-3)
    sample_size = metrics.effective_sample_size
    assert sample_size["median"] == pytest.approx(np.median(sizes[:, 1]), rel=1e-3)
    assert sample_size["num_below_50"] == np.sum(sizes[:, 1] < 50)


def test_a_single_sample_has_no_estimators_error(data, monkeypatch):
    vae = create("bernoulli")
    x = evaluation.prepare_test(vae.likelihood, data.test_images[:5])
    monkeypatch.setattr(importance, "log_weights", lambda *arguments: np.full((5, 2, 1), -80.0))
    metrics = evaluation.compute_metrics(vae, x, num_samples=1)
    assert metrics.nll["estimator_error"] is metrics.nll_of_q["estimator_error"] is None
    assert "estimator's error" not in evaluate.format_table(metrics, num_test_images=5)


def test_without_a_likelihood_there_is_no_nll(data):
    vae = create("cross_entropy", "conv3")
    x = evaluation.prepare_test(vae.likelihood, data.test_images[:10])
    metrics = evaluation.compute_metrics(vae, x, num_samples=2)
    assert metrics.nll is metrics.nll_of_q is metrics.effective_sample_size is None
    assert metrics.bits_per_dim == {"elbo": None}


def test_a_quick_evaluation_never_replaces_a_better_one_of_the_same_epoch(tmp_path, pretended, monkeypatch, capsys):
    """conv3 without a likelihood is evaluated in a second."""
    monkeypatch.chdir(tmp_path)
    argv = ["--dataset", "digits", "--vae_type", "conv3"]
    assert train.main([*argv, "--num_epochs", "1"]) == 0
    assert evaluate.main(argv) == 0
    assert "epoch 1, 360 test images" in capsys.readouterr().out
    (run,) = Path("checkpoints").glob("digits*")
    best = evaluation.Metrics.read(run)

    assert evaluate.main([*argv, "--num_images", "10"]) == 0
    printed = capsys.readouterr().out
    assert "epoch 1, the first 10 of 360 test images" in printed
    assert f"metrics.json is kept, because its evaluation is better: {best.describe_quality()}" in printed
    assert evaluation.Metrics.read(run) == best

    # An evaluation of another epoch, or on unverified data, is replaced.
    unverified = {"data_verified": False, "versions": {}}
    for worse in (replace(best, epoch=2), replace(best, evaluation=unverified)):
        (run / "metrics.json").write_text(worse.to_json())
        assert evaluate.main([*argv, "--num_images", "10"]) == 0
        assert evaluation.Metrics.read(run).num_images == 10
