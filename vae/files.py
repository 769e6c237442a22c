"""Replacing a file in one step, so that readers, kills and full disks never meet a half-written one."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

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
        # An error of open() names its file. An error of write() has a number only, and the user needs the name.
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
