"""The variational autoencoder (Kingma & Welling 2014, arXiv:1312.6114; Rezende et al. 2014, arXiv:1401.4082).

q(z|x) = N(mean(x), diag exp(log_std(x))^2)      p(z) = N(0, I)      p(x|z): one of vae.likelihoods
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from vae.likelihoods import LIKELIHOODS
from vae.networks import NETWORKS

# Where random numbers go. Each purpose (and epoch) has a stream of its own, so that an epoch's draws depend on the
# seed and its number alone. Never reorder: a purpose's place in this tuple is part of its stream's key.
PURPOSES = ("weights", "order", "prepare", "noise", "test_prepare", "test_noise", "draw", "importance")


def seed_sequence(seed, purpose, index=0):
    return np.random.SeedSequence(seed, spawn_key=(PURPOSES.index(purpose), index))


def generator(seed, purpose, index=0):
    """The NumPy generator for one purpose, e.g. ("noise", epoch)."""
    return np.random.default_rng(seed_sequence(seed, purpose, index))


class Posterior(NamedTuple):
    """q(z|x), a diagonal Gaussian: mean and log standard deviation, each [batch, L]."""

    mean: tf.Tensor
    log_std: tf.Tensor

    def sample(self, noise):
        """z = mean + std * noise for noise ~ N(0, I) (Kingma & Welling 2014, section 2.4), [batch, L]."""
        return self.mean + tf.exp(self.log_std) * noise

    def kl(self):
        """KL(q(z|x) || p(z)) = 1/2 sum(mean^2 + std^2 - 1 - 2 log std) (ibid., appendix B), [batch] nats."""
        return 0.5 * tf.reduce_sum(self.mean**2 + tf.exp(2 * self.log_std) - 1 - 2 * self.log_std, axis=-1)


class Elbo(NamedTuple):
    """The evidence lower bound's two terms for each example, [batch] nats: a one-sample log p(x|z), and the KL."""

    log_likelihood: tf.Tensor
    kl: tf.Tensor

    @property
    def value(self):
        """log p(x) >= E_q[log p(x|z)] - KL(q(z|x) || p(z)) (ibid., eq. 3), [batch] nats; maximised."""
        return self.log_likelihood - self.kl


class VAE(tf.Module):
    """Encoder, decoder and likelihood of images of `image_shape` (h, w, c), flattened to d = h w c; epochs trained."""

    def __init__(self, encoder, decoder, likelihood, image_shape, jit_compile):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood = likelihood
        self.image_shape = tuple(image_shape)
        self.latent_dim = decoder.input_shape[-1]
        self.jit_compile = jit_compile
        self.epoch = 0

    @property
    def trainable_variables(self):
        """The weights of encoder and decoder (tf.Module alone does not find those of Keras layers)."""
        return [*self.encoder.trainable_variables, *self.decoder.trainable_variables]

    def encode(self, x):
        """q(z|x) for x [batch, d] as the likelihood's `prepare` made it."""
        x = self.likelihood.encoder_input(tf.cast(x, tf.float32))
        mean, log_std = tf.split(self.encoder(x), 2, axis=-1)
        return Posterior(mean, log_std)

    def decode(self, z):
        """The parameters of p(x|z), [batch, d, num_params], for z [batch, L]."""
        return self.decoder(z)

    def elbo(self, x, noise):
        """The Elbo of x [batch, d] with one sample of z a row, from noise [batch, L] ~ N(0, I)."""
        x = tf.cast(x, tf.float32)
        posterior = self.encode(x)
        z = posterior.sample(noise)
        return Elbo(self.likelihood.log_prob(x, self.decode(z)), posterior.kl())

    def images(self, z):
        """The pictures of z [..., L], say a grid: NumPy [..., h, w, c] in [0, 1]."""
        images = self.likelihood.image(self.decode(z.reshape(-1, z.shape[-1]))).numpy()
        return images.reshape(*z.shape[:-1], *self.image_shape)


def create(network, likelihood, image_shape, latent_dim, hidden_size, activation, seed):
    """A VAE with fresh weights, its network and likelihood by name; the same seed gives the same weights."""
    network, likelihood = NETWORKS[network], LIKELIHOODS[likelihood]
    seeds = seed_sequence(seed, "weights").generate_state(16)
    shape = tuple(int(n) for n in image_shape)
    encoder, decoder = network.build(shape, latent_dim, likelihood.num_params, hidden_size, activation, seeds)
    return VAE(encoder, decoder, likelihood, shape, network.jit_compile)
