"""The training loop: its steps against plain NumPy, its random draws, and its history."""

import contextlib
import functools
import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import expit

import datasets
from config import LIKELIHOODS, PRECISIONS, Config
from vae import checkpoints, cores, history, model, runs, training
from vae.training import Block


@pytest.fixture(scope="module")
def images():
    return datasets.load("digits").train_images


def new_state(vae_type="flat_binarized", **options):
    """The state of a small model for the digits, before its first step."""
    config = Config(vae_type=vae_type, latent_dim=3, hidden_size=16, **options)
    return training.create_state(model.create(config, image_shape=(8, 8, 1)))


def fit(state, images, num_epochs, train_block=None, **options):
    """Trains up to num_epochs, in batches of 100, and returns the rows of the history."""
    options = {"learning_rate_of": lambda epoch: 1e-3, "measure_test_elbo": lambda: -1.0, **options}
    train_block = train_block or training.compile_block(state, 100)
    return list(training.fit(state, images, train_block, num_epochs=num_epochs, batch_size=100, seed=0, **options))


def train_nothing(block):
    """Stands in for a compiled block where its steps do not matter: compiling takes seconds."""
    return np.full((block.num_steps, 2), -1.0, np.float32)


@contextlib.contextmanager
def eagerly():
    """Makes TensorFlow's functions run as they are called inside the block, without compiling them."""
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


@pytest.fixture
def uncompiled():
    with eagerly():
        yield


def without_seconds(rows):
    return [row._replace(seconds=0.0) for row in rows]


# ---- Steps ---------------------------------------------------------------------------------------------------------


def train_in_numpy(state, batches, rates=None):
    """Returns each step's mean log-likelihood and mean KL, in float64, when a flat model with Bernoulli pixels trains.

    `state` has the first weights, and is not changed. batches: pairs of x and noise. rates: Adam's learning rate
    in each step (default: 0.001).
    """
    rates = rates or itertools.repeat(1e-3)
    weights = [variable.numpy().astype(np.float64) for variable in state.model.trainable_variables]
    first_moments = [np.zeros_like(weight) for weight in weights]
    second_moments = [np.zeros_like(weight) for weight in weights]
    terms = []
    for step, ((x, noise), learning_rate) in enumerate(zip(batches, rates, strict=False), start=1):
        log_likelihood, kl, gradients = elbo_and_gradients(weights, x.astype(np.float64), noise)
        terms.append((log_likelihood, kl))
        rate = learning_rate * math.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        for weight, first, second, gradient in zip(weights, first_moments, second_moments, gradients, strict=True):
            first += 0.1 * (gradient - first)
            second += 0.001 * (gradient**2 - second)
            weight -= rate * first / (np.sqrt(second) + 1e-8)
    return np.array(terms)


def elbo_and_gradients(weights, x, noise):
    """The mean log-likelihood, the mean KL, and the gradients of the loss, -mean(elbo), for all weights."""
    # The encoder and the decoder have two hidden layers each.
    n = len(x)
    h1 = np.maximum(x @ weights[0] + weights[1], 0)
    h2 = np.maximum(h1 @ weights[2] + weights[3], 0)
    mean, log_std = np.split(h2 @ weights[4] + weights[5], 2, axis=1)
    std = np.exp(log_std)
    z = mean + std * noise
    g1 = np.maximum(z @ weights[6] + weights[7], 0)
    g2 = np.maximum(g1 @ weights[8] + weights[9], 0)
    logits = g2 @ weights[10] + weights[11]
    log_likelihood = (x * logits - np.logaddexp(0, logits)).sum(1)
    kl = 0.5 * (mean**2 + std**2 - 1 - 2 * log_std).sum(1)

    # d_a is the gradient of the loss with respect to a.
    d_logits = (expit(logits) - x) / n
    d_g2 = d_logits @ weights[10].T * (g2 > 0)
    d_g1 = d_g2 @ weights[8].T * (g1 > 0)
    d_z = d_g1 @ weights[6].T
    d_heads = np.concatenate([d_z + mean / n, d_z * std * noise + (std**2 - 1) / n], axis=1)
    d_h2 = d_heads @ weights[4].T * (h2 > 0)
    d_h1 = d_h2 @ weights[2].T * (h1 > 0)
    gradients = []
    for inputs, d_outputs in ((x, d_h1), (h1, d_h2), (h2, d_heads), (z, d_g1), (g1, d_g2), (g2, d_logits)):
        gradients += [inputs.T @ d_outputs, d_outputs.sum(0)]
    return log_likelihood.mean(), kl.mean(), gradients


@pytest.mark.parametrize("batch_size", [pytest.param(99, marks=pytest.mark.slow), 101])
def test_the_first_100_steps_are_those_of_plain_numpy(images, batch_size):
    """From 100 images on, a step has two parts, which may be uneven."""
    state = new_state()
    state.optimizer.learning_rate.assign(1e-3)
    num_rows = 100 * batch_size
    blocks = list(training.make_blocks(state.model, images, range(1, 9), batch_size=batch_size, seed=0))
    x = np.concatenate([block.x for block in blocks])[:num_rows]
    noise = np.concatenate([block.noise for block in blocks])[:num_rows]
    batches = zip(x.reshape(100, batch_size, 64), noise.reshape(100, batch_size, 3), strict=True)
    expected = train_in_numpy(state, batches)
    terms = training.compile_block(state, batch_size)(Block(x, noise, num_steps=100))
    assert terms.shape == (100, 2)
    np.testing.assert_allclose(terms, expected, atol=1e-3, rtol=0)


def test_the_steps_across_a_change_of_the_learning_rate_are_those_of_plain_numpy(images, uncompiled):
    """The first stage of the staged schedule ends after epoch 1, the second after epoch 4."""
    images = images[:200]
    state = new_state()
    blocks = list(training.make_blocks(state.model, images, range(1, 6), batch_size=100, seed=0))
    num_steps = blocks[0].num_steps
    batches = []
    for block in blocks:
        x = block.x.reshape(num_steps, 100, 64)
        noise = block.noise.reshape(num_steps, 100, 3)
        batches += zip(x, noise, strict=True)
    rates = [1e-3] * num_steps + [1e-3 * 10 ** (-1 / 7)] * 3 * num_steps + [1e-3 * 10 ** (-2 / 7)] * num_steps
    expected = train_in_numpy(state, batches, rates).reshape(5, num_steps, 2).mean(axis=1)

    rows = fit(state, images, 5, learning_rate_of=functools.partial(training.staged_rate, 1e-3))
    terms = [(row.train_log_likelihood, row.train_kl) for row in rows]
    np.testing.assert_allclose(terms, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("vae_type", "num_images", "num_cores", "sizes"),
    [
        ("flat_binarized", 1, 4, [1]),
        ("flat_binarized", 99, 4, [99]),
        ("flat_binarized", 100, 4, [50, 50]),
        ("flat_binarized", 1001, 1, [501, 500]),
        ("conv3", 100, 1, [100]),
        ("conv3", 102, 4, [26, 26, 25, 25]),
        ("conv3", 32, 4, [8, 8, 8, 8]),
        ("conv3", 31, 4, [31]),
        ("conv3", 100, 64, [100]),
    ],
)
def test_the_parts_of_a_step(vae_type, num_images, num_cores, sizes, monkeypatch):
    """They depend on the cores for conv3 only. Each core gets 8 images or more, or else all cores share one part."""
    monkeypatch.setattr(cores, "count_cores", lambda: num_cores)
    assert training.part_sizes(new_state(vae_type).model, num_images) == sizes


def test_a_step_of_a_large_flat_network_has_one_part(monkeypatch):
    model = new_state().model
    num_weights = sum(variable.numpy().size for variable in model.trainable_variables)
    monkeypatch.setattr(training, "MAX_WEIGHTS_OF_TWO_PARTS", num_weights)
    assert training.part_sizes(model, 100) == [50, 50]
    monkeypatch.setattr(training, "MAX_WEIGHTS_OF_TWO_PARTS", num_weights - 1)
    assert training.part_sizes(model, 100) == [100]


def test_a_step_has_one_part_on_a_gpu_and_where_the_user_has_set_the_threads(monkeypatch):
    monkeypatch.setattr(cores, "count_cores", lambda: 4)
    for variable in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        with monkeypatch.context() as patch:
            patch.setenv(variable, "2")
            assert cores.sizes_per_core(100) == [100]
    assert cores.sizes_per_core(100) == [25, 25, 25, 25]
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a GPU"] if kind == "GPU" else [])
    assert cores.sizes_per_core(100) == [100]


@pytest.mark.parametrize(
    "num_parts", [pytest.param(2, marks=pytest.mark.slow), 3, pytest.param(5, marks=pytest.mark.slow)]
)
def test_a_step_in_parts_is_the_whole_step_and_the_same_each_time(images, num_parts, monkeypatch):
    """Up to rounding; the sum of the parts has the same bits each time."""
    model = new_state("conv3").model
    x = model.likelihood.prepare(images[:50].reshape(50, -1), np.random.default_rng(0))
    x = tf.constant(x)
    noise = tf.random.stateless_normal((50, 3), seed=(0, 1))

    def compile_for(num_cores):
        monkeypatch.setattr(cores, "count_cores", lambda: num_cores)
        compute = tf.function(functools.partial(training.compute_contribution, model, batch_size=60), autograph=False)
        compute(x, noise)  # compiles it
        return lambda: [array.numpy() for array in tf.nest.flatten(compute(x, noise))]

    whole = compile_for(1)()
    compute = compile_for(num_parts)
    in_parts = compute()
    for part_sum, expected in zip(in_parts, whole, strict=True):
        np.testing.assert_allclose(part_sum, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    for _ in range(20):
        for again, first in zip(compute(), in_parts, strict=True):
            assert np.array_equal(again, first)


def test_the_staged_rate_is_that_of_burda_et_al():
    """Stage i = 0, ..., 7 lasts 3^i epochs at 10^(-i/7) of the rate, and the last one stays."""
    rates = []
    for stage in range(8):
        rates += [0.5 * 10 ** (-stage / 7)] * 3**stage
    rates += [0.05] * 100
    assert len(rates) == 3280 + 100
    assert [training.staged_rate(0.5, epoch) for epoch in range(1, 3381)] == pytest.approx(rates, rel=1e-12)
    assert training.constant_rate(0.5, 3280) == 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("vae_type", "likelihood"),
    [("flat_cont_logit", "logit_normal"), ("conv3", "normal")],
)
def test_the_compiled_steps_are_those_without_compilation(images, vae_type, likelihood):
    compiled = new_state(vae_type, likelihood=likelihood)
    eager = new_state(vae_type, likelihood=likelihood)
    for state in (compiled, eager):
        state.optimizer.learning_rate.assign(1e-3)
    x = compiled.model.likelihood.prepare(images[:60].reshape(60, -1), np.random.default_rng(0))
    noise = np.random.default_rng(1).standard_normal((60, 3), dtype=np.float32)
    block = Block(x, noise, num_steps=3)
    compiled_terms = training.compile_block(compiled, 20)(block)
    with eagerly():
        eager_terms = training.compile_block(eager, 20)(block)
    np.testing.assert_allclose(compiled_terms, eager_terms, rtol=1e-3)
    for variable, expected in zip(compiled.model.trainable_variables, eager.model.trainable_variables, strict=True):
        np.testing.assert_allclose(variable, expected, atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("vae_type", "precision"), list(itertools.product(("flat_binarized", "conv3"), PRECISIONS)))
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(images, tmp_path, vae_type, precision):
    check_resumed_run(images, tmp_path, vae_type, precision)


def test_a_resumed_run_is_the_uninterrupted_one_without_compilation(images, tmp_path, uncompiled):
    check_resumed_run(images, tmp_path, "flat_binarized", "float32")


def check_resumed_run(images, tmp_path, vae_type, precision):
    """The learning rate changes at epoch 2, before the run stops, and at epoch 5, after it goes on."""
    schedule = functools.partial(training.staged_rate, 1e-3)
    state = new_state(vae_type, precision=precision)
    train_block = training.compile_block(state, 100)
    first = {name: variable.numpy() for name, variable in state.variables().items()}

    def arrays():
        return {name: variable.numpy() for name, variable in state.variables().items()}

    uninterrupted = fit(state, images[:500], 6, train_block, learning_rate_of=schedule)
    expected = arrays()
    for name, variable in state.variables().items():
        variable.assign(first[name])
    state.epoch = 0
    rows = fit(state, images[:500], 3, train_block, learning_rate_of=schedule)
    checkpoints.write(tmp_path, state.epoch, arrays())

    # With other weights, until the checkpoint is read.
    state = new_state(vae_type, precision=precision, seed=9)
    state.epoch = runs.fill(state.variables(), tmp_path)
    rows += fit(state, images[:500], 6, learning_rate_of=schedule)
    assert without_seconds(rows) == without_seconds(uninterrupted)
    for name, array in arrays().items():
        assert np.array_equal(array, expected[name]), name


QUICK_GRADIENTS = [("logit_normal", "float32")]


@pytest.mark.parametrize(
    ("likelihood", "precision"),
    [
        pytest.param(*pair, marks=[] if pair in QUICK_GRADIENTS else [pytest.mark.slow])
        for pair in itertools.product(LIKELIHOODS, PRECISIONS)
    ],
)
def test_no_gradient_is_a_sum_of_three_terms(likelihood, precision, monkeypatch):
    """TensorFlow's AddN adds three or more terms in an order that depends on when their memory becomes free."""
    monkeypatch.setattr(cores, "count_cores", lambda: 4)
    vae = new_state("conv3", likelihood=likelihood, precision=precision).model
    compute = tf.function(functools.partial(training.compute_contribution, vae, batch_size=40), autograph=False)
    graph = compute.get_concrete_function(tf.zeros((40, 64)), tf.zeros((40, 3))).graph
    numbers_of_terms = [len(operation.inputs) for operation in graph.get_operations() if operation.type == "AddN"]
    assert numbers_of_terms and max(numbers_of_terms) == 2


def test_each_operation_has_one_thread_only_where_a_step_has_a_part_for_each_core(monkeypatch):
    monkeypatch.setattr(cores, "count_cores", lambda: 4)
    chosen = []
    monkeypatch.setattr(tf.config.threading, "set_intra_op_parallelism_threads", chosen.append)
    for network, num_images in (("conv3", 100), ("flat", 100), ("conv3", 31)):
        cores.set_threads(network, num_images)
    assert chosen == [1, 0, 0]


# ---- Blocks --------------------------------------------------------------------------------------------------------


class RawBytes:
    """A likelihood whose data are the bytes themselves."""

    def prepare(self, pixels, rng):
        return pixels


def test_an_epoch_uses_each_image_once_and_leaves_out_others_each_time():
    vae = new_state().model
    vae.likelihood = RawBytes()
    numbered_images = np.arange(1, 251, dtype=np.uint8).reshape(250, 1, 1, 1)
    blocks = list(training.make_blocks(vae, numbered_images, range(1, 6), batch_size=100, seed=0))
    assert len(blocks) == 5  # one for each epoch
    left_out = set()
    for block in blocks:
        used = block.x[: 100 * block.num_steps, 0].tolist()
        assert len(set(used)) == len(used) == 200
        left_out.add(frozenset(range(1, 251)) - frozenset(used))
    assert len(left_out) == 5


def test_of_a_block_that_is_not_full_only_its_steps_are_trained(images, monkeypatch, uncompiled):
    """With room for 3 steps in a block, an epoch of 5 steps has a second block of 2 steps."""
    monkeypatch.setattr(training, "MAX_BLOCK_BYTES", 4 * 100 * 64 * 3)
    state = new_state()
    assert training.block_steps(state.model, 5, 100) == 3
    steps = []
    fit(state, images[:500], 2, on_steps=steps.append)
    assert steps == [3, 2, 3, 2]
    assert int(state.optimizer.iterations) == 10


def test_the_memory_of_a_step_counts_weights_four_times_and_outputs_twice():
    """By hand, for 8x8x1 pixels, 16 hidden units, 3 latents, batches of 10 and float32."""
    weights = (64 * 16 + 16) + (16 * 16 + 16) + (16 * 6 + 6) + (3 * 16 + 16) + (16 * 16 + 16) + (16 * 64 + 64)
    # The decoder ends with two layers that only reorder its outputs.
    outputs = (16 + 16 + 6) + (16 + 16 + 64 + 64 + 64)
    assert training.step_bytes(new_state().model, 10) == 4 * (4 * weights + 2 * 10 * outputs)


# ---- History -------------------------------------------------------------------------------------------------------


def test_the_history_has_a_row_for_each_epoch_and_a_test_elbo_for_some(images):
    """After the first 10 epochs, after every tenth, and after the last."""
    state = new_state()
    rows = fit(state, images, 32, train_nothing, learning_rate_of=lambda epoch: epoch / 1000)
    assert [row.epoch for row in rows] == list(range(1, 33)) and state.epoch == 32
    assert all(row.train_elbo == row.train_log_likelihood - row.train_kl == 0 for row in rows)
    assert [row.learning_rate for row in rows] == [epoch / 1000 for epoch in range(1, 33)]
    assert state.optimizer.learning_rate == np.float32(0.032)
    tested = [row.epoch for row in rows if row.test_elbo == -1]
    assert tested == [*range(1, 11), 20, 30, 32]
    assert tested == [row.epoch for row in rows if not math.isnan(row.test_elbo)]
    assert [epoch for epoch in range(1, 33) if history.is_tested(epoch)] == tested[:-1]


def test_an_epoch_after_which_training_is_to_stop_is_the_last_one_and_is_tested(images):
    state = new_state()
    state.epoch = 11
    rows = fit(state, images, 500, train_nothing, stop=lambda: True)
    assert [(row.epoch, row.test_elbo) for row in rows] == [(12, -1.0)] and state.epoch == 12


def test_seconds_are_those_of_the_epoch_without_what_the_caller_does_between_epochs(images, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(training.time, "perf_counter", lambda: now[0])

    def measure_test_elbo():
        now[0] += 2
        return -1.0

    rows = training.fit(
        new_state(),
        images[:200],
        train_nothing,
        num_epochs=3,
        batch_size=100,
        seed=0,
        learning_rate_of=lambda epoch: 1e-3,
        measure_test_elbo=measure_test_elbo,
    )
    seconds = []
    for row in rows:
        seconds.append(row.seconds)
        now[0] += 100
    assert seconds == [2, 2, 2]


@pytest.mark.parametrize("what", ["a training ELBO", "a weight", "a test ELBO"])
def test_a_number_that_is_not_finite_stops_training_before_its_row(what, images):
    """Epoch 11 is tested only if it is the last one."""
    state = new_state()
    state.epoch = 10
    weight = state.model.trainable_variables[0]

    def train_block(block):
        if what == "a weight":
            weight.assign(np.full(weight.shape, np.nan))
        terms = train_nothing(block)
        if what == "a training ELBO":
            terms[-1, 0] = -np.inf
        return terms

    test_elbo = math.nan if what == "a test ELBO" else -1.0
    with pytest.raises(FloatingPointError, match="after epoch 11 is not a finite number"):
        fit(state, images, 11, train_block, measure_test_elbo=lambda: test_elbo)
    assert state.epoch == 10
