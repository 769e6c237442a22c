"""The variational autoencoder (Kingma & Welling 2014, arXiv:1312.6114; Rezende et al. 2014, arXiv:1401.4082).

q(z|x) = N(mean(x), diag exp(log_std(x))^2)      p(z) = N(0, I)      p(x|z): one of vae.likelihoods

Symbols: L is the number of latents, d = h w c the number of an image's pixels, P the decoder outputs per pixel.
"""

import collections
import contextlib
import math
from collections.abc import Iterator
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from config import Config
from vae.likelihoods import LIKELIHOODS, Likelihood
from vae.networks import NETWORKS
from vae.randomness import seed_sequence

# At most this many layers can have a seed of their own.
MAX_LAYERS = 16

# How many pixels are decoded at once: as many as 2500 images of the report's largest size have.
MAX_DECODED_PIXELS = 2500 * 32 * 32 * 3


class Posterior(NamedTuple):
    """q(z|x), a diagonal Gaussian: its mean and log standard deviation, [batch, L] each."""

    mean: tf.Tensor
    log_std: tf.Tensor

    def sample(self, noise: tf.Tensor) -> tf.Tensor:
        """z = mean + std * noise, [batch, L], for noise ~ N(0, I) (Kingma & Welling 2014, section 2.4)."""
        return self.mean + tf.exp(self.log_std) * noise

    def kl(self) -> tf.Tensor:
        """KL(q(z|x) || p(z)) = 1/2 sum(mean^2 + std^2 - 1 - 2 log std), [batch] nats (ibid., appendix B)."""
        # log_std is used once here and once in `sample`, so that its gradient is a sum of two terms. TensorFlow adds
        # three or more terms in the order in which their memory becomes free, which is not the same in every run.
        log_variance = 2 * self.log_std
        return 0.5 * tf.reduce_sum(self.mean**2 + tf.exp(log_variance) - 1 - log_variance, axis=-1)


class Elbo(NamedTuple):
    """The two terms of the evidence lower bound, [batch] nats each: log p(x|z) for one sample of z, and the KL."""

    log_likelihood: tf.Tensor
    kl: tf.Tensor

    @property
    def value(self) -> tf.Tensor:
        """E_q[log p(x|z)] - KL(q(z|x) || p(z)) <= log p(x), estimated with one z, [batch] nats (ibid., equation 3)."""
        return self.log_likelihood - self.kl


class VAE:
    """An encoder, a decoder and a likelihood for images of `image_shape` (h, w, c).

    `jit_compile` says whether XLA compiles it well. runs.restore sets `epoch` to the number of the checkpoint's epoch.
    """

    def __init__(
        self,
        encoder: keras.Model,
        decoder: keras.Model,
        likelihood: Likelihood,
        image_shape: tuple[int, ...],
        jit_compile: bool,
    ) -> None:
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood = likelihood
        self.image_shape = tuple(image_shape)
        self.latent_dim = decoder.input_shape[-1]
        self.jit_compile = jit_compile
        self.epoch = 0

    @property
    def trainable_variables(self) -> list[tf.Variable]:
        """The weights and biases of encoder and decoder."""
        return list(self.named_weights().values())

    def named_weights(self) -> dict[str, tf.Variable]:
        """The weights and biases by name: "encoder/dense_1/kernel", for example, for the encoder's first dense layer.

        Unlike Keras's names, these are the same for each model of a process.
        """
        named = {}
        for part, network in (("encoder", self.encoder), ("decoder", self.decoder)):
            counts: collections.Counter[str] = collections.Counter()
            for layer in network.layers:
                if not layer.trainable_variables:
                    continue
                kind = type(layer).__name__.lower()
                counts[kind] += 1
                for variable in layer.trainable_variables:
                    named[f"{part}/{kind}_{counts[kind]}/{variable.name}"] = variable
        return named

    def encode(self, x: tf.Tensor) -> Posterior:
        """q(z|x) for x, [batch, d], which the likelihood's `prepare` made.

        Raises ValueError if x has another shape.
        """
        d = math.prod(self.image_shape)
        if x.shape[1:] != (d,):
            raise ValueError(
                f"encode takes prepared images [n, {d}], got shape {tuple(x.shape)}: "
                "evaluation.prepare_test(model.likelihood, images) prepares bytes [n, h, w, c]"
            )
        encoder_input = self.likelihood.encoder_input(tf.cast(x, tf.float32))
        outputs = tf.cast(self.encoder(encoder_input), tf.float32)
        mean, log_std = tf.split(outputs, 2, axis=-1)
        return Posterior(mean, log_std)

    def decode(self, z: tf.Tensor) -> tf.Tensor:
        """The parameters of p(x|z), [batch, d, P], for z, [batch, L]. Raises ValueError for other widths."""
        if z.shape[-1] != self.latent_dim:
            raise ValueError(f"z has {z.shape[-1]} latents, but the model has {self.latent_dim}")
        return tf.cast(self.decoder(z), tf.float32)

    def elbo(self, x: tf.Tensor, noise: tf.Tensor) -> Elbo:
        """The Elbo of x, [batch, d], with one sample of z per row, made of noise [batch, L] ~ N(0, I)."""
        x = tf.cast(x, tf.float32)
        posterior = self.encode(x)
        z = posterior.sample(noise)
        return Elbo(self.likelihood.log_prob(x, self.decode(z)), posterior.kl())

    def images(self, z: np.ndarray) -> np.ndarray:
        """The pictures of z, [..., L], a grid for example: float32 [..., h, w, c] in [0, 1]."""
        rows = z.reshape(-1, z.shape[-1])
        chunk_size = max(1, MAX_DECODED_PIXELS // math.prod(self.image_shape))
        starts = range(0, len(rows), chunk_size)
        chunks = [self.likelihood.image(self.decode(rows[first : first + chunk_size])).numpy() for first in starts]
        return np.concatenate(chunks).reshape(*z.shape[:-1], *self.image_shape)


def create(config: Config, image_shape: tuple[int, ...]) -> VAE:
    """A VAE with fresh weights for images of image_shape (h, w, c). Equal seeds give equal weights.

    config.precision is Keras's dtype policy for the networks. With "mixed_bfloat16" (Micikevicius et al. 2018,
    arXiv:1710.03740), they compute in bfloat16, their outputs included. Their weights, the likelihood and the KL are
    float32.
    """
    network = NETWORKS[config.network]
    likelihood = LIKELIHOODS[config.likelihood]
    layer_seeds = seed_sequence(config.seed, "weights").generate_state(MAX_LAYERS)
    with dtype_policy(config.precision):
        encoder, decoder = network.build(
            image_shape=image_shape,
            latent_dim=config.latent_dim,
            num_params=likelihood.num_params,
            hidden_size=config.hidden_size,
            activation=config.activation,
            seeds=iter(layer_seeds),
        )
    return VAE(encoder, decoder, likelihood, image_shape, network.jit_compile)


@contextlib.contextmanager
def dtype_policy(name: str) -> Iterator[None]:
    """Makes the layers that are created inside the block follow a dtype policy of Keras."""
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(previous)
