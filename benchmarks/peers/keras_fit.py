"""The flat VAE with Keras 3's own `fit` on TensorFlow, compiled by XLA, 100 steps an execution."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from turns import BATCH, LATENT, arguments, prepared, start

STEPS = 100  # an execution, and a block of prepared data


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


def main():
    args = arguments(__doc__, "fit")
    images = np.load(args.images)
    images = images.reshape(len(images), -1)
    model = VAE(images.shape[1], args.hidden_size)
    model.compile(keras.optimizers.Adam(1e-3, epsilon=1e-8), jit_compile=True, steps_per_execution=STEPS)
    # Drawing in train_step is ten times slower under XLA.
    signature = tf.TensorSpec((STEPS, BATCH, images.shape[1]), tf.uint8), tf.TensorSpec((STEPS, BATCH, LATENT))
    blocks = tf.data.Dataset.from_generator(lambda: prepared(images, STEPS, binarize=True), output_signature=signature)
    data = blocks.prefetch(1).unbatch().prefetch(2)
    steps = len(images) // BATCH
    model.fit(data, epochs=10**6, steps_per_epoch=steps, verbose=0, callbacks=[Turns()])


if __name__ == "__main__":
    main()
