"""Checkpoints on disk: epoch-<n>.index and its data file, each whole or not there, the newest few kept."""

import contextlib
import os
import re
import shutil
import tempfile
from pathlib import Path

import tensorflow as tf

KEPT = 3


class RunError(OSError):
    """A run that is missing, damaged, in use, or in the way; the message says what to do."""


@contextlib.contextmanager
def replacing(path):
    """Yields a path to write to, which takes `path`'s place in one step if the block ends well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def epochs(folder):
    """The epochs that `folder` has a checkpoint of, rising; by the names of the files, so nothing else can disagree."""
    names = {path.name for path in Path(folder).iterdir()} if Path(folder).is_dir() else set()
    found = (re.fullmatch(r"epoch-(\d+)\.index", name) for name in names)
    return sorted(int(match[1]) for match in found if match and f"epoch-{match[1]}.data-00000-of-00001" in names)


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
        for path in (Path(folder, f"epoch-{old}.index"), Path(folder, f"epoch-{old}.data-00000-of-00001")):
            path.unlink(missing_ok=True)


def restore(state, folder, partial=False):
    """Fills `state` from the newest checkpoint; with `partial`, only what it has (the model without the optimizer)."""
    path = Path(folder, f"epoch-{epochs(folder)[-1]}")
    try:
        with tempfile.TemporaryDirectory() as scratch:
            # TensorFlow's reader takes the path for a glob pattern: a folder called runs[1] would not be found.
            Path(scratch, "run").symlink_to(Path(folder).resolve(), target_is_directory=True)
            status = state.read(str(Path(scratch, "run", path.name)))
        status.expect_partial().assert_existing_objects_matched() if partial else status.assert_consumed()
    except (tf.errors.OpError, ValueError, IndexError, RuntimeError, AssertionError) as error:
        older = f"\nto go back to epoch {epochs(folder)[-2]}, remove {path}.*" if len(epochs(folder)) > 1 else ""
        reason = str(error).rsplit("}} ", 1)[-1]  # what comes before names TensorFlow's own functions
        raise RunError(f"the checkpoint {path} cannot be read: {reason}{older}") from None
