"""The compiled training loop: blocks of prepared steps go in, one row of history per epoch comes out.

An epoch is the same for every network, up to these differences:

- A network that XLA compiles well (`model.jit_compile`; the flat ones) runs as one XLA program per block, and conv3 as
  a TensorFlow graph with oneDNN: see compile_loop.
- A step of conv3 has a part for each core, with one thread for each operation (not on a GPU, nor with few images); a
  step of a flat network has two parts at most: see part_sizes and vae.cores.
- conv3 has fewer steps in a block, since each of them is longer: see block_steps.
- How x is prepared depends on the likelihood. conv3's default, the cross-entropy, adds no noise: see vae.likelihoods.

All random draws of an epoch, the noise of z among them, are made in make_blocks.
"""

import bisect
import dataclasses
import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from vae import cores
from vae.history import HistoryRow, is_tested
from vae.model import VAE
from vae.networks import multiply_adds
from vae.prefetch import prefetch
from vae.randomness import generator

# A block has as many steps as fit into both limits: about 2 s of work on two cores, and 128 MB of prepared images.
# Never change them: the random draws are made block by block, so other limits would give every run other numbers.
MAX_BLOCK_FLOPS = 2e11
MAX_BLOCK_BYTES = 2**27

# A step of an XLA-compiled network has two parts, from this batch size on and up to this number of weights. With fewer
# images, two parts take longer than one. With more weights, two parts gained on neither of two machines, and took
# longer on one (benchmarks/RESULTS.md, "Tried"). Four parts took longer than two. The number of parts decides the order
# of sums, so it must not depend on the number of cores: with equal flags, a flat network has the same bits on any
# number of cores, if there are at least two.
MIN_BATCH_OF_TWO_PARTS = 100
MAX_WEIGHTS_OF_TWO_PARTS = 1_000_000

# The last epoch of each stage of staged_rate: stage i has 3^i epochs.
STAGE_ENDS = (1, 4, 13, 40, 121, 364, 1093, 3280)


class Block(NamedTuple):
    """The data of consecutive training steps: x [rows, d] and noise [rows, L].

    All blocks of a run have the same number of rows, so that one compiled function takes them all. Only the rows of the
    first `num_steps` batches are used. The rows after them are zeros.
    """

    x: np.ndarray
    noise: np.ndarray
    num_steps: int


@dataclasses.dataclass
class State:
    """All that training changes: the weights, Adam's moments, and the last epoch that was trained."""

    model: VAE
    optimizer: keras.optimizers.Optimizer
    epoch: int = 0

    def variables(self) -> dict[str, tf.Variable]:
        """The variables by the names that a checkpoint has for them: "encoder/dense_1/kernel", for example.

        For each weight there are two moments, as in "adam/momentum/encoder/dense_1/kernel" and "adam/velocity/...".
        """
        weights = self.model.named_weights()
        # Keras has the moments of a weight beside each other.
        iteration, _learning_rate, *moments = self.optimizer.variables
        variables = {**weights, "adam/iteration": iteration}
        for name, momentum, velocity in zip(weights, moments[0::2], moments[1::2], strict=True):
            variables[f"adam/momentum/{name}"] = momentum
            variables[f"adam/velocity/{name}"] = velocity
        return variables


def create_state(model: VAE) -> State:
    """The state before the first step, with Adam (Kingma & Ba 2015, arXiv:1412.6980). `fit` sets its learning rate."""
    # The paper's epsilon. Keras's default is 1e-7.
    optimizer = keras.optimizers.Adam(epsilon=1e-8)
    optimizer.build(model.trainable_variables)
    return State(model, optimizer)


def constant_rate(learning_rate: float, epoch: int) -> float:
    """Adam's learning rate in an epoch, the same in all of them."""
    return learning_rate


def staged_rate(learning_rate: float, epoch: int) -> float:
    """Adam's learning rate in an epoch, which falls to a tenth in eight stages.

    Stage i = 0, ..., 7 has 3^i epochs at learning_rate * 10^(-i/7), 3280 epochs in all. After them, the last rate stays
    (Burda et al. 2016, arXiv:1509.00519, section 5).
    """
    last_stage = len(STAGE_ENDS) - 1
    stage = min(bisect.bisect_left(STAGE_ENDS, epoch), last_stage)
    return learning_rate * 10 ** (-stage / last_stage)


# The rate depends on the epoch's number alone, so that continuing a short run gives the same result as one long run.
LEARNING_RATE_SCHEDULES = {"constant": constant_rate, "staged": staged_rate}


def describe(row: HistoryRow) -> str:
    """The ELBO, the KL and, if it was measured, the test ELBO, in nats."""
    text = f"ELBO {row.train_elbo:.2f}, KL {row.train_kl:.2f}"
    if math.isnan(row.test_elbo):
        return text
    return f"{text}, test ELBO {row.test_elbo:.2f}"


def fit(
    state: State,
    images: np.ndarray,
    train_block: Callable[[Block], np.ndarray],
    *,
    num_epochs: int,
    batch_size: int,
    seed: int,
    learning_rate_of: Callable[[int], float],
    measure_test_elbo: Callable[[], float],
    on_steps: Callable[[int], object] = lambda num_steps: None,
    stop: Callable[[], bool] = lambda: False,
) -> Generator[HistoryRow, None, None]:
    """Trains `state` from its epoch to num_epochs, and yields a row per epoch once `state` holds that epoch.

    images: uint8 [n, h, w, c] with n >= batch_size. An epoch is floor(n / batch_size) steps over a fresh permutation;
    its draws depend on `seed` and on its number alone. train_block takes the steps of a block: see compile_block.
    learning_rate_of(epoch) is Adam's learning rate; measure_test_elbo() is the mean test ELBO in nats; on_steps(k) is
    called after each block, which has k steps. Training ends after the first epoch at whose end stop() is true. The
    test ELBO is measured after the last epoch in any case. Raises FloatingPointError if the ELBO or a weight is not
    finite.
    """
    model = state.model
    steps_per_epoch = len(images) // batch_size
    epochs = range(state.epoch + 1, num_epochs + 1)
    blocks = prefetch(make_blocks(model, images, epochs, batch_size, seed))
    # Python handles signals only in the main thread, and not during a long call into TensorFlow. So blocks are trained
    # on another thread while the main thread waits.
    with ThreadPoolExecutor(max_workers=1) as trainer:
        for epoch in epochs:
            started = time.perf_counter()
            learning_rate = learning_rate_of(epoch)
            state.optimizer.learning_rate.assign(learning_rate)

            # All steps of the epoch. A block gives the mean log-likelihood and the mean KL of each step, [steps, 2].
            step_means = []
            num_done = 0
            while num_done < steps_per_epoch:
                block = next(blocks)
                step_means.append(trainer.submit(train_block, block).result())
                num_done += block.num_steps
                on_steps(block.num_steps)
            means = np.concatenate(step_means).mean(axis=0, dtype=np.float64)
            log_likelihood, kl = means.tolist()

            # The training ELBO is measured before each step. Only the weights show the effect of the last one.
            check_finite(epoch, log_likelihood - kl, *model.trainable_variables)
            is_last = stop() or epoch == num_epochs
            test_elbo = math.nan
            if is_last or is_tested(epoch):
                test_elbo = measure_test_elbo()
                check_finite(epoch, test_elbo)
                if not is_last:
                    # A signal may have arrived while it was measured.
                    is_last = stop()

            state.epoch = epoch
            yield HistoryRow(
                epoch=epoch,
                train_elbo=log_likelihood - kl,
                train_log_likelihood=log_likelihood,
                train_kl=kl,
                test_elbo=test_elbo,
                seconds=time.perf_counter() - started,
                learning_rate=learning_rate,
            )
            if is_last:
                return


def check_finite(epoch: int, *values: float | tf.Variable) -> None:
    """Raises FloatingPointError if training has diverged: one of the ELBOs and weights after `epoch` is not finite."""
    if not all(np.isfinite(value).all() for value in values):
        raise FloatingPointError(
            f"training diverged: the ELBO or a weight after epoch {epoch} is not a finite number; "
            "try a lower --learning_rate, or another --activation (what was saved before is kept)"
        )


def block_steps(model: VAE, steps_per_epoch: int, batch_size: int) -> int:
    """The number of steps in a block: an epoch is cut into as few equal blocks as the limits allow.

    It depends on shapes alone, since the random draws are made block by block.
    """
    forward = multiply_adds(model.encoder) + multiply_adds(model.decoder)
    # A multiply-add counts as two operations, and the backward pass has two products for each one of the forward pass.
    flops_per_step = 6 * batch_size * forward
    bytes_per_step = 4 * batch_size * math.prod(model.image_shape)
    max_steps = min(steps_per_epoch, int(MAX_BLOCK_FLOPS // flops_per_step), MAX_BLOCK_BYTES // bytes_per_step)
    num_blocks = math.ceil(steps_per_epoch / max(1, max_steps))
    return math.ceil(steps_per_epoch / num_blocks)


def part_sizes(model: VAE, num_images: int) -> list[int]:
    """The numbers of images in the parts in which a step on num_images is computed."""
    if not model.jit_compile:
        return cores.sizes_per_core(num_images)
    has_two_parts = num_images >= MIN_BATCH_OF_TWO_PARTS and count_weights(model) <= MAX_WEIGHTS_OF_TWO_PARTS
    return cores.split_evenly(num_images, 2 if has_two_parts else 1)


def count_weights(model: VAE) -> int:
    """The number of the model's weights and biases."""
    return model.encoder.count_params() + model.decoder.count_params()


class Contribution(NamedTuple):
    """What images contribute to a training step on their batch.

    `gradients` is what they add to the gradients of the loss, a list like model.trainable_variables. `terms` is what
    they add to the batch's mean log-likelihood and mean KL, float32 [2], in nats.
    """

    gradients: list[tf.Tensor]
    terms: tf.Tensor


def compute_contribution(model: VAE, x: tf.Tensor, noise: tf.Tensor, batch_size: int) -> Contribution:
    """The Contribution of some rows of a batch: all of them, or a replica's share.

    x is [rows, d] and noise [rows, L]. The number of rows must be static. The contribution is computed in parts,
    because operations that do not need each other's results run side by side, on several cores.
    """
    sizes = part_sizes(model, x.shape[0])
    parts = zip(tf.split(x, sizes), tf.split(noise, sizes), strict=True)
    contributions = [
        compute_contribution_of_part(model, x_part, noise_part, batch_size) for x_part, noise_part in parts
    ]
    gradients_by_variable = zip(*[part.gradients for part in contributions], strict=True)
    return Contribution(
        gradients=[add_parts(gradients) for gradients in gradients_by_variable],
        terms=add_parts([part.terms for part in contributions]),
    )


def compute_contribution_of_part(model: VAE, x: tf.Tensor, noise: tf.Tensor, batch_size: int) -> Contribution:
    with tf.GradientTape() as tape:
        elbo = model.elbo(x, noise)
        log_likelihood = tf.reduce_sum(elbo.log_likelihood) / batch_size
        kl = tf.reduce_sum(elbo.kl) / batch_size
        # The mean of -elbo.value. The history has both terms, so each has a mean of its own.
        loss = kl - log_likelihood
    return Contribution(
        gradients=tape.gradient(loss, model.trainable_variables),
        terms=tf.stack([log_likelihood, kl]),
    )


def add_parts(values: Sequence[tf.Tensor]) -> tf.Tensor:
    """The sum of the parts' values, which have one shape. It has the same bits in every run."""
    if len(values) <= 2:
        return tf.add_n(values)
    # add_n adds three or more in the order in which their memory becomes free, which is not the same in every run.
    return tf.reduce_sum(tf.stack(values), axis=0)


def state_bytes(model: VAE) -> int:
    """The bytes of memory for the weights, their gradients and Adam's two moments."""
    return 4 * 4 * count_weights(model)


def step_bytes(model: VAE, batch_size: int) -> int:
    """The approximate number of bytes that a training step needs. It reads only the model's shapes.

    The outputs of each layer are kept for the backward pass, which has a gradient for each of them. The gradients of a
    step's parts are not counted. They matter only for large images with many latents.
    """
    layers = [*model.encoder.layers, *model.decoder.layers]
    num_outputs = sum(math.prod(layer.output.shape[1:]) for layer in layers)
    return state_bytes(model) + 4 * 2 * batch_size * num_outputs


def make_blocks(model: VAE, images: np.ndarray, epochs: range, batch_size: int, seed: int) -> Iterator[Block]:
    """Yields the blocks of these epochs, for images uint8 [n, h, w, c]."""
    pixels = images.reshape(len(images), -1)
    steps_per_epoch = len(images) // batch_size
    rows_per_epoch = steps_per_epoch * batch_size
    rows_per_block = block_steps(model, steps_per_epoch, batch_size) * batch_size
    for epoch in epochs:
        order = generator(seed, "order", epoch).permutation(len(pixels))[:rows_per_epoch]
        prepare_rng = generator(seed, "prepare", epoch)
        noise_rng = generator(seed, "noise", epoch)
        for first in range(0, rows_per_epoch, rows_per_block):
            chosen = order[first : first + rows_per_block]
            x = model.likelihood.prepare(pixels[chosen], prepare_rng)
            noise = noise_rng.standard_normal((len(chosen), model.latent_dim), dtype=np.float32)
            num_steps = len(chosen) // batch_size
            yield Block(fill_up(x, rows_per_block), fill_up(noise, rows_per_block), num_steps)


def fill_up(array: np.ndarray, num_rows: int) -> np.ndarray:
    """The array [n, m] with rows of zeros added, up to num_rows."""
    missing = num_rows - len(array)
    if missing == 0:
        return array
    return np.pad(array, ((0, missing), (0, 0)))


def compile_block(state: State, batch_size: int) -> Callable[[Block], np.ndarray]:
    """A function that takes the optimizer steps of a Block, compiled once for all blocks of a run.

    It returns each step's mean log-likelihood and mean KL in nats, float32 [num_steps, 2].
    """
    model = state.model
    optimizer = state.optimizer
    variables = model.trainable_variables

    def take_step(x: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        gradients, terms = compute_contribution(model, x, noise, batch_size)
        optimizer.apply(gradients, variables)
        return terms

    return compile_loop(take_step, batch_size, jit_compile=model.jit_compile)


def compile_loop(
    take_step: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], batch_size: int, jit_compile: bool
) -> Callable[[Block], np.ndarray]:
    """A compiled function that calls take_step(x, noise) for each batch of a Block.

    take_step returns the terms of a step, float32 [2]. The compiled function returns all of them, [num_steps, 2].
    """

    # Nothing runs in Python between the steps: the loop over them is part of the compiled function.
    @tf.function(jit_compile=jit_compile, autograph=False, reduce_retracing=True)
    def take_steps(x: tf.Tensor, noise: tf.Tensor, num_steps: tf.Tensor) -> tf.Tensor:
        batches = tf.reshape(x, (-1, batch_size, x.shape[-1]))
        noises = tf.reshape(noise, (-1, batch_size, noise.shape[-1]))

        def body(step: tf.Tensor, terms: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            return step + 1, terms.write(step, take_step(batches[step], noises[step]))

        terms = tf.TensorArray(tf.float32, batches.shape[0], element_shape=(2,))
        _, terms = tf.while_loop(lambda step, _: step < num_steps, body, (0, terms))
        return terms.stack()

    def train_block(block: Block) -> np.ndarray:
        # num_steps goes in as a tensor: a Python number would be compiled into the function.
        terms = take_steps(block.x, block.noise, tf.constant(block.num_steps))
        return terms.numpy()[: block.num_steps]

    return train_block
