"""Trains small models on several replicas: python tests/replica_runs.py OUTPUT BATCH_SIZE NUM_DEVICES MODEL ...

With TF_CONFIG it is a worker of a cluster. Otherwise it uses logical CPU devices. It is run as a process by
test_distribution.py, because TensorFlow takes its devices and workers only once.
"""

import os
import sys

import numpy as np
import tensorflow as tf

import datasets
from config import Config
from vae import distribution, model, training

NUM_EPOCHS = 3

MODELS = {
    "flat": Config(latent_dim=5, hidden_size=50),
    "normal": Config(vae_type="flat_cont_normal", latent_dim=5, hidden_size=50),
    "logit_normal": Config(vae_type="flat_cont_logit", latent_dim=5, hidden_size=50),
    "flat_bfloat16": Config(latent_dim=5, hidden_size=50, precision="mixed_bfloat16"),
    "conv3": Config(vae_type="conv3", latent_dim=5),
    "conv3_bfloat16": Config(vae_type="conv3", latent_dim=5, precision="mixed_bfloat16"),
}


def train(name, batch_size, replicas=None):
    """Trains on the digits; returns each step's mean log-likelihood and KL, and all bits that training changes."""
    images = datasets.load("digits").train_images
    if replicas is None:
        state = training.create_state(model.create(MODELS[name], images.shape[1:]))
        train_block = training.compile_block(state, batch_size)
    else:
        with replicas.strategy.scope():
            state = training.create_state(model.create(MODELS[name], images.shape[1:]))
        if not replicas.is_chief:
            for variable in state.variables().values():
                variable.assign(variable + 1)
        replicas.broadcast(state)
        train_block = replicas.compile_block(state, batch_size)
    state.optimizer.learning_rate.assign(1e-3)
    blocks = training.make_blocks(state.model, images, range(1, NUM_EPOCHS + 1), batch_size, seed=0)
    terms = np.concatenate([train_block(block) for block in blocks])
    variables = state.variables().values()
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


def main(path, batch_size, num_devices, *names):
    batch_size = int(batch_size)
    if "TF_CONFIG" in os.environ:
        replicas = distribution.connect(Config(batch_size=batch_size), timeout=240)
    else:
        cpu = tf.config.list_physical_devices("CPU")[0]
        devices = [tf.config.LogicalDeviceConfiguration()] * int(num_devices)
        tf.config.set_logical_device_configuration(cpu, devices)
        strategy = tf.distribute.MirroredStrategy([f"CPU:{number}" for number in range(len(devices))])
        replicas = distribution.Replicas(strategy, batch_size)
    results = {}
    for name in names:
        results[f"{name}_terms"], results[f"{name}_bits"] = train(name, batch_size, replicas)
        if name == "flat":
            terms, bits = train(name, batch_size, replicas)
            assert (terms == results["flat_terms"]).all() and (bits == results["flat_bits"]).all()
    replicas.meet()
    np.savez(path, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
