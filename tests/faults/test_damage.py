"""Damaged checkpoints: no wrong array is ever taken for a right one, and the checkpoint before it is used."""

import random

import numpy as np
import pytest
from conftest import saved
from injection import DIGITS, in_child, only_run, run_script

import train
from vae import checkpoints

NUM_FLIPS = 5000


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a run of two epochs."""
    folder = tmp_path_factory.mktemp("trained")
    assert in_child(run_script, train.main, folder, *DIGITS, "--num_epochs", "2") == 0
    return folder


@pytest.fixture
def check(trained, capsys):
    """A function that reads the run, whose newest checkpoint may be damaged. Returns whether damage was found.

    Other arrays than the saved ones are an error, and so is an older checkpoint without a message.
    """
    run = only_run(trained)
    expected = {}
    for epoch in (1, 2):
        with np.load(checkpoints.path_of(run, epoch)) as content:
            expected[epoch] = {name: array for name, array in content.items() if name != "epoch"}
    shapes = {name: array.shape for name, array in expected[2].items()}
    as_bytes = {epoch: list(map(bytes_of, arrays.values())) for epoch, arrays in expected.items()}

    def read_and_compare():
        epoch, arrays = checkpoints.read(run, shapes)
        assert list(map(bytes_of, arrays.values())) == as_bytes[epoch]
        message = f"{checkpoints.path_of(run, 2)} cannot be read: "
        is_found = epoch == 1
        printed = capsys.readouterr().out
        assert printed.startswith(message) == is_found
        assert printed.endswith("; epoch 1 is restored instead\n") == is_found
        return is_found

    return read_and_compare


def bytes_of(array):
    return array.dtype.str, array.tobytes()


@pytest.fixture
def newest(trained):
    """The path of the newest checkpoint, which is whole again after the test."""
    path = checkpoints.path_of(only_run(trained), 2)
    whole = path.read_bytes()
    yield path
    path.write_bytes(whole)


def test_a_cut_checkpoint_is_passed_over(newest, check):
    whole = newest.read_bytes()
    assert not check()
    for length in [*range(0, len(whole), 100), len(whole) - 1]:
        newest.write_bytes(whole[:length])
        assert check()


def test_no_flipped_bit_of_a_checkpoint_changes_an_array_unnoticed(newest, check):
    """Some bits are in parts of the headers that nothing depends on."""
    bits = random.Random(0).sample(range(8 * newest.stat().st_size), NUM_FLIPS)
    num_found = 0
    with newest.open("r+b", buffering=0) as file:
        for bit in bits:
            flip(file, bit)
            num_found += check()
            flip(file, bit)
    assert num_found > NUM_FLIPS / 2


def flip(file, bit):
    file.seek(bit // 8)
    (byte,) = file.read(1)
    file.seek(bit // 8)
    file.write(bytes([byte ^ 1 << bit % 8]))


def test_training_continues_from_the_checkpoint_before_a_damaged_one(newest, trained, capfd):
    run = only_run(trained)
    expected = saved(run)
    newest.write_bytes(newest.read_bytes()[:5000])
    assert in_child(run_script, train.main, trained, *DIGITS, "--num_epochs", "2", "--restore") == 0
    assert "epoch 1 is restored instead" in capfd.readouterr().out
    assert saved(run) == expected
    assert (run / f"damaged-{newest.name}").stat().st_size == 5000
