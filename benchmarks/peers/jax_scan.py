"""The two VAEs in JAX with optax. An epoch of the flat VAE is one compiled scan."""

from collections.abc import Callable, Iterator, Sequence

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

# x as uint8 and noise ~ N(0, I): a batch of both.
Batch = tuple[jax.Array, jax.Array]


# ---- Networks ------------------------------------------------------------------------------------------------------
# A network takes its parameters, x and noise ~ N(0, I), [batch, L]. It returns the logits, which have the shape of x,
# and mean and log_std of q(z|x), [batch, L].


def flat_shapes(pixels: int, hidden_size: int) -> list[tuple[int, ...]]:
    """The shapes of the weights of the flat network: d -> H -> H -> 2L and back."""
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
    """The shapes of the weights of the report's convolutional network for 32x32 images."""
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
    """The maximum of each square of 2x2 pixels."""
    return lax.reduce_window(
        h,
        -jnp.inf,
        lax.max,
        window_dimensions=(1, 2, 2, 1),
        window_strides=(1, 2, 2, 1),
        padding="SAME",
    )


# ---- Training ------------------------------------------------------------------------------------------------------


def make_state(shapes: Sequence[tuple[int, ...]], optimizer: optax.GradientTransformation) -> State:
    """The state before the first step: Glorot uniform weights of these shapes, and biases of zero."""
    draw = jax.nn.initializers.glorot_uniform()
    keys = jax.random.split(jax.random.key(0), len(shapes))
    params = [(draw(key, shape), jnp.zeros(shape[-1])) for key, shape in zip(keys, shapes, strict=True)]
    return params, optimizer.init(params)


def make_step(
    network: Callable[..., tuple[jax.Array, jax.Array, jax.Array]],
    optimizer: optax.GradientTransformation,
    x_scale: float,
) -> Callable[[State, Batch], tuple[State, jax.Array]]:
    """A function (state, batch) -> (state, mean ELBO in nats) that takes one training step. It divides x by x_scale."""

    def mean_negative_elbo(params: Params, x: jax.Array, noise: jax.Array) -> jax.Array:
        logits, mean, log_std = network(params, x, noise)
        # -log p(x|z) and KL(q(z|x) || p(z)), summed over the batch.
        cross_entropy = jnp.sum(optax.sigmoid_binary_cross_entropy(logits, x))
        kl = 0.5 * jnp.sum(mean**2 + jnp.exp(2 * log_std) - 1 - 2 * log_std)
        return (cross_entropy + kl) / len(x)

    def step(state: State, batch: Batch) -> tuple[State, jax.Array]:
        params, moments = state
        x, noise = batch
        loss, gradient = jax.value_and_grad(mean_negative_elbo)(params, x.astype(jnp.float32) / x_scale, noise)
        updates, moments = optimizer.update(gradient, moments)
        params = optax.apply_updates(params, updates)
        return (params, moments), -loss

    return step


def train_flat(images: np.ndarray, hidden_size: int) -> Iterator[float]:
    """Yields the mean ELBO of each epoch of the flat VAE."""
    pixels = images.reshape(len(images), -1)
    optimizer = optax.adam(1e-3)
    state = make_state(flat_shapes(pixels.shape[1], hidden_size), optimizer)
    step = make_step(flat, optimizer, x_scale=1)

    @jax.jit(donate_argnums=0)
    def train_epoch(state: State, block: Batch) -> tuple[State, jax.Array]:
        state, elbos = lax.scan(step, init=state, xs=block)
        return state, elbos.mean()

    epochs = prepared_blocks(pixels, steps=len(images) // BATCH_SIZE, binarize=True)
    for block in prefetch(epochs):
        state, elbo = train_epoch(state, block)
        yield float(elbo)


def train_conv3(images: np.ndarray) -> Iterator[float]:
    """Yields the mean ELBO of each epoch of the convolutional VAE.

    The steps are called from Python, because XLA's convolutions are much slower inside a scan.
    """
    optimizer = optax.adam(1e-3)
    state = make_state(conv3_shapes(images.shape[-1]), optimizer)
    step = jax.jit(make_step(conv3, optimizer, x_scale=255), donate_argnums=0)
    blocks = prepared_blocks(images, steps=len(images) // BATCH_SIZE, binarize=False)
    for block in prefetch(blocks):
        elbos = []
        for batch in zip(*block, strict=True):
            state, elbo = step(state, batch)
            elbos.append(elbo)
        yield float(jnp.stack(elbos).mean())


def main() -> None:
    """Trains without end, in turn with the other contenders."""
    args = parse_arguments(__doc__, "flat", "conv3")
    images = np.load(args.images)
    elbos = train_flat(images, args.hidden_size) if args.kind == "flat" else train_conv3(images)
    turns = Turns()
    for elbo in elbos:
        turns.end_epoch(elbo)


if __name__ == "__main__":
    main()
