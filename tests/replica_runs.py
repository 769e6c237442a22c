"""Trains small models on several replicas: python tests/replica_runs.py OUTPUT BATCH_SIZE NUM_REPLICAS NETWORK ...

With TF_CONFIG it is a worker of a cluster, and else it uses logical CPU devices. It is run as a process by
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


def make_images(network):
    """Returns training images: random ones of MNIST's size for the flat network, and the digits for conv3."""
    if network == "conv3":
        return datasets.load("digits").train_images
    return np.random.default_rng(0).integers(0, 256, (1000, 28, 28, 1), dtype=np.uint8)


def train(network, batch_size, replicas=None):
    """Trains a small model; returns each step's mean log-likelihood and KL, and all bits that training changes."""
    images = make_images(network)

    def build_model():
        return model.create(
            network=network,
            likelihood="cross_entropy" if network == "conv3" else "bernoulli",
            image_shape=images.shape[1:],
            latent_dim=5,
            hidden_size=50,
            activation="relu",
            seed=0,
        )

    if replicas is None:
        state = training.create_state(build_model(), LEARNING_RATE)
        train_block = training.compile_block(state, batch_size)
    else:
        state = replicas.create_state(build_model, LEARNING_RATE)
        if not replicas.is_chief:
            for variable in state.model.trainable_variables:
                variable.assign(variable + 1)
        replicas.broadcast(state)
        train_block = replicas.compile_block(state, batch_size)
    blocks = training.make_blocks(state.model, images, range(1, NUM_EPOCHS + 1), batch_size, seed=0)
    terms = np.concatenate([train_block(block) for block in blocks])
    variables = (*state.model.trainable_variables, *state.optimizer.variables)
    bits = np.concatenate([np.ravel(variable.numpy()).view(np.uint8) for variable in variables])
    return terms, bits


def train_all(replicas, batch_size, networks):
    """Returns the results of the networks by name. The flat one is trained twice."""
    results = {}
    for name in (*networks, "again"):
        network = "flat" if name == "again" else name
        results[f"{name}_terms"], results[f"{name}_bits"] = train(network, batch_size, replicas)
    return results


def main(path, batch_size, num_replicas, *networks):
    with contextlib.ExitStack() as stack:
        if "TF_CONFIG" in os.environ:
            parsed = cluster.parse_tf_config(os.environ["TF_CONFIG"])
            link = stack.enter_context(cluster.joined(parsed, 120, exit_code_of=lambda error: 1))
            replicas = distribution.connect(link)
        else:
            cpu = tf.config.list_physical_devices("CPU")[0]
            devices = [tf.config.LogicalDeviceConfiguration()] * int(num_replicas)
            tf.config.set_logical_device_configuration(cpu, devices)
            names = [f"CPU:{number}" for number in range(len(devices))]
            replicas = distribution.Replicas(tf.distribute.MirroredStrategy(names))
        assert replicas.count == int(num_replicas)
        results = train_all(replicas, int(batch_size), networks)
        if replicas.link is not None:
            replicas.link.exchange("trained")
    np.savez(path, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
