"""Trains small models on several replicas: python tests/replica_runs.py OUTPUT BATCH_SIZE NUM_REPLICAS MODEL ...

With TF_CONFIG it is a worker of a cluster. Otherwise it uses logical CPU devices. It is run as a process by
test_distribution.py, because TensorFlow takes its devices and workers only once.
"""

import contextlib
import os
import sys

import numpy as np

import cli

with cli.tensorflow_environment():
    import tensorflow as tf

    import datasets
    from vae import cluster, distribution, model, training

NUM_EPOCHS = 3
LEARNING_RATE = 1e-3

# The models by name: network, likelihood and precision.
MODELS = {
    "flat": ("flat", "bernoulli", "float32"),
    "normal": ("flat", "normal", "float32"),
    "logit_normal": ("flat", "logit_normal", "float32"),
    "flat_bfloat16": ("flat", "bernoulli", "mixed_bfloat16"),
    "conv3": ("conv3", "cross_entropy", "float32"),
    "conv3_bfloat16": ("conv3", "cross_entropy", "mixed_bfloat16"),
}


def make_images(name):
    """Returns training images: random ones of MNIST's size for the model "flat", and the digits for the others."""
    if name != "flat":
        return datasets.load("digits").train_images
    return np.random.default_rng(0).integers(0, 256, (1000, 28, 28, 1), dtype=np.uint8)


def train(name, batch_size, replicas=None):
    """Trains a small model; returns each step's mean log-likelihood and KL, and all bits that training changes."""
    images = make_images(name)
    network, likelihood, precision = MODELS[name]

    def build_model():
        return model.create(
            network=network,
            likelihood=likelihood,
            image_shape=images.shape[1:],
            latent_dim=5,
            hidden_size=50,
            activation="relu",
            seed=0,
            precision=precision,
        )

    if replicas is None:
        state = training.create_state(build_model(), LEARNING_RATE)
        train_block = training.compile_block(state, batch_size)
    else:
        state = replicas.create_state(build_model, LEARNING_RATE)
        if not replicas.is_chief:
            for variable in (*state.model.trainable_variables, *state.optimizer.variables):
                variable.assign(variable + 1)
        replicas.broadcast(state)
        train_block = replicas.compile_block(state, batch_size)
    blocks = training.make_blocks(state.model, images, range(1, NUM_EPOCHS + 1), batch_size, seed=0)
    terms = np.concatenate([train_block(block) for block in blocks])
    variables = (*state.model.trainable_variables, *state.optimizer.variables)
    if replicas is not None:
        check_copies(replicas, variables)
    bits = np.concatenate([np.ravel(variable.numpy()).view(np.uint8) for variable in variables])
    return terms, bits


def check_copies(replicas, variables):
    """Checks that the replicas of this process have the same bits in every variable."""
    for variable in variables:
        first, *others = replicas.strategy.experimental_local_results(variable.value)
        for other in others:
            assert first.numpy().tobytes() == other.numpy().tobytes(), variable.path


def train_all(replicas, batch_size, names):
    """Returns the results of the models by name. Each flat one in float32 is trained twice."""
    results = {}
    for name in names:
        results[f"{name}_terms"], results[f"{name}_bits"] = train(name, batch_size, replicas)
        network, _, precision = MODELS[name]
        if network == "flat" and precision == "float32":
            results[f"{name}_terms_again"], results[f"{name}_bits_again"] = train(name, batch_size, replicas)
    return results


def main(path, batch_size, num_replicas, *names):
    with contextlib.ExitStack() as stack:
        if "TF_CONFIG" in os.environ:
            parsed = cluster.parse_tf_config(os.environ["TF_CONFIG"])
            link = stack.enter_context(cluster.joined(parsed, 120, ending_of=lambda error: (1, str(error))))
            replicas = distribution.connect(link)
        else:
            cpu = tf.config.list_physical_devices("CPU")[0]
            devices = [tf.config.LogicalDeviceConfiguration()] * int(num_replicas)
            tf.config.set_logical_device_configuration(cpu, devices)
            device_names = [f"CPU:{number}" for number in range(len(devices))]
            replicas = distribution.Replicas(tf.distribute.MirroredStrategy(device_names))
        assert replicas.count == int(num_replicas)
        results = train_all(replicas, int(batch_size), names)
        if replicas.link is not None:
            replicas.link.exchange("trained")
    np.savez(path, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
