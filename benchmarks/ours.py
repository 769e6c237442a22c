"""This project's training, as train.py does it: a contender of the benchmark."""

import dataclasses

import numpy as np

import cli
from benchmarks.turns import Turns, parse_arguments
from config import VAE_TYPES, Config

with cli.tensorflow_environment():
    from vae import cores, runs, training

CONFIGS = {vae_type: Config(vae_type=vae_type) for vae_type in VAE_TYPES}
CONFIGS["conv3_mixed_bfloat16"] = Config(vae_type="conv3", precision="mixed_bfloat16")


def main() -> None:
    """Trains without end, in turn with the other contenders. No test ELBO is measured."""
    args = parse_arguments(__doc__, *CONFIGS)
    images = np.load(args.images)
    config = dataclasses.replace(CONFIGS[args.kind], hidden_size=args.hidden_size)
    cores.set_threads(config.network, config.batch_size)
    model = runs.build(config, images.shape[1:])
    state = training.create_state(model, config.learning_rate)
    turns = Turns()
    rows = training.fit(
        state,
        images,
        num_epochs=10**6,
        batch_size=config.batch_size,
        seed=config.seed,
        learning_rate_of=lambda epoch: config.learning_rate,
        measure_test_elbo=lambda: 0.0,
    )
    for row in rows:
        turns.end_epoch(row.train_elbo)


if __name__ == "__main__":
    main()
