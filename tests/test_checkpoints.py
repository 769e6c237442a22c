"""Checkpoints: whole or not there, readable with NumPy alone, and no damage goes unnoticed."""

import errno
import os
import zipfile

import numpy as np
import pytest
from conftest import contents

from vae import checkpoints
from vae.checkpoints import RunError

# One array is so long that zipfile reads it in several pieces: its header is parsed before its end is read.
SHAPES = {"encoder/dense_1/kernel": (60, 50), "encoder/dense_1/bias": (50,), "adam/iteration": ()}


def arrays_of(epoch):
    rng = np.random.default_rng(epoch)
    return {name: np.asarray(rng.standard_normal(shape), np.float32) for name, shape in SHAPES.items()}


def write(folder, *epochs):
    for epoch in epochs:
        checkpoints.write(folder, epoch, arrays_of(epoch))


def is_epoch(arrays, epoch):
    return all(np.array_equal(arrays[name], array) for name, array in arrays_of(epoch).items())


def test_what_is_written_is_read_and_numpy_alone_opens_it(tmp_path):
    write(tmp_path, 3)
    epoch, arrays = checkpoints.read(tmp_path, SHAPES)
    assert epoch == 3 and set(arrays) == set(SHAPES) and is_epoch(arrays, 3)
    with np.load(tmp_path / "epoch-3.npz", allow_pickle=False) as content:
        assert set(content.files) == {*SHAPES, "epoch"} and content["epoch"] == 3
        assert is_epoch(content, 3)
    # Some of the names are enough for a reader.
    _, some = checkpoints.read(tmp_path, {"encoder/dense_1/bias": (50,)})
    assert list(some) == ["encoder/dense_1/bias"]


def test_the_newest_three_are_kept_and_found_by_their_names_alone(tmp_path):
    folder = tmp_path / "run[1]*"
    folder.mkdir()
    assert checkpoints.epochs(folder) == []
    for name in ("epoch-99.npz.tmp", "damaged-epoch-98.npz", ".epoch-97.npz.5.tmp", "epoch-.npz", "faces.npz"):
        (folder / name).write_bytes(b"")
    others = contents(folder)
    write(folder, 8, 9, 10, 11, 12)
    assert checkpoints.epochs(folder) == [10, 11, 12]
    assert set(contents(folder)) == {*others, "epoch-10.npz", "epoch-11.npz", "epoch-12.npz"}


def test_the_disk_is_full(tmp_path, monkeypatch):
    write(tmp_path, 1, 2, 3)
    before = contents(tmp_path)

    def write_some(file, **arrays):
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez", write_some)
    with pytest.raises(OSError, match=r"could not write .*epoch-4\.npz: No space left on device"):
        write(tmp_path, 4)
    assert contents(tmp_path) == before


def put(path, content):
    path.write_bytes(content)


def flipped(whole, bit):
    content = bytearray(whole)
    content[bit // 8] ^= 1 << (bit % 8)
    return bytes(content)


def damaged_versions(whole, count):
    """Copies of a file with one bit flipped, or with its end cut off: anywhere, but often where there are no arrays."""
    rng = np.random.default_rng(0)
    first_header = whole.index(b"NUMPY") + np.arange(120)
    directory = len(whole) - 1 - np.arange(300)
    places = np.concatenate([np.arange(len(whole)), *[first_header] * 20, *[directory] * 20])
    for place in rng.choice(places, count):
        yield flipped(whole, 8 * place + rng.integers(8))
    for length in rng.integers(len(whole), size=count // 10):
        yield whole[:length]


@pytest.mark.parametrize("count", [400, pytest.param(5000, marks=pytest.mark.slow)])
def test_no_flipped_bit_and_no_cut_goes_unnoticed(count, tmp_path, capsys):
    """Either the arrays are the same, since the bit means nothing to a reader, or the checkpoint before is read."""
    write(tmp_path, 2, 3)
    path = tmp_path / "epoch-3.npz"
    num_noticed = 0
    for content in damaged_versions(path.read_bytes(), count):
        put(path, content)
        epoch, arrays = checkpoints.read(tmp_path, SHAPES)
        assert is_epoch(arrays, epoch)
        is_noticed = epoch == 2
        assert ("epoch-3.npz cannot be read: " in capsys.readouterr().out) == is_noticed
        num_noticed += is_noticed
    assert num_noticed > count / 2


def test_an_array_that_seems_to_begin_earlier_is_not_read_from_there(tmp_path):
    """NumPy alone reads such a file without an error: it stops before the end, where the checksum is compared."""
    write(tmp_path, 2, 3)
    path = tmp_path / "epoch-3.npz"
    whole = path.read_bytes()
    length_of_header = whole.index(b"NUMPY\x01\x00") + 7
    put(path, flipped(whole, 8 * length_of_header + 1))
    with np.load(path) as content:
        assert not is_epoch(content, 3)
    epoch, arrays = checkpoints.read(tmp_path, SHAPES)
    assert epoch == 2 and is_epoch(arrays, 2)


def empty(path):
    put(path, b"")


def take_that_of_epoch_1(path):
    put(path, path.with_name("epoch-1.npz").read_bytes())


def take_that_of_another_model(path):
    np.savez(path, **{**arrays_of(3), "encoder/dense_1/bias": np.zeros(49, np.float32)}, epoch=3)


def take_that_of_another_program(path):
    np.savez(path, weights=np.zeros(3))


def take_a_pickle(path):
    np.savez(path, **{**arrays_of(3), "encoder/dense_1/bias": np.array([{}] * 50)}, epoch=3)


DAMAGES = [empty, take_that_of_epoch_1, take_that_of_another_model, take_that_of_another_program, take_a_pickle]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_with_a_message_and_set_aside_by_training(damage, tmp_path, capsys):
    write(tmp_path, 1, 2, 3)
    damage(tmp_path / "epoch-3.npz")
    before = contents(tmp_path)
    epoch, arrays = checkpoints.read(tmp_path, SHAPES)
    assert epoch == 2 and is_epoch(arrays, 2) and contents(tmp_path) == before
    (line,) = capsys.readouterr().out.splitlines()
    assert "epoch-3.npz cannot be read: " in line and line.endswith("; epoch 2 is restored instead")

    checkpoints.set_damaged_aside(tmp_path, restored_epoch=2)
    assert checkpoints.epochs(tmp_path) == [1, 2]
    assert contents(tmp_path)["damaged-epoch-3.npz"] == before["epoch-3.npz"]


def test_if_no_checkpoint_can_be_read_each_is_named(tmp_path):
    write(tmp_path, 2, 3)
    for epoch in (2, 3):
        empty(tmp_path / f"epoch-{epoch}.npz")
    with pytest.raises(RunError, match=r"(?s)epoch-3.* cannot be read: .*epoch-2.* cannot be read: .*--overwrite"):
        checkpoints.read(tmp_path, SHAPES)


@pytest.mark.parametrize(
    "error", [PermissionError(errno.EACCES, "no"), OSError(errno.EIO, "bad disk"), OSError(errno.EMFILE, "many")]
)
def test_a_checkpoint_that_cannot_be_opened_does_not_count_as_damaged(error, tmp_path, monkeypatch, capsys):
    """It may be whole, so the one before it is no way out."""
    write(tmp_path, 2, 3)

    def refuse(path):
        raise error

    monkeypatch.setattr(zipfile, "ZipFile", refuse)
    with pytest.raises(OSError) as caught:
        checkpoints.read(tmp_path, SHAPES)
    assert caught.value is error and capsys.readouterr().out == ""


def test_a_link_to_a_disk_that_is_not_there_does_not_count_as_damaged(tmp_path):
    write(tmp_path, 2)
    (tmp_path / "epoch-3.npz").symlink_to(tmp_path / "elsewhere" / "epoch-3.npz")
    with pytest.raises(OSError):
        checkpoints.read(tmp_path, SHAPES)


def test_a_checkpoint_that_is_removed_while_it_is_read_does_not_count_as_damaged(tmp_path, monkeypatch, capsys):
    """A trainer has saved newer ones in the meantime."""
    write(tmp_path, 3)
    read_one = checkpoints.read_one

    def read_too_late(path, epoch, shapes):
        if epoch == 3:
            write(tmp_path, 4, 5, 6)
        return read_one(path, epoch, shapes)

    monkeypatch.setattr(checkpoints, "read_one", read_too_late)
    epoch, arrays = checkpoints.read(tmp_path, SHAPES)
    assert epoch == 6 and is_epoch(arrays, 6) and capsys.readouterr().out == ""
