"""The flat VAE in Keras 3 on TensorFlow, trained by Keras's own `fit`, compiled by XLA, 100 steps in one execution."""

import os
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from benchmarks.turns import BATCH_SIZE, LATENT_DIM, Turns, parse_arguments, prepared_blocks

# The largest number of steps in one execution, and in one block of prepared data.
MAX_BLOCK_STEPS = 100


class VAE(keras.Model):
    """d -> H -> H -> 2L and back, for d binary pixels."""

    def __init__(self, pixels: int, hidden_size: int) -> None:
        super().__init__()
        self.encoder = keras.Sequential(
            [
                layers.Dense(hidden_size, activation="relu"),
                layers.Dense(hidden_size, activation="relu"),
                layers.Dense(2 * LATENT_DIM),
            ],
            name="encoder",
        )
        self.decoder = keras.Sequential(
            [
                layers.Dense(hidden_size, activation="relu"),
                layers.Dense(hidden_size, activation="relu"),
                layers.Dense(pixels),
            ],
            name="decoder",
        )
        self.elbo = keras.metrics.Mean(name="elbo")
        self.encoder.build((None, pixels))
        self.decoder.build((None, LATENT_DIM))

    @property
    def metrics(self) -> list[keras.Metric]:
        """The metrics that `fit` resets before each epoch."""
        return [self.elbo]

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Takes a step of Adam on x [100, d] and noise ~ N(0, I), [100, L]; returns the mean ELBO in nats."""
        x, noise = data
        x = ops.cast(x, "float32")
        with tf.GradientTape() as tape:
            # z = mean + std * noise, [100, L].
            mean, log_std = ops.split(self.encoder(x), 2, axis=1)
            logits = self.decoder(mean + ops.exp(log_std) * noise)
            # -log p(x|z) and KL(q(z|x) || p(z)), summed over the images.
            cross_entropy = ops.sum(tf.nn.sigmoid_cross_entropy_with_logits(labels=x, logits=logits))
            kl = 0.5 * ops.sum(mean**2 + ops.exp(2 * log_std) - 1 - 2 * log_std)
            loss = (cross_entropy + kl) / BATCH_SIZE
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        self.elbo.update_state(-loss)
        return {"elbo": self.elbo.result()}


class TurnsCallback(keras.callbacks.Callback):
    """Tells the contender's turns that an epoch of `fit` has ended."""

    def __init__(self) -> None:
        super().__init__()
        self._turns = Turns()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        assert logs is not None
        self._turns.end_epoch(float(logs["elbo"]))


def make_data(images: np.ndarray, block_steps: int) -> tf.data.Dataset:
    """The batches, x [100, d] and noise [100, L], for images uint8 [n, d].

    NumPy prepares the data of many steps at a time, on a thread. If train_step drew it under XLA, an epoch would take
    about ten times as long.
    """
    signature = (
        tf.TensorSpec((block_steps, BATCH_SIZE, images.shape[1]), tf.uint8),
        tf.TensorSpec((block_steps, BATCH_SIZE, LATENT_DIM), tf.float32),
    )
    blocks = tf.data.Dataset.from_generator(
        lambda: prepared_blocks(images, block_steps, binarize=True),
        output_signature=signature,
    )
    return blocks.prefetch(1).unbatch().prefetch(2)


def main() -> None:
    """Trains without end, in turn with the other contenders."""
    args = parse_arguments(__doc__, "flat")
    images = np.load(args.images)
    pixels = images.reshape(len(images), -1)
    steps = len(images) // BATCH_SIZE
    block_steps = min(MAX_BLOCK_STEPS, steps)
    model = VAE(pixels.shape[1], args.hidden_size)
    optimizer = keras.optimizers.Adam(1e-3, epsilon=1e-8)
    model.compile(optimizer, jit_compile=True, steps_per_execution=block_steps)
    model.fit(
        make_data(pixels, block_steps),
        epochs=10**6,
        steps_per_epoch=steps,
        verbose=0,
        callbacks=[TurnsCallback()],
    )


if __name__ == "__main__":
    main()
