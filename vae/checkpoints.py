"""Checkpoints on disk: epoch-<n>.index and its data file, each whole or not there, the newest few kept."""

import contextlib
import os
import re
import shutil
import tempfile
from pathlib import Path

import tensorflow as tf

KEPT = 3
NO_DAMAGE = (  # a lack of rights, memory or network says nothing of what is in a file
    tf.errors.PermissionDeniedError,
    tf.errors.ResourceExhaustedError,
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.DeadlineExceededError,
)
SUFFIXES = (".index", ".data-00000-of-00001")


class RunError(OSError):
    """A run that is missing, damaged, in use, or in the way; the message says what to do."""


@contextlib.contextmanager
def replacing(path):
    """Yields a path to write to, which takes `path`'s place in one step if the block ends well.

    Raises RunError with the path's name where the disk is full; what was there is still there then.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise RunError(f"could not write {path}: {error.strerror}") from None  # a failed write names no file
    finally:
        temporary.unlink(missing_ok=True)


def epochs(folder):
    """The epochs that `folder` has a checkpoint of, rising; by the names of the files, so nothing else can disagree."""
    names = {path.name for path in Path(folder).iterdir()} if Path(folder).is_dir() else set()
    found = (re.fullmatch(r"epoch-(\d+)\.index", name) for name in names)
    return sorted(int(match[1]) for match in found if match and f"epoch-{match[1]}{SUFFIXES[1]}" in names)


def write(state, folder, epoch):
    """Adds a checkpoint of `state` (a tf.train.Checkpoint) and removes all but the newest KEPT.

    TensorFlow writes into a folder aside; the data file is moved in first, and the index, which is what makes it a
    checkpoint, last.
    """
    aside = Path(folder, f".epoch-{epoch}.{os.getpid()}.tmp")
    try:
        state.write(str(aside / f"epoch-{epoch}"))
        for path in sorted(aside.iterdir()):  # ".data" sorts before ".index"
            os.replace(path, Path(folder, path.name))
    except tf.errors.OpError as error:
        raise RunError(f"could not write a checkpoint into {folder}: {error.message}") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    for old in epochs(folder)[:-KEPT]:
        for suffix in SUFFIXES:
            _named(folder, old).with_suffix(suffix).unlink(missing_ok=True)


def restore(state, folder, partial=False):
    """Fills `state` from the newest checkpoint that can be read, and returns its epoch; says which could not be.

    partial: take only what `state` has (the model without the optimizer). TensorFlow checks a checksum of every tensor
    it reads. A checkpoint that was pruned while it was read is no damage: there is a newer one then.
    """
    reasons = {}
    while left := [epoch for epoch in epochs(folder) if epoch not in reasons]:
        try:
            _read(state, folder, left[-1], partial)
        except NO_DAMAGE as error:
            raise RunError(f"{_named(folder, left[-1])} cannot be read: {error.message}") from None
        except (tf.errors.OpError, ValueError, IndexError, RuntimeError, AssertionError) as error:
            reasons[left[-1]] = str(error).rsplit("}} ", 1)[-1]  # what comes before names TensorFlow's own functions
            continue
        for epoch in reasons.keys() & set(epochs(folder)):
            print(f"{_named(folder, epoch)} cannot be read ({reasons[epoch]}): epoch {left[-1]} is taken instead")
        return left[-1]
    listed = "".join(f"\n{_named(folder, epoch)} cannot be read: {reason}" for epoch, reason in reasons.items())
    raise RunError(f"no checkpoint in {folder} can be read{listed}\nto train it anew: --overwrite")


def _read(state, folder, epoch, partial):
    with tempfile.TemporaryDirectory() as scratch:
        # TensorFlow's reader takes the path for a glob pattern: a folder called runs[1] would not be found.
        Path(scratch, "run").symlink_to(Path(folder).resolve(), target_is_directory=True)
        status = state.read(str(Path(scratch, "run", f"epoch-{epoch}")))
    status.expect_partial().assert_existing_objects_matched() if partial else status.assert_consumed()


def _named(folder, epoch):
    return Path(folder, f"epoch-{epoch}")


def set_aside(folder, epoch):
    """Renames the checkpoints newer than `epoch`, which could not be read, so that nobody takes them for any."""
    for newer in (n for n in epochs(folder) if n > epoch):
        for path in (_named(folder, newer).with_suffix(suffix) for suffix in SUFFIXES):
            path.rename(path.with_name(f"damaged-{path.name}"))
