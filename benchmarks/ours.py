"""This project's training, as train.py does it: a contender of the benchmark."""

import dataclasses
from collections.abc import Iterator

import numpy as np

import cli
from benchmarks.turns import Turns, parse_arguments
from config import Config

with cli.tensorflow_messages_held_back():
    from vae import cores, model, training
    from vae.history import HistoryRow

CONFIGS = {
    "flat_binarized": Config(),
    "conv3": Config(vae_type="conv3"),
    "conv3_mixed_bfloat16": Config(vae_type="conv3", precision="mixed_bfloat16"),
}


def train(images: np.ndarray, config: Config, num_epochs: int) -> Iterator[HistoryRow]:
    """Trains a new model, and yields the row of each epoch. No test ELBO is measured."""
    cores.set_threads(config.network, config.batch_size)
    state = training.create_state(model.create(config, images.shape[1:]))
    yield from training.fit(
        state,
        images,
        training.compile_block(state, config.batch_size),
        num_epochs=num_epochs,
        batch_size=config.batch_size,
        seed=config.seed,
        learning_rate_of=lambda epoch: config.learning_rate,
        measure_test_elbo=lambda: 0.0,
    )


def main() -> None:
    """Trains without end, in turn with the other contenders."""
    args = parse_arguments(__doc__, *CONFIGS)
    images = np.load(args.images)
    config = dataclasses.replace(CONFIGS[args.kind], hidden_size=args.hidden_size)
    turns = Turns()
    for row in train(images, config, num_epochs=10**6):
        turns.end_epoch(row.train_elbo)


if __name__ == "__main__":
    main()
