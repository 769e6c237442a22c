import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import expit

import datasets
from vae import evaluation, model, training


@pytest.fixture(scope="module")
def images():
    return datasets.load("digits").train_images


def fresh(likelihood="bernoulli", seed=0, learning_rate=1e-3, network="mlp"):
    vae = model.create(network, likelihood, (8, 8, 1), 3, 16, "relu", seed)
    return training.create_state(vae, learning_rate)


def fit(state, images, num_epochs, batch_size=100, seed=0):
    return list(training.fit(state, images, num_epochs, batch_size, seed, test_elbo=lambda: -1.0))


def weights(state):
    return [v.numpy() for v in (*state.model.trainable_variables, *state.optimizer.variables)]


def without_seconds(history):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]


def reference(state, batches):
    """The ELBO of each step of a VAE of two hidden layers each way, Bernoulli pixels and Adam, in NumPy float64."""
    w = [v.numpy().astype(np.float64) for v in state.model.trainable_variables]
    first, second = [np.zeros_like(v) for v in w], [np.zeros_like(v) for v in w]
    elbos = []
    for t, (x, noise) in enumerate(batches, 1):
        x, n = x.astype(np.float64), len(x)
        h1 = np.maximum(x @ w[0] + w[1], 0)
        h2 = np.maximum(h1 @ w[2] + w[3], 0)
        mean, log_std = np.split(h2 @ w[4] + w[5], 2, axis=1)
        std = np.exp(log_std)
        z = mean + std * noise
        g1 = np.maximum(z @ w[6] + w[7], 0)
        g2 = np.maximum(g1 @ w[8] + w[9], 0)
        logits = g2 @ w[10] + w[11]
        log_likelihood = (x * logits - np.logaddexp(0, logits)).sum(1)
        kl = 0.5 * (mean**2 + std**2 - 1 - 2 * log_std).sum(1)
        elbos.append((log_likelihood.mean(), kl.mean()))
        d_logits = (expit(logits) - x) / n  # of the loss, -mean(elbo)
        d_g2 = d_logits @ w[10].T * (g2 > 0)
        d_g1 = d_g2 @ w[8].T * (g1 > 0)
        d_z = d_g1 @ w[6].T
        d_heads = np.concatenate([d_z + mean / n, d_z * std * noise + (std**2 - 1) / n], axis=1)
        d_h2 = d_heads @ w[4].T * (h2 > 0)
        d_h1 = d_h2 @ w[2].T * (h1 > 0)
        pairs = ((x, d_h1), (h1, d_h2), (h2, d_heads), (z, d_g1), (g1, d_g2), (g2, d_logits))
        gradients = [g for inputs, d in pairs for g in (inputs.T @ d, d.sum(0))]
        for v, m, s, g in zip(w, first, second, gradients, strict=True):
            m += 0.1 * (g - m)
            s += 0.001 * (g * g - s)
            v -= 1e-3 * math.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(s) + 1e-8)
    return np.array(elbos)


def test_the_first_100_steps_are_those_of_plain_numpy(images):
    state = fresh()
    blocks = training._blocks(state.model, images.reshape(-1, 64), itertools.count(1), 1400, 1400, seed=0)
    x, noise = (
        np.concatenate(parts)[:10000]
        for parts in zip(*((x, n) for x, n, _ in itertools.islice(blocks, 8)), strict=True)
    )
    want = reference(state, zip(x.reshape(100, 100, 64), noise.reshape(100, 100, 3), strict=True))
    got = training.compile_block(state, 100)(x, noise, 100).numpy()
    np.testing.assert_allclose(got, want, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("network", "likelihood"), [("mlp", "bernoulli"), ("mlp", "logit_normal"), ("conv3", "normal")]
)
def test_compiled_is_eager(images, network, likelihood):
    compiled, eager = (fresh(likelihood, network=network) for _ in range(2))
    x = compiled.model.likelihood.prepare(images[:60].reshape(60, -1), np.random.default_rng(0))
    noise = np.random.default_rng(1).standard_normal((60, 3), dtype=np.float32)
    got = training.compile_block(compiled, 20)(x, noise, 3).numpy()
    tf.config.run_functions_eagerly(True)
    try:
        want = training.compile_block(eager, 20)(x, noise, 3).numpy()
    finally:
        tf.config.run_functions_eagerly(False)
    np.testing.assert_allclose(got, want, rtol=1e-3)
    for a, b in zip(compiled.model.trainable_variables, eager.model.trainable_variables, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)


@pytest.mark.parametrize("network", ["mlp", "conv3"])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(images, tmp_path, network):
    whole = fresh(network=network)
    history = fit(whole, images[:500], 4)
    first = fresh(network=network)
    start = fit(first, images[:500], 2)
    path = first.write(str(tmp_path / "checkpoint"))
    second = fresh(network=network, seed=9)  # other weights, to be overwritten
    second.read(path).assert_consumed()
    rest = fit(second, images[:500], 4)
    assert without_seconds(start + rest) == without_seconds(history)
    assert all(np.array_equal(a, b) for a, b in zip(weights(second), weights(whole), strict=True))


def test_history_rows(images):
    rows = fit(fresh(), images, 12)
    assert [row["epoch"] for row in rows] == list(range(1, 13))
    assert tuple(rows[0]) == training.HISTORY
    assert [row["test_elbo"] == -1 for row in rows] == [True] * 10 + [False] * 2
    assert all(
        row["train_elbo"] == row["train_log_likelihood"] - row["train_kl"] and row["seconds"] > 0 for row in rows
    )


def test_training_improves_the_elbo(images):
    rows = fit(fresh(learning_rate=5e-3), images, 40)
    assert rows[-1]["train_elbo"] > rows[2]["train_elbo"] + 2


def test_an_epoch_uses_each_image_once_and_leaves_another_remainder_out_each_time(images):
    vae = fresh().model
    pixels = np.arange(1, 251, dtype=np.uint8)[:, None]  # image i has the one pixel i
    vae.likelihood = type("Raw", (), {"prepare": lambda self, pixels, rng: pixels})()
    left_out = set()
    for _, group in itertools.groupby(
        enumerate(training._blocks(vae, pixels, range(1, 6), 200, 200, 0)), lambda b: b[0]
    ):
        seen = np.concatenate([x[:count, 0] for _, (x, _, count) in group])
        assert len(set(seen)) == len(seen) == 200
        left_out.add(frozenset(range(1, 251)) - frozenset(seen.tolist()))
    assert len(left_out) == 5


def test_blocks_that_do_not_fill_up_train_only_on_what_counts(images, monkeypatch):
    monkeypatch.setattr(training, "BLOCK_BYTES", 4 * 100 * 64 * 3)  # 3 steps a block: of 5 steps, the last has 2
    state = fresh()
    assert training.block_steps(state.model, 5, 100) == 3
    fit(state, images[:500], 2)
    assert int(state.optimizer.iterations) == 10


def test_a_run_that_diverges_stops(images):
    state = fresh("normal", learning_rate=1e30)
    with pytest.raises(FloatingPointError, match="no finite number"):
        fit(state, images, 3)


def test_elbo_evaluator_covers_every_image_once(images):
    vae = fresh().model
    x = evaluation.prepare_test(vae.likelihood, images[:1100])
    assert np.array_equal(x, evaluation.prepare_test(vae.likelihood, images[:1100]))
    elbo = evaluation.elbo_evaluator(vae, x)()
    noise = model.generator(evaluation.TEST_SEED, "test_noise").standard_normal((1100, 3), dtype=np.float32)
    want = vae.elbo(x, noise)
    np.testing.assert_allclose(elbo.value, want.value, rtol=1e-4)
    assert evaluation.test_elbo(vae, images[:1100])() == pytest.approx(want.value.numpy().mean(), rel=1e-5)


def test_in_units():
    assert evaluation.in_units(-1.0, fresh().model) == "-1.00 nats"
    assert evaluation.in_units(0.0, fresh("normal").model) == "0.00 nats (8.000 bits/dim)"
