"""The random streams."""

import itertools

import pytest

from vae.randomness import PURPOSES, generator

# The first output of each stream for seed 0 and index 1.
FIRST_OUTPUTS = {
    "weights": 6729429447121830309,
    "order": 10868409920998321208,
    "prepare": 5403977206170709550,
    "noise": 2162175121081297100,
    "test_prepare": 1868130949432030126,
    "test_noise": 14181277020859748995,
    "draw": 6305436515894073016,
    "importance": 247721495143579847,
    "fit": 6963348810159253831,
}


def test_each_seed_purpose_and_index_has_its_own_stream():
    keys = list(itertools.product((0, 1), PURPOSES, (0, 1)))
    draws = {tuple(generator(seed, purpose, index).integers(0, 2**32, 4)) for seed, purpose, index in keys}
    assert len(draws) == 4 * len(PURPOSES)


@pytest.mark.parametrize("purpose", PURPOSES)
def test_the_streams_have_not_changed(purpose):
    """A saved run that is continued, and the results in docs/, depend on these numbers."""
    assert generator(0, purpose, 1).bit_generator.random_raw() == FIRST_OUTPUTS[purpose]
