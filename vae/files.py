"""Replaces files in one step, so that no reader sees a half-written file, even after a kill or on a full disk.

A kill can leave a temporary file behind. In a run's folder, the next training removes it (runs.training_run).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path in the same folder, and renames it to `path` if the block succeeds.

    If the block fails, what was at `path` stays as it was. Raises OSError with the file's name if the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        # Errors from open() name the file. Errors from write() do not, and the user needs the name.
        is_error_of_write = error.filename is None and error.errno is not None
        if not is_error_of_write:
            raise
        raise OSError(f"could not write {path}: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)


def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    """Saves a Matplotlib Figure as PNG. The same figure always gives the same bytes."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
