"""Times training steps in one process, or as a worker of a cluster: python -m benchmarks.replicas VAE_TYPE PRECISION.

It prints what it measured as a line of JSON. benchmarks/workers.py starts it, with TF_CONFIG for a worker.
"""

import json
import os
import sys
import time

import numpy as np

import cli
from config import Config

with cli.tensorflow_environment():
    from vae import cluster, cores, distribution, runs, training

# The steps of an epoch. The first epoch warms up, and the second one is timed.
NUM_STEPS = {"conv3": 20, "flat_binarized": 200}
IMAGE_SHAPES = {"conv3": (32, 32, 3), "flat_binarized": (28, 28, 1)}
HIDDEN_SIZE = 500


def main() -> None:
    """Measures alone, or together with the workers of TF_CONFIG."""
    vae_type, precision = sys.argv[1:]
    config = Config(vae_type=vae_type, precision=precision, hidden_size=HIDDEN_SIZE)
    parsed = cluster.parse_tf_config(os.environ.get("TF_CONFIG", ""))
    num_workers = 1 if parsed is None else len(parsed.tasks)
    cores.set_threads(config.network, config.batch_size // num_workers)
    if parsed is None:
        measurement = measure(config, None)
    else:
        with cluster.joined(parsed, timeout=60, ending_of=lambda error: (1, str(error))) as link:
            measurement = measure(config, distribution.connect(link))
            link.exchange("measured")
    print(json.dumps(measurement), flush=True)


def measure(config: Config, replicas: distribution.Replicas | None) -> dict[str, float]:
    """Returns the seconds of a step, and those of the processor that this process used for it."""
    num_steps = NUM_STEPS[config.vae_type]
    shape = IMAGE_SHAPES[config.vae_type]
    images = np.random.default_rng(0).integers(0, 256, (num_steps * config.batch_size, *shape), dtype=np.uint8)
    if replicas is None:
        state = training.create_state(runs.build(config, shape), config.learning_rate)
        train_block = training.compile_block(state, config.batch_size)
    else:
        state = replicas.create_state(lambda: runs.build(config, shape), config.learning_rate)
        train_block = replicas.compile_block(state, config.batch_size)
    warm_up = list(training.make_blocks(state.model, images, range(1, 2), config.batch_size, config.seed))
    timed = list(training.make_blocks(state.model, images, range(2, 3), config.batch_size, config.seed))
    for block in warm_up:
        train_block(block)
    if replicas is not None and replicas.link is not None:
        # All workers start the clock together.
        replicas.link.exchange(None)
    started = time.perf_counter()
    processor_started = time.process_time()
    for block in timed:
        train_block(block)
    return {
        "seconds": (time.perf_counter() - started) / num_steps,
        "processor_seconds": (time.process_time() - processor_started) / num_steps,
    }


if __name__ == "__main__":
    main()
