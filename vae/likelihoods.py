"""Distributions of the pixels given z: what x is, log p(x|z), bits/dim, and which picture to show.

Symbols: x is the data, [batch, d]; params are the decoder's outputs, [batch, d, P]; d = h w c.
"""

import abc
import math
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import tensorflow as tf

# a in y = a + (1 - 2a) x, which keeps logit(y) finite (Dinh et al. 2017, arXiv:1605.08803, section 4.1).
LOGIT_SQUEEZE = 0.01


class Likelihood(abc.ABC):
    """What every likelihood offers."""

    # The number of decoder outputs for each pixel, P.
    num_params: ClassVar[int]
    # Whether exp(log_prob) sums or integrates to one over x. Only then is there a negative log-likelihood to report.
    normalized: ClassVar[bool]
    # Whether `prepare` makes each pixel black or white, which suits few pictures.
    binarizes: ClassVar[bool] = False
    # The word of the page of explore.py for what `image` shows of p(x|z).
    image_shows: ClassVar[str] = "mean"
    # The page has no TensorFlow. It shows (sigmoid(params 0) - image_squeeze)/(1 - 2 image_squeeze), clipped to [0, 1].
    image_squeeze: ClassVar[float] = 0.0

    @abc.abstractmethod
    def prepare(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The data x, [n, d], made from the bytes `pixels`, uint8 [n, d]."""

    def encoder_input(self, x: tf.Tensor) -> tf.Tensor:
        """x, [batch, d], on the scale that suits the encoder."""
        return x

    @abc.abstractmethod
    def log_prob(self, x: tf.Tensor, params: tf.Tensor) -> tf.Tensor:
        """log p(x|z), [batch] in nats: the sum over the d pixels."""

    @abc.abstractmethod
    def image(self, params: tf.Tensor) -> tf.Tensor:
        """The picture to show for params, [batch, d] in [0, 1]."""

    @abc.abstractmethod
    def bits_per_dim(self, nll: float, d: int) -> float | None:
        """The bits per dimension of a negative log-likelihood in nats; None where they mean nothing."""


# With fewer rows, XLA computes an exponential again in less time than it takes to keep the first one.
MIN_SHARING_ROWS = 40


@tf.custom_gradient
def bernoulli_log_prob(x: tf.Tensor, logits: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple]]:
    """log p = x log sigmoid(l) + (1 - x) log sigmoid(-l) for logits l, elementwise.

    log p = x l - softplus(l), and softplus(l) = max(l, 0) - log sigmoid(|l|), so no logarithm ever sees 0. The gradient
    is x - sigmoid(l). From MIN_SHARING_ROWS rows on, it shares the exponential of the value.
    """
    # sigmoid(|l|) = 1/(1 + e) and sigmoid(-|l|) = e/(1 + e) with e = exp(-|l|), which cannot overflow.
    exponential = tf.exp(-tf.abs(logits))
    sigmoid_of_abs = 1 / (1 + exponential)
    log_prob = x * logits - tf.maximum(logits, 0) + tf.math.log(sigmoid_of_abs)

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        num_rows = logits.shape[0]
        if num_rows is None or num_rows < MIN_SHARING_ROWS:
            sigmoid = tf.sigmoid(logits)
        else:
            sigmoid = tf.where(logits >= 0, sigmoid_of_abs, exponential * sigmoid_of_abs)
        return upstream * logits, upstream * (x - sigmoid)

    return log_prob, gradient


class Bernoulli(Likelihood):
    """Binarized pixels: x ~ Binomial(1, pixel/255) (the report, section 3.1), p(x|z) = Bernoulli(sigmoid(params))."""

    num_params = 1
    normalized = True
    binarizes = True

    def prepare(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draws x ~ Binomial(1, pixel/255): uint8 [n, d] of 0 and 1.

        The draw is exact and needs one random byte per pixel: with u uniform on 0..254, P(u < pixel) = pixel/255. Raw
        bytes run to 255, so each 255 is drawn again.
        """
        num_words = math.ceil(pixels.size / 8)
        words = rng.bit_generator.random_raw(num_words).astype("<u8", copy=False)
        u = words.view(np.uint8)[: pixels.size]
        rejected = np.flatnonzero(u == 255)
        u[rejected] = rng.integers(0, 255, rejected.size, dtype=np.uint8)
        x = u.reshape(pixels.shape) < pixels
        return x.view(np.uint8)

    def log_prob(self, x: tf.Tensor, params: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(bernoulli_log_prob(x, params[..., 0]), axis=-1)

    def image(self, params: tf.Tensor) -> tf.Tensor:
        """The mean of x."""
        return tf.sigmoid(params[..., 0])

    def bits_per_dim(self, nll: float, d: int) -> None:
        """None, because binarized pixels are different data from the bytes, so compare their nats instead."""
        return None


class CrossEntropy(Bernoulli):
    """The cross-entropy with the intensities pixel/255, which the report's convolutional models use.

    It is not a likelihood: its exponential does not integrate to one over grey pixels. So it has no negative
    log-likelihood and no bits per dimension.
    """

    normalized = False
    binarizes = False

    def prepare(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """x = pixel/255, float32 [n, d] in [0, 1]."""
        return pixels.astype(np.float32) / np.float32(255)


class DequantizedLikelihood(Likelihood):
    """What densities of dequantized pixels share: the data, a learned scale, and bits per dimension of the bytes.

    A subclass sets scale_floor and max_log_scale, and implements log_prob and image.
    """

    num_params = 2
    normalized = True
    # The learned scale lies between scale_floor and scale_floor + exp(max_log_scale).
    scale_floor: ClassVar[float]
    max_log_scale: ClassVar[float]

    def prepare(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """x = (pixel + u)/256 with u uniform on [0, 1): float32 [n, d] in [0, 1].

        The mean log-density of x is at most the log-probability of the bytes (Theis et al. 2016, arXiv:1511.01844,
        equation 3), so no scale can shrink to 0. In float32, (255 + u)/256 may round to 1.
        """
        x = rng.random(pixels.shape, dtype=np.float32)
        x += pixels
        x *= np.float32(1 / 256)
        return x

    def encoder_input(self, x: tf.Tensor) -> tf.Tensor:
        """x moved to [-1, 1], centred on zero (LeCun et al. 1998, "Efficient BackProp", section 4.3)."""
        return 2 * x - 1

    def bits_per_dim(self, nll: float, d: int) -> float:
        """nll/(d ln 2) + log2(256): bits per dimension of the bytes, for the NLL of a density on [0, 1)^d."""
        return nll / (d * math.log(2)) + 8

    def scale(self, raw_scale: tf.Tensor) -> tf.Tensor:
        """scale = exp(m - softplus(m - raw_scale)) + scale_floor with m = max_log_scale, elementwise.

        The softplus keeps the exponent below m smoothly. A hard limit would have no gradient beyond it.
        """
        log_scale = self.max_log_scale - tf.nn.softplus(self.max_log_scale - raw_scale)
        return tf.exp(log_scale) + self.scale_floor

    def normal_log_density(self, x: tf.Tensor, mean: tf.Tensor, raw_scale: tf.Tensor) -> tf.Tensor:
        """log N(x; mean, scale(raw_scale)^2), elementwise."""
        scale = self.scale(raw_scale)
        return -0.5 * tf.square((x - mean) / scale) - tf.math.log(scale) - 0.5 * math.log(2 * math.pi)


class Normal(DequantizedLikelihood):
    """x ~ N(mean, scale^2), mean = sigmoid(params 0) in (0, 1), with a learned scale per pixel (report, task 2.a.i)."""

    # A pixel that is black in every training image drives its scale to the floor. If a test image has that pixel lit,
    # the cost is 0.5 (x/floor)^2 nats: up to 5e5 nats with a floor of 0.001.
    scale_floor = 0.01
    # A standard deviation of 1 covers all of [0, 1].
    max_log_scale = 0.0

    def log_prob(self, x: tf.Tensor, params: tf.Tensor) -> tf.Tensor:
        mean = tf.sigmoid(params[..., 0])
        return tf.reduce_sum(self.normal_log_density(x, mean, params[..., 1]), axis=-1)

    def image(self, params: tf.Tensor) -> tf.Tensor:
        """The mean of x, which is its median too."""
        return tf.sigmoid(params[..., 0])


class LogitNormal(DequantizedLikelihood):
    """logit(y) ~ N(params 0, scale^2) with y = a + (1 - 2a) x, a = LOGIT_SQUEEZE (the report, task 2.a.ii)."""

    # The values that one byte stands for span at least 0.015 of logit(y).
    scale_floor = 0.001
    # logit(y) lies within 4.6 of 0.
    max_log_scale = 2.0
    image_shows = "median"
    image_squeeze = LOGIT_SQUEEZE

    def log_prob(self, x: tf.Tensor, params: tf.Tensor) -> tf.Tensor:
        # log p(x) = log N(logit y; mean, scale^2) + log |d logit(y)/dy| + log |dy/dx|
        #          = log N(logit y; mean, scale^2) - log y - log(1 - y) + log(1 - 2a)
        y = LOGIT_SQUEEZE + (1 - 2 * LOGIT_SQUEEZE) * x
        log_y = tf.math.log(y)
        log_not_y = tf.math.log1p(-y)
        log_density = self.normal_log_density(log_y - log_not_y, params[..., 0], params[..., 1])
        return tf.reduce_sum(log_density - log_y - log_not_y + math.log1p(-2 * LOGIT_SQUEEZE), axis=-1)

    def image(self, params: tf.Tensor) -> tf.Tensor:
        """The median of x, clipped to [0, 1]. The mean has no closed form."""
        x = (tf.sigmoid(params[..., 0]) - LOGIT_SQUEEZE) / (1 - 2 * LOGIT_SQUEEZE)
        return tf.clip_by_value(x, 0.0, 1.0)


LIKELIHOODS: dict[str, Likelihood] = {
    "cross_entropy": CrossEntropy(),
    "bernoulli": Bernoulli(),
    "normal": Normal(),
    "logit_normal": LogitNormal(),
}
