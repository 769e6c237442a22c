"""The two VAEs in JAX with optax.

An epoch of the flat VAE is one compiled scan, which draws its own data or takes data that NumPy has prepared. Its steps
may have two parts: XLA runs two halves of a batch side by side.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import optax
from jax import lax
from jax import numpy as jnp

from benchmarks.turns import BATCH_SIZE, LATENT_DIM, Turns, parse_arguments, prefetch, prepared_blocks

# The axes of a convolution's inputs, kernel and outputs.
DIMENSIONS = ("NHWC", "HWIO", "NHWC")

# The weights and biases of a layer.
Layer = tuple[jax.Array, jax.Array]
Params = list[Layer]

# All that training changes.
State = tuple[Params, optax.OptState]


# ---- Networks ------------------------------------------------------------------------------------------------------
# A network takes its parameters, x and noise ~ N(0, I), [batch, L]. It returns the logits, which have the shape of x,
# and mean and log_std of q(z|x), [batch, L].


def flat_shapes(pixels: int, hidden_size: int) -> list[tuple[int, ...]]:
    """Returns the shapes of the weights of the flat network: d -> H -> H -> 2L and back."""
    return [
        (pixels, hidden_size),
        (hidden_size, hidden_size),
        (hidden_size, 2 * LATENT_DIM),
        (LATENT_DIM, hidden_size),
        (hidden_size, hidden_size),
        (hidden_size, pixels),
    ]


def flat(params: Params, x: jax.Array, noise: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Applies the flat network to x [batch, d]."""
    h = jax.nn.relu(dense(x, params[0]))
    h = jax.nn.relu(dense(h, params[1]))
    mean, log_std = jnp.split(dense(h, params[2]), 2, axis=1)
    z = mean + jnp.exp(log_std) * noise
    h = jax.nn.relu(dense(z, params[3]))
    h = jax.nn.relu(dense(h, params[4]))
    logits = dense(h, params[5])
    return logits, mean, log_std


def conv3_shapes(channels: int) -> list[tuple[int, ...]]:
    """Returns the shapes of the weights of the report's convolutional network for 32x32 images."""
    return [
        (3, 3, channels, 32),
        (7, 7, 32, 64),
        (5, 5, 64, 128),
        (4 * 4 * 128, 2 * LATENT_DIM),
        (LATENT_DIM, 4 * 4 * 128),
        (5, 5, 128, 64),
        (7, 7, 64, 32),
        (3, 3, 32, channels),
    ]


def conv3(params: Params, x: jax.Array, noise: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Applies the convolutional network to x [batch, 32, 32, c]. Pools before the activation, as this project does."""
    h = x
    for layer in params[:3]:
        h = jax.nn.relu(max_pool(convolve(h, layer)))
    mean, log_std = jnp.split(dense(h.reshape(len(h), -1), params[3]), 2, axis=1)
    z = mean + jnp.exp(log_std) * noise
    h = jax.nn.relu(dense(z, params[4])).reshape(-1, 4, 4, 128)
    h = jax.nn.relu(convolve_transposed(h, params[5]))
    h = jax.nn.relu(convolve_transposed(h, params[6]))
    logits = convolve_transposed(h, params[7])
    return logits, mean, log_std


def dense(h: jax.Array, layer: Layer) -> jax.Array:
    """Applies a dense layer."""
    weights, bias = layer
    return h @ weights + bias


def convolve(h: jax.Array, layer: Layer) -> jax.Array:
    """Applies a convolution that keeps the size of the images."""
    kernel, bias = layer
    outputs = lax.conv_general_dilated(
        h,
        kernel,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=DIMENSIONS,
    )
    return outputs + bias


def convolve_transposed(h: jax.Array, layer: Layer) -> jax.Array:
    """Applies a transposed convolution that doubles the size of the images."""
    kernel, bias = layer
    outputs = lax.conv_transpose(h, kernel, strides=(2, 2), padding="SAME", dimension_numbers=DIMENSIONS)
    return outputs + bias


def max_pool(h: jax.Array) -> jax.Array:
    """Returns the maximum of each square of 2x2 pixels."""
    return lax.reduce_window(
        h,
        -jnp.inf,
        lax.max,
        window_dimensions=(1, 2, 2, 1),
        window_strides=(1, 2, 2, 1),
        padding="SAME",
    )


# ---- Training ------------------------------------------------------------------------------------------------------


def make_params(shapes: Sequence[tuple[int, ...]]) -> Params:
    """Returns Glorot uniform weights of these shapes, and biases of zero."""
    draw = jax.nn.initializers.glorot_uniform()
    keys = jax.random.split(jax.random.key(0), len(shapes))
    params = []
    for key, shape in zip(keys, shapes, strict=True):
        weights = draw(key, shape)
        bias = jnp.zeros(shape[-1])
        params.append((weights, bias))
    return params


def make_state(shapes: Sequence[tuple[int, ...]], optimizer: optax.GradientTransformation) -> State:
    """Returns the state before the first step."""
    params = make_params(shapes)
    return params, optimizer.init(params)


def make_step(
    network: Callable[..., tuple[jax.Array, jax.Array, jax.Array]],
    optimizer: optax.GradientTransformation,
    make_batch: Callable[..., tuple[jax.Array, jax.Array]],
    num_parts: int,
) -> Callable[[State, Any], tuple[State, jax.Array]]:
    """Returns a function (state, inputs) -> (state, mean ELBO in nats) that takes one training step.

    make_batch(*inputs) returns x and noise. They are split into num_parts equal parts, whose losses are added.
    """

    def sum_of_negative_elbos(params: Params, x: jax.Array, noise: jax.Array) -> jax.Array:
        logits, mean, log_std = network(params, x, noise)
        # -log p(x|z) and KL(q(z|x) || p(z)), summed over the batch.
        cross_entropy = jnp.sum(optax.sigmoid_binary_cross_entropy(logits, x))
        kl = 0.5 * jnp.sum(mean**2 + jnp.exp(2 * log_std) - 1 - 2 * log_std)
        return cross_entropy + kl

    def mean_negative_elbo(params: Params, x: jax.Array, noise: jax.Array) -> jax.Array:
        parts = zip(jnp.split(x, num_parts), jnp.split(noise, num_parts), strict=True)
        return sum(sum_of_negative_elbos(params, x_part, noise_part) for x_part, noise_part in parts) / len(x)

    def step(state: State, inputs: Any) -> tuple[State, jax.Array]:
        params, moments = state
        x, noise = make_batch(*inputs)
        loss, gradient = jax.value_and_grad(mean_negative_elbo)(params, x, noise)
        updates, moments = optimizer.update(gradient, moments)
        params = optax.apply_updates(params, updates)
        return (params, moments), -loss

    return step


def train_prepared(images: np.ndarray, hidden_size: int, num_parts: int) -> Iterator[float]:
    """Yields the mean ELBO of each epoch of the flat VAE, on data that NumPy prepares on a thread."""
    pixels = images.reshape(len(images), -1)
    optimizer = optax.adam(1e-3)
    state = make_state(flat_shapes(pixels.shape[1], hidden_size), optimizer)

    def make_batch(x: jax.Array, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        return x.astype(jnp.float32), noise

    step = make_step(flat, optimizer, make_batch, num_parts)

    @jax.jit(donate_argnums=0)
    def train_epoch(state: State, block: tuple[jax.Array, jax.Array]) -> tuple[State, jax.Array]:
        state, elbos = lax.scan(step, init=state, xs=block)
        return state, elbos.mean()

    epochs = prepared_blocks(pixels, steps=len(images) // BATCH_SIZE, binarize=True)
    for block in prefetch(epochs):
        state, elbo = train_epoch(state, block)
        yield float(elbo)


def train_own_draws(images: np.ndarray, hidden_size: int, num_parts: int) -> Iterator[float]:
    """Yields the mean ELBO of each epoch of the flat VAE, which draws x and noise in its compiled loop."""
    intensities = jnp.asarray(images.reshape(len(images), -1), jnp.float32) / 255
    optimizer = optax.adam(1e-3)
    state = make_state(flat_shapes(intensities.shape[1], hidden_size), optimizer)

    # The intensities are an argument, because JAX would otherwise make them a constant of the compiled function.
    @jax.jit(donate_argnums=0)
    def train_epoch(
        state: State,
        rows_and_keys: tuple[jax.Array, jax.Array],
        intensities: jax.Array,
    ) -> tuple[State, jax.Array]:
        def make_batch(rows: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
            x_key, noise_key = jax.random.split(key)
            x = jax.random.bernoulli(x_key, intensities[rows]).astype(jnp.float32)
            noise = jax.random.normal(noise_key, (BATCH_SIZE, LATENT_DIM))
            return x, noise

        step = make_step(flat, optimizer, make_batch, num_parts)
        state, elbos = lax.scan(step, init=state, xs=rows_and_keys)
        return state, elbos.mean()

    epochs = rows_and_keys_of_epochs(len(images), steps=len(images) // BATCH_SIZE)
    for rows_and_keys in prefetch(epochs):
        state, elbo = train_epoch(state, rows_and_keys, intensities)
        yield float(elbo)


def rows_and_keys_of_epochs(num_images: int, steps: int) -> Iterator[tuple[jax.Array, jax.Array]]:
    """Yields the order of the images for each epoch, as rows [steps, 100], and a random key for each step."""
    # The default generator, threefry, was faster here than rbg.
    key = jax.random.key(0)
    while True:
        key, order_key, steps_key = jax.random.split(key, 3)
        order = jax.random.permutation(order_key, num_images)
        yield order.reshape(steps, BATCH_SIZE), jax.random.split(steps_key, steps)


def train_conv3(images: np.ndarray) -> Iterator[float]:
    """Yields the mean ELBO of each epoch of the convolutional VAE.

    The steps are called from Python, because XLA's convolutions are much slower inside a scan.
    """
    optimizer = optax.adam(1e-3)
    state = make_state(conv3_shapes(images.shape[-1]), optimizer)

    def make_batch(x: jax.Array, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        return x.astype(jnp.float32) / 255, noise

    step = jax.jit(make_step(conv3, optimizer, make_batch, num_parts=1), donate_argnums=0)
    blocks = prepared_blocks(images, steps=len(images) // BATCH_SIZE, binarize=False)
    for all_x, all_noise in prefetch(blocks):
        elbos = []
        for x, noise in zip(all_x, all_noise, strict=True):
            state, elbo = step(state, (x, noise))
            elbos.append(elbo)
        yield float(jnp.stack(elbos).mean())


def main() -> None:
    """Trains without end, in turn with the other contenders."""
    args = parse_arguments(__doc__, "prepared", "prepared_parts", "own_draws", "own_draws_parts", "conv3")
    images = np.load(args.images)
    num_parts = 2 if args.kind.endswith("parts") else 1
    if args.kind.startswith("prepared"):
        elbos = train_prepared(images, args.hidden_size, num_parts)
    elif args.kind.startswith("own_draws"):
        elbos = train_own_draws(images, args.hidden_size, num_parts)
    else:
        elbos = train_conv3(images)
    turns = Turns()
    for elbo in elbos:
        turns.end_epoch(elbo)


if __name__ == "__main__":
    main()
