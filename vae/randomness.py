"""The random streams: one for each purpose and epoch, so that an epoch's draws depend on its seed and number alone."""

import numpy as np

# The place of a purpose in this tuple is part of its stream's key. Never reorder it.
PURPOSES = ("weights", "order", "prepare", "noise", "test_prepare", "test_noise", "draw", "importance")

# The seed of all draws for the test set, in evaluation and figures: the same for every run.
TEST_SEED = 0


def seed_sequence(seed: int, purpose: str, index: int = 0) -> np.random.SeedSequence:
    """Returns the seed of one stream. `purpose` is one of PURPOSES; `index` is an epoch, say, or an image."""
    return np.random.SeedSequence(seed, spawn_key=(PURPOSES.index(purpose), index))


def generator(seed: int, purpose: str, index: int = 0) -> np.random.Generator:
    """Returns the generator of one stream, e.g. generator(seed, "noise", epoch)."""
    return np.random.default_rng(seed_sequence(seed, purpose, index))
