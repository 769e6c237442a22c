"""Distributions of the pixels given z: what x is made of the bytes, log p(x|z), and which picture to show.

Every likelihood has `num_params` (decoder outputs a pixel), `normalized` (whether exp(log_prob) sums or integrates to
one, so that there is an NLL) and

    prepare(pixels uint8 [n, d], rng) -> [n, d]     NumPy; the data of log_prob
    encoder_input(x [batch, d]) -> [batch, d]       the same on the scale that suits the encoder
    log_prob(x [batch, d], params [batch, d, num_params]) -> [batch], nats, summed over the d dimensions
    image(params) -> [batch, d] in [0, 1]
    bits_per_dim(nll, d) -> bits a dimension for a negative log-likelihood in nats, or None where that says nothing
"""

import math

import numpy as np
import tensorflow as tf

LOGIT_SQUEEZE = 0.01  # a in y = a + (1 - 2a) x, which keeps logit(y) finite (Dinh et al. 2017, arXiv:1605.08803, 4.1)


class Bernoulli:
    """Pixels drawn to 0 or 1 with probability pixel/255 (the report, 3.1); p(x|z) = Bernoulli(sigmoid(params))."""

    num_params = 1
    normalized = True

    def prepare(self, pixels, rng):
        """x ~ Binomial(1, pixel/255), uint8 [n, d] of 0 and 1; exact, from one random byte a pixel.

        With u uniform on 0..254, P(u < pixel) is pixel/255. Raw bytes run to 255, so each 255 is drawn again.
        """
        words = rng.bit_generator.random_raw(-(-pixels.size // 8)).astype("<u8", copy=False)
        u = words.view(np.uint8)[: pixels.size]
        again = np.flatnonzero(u == 255)
        u[again] = rng.integers(0, 255, again.size, dtype=np.uint8)
        return (u.reshape(pixels.shape) < pixels).view(np.uint8)

    def encoder_input(self, x):
        return x

    def log_prob(self, x, params):
        logits = params[..., 0]
        # log p = x log sigmoid(l) + (1 - x) log sigmoid(-l), from the logits: neither logarithm ever sees 0.
        return -tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(labels=x, logits=logits), axis=-1)

    def image(self, params):
        """The mean of x."""
        return tf.sigmoid(params[..., 0])

    def bits_per_dim(self, nll, d):
        """None: the binarized pixels are other data than the bytes; compare their nats."""
        return None


class CrossEntropy(Bernoulli):
    """Cross-entropy against the intensities pixel/255, as the report's pictures use it.

    No likelihood: its exponential does not integrate to one over grey pixels, so there is no NLL and no bits/dim.
    """

    normalized = False

    def prepare(self, pixels, rng):
        return pixels.astype(np.float32) / np.float32(255)


def _normal_log_density(x, mean, raw_scale, scale_floor, max_log_scale):
    """log N(x; mean, scale^2) elementwise, scale = exp(log_scale) + scale_floor, log_scale = m - softplus(m - raw).

    log_scale stays below m = max_log_scale smoothly: a hard limit would have no gradient beyond it.
    """
    scale = tf.exp(max_log_scale - tf.nn.softplus(max_log_scale - raw_scale)) + scale_floor
    return -0.5 * tf.square((x - mean) / scale) - tf.math.log(scale) - 0.5 * math.log(2 * math.pi)


class _Dequantized:
    """What the densities on [0, 1) share: bytes made continuous, and their NLL in bits/dim of the bytes."""

    num_params = 2
    normalized = True

    def prepare(self, pixels, rng):
        """x = (pixel + u)/256 with u uniform on [0, 1): float32 [n, d] in [0, 1].

        Theis et al. 2016, arXiv:1511.01844, eq. 3: the mean log-density of x is at most the log-probability of the
        bytes, so no scale can run away to 0. In float32, (255 + u)/256 may round to 1.
        """
        x = rng.random(pixels.shape, dtype=np.float32)
        x += pixels
        x *= np.float32(1 / 256)
        return x

    def encoder_input(self, x):
        """x moved to [-1, 1], about zero (LeCun et al. 1998, "Efficient BackProp", 4.3)."""
        return 2 * x - 1

    def bits_per_dim(self, nll, d):
        """nll/(d ln 2) + log2(256): bits a dimension of the bytes 0..255, for the NLL of a density on [0, 1)^d."""
        return nll / (d * math.log(2)) + 8


class Normal(_Dequantized):
    """x ~ N(mean, scale^2), mean = sigmoid(params 0) in (0, 1), a learned scale a pixel (the report, task 2.a.i)."""

    # A pixel that is black in every training image drives its scale to the floor, and costs 0.5 (x/floor)^2 nats where
    # a test image has it lit: up to 5e5 nats with a floor of 0.001.
    scale_floor = 0.01
    max_log_scale = 0.0  # a standard deviation of 1 covers all of [0, 1]

    def log_prob(self, x, params):
        mean, raw_scale = tf.sigmoid(params[..., 0]), params[..., 1]
        return tf.reduce_sum(_normal_log_density(x, mean, raw_scale, self.scale_floor, self.max_log_scale), axis=-1)

    def image(self, params):
        """The mean (and median) of x."""
        return tf.sigmoid(params[..., 0])


class LogitNormal(_Dequantized):
    """logit(y) ~ N(params 0, scale^2) with y = a + (1 - 2a) x, a = LOGIT_SQUEEZE (the report, task 2.a.ii)."""

    scale_floor = 0.001  # a byte's cell is at least 0.015 wide in logit(y)
    max_log_scale = 2.0  # logit(y) lies within 4.6 of 0

    def log_prob(self, x, params):
        # log p(x) = log N(logit y; mean, scale^2) + log |d logit(y)/dy| + log |dy/dx|
        #          = log N(logit y; mean, scale^2) - log y - log(1 - y) + log(1 - 2a)
        y = LOGIT_SQUEEZE + (1 - 2 * LOGIT_SQUEEZE) * x
        log_y, log_not_y = tf.math.log(y), tf.math.log1p(-y)
        mean, raw_scale = params[..., 0], params[..., 1]
        log_density = _normal_log_density(log_y - log_not_y, mean, raw_scale, self.scale_floor, self.max_log_scale)
        return tf.reduce_sum(log_density - log_y - log_not_y + math.log1p(-2 * LOGIT_SQUEEZE), axis=-1)

    def image(self, params):
        """The median of x (its mean has no closed form), clipped to [0, 1]."""
        x = (tf.sigmoid(params[..., 0]) - LOGIT_SQUEEZE) / (1 - 2 * LOGIT_SQUEEZE)
        return tf.clip_by_value(x, 0.0, 1.0)


LIKELIHOODS = {
    "cross_entropy": CrossEntropy(),
    "bernoulli": Bernoulli(),
    "normal": Normal(),
    "logit_normal": LogitNormal(),
}
