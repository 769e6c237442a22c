"""This project's training as train.py runs it, taking turns with its peers."""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "peers"))
sys.path.insert(0, str(Path(__file__).parents[1]))
from turns import arguments, start

import config


def main():
    args = arguments(__doc__, *config.VAE_TYPES)
    images = np.load(args.images)
    with config.tensorflow_environment():
        from vae import runs, training
    c = config.Config(vae_type=args.kind, hidden_size=args.hidden_size)
    state, turn = training.create_state(runs.build(c, images.shape[1:]), c.learning_rate), start()
    for row in training.fit(state, images, 10**6, c.batch_size, c.seed, test_elbo=lambda: 0.0):
        turn(elbo=row["train_elbo"])


if __name__ == "__main__":
    main()
