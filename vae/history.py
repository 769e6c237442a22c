"""A run's history: one row for each epoch, and history.csv, which holds them."""

import csv
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vae.checkpoints import RETRAINING, RunError
from vae.files import replacing

# What to do about a damaged history.csv.
REMEDY = (
    "the model does not depend on this file: evaluate.py and the drawing scripts work without it\n"
    f"to train the model further, correct this file or put back a copy of it\n{RETRAINING}"
)


class HistoryRow(NamedTuple):
    """One epoch: means over the training images in nats, the mean test ELBO in nats (NaN if it was not measured), the
    seconds that it took, and Adam's learning rate.
    """

    epoch: int
    train_elbo: float
    train_log_likelihood: float
    train_kl: float
    test_elbo: float
    seconds: float
    learning_rate: float


def is_tested(epoch: int) -> bool:
    """Whether the test ELBO is measured after an epoch: after each of the first 10, then after every tenth.

    It depends on the epoch's number alone, so that a resumed run has the history of an uninterrupted one.
    """
    return epoch <= 10 or epoch % 10 == 0


def path_of(folder: str | os.PathLike) -> Path:
    return Path(folder, "history.csv")


def write(folder: str | os.PathLike, rows: Sequence[HistoryRow]) -> None:
    with replacing(path_of(folder)) as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(HistoryRow._fields)
        # A float is written with as many digits as it takes to read it back exactly.
        writer.writerows(rows)


def read(folder: str | os.PathLike) -> list[HistoryRow]:
    """The rows of a run's history.csv, one for each epoch from 1 on. Raises RunError if they cannot be read."""
    path = path_of(folder)
    rows = []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *lines = csv.reader(file)
        if tuple(header) != HistoryRow._fields:
            raise ValueError(f"its first line is {','.join(header)!r}, not {','.join(HistoryRow._fields)!r}")
        for epoch, cells in enumerate(lines, start=1):
            if len(cells) != len(header) or cells[0] != str(epoch):
                raise ValueError(f"in the place of epoch {epoch} it has the row {','.join(cells)!r}")
            rows.append(HistoryRow(epoch, *map(float, cells[1:])))
    except (FileNotFoundError, ValueError, csv.Error) as error:
        raise RunError(f"{path} cannot be read: {error}\n{REMEDY}") from None
    return rows


def read_up_to(folder: str | os.PathLike, epoch: int) -> list[HistoryRow]:
    """The rows up to an epoch, as uninterrupted training would have written them.

    A kill between history.csv and the checkpoint leaves rows beyond the epoch. And the last row of a run that was
    stopped has a test ELBO in any case. Raises RunError if rows are missing.
    """
    rows = read(folder)
    if len(rows) < epoch:
        raise RunError(f"{path_of(folder)} ends at epoch {len(rows)}, and the model is at epoch {epoch}\n{REMEDY}")
    return [row if is_tested(row.epoch) else row._replace(test_elbo=math.nan) for row in rows[:epoch]]


def last_tested(folder: str | os.PathLike, epoch: int) -> HistoryRow | None:
    """The last row that has a test ELBO and is not after `epoch`, the epoch of the model; None if there is none."""
    tested = [row for row in read(folder) if row.epoch <= epoch and math.isfinite(row.test_elbo)]
    return tested[-1] if tested else None
