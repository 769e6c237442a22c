"""The random streams: one for each purpose and epoch, so that a resumed run draws what an uninterrupted one draws.

An epoch's stream depends on the seed and the epoch's number. For example, the noise of z in epoch 7 is drawn by
training.make_blocks from generator(seed, "noise", 7), where seed is --seed.
"""

import numpy as np

# The place of a purpose in this tuple is part of its stream's key. Never reorder it.
PURPOSES = (
    "weights",  # model.create
    "order",  # training.make_blocks: the permutation of the training images; index: the epoch
    "prepare",  # training.make_blocks: binarization or dequantization noise; index: the epoch
    "noise",  # training.make_blocks: the noise of q(z|x); index: the epoch
    "test_prepare",  # evaluation.prepare_test
    "test_noise",  # evaluation.make_elbo_evaluator
    "draw",  # make_pictures.py and explorer/page.py, with --draw_seed; index 1 with seed 0 is page.points_to_try
    "importance",  # importance.draw_noise; index: the image
    "fit",  # gaussian_fit.compile_fit
)

# The seed of the test set's binarization or noise, of its z in the test ELBO, and of the importance samples and their
# proposal. It is the same for every run.
TEST_SEED = 0


def seed_sequence(seed: int, purpose: str, index: int = 0) -> np.random.SeedSequence:
    """The seed of one stream, for one of PURPOSES and its index."""
    return np.random.SeedSequence(seed, spawn_key=(PURPOSES.index(purpose), index))


def generator(seed: int, purpose: str, index: int = 0) -> np.random.Generator:
    """The generator of one stream, e.g. generator(seed, "noise", epoch)."""
    return np.random.default_rng(seed_sequence(seed, purpose, index))
