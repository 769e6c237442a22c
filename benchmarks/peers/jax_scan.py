"""The two VAEs in JAX with optax: a compiled scan an epoch, drawing in its own loop or fed prepared blocks."""

from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import optax
from jax import lax
from jax import numpy as jnp
from turns import BATCH, LATENT, arguments, prepared, start

CONVS = ((32, 3), (64, 7), (128, 5))
NHWC = ("NHWC", "HWIO", "NHWC")


def flat_shapes(pixels, h):
    return [(pixels, h), (h, h), (h, 2 * LATENT), (LATENT, h), (h, h), (h, pixels)]


def conv3_shapes(channels):
    return [
        *[(3, 3, channels, 32), (7, 7, 32, 64), (5, 5, 64, 128), (2048, 2 * LATENT), (LATENT, 2048)],
        *[(5, 5, 128, 64), (7, 7, 64, 32), (3, 3, 32, channels)],
    ]


def glorot(key, shapes):
    init = jax.nn.initializers.glorot_uniform()
    keys = jax.random.split(key, len(shapes))
    return [(init(k, shape), jnp.zeros(shape[-1])) for k, shape in zip(keys, shapes, strict=True)]


def dense(h, layer):
    return h @ layer[0] + layer[1]


def flat(params, x, noise):
    h = jax.nn.relu(dense(x, params[0]))
    q = dense(jax.nn.relu(dense(h, params[1])), params[2])
    mean, log_std = jnp.split(q, 2, axis=1)
    h = jax.nn.relu(dense(mean + jnp.exp(log_std) * noise, params[3]))
    return dense(jax.nn.relu(dense(h, params[4])), params[5]), mean, log_std


def conv3(params, x, noise):
    h = x
    for w, b in params[:3]:
        h = lax.conv_general_dilated(h, w, (1, 1), "SAME", dimension_numbers=NHWC) + b
        h = jax.nn.relu(lax.reduce_window(h, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME"))
    mean, log_std = jnp.split(dense(h.reshape(len(h), -1), params[3]), 2, axis=1)
    h = jax.nn.relu(dense(mean + jnp.exp(log_std) * noise, params[4])).reshape(-1, 4, 4, 128)
    for place, (w, b) in enumerate(params[5:]):
        h = lax.conv_transpose(h, w, (2, 2), "SAME", dimension_numbers=NHWC) + b
        h = jax.nn.relu(h) if place < 2 else h
    return h, mean, log_std


def compile_step(network, optimizer, draw):
    """((params, moments), inputs) -> ((params, moments), elbo), one step; draw(*inputs) -> (x, noise)."""

    def loss(params, x, noise):
        logits, mean, log_std = network(params, x, noise)
        cross_entropy = jnp.sum(optax.sigmoid_binary_cross_entropy(logits, x))
        kl = 0.5 * jnp.sum(mean**2 + jnp.exp(2 * log_std) - 1 - 2 * log_std)
        return (cross_entropy + kl) / len(x)

    def step(carry, inputs):
        params, moments = carry
        value, gradient = jax.value_and_grad(loss)(params, *draw(*inputs))
        updates, moments = optimizer.update(gradient, moments)
        return (optax.apply_updates(params, updates), moments), -value

    return step


def train_flat(images, hidden_size, own_draws):
    """Yields the mean ELBO of each epoch, a compiled scan over its steps."""
    images, optimizer = images.reshape(len(images), -1), optax.adam(1e-3)
    params = glorot(jax.random.key(0), flat_shapes(images.shape[1], hidden_size))
    steps, carry = len(images) // BATCH, (params, optimizer.init(params))
    pixels = jnp.asarray(images, jnp.float32) / 255 if own_draws else None

    @jax.jit(donate_argnums=0)
    def epoch(carry, inputs, pixels):
        def draw(first, second):
            if pixels is None:
                return first.astype(jnp.float32), second
            for_x, for_noise = jax.random.split(second)
            x = jax.random.bernoulli(for_x, pixels[first]).astype(jnp.float32)
            return x, jax.random.normal(for_noise, (BATCH, LATENT))

        carry, elbos = lax.scan(compile_step(flat, optimizer, draw), carry, inputs)
        return carry, elbos.mean()

    with ThreadPoolExecutor(1) as preparer:
        blocks = keys_of_steps(len(images), steps) if own_draws else prepared(images, steps, binarize=True)
        upcoming = preparer.submit(next, blocks)
        while True:
            block, upcoming = upcoming.result(), preparer.submit(next, blocks)
            carry, elbo = epoch(carry, block, pixels)
            yield float(elbo)


def keys_of_steps(num_images, steps):
    """Yields an epoch's rows [steps, 100] and a key for each step; endless."""
    key = jax.random.key(0)  # threefry: in a trial faster here than rbg
    while True:
        key, for_order, for_steps = jax.random.split(key, 3)
        order = jax.random.permutation(for_order, num_images).reshape(steps, BATCH)
        yield order, jax.random.split(for_steps, steps)


def train_conv3(images):
    """Yields the mean ELBO of each epoch: steps in a Python loop, since XLA's convolutions are far slower in a scan."""
    optimizer = optax.adam(1e-3)
    params = glorot(jax.random.key(0), conv3_shapes(images.shape[-1]))
    carry = params, optimizer.init(params)

    def draw(x, noise):
        return x.astype(jnp.float32) / 255, noise

    step = jax.jit(compile_step(conv3, optimizer, draw), donate_argnums=0)
    for x, noise in prepared(images, len(images) // BATCH, binarize=False):
        elbos = []
        for batch in zip(x, noise, strict=True):
            carry, elbo = step(carry, batch)
            elbos.append(elbo)
        yield float(jnp.stack(elbos).mean())


def main():
    args = arguments(__doc__, "own_draws", "prepared", "conv3")
    images, turn = np.load(args.images), start()
    conv = args.kind == "conv3"
    epochs = train_conv3(images) if conv else train_flat(images, args.hidden_size, args.kind == "own_draws")
    for elbo in epochs:
        turn(elbo=elbo)


if __name__ == "__main__":
    main()
