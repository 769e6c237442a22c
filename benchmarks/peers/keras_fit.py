"""The flat VAE with Keras 3's own `fit` on TensorFlow, compiled by XLA, 100 steps an execution."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from turns import arguments, start

BATCH, LATENT = 100, 20


class VAE(keras.Model):
    def __init__(self, pixels, hidden_size):
        super().__init__()
        h = hidden_size
        self.encoder = keras.Sequential(
            [layers.Dense(h, "relu"), layers.Dense(h, "relu"), layers.Dense(2 * LATENT)], name="encoder"
        )
        self.decoder = keras.Sequential(
            [layers.Dense(h, "relu"), layers.Dense(h, "relu"), layers.Dense(pixels)], name="decoder"
        )
        self.elbo = keras.metrics.Mean(name="elbo")
        self.encoder.build((None, pixels))
        self.decoder.build((None, LATENT))

    @property
    def metrics(self):
        return [self.elbo]

    def train_step(self, data):
        x, noise = data
        x = ops.cast(x, "float32")
        with tf.GradientTape() as tape:
            mean, log_std = ops.split(self.encoder(x), 2, axis=1)
            logits = self.decoder(mean + ops.exp(log_std) * noise)
            cross_entropy = ops.sum(tf.nn.sigmoid_cross_entropy_with_logits(labels=x, logits=logits))
            kl = 0.5 * ops.sum(mean**2 + ops.exp(2 * log_std) - 1 - 2 * log_std)
            loss = (cross_entropy + kl) / BATCH
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        self.elbo.update_state(-loss)
        return {"elbo": self.elbo.result()}


class Turns(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.turn = start()

    def on_epoch_end(self, epoch, logs=None):
        self.turn(elbo=float(logs["elbo"]))


def batches(images):
    """Binarized anew each epoch, with the noise; endless. Drawing in train_step is far slower under XLA."""
    rng = np.random.default_rng(0)
    while True:
        x = images[rng.permutation(len(images))]
        x = (rng.integers(0, 255, x.shape, np.uint8) < x).view(np.uint8)
        noise = rng.standard_normal((len(images), LATENT), dtype=np.float32)
        for first in range(0, len(images), BATCH):
            yield x[first : first + BATCH], noise[first : first + BATCH]


def main():
    args = arguments(__doc__, "fit")
    images = np.load(args.images)
    images = images.reshape(len(images), -1)
    model = VAE(images.shape[1], args.hidden_size)
    model.compile(keras.optimizers.Adam(1e-3, epsilon=1e-8), jit_compile=True, steps_per_execution=100)
    signature = tf.TensorSpec((BATCH, images.shape[1]), tf.uint8), tf.TensorSpec((BATCH, LATENT))
    data = tf.data.Dataset.from_generator(lambda: batches(images), output_signature=signature).prefetch(100)
    steps = len(images) // BATCH
    model.fit(data, epochs=10**6, steps_per_epoch=steps, verbose=0, callbacks=[Turns()])


if __name__ == "__main__":
    main()
