"""Checkpoints on disk: epoch-<n>.index and its data file, which count only together. The newest few are kept.

A kill at any moment leaves the previous checkpoint in use: see write.
"""

import errno
import os
import re
import shutil
import tempfile
from pathlib import Path

import tensorflow as tf

NUM_KEPT = 3
INDEX_SUFFIX = ".index"
DATA_SUFFIX = ".data-00000-of-00001"

# The name of the link through which TensorFlow reads a run's folder: see read.
LINK_NAME = "run-being-read"

# The last resort for a run that cannot be read. Scripts that do not train say it, too.
RETRAINING = "to train again from scratch: train.py with the flags of this run and --overwrite"

# TensorFlow's readers raise one of these for a file that is damaged, or that is not a checkpoint of this model. For
# most damage the class is the plain OpError, which also stands for errors of the operating system: see is_damage.
DAMAGED = (
    tf.errors.DataLossError,
    tf.errors.InternalError,
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    tf.errors.OutOfRangeError,
    tf.errors.UnimplementedError,
    AssertionError,
    IndexError,
    ValueError,
)


class RunError(OSError):
    """A run that is missing, damaged, in use or in the way; the message says what to do."""


def epochs(folder: str | os.PathLike) -> list[int]:
    """Returns the epochs for which `folder` has a checkpoint, in ascending order.

    They are found by the names of the files alone, so that no other file can disagree. Only an index and its data file
    together count.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return []
    names = {path.name for path in folder.iterdir()}
    found = []
    for name in names:
        match = re.fullmatch(rf"epoch-(\d+){re.escape(INDEX_SUFFIX)}", name)
        if match and f"epoch-{match[1]}{DATA_SUFFIX}" in names:
            found.append(int(match[1]))
    return sorted(found)


def checkpoint_path(folder: str | os.PathLike, epoch: int) -> Path:
    """Returns the path of a checkpoint without the suffixes of its two files."""
    return Path(folder, f"epoch-{epoch}")


def checkpoint_files(folder: str | os.PathLike, epoch: int) -> list[Path]:
    """Returns the two files of a checkpoint, the index first: without an index there is no checkpoint."""
    path = checkpoint_path(folder, epoch)
    return [path.with_name(path.name + suffix) for suffix in (INDEX_SUFFIX, DATA_SUFFIX)]


def write(state: tf.train.Checkpoint, folder: str | os.PathLike, epoch: int) -> None:
    """Adds a checkpoint of `state` to `folder`, and removes all but the newest NUM_KEPT.

    TensorFlow writes into a temporary folder. Then the data file is moved in first, and the index last. A kill in
    between leaves a data file without an index, which does not count. Raises RunError if TensorFlow cannot write it,
    and OSError if its files cannot be moved.
    """
    temporary = Path(folder, f".epoch-{epoch}.{os.getpid()}.tmp")
    try:
        state.write(str(checkpoint_path(temporary, epoch)))
        # ".data" sorts before ".index".
        for path in sorted(temporary.iterdir()):
            os.replace(path, Path(folder, path.name))
    except tf.errors.OpError as error:
        raise RunError(f"could not write a checkpoint into {folder}: {describe_error(error)}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old_epoch in epochs(folder)[:-NUM_KEPT]:
        for path in checkpoint_files(folder, old_epoch):
            path.unlink(missing_ok=True)


def restore(state: tf.train.Checkpoint, folder: str | os.PathLike, partial: bool = False) -> int:
    """Fills `state` from the newest checkpoint that can be read, and returns its epoch.

    TensorFlow verifies a checksum of every tensor that it reads. A damaged checkpoint is passed over for the one before
    it, with a message. With `partial`, only what `state` has is restored: the model without the optimizer, say; but
    the epoch is always needed. Raises RunError if no checkpoint can be read, or if the newest one cannot be read for a
    reason that is not known to be damage.
    """
    reasons: dict[int, str] = {}
    while True:
        # The list is read again each time: a trainer may have removed a checkpoint while it was being read, which is no
        # damage. There is a newer one then.
        candidates = [epoch for epoch in epochs(folder) if epoch not in reasons]
        if not candidates:
            raise RunError(describe_unreadable(folder, reasons))
        newest = candidates[-1]
        try:
            read(state, folder, newest, partial)
        except Exception as error:
            if newest not in epochs(folder):
                continue
            if not is_damage(error):
                raise RunError(
                    f"{checkpoint_path(folder, newest)} cannot be read: {describe_error(error)}\n"
                    "it may be whole, so no earlier checkpoint is used in its place"
                ) from error
            reasons[newest] = describe_error(error)
            continue
        report_passed_over(folder, reasons, newest)
        return newest


def read(state: tf.train.Checkpoint, folder: str | os.PathLike, epoch: int, partial: bool) -> None:
    """Fills `state` from one checkpoint. See restore. Raises ValueError if it is the checkpoint of another epoch."""
    # Python's errors say why a file cannot be opened or read. Those of TensorFlow do not always.
    for path in checkpoint_files(folder, epoch):
        path.read_bytes()
    with tempfile.TemporaryDirectory() as scratch:
        # TensorFlow's reader treats the path as a glob pattern, and would not find a folder called runs[1]. A link with
        # a plain name leads there.
        link = Path(scratch, LINK_NAME)
        link.symlink_to(Path(folder).resolve(), target_is_directory=True)
        status = state.read(str(checkpoint_path(link, epoch)))
    if partial:
        status.expect_partial().assert_existing_objects_matched()
    else:
        status.assert_consumed()
    saved_epoch = int(state.epoch)
    if saved_epoch != epoch:
        raise ValueError(f"it is the checkpoint of epoch {saved_epoch}, under another name")


def is_damage(error: Exception) -> bool:
    """Returns whether an error of `read` is known to mean that the files are damaged, or not those of this model.

    Permissions, memory, a lost disk or too many open files are no damage: the files may be whole.
    """
    if isinstance(error, tf.errors.OpError) and system_error(error) is not None:
        return False
    return type(error) is tf.errors.OpError or isinstance(error, DAMAGED)


def system_error(error: tf.errors.OpError) -> str | None:
    """Returns the error of the operating system that TensorFlow reports as "<path>; <error>", or None."""
    reason = without_functions(error.message).rsplit("; ", maxsplit=1)[-1]
    if reason in [os.strerror(number) for number in errno.errorcode]:
        return reason
    return None


def describe_error(error: Exception) -> str:
    """Returns what an error says, without the names of TensorFlow's own functions and of temporary files."""
    if isinstance(error, tf.errors.OpError):
        reason = system_error(error)
        if reason is not None:
            return reason
    text = re.sub(rf"\S*/{LINK_NAME}/", "", without_functions(str(error)))
    return text or type(error).__name__


def without_functions(text: str) -> str:
    """Returns an error's text without the names of TensorFlow's own functions before and after it."""
    text = re.sub(r"^\{\{.*?\}\} ", "", text)
    return re.sub(r" \[Op:\w+\].*$", "", text, flags=re.DOTALL)


def report_passed_over(folder: str | os.PathLike, reasons: dict[int, str], restored_epoch: int) -> None:
    """Tells the user which checkpoints are damaged, and which one was restored instead."""
    still_present = epochs(folder)
    for epoch, reason in reasons.items():
        if epoch in still_present:
            path = checkpoint_path(folder, epoch)
            print(f"{path} cannot be read ({reason}): epoch {restored_epoch} is restored instead")


def describe_unreadable(folder: str | os.PathLike, reasons: dict[int, str]) -> str:
    """Returns the error for a folder in which no checkpoint can be read."""
    lines = [f"no checkpoint in {folder} can be read"]
    for epoch, reason in reasons.items():
        lines.append(f"{checkpoint_path(folder, epoch)} cannot be read: {reason}")
    lines.append(RETRAINING)
    return "\n".join(lines)


def set_damaged_aside(folder: str | os.PathLike, restored_epoch: int) -> None:
    """Renames the checkpoints newer than the restored one, so that no one mistakes them for good ones."""
    for epoch in epochs(folder):
        if epoch > restored_epoch:
            for path in checkpoint_files(folder, epoch):
                path.rename(path.with_name(f"damaged-{path.name}"))
