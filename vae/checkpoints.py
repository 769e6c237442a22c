"""Checkpoints: epoch-<n>.npz holds the arrays of an epoch, and is whole or not there. The newest few are kept.

Anyone can open one with np.load. Its names say what the arrays are, as in "encoder/dense_1/kernel".

A kill at any moment of a save leaves the previous checkpoint in use: Run.save writes this file last, and it is renamed
when it is whole (files.replacing). Lost are the epochs since the previous save (runs.SAVE_EPOCHS, runs.SAVE_SECONDS),
which training repeats with the same bits. A history.csv that is ahead of its checkpoint is cut back when the run
continues.

NumPy is imported where arrays are read or written, so that listing runs, or refusing one, does not wait for it.
"""

from __future__ import annotations

import errno
import io
import os
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vae.files import replacing

if TYPE_CHECKING:
    import numpy as np

NUM_KEPT = 3

# The last resort for a run that cannot be read. Scripts that do not train say it, too.
RETRAINING = "to train again from scratch: train.py with the flags of this run and --overwrite"

# What zipfile and NumPy raise for a damaged file. OSError is not among them: a file that cannot be opened may be whole.
DAMAGE = (EOFError, KeyError, NotImplementedError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error)


class RunError(OSError):
    """A run that is missing, damaged, in use or in the way; the message says what to do."""


def epochs(folder: str | os.PathLike) -> list[int]:
    """The epochs for which a folder has a checkpoint, in ascending order.

    They are found by the names of the files alone, so that no other file can disagree.
    """
    names = [path.name for path in Path(folder).glob("*.npz")]
    matches = [re.fullmatch(r"epoch-(\d+)\.npz", name) for name in names]
    return sorted(int(match[1]) for match in matches if match)


def path_of(folder: str | os.PathLike, epoch: int) -> Path:
    return Path(folder, f"epoch-{epoch}.npz")


def write(folder: str | os.PathLike, epoch: int, arrays: Mapping[str, np.ndarray]) -> None:
    """Adds a checkpoint to a folder, and removes all but the newest NUM_KEPT. Raises OSError if it cannot write."""
    import numpy as np

    content = {**arrays, "epoch": np.array(epoch)}
    with replacing(path_of(folder, epoch)) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **content)
    for old_epoch in epochs(folder)[:-NUM_KEPT]:
        path_of(folder, old_epoch).unlink(missing_ok=True)


def read(folder: str | os.PathLike, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, dict[str, np.ndarray]]:
    """The epoch of the newest checkpoint that can be read, and its arrays of these names and shapes.

    A damaged checkpoint is passed over for the one before it, with a message. Raises RunError if none can be read, and
    OSError if one cannot be opened, since it may be whole.
    """
    problems: list[str] = []
    candidates = epochs(folder)
    while candidates:
        epoch = candidates.pop()
        try:
            arrays = read_one(path_of(folder, epoch), epoch, shapes)
        except FileNotFoundError:
            # A trainer has removed it in the meantime, because there are newer ones.
            candidates = [newer for newer in epochs(folder) if newer > epoch]
        except DAMAGE as error:
            problems.append(f"{path_of(folder, epoch)} cannot be read: {error}")
        else:
            for problem in problems:
                print(f"{problem}; epoch {epoch} is restored instead")
            return epoch, arrays
    raise RunError("\n".join([f"no checkpoint in {folder} can be read", *problems, RETRAINING]))


def read_one(path: Path, epoch: int, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The arrays of one checkpoint. Raises one of DAMAGE if it is damaged, or is of another epoch or model."""
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = {name: read_array(archive, name) for name in shapes}
            saved_epoch = int(read_array(archive, "epoch"))
    except OSError as error:
        # Before Python 3.12, zipfile seeks to a place before the file's beginning if a damaged directory leads there.
        if error.errno == errno.EINVAL:
            raise zipfile.BadZipFile("its directory is damaged") from None
        raise
    if saved_epoch != epoch:
        raise ValueError(f"it is the checkpoint of epoch {saved_epoch}, under another name")
    for name, array in arrays.items():
        if array.shape != tuple(shapes[name]):
            raise ValueError(f"{name} has the shape {array.shape}, not {tuple(shapes[name])}")
    return arrays


def read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    import numpy as np

    # An entry that is read whole has its checksum verified. np.load of the file would believe the entry's header first,
    # and a header that is damaged can make it stop before the end, at values that are shifted.
    content = archive.read(f"{name}.npy")
    return np.load(io.BytesIO(content), allow_pickle=False)


def set_damaged_aside(folder: str | os.PathLike, restored_epoch: int) -> None:
    """Renames the checkpoints newer than the restored one, so that no one mistakes them for good ones."""
    for epoch in epochs(folder):
        if epoch > restored_epoch:
            path = path_of(folder, epoch)
            path.rename(path.with_name(f"damaged-{path.name}"))
