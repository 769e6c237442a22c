"""What the data sets share: the Dataset, published files and their checks, and the cache of decoded arrays."""

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# The seed of the splits and crops that the publisher did not make. It does not depend on --seed.
SPLIT_SEED = 0
# The number of seconds without any data after which the next address is tried.
TIMEOUT = 30


class DataError(OSError):
    """Data is missing, damaged or not the published data. The message names the file."""


class DownloadError(DataError):
    """A file is missing and cannot be downloaded. The message says why."""


@dataclass(frozen=True)
class Dataset:
    """Images and labels as bytes. Scaling to floats and noise belong to the likelihood.

    Images are uint8 [n, height, width, channels]. Labels are integers from 0, [n], or None if the data set has none.
    `verified` says whether every source file has its published digest. The user's own images have no published digest.
    For them, `verified` is None, `path` is where they are, `class_names` has the name of each label, and `test_names`
    the file of each test image, if they have files of their own. `digest` identifies data that is not verified, so that
    a run recognises what it was trained on.
    """

    name: str
    train_images: np.ndarray
    test_images: np.ndarray
    train_labels: np.ndarray | None = None
    test_labels: np.ndarray | None = None
    verified: bool | None = True
    class_names: tuple[str, ...] | None = None
    test_names: tuple[str, ...] | None = None
    digest: str | None = None
    path: str | None = None

    @property
    def is_sequence(self) -> bool:
        """Whether the place of an image means something: Frey Faces are the frames of a film."""
        return self.path is None


def split(num_images: int, num_train: int) -> tuple[np.ndarray, np.ndarray]:
    """The indices of training and test images of a fixed random split, each in increasing order."""
    # RandomState, because NumPy promises that its streams never change.
    order = np.random.RandomState(SPLIT_SEED).permutation(num_images)
    return np.sort(order[:num_train]), np.sort(order[num_train:])


def sha256_of_arrays(arrays: Mapping[str, np.ndarray], max_rows: int | None = None) -> str:
    """The sha256 of the names, types, shapes and contents of arrays, as 64 hexadecimal digits.

    With max_rows, only so many rows of each array enter it, in equal steps from the first to the last.
    """
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        if max_rows is None:
            digest.update(np.ascontiguousarray(array).data)
            continue
        rows = np.linspace(0, len(array) - 1, max_rows).astype(np.int64)
        for row in np.unique(rows):
            digest.update(np.ascontiguousarray(array[row]).data)
    return digest.hexdigest()


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- Published files -----------------------------------------------------------------------------------------------


class RemoteFile(NamedTuple):
    """A published file.

    mirrors: the addresses of the folders that have the file, in the order in which they are tried.
    sha256: the published digest.
    size: the size of the download, for messages.
    unpacked_sha256: for a .gz file, the sha256 of the file in it, which is accepted as well. Empty for any other file.
    digest: computes the digest of a file on disk, which is compared with `sha256`.
    digest_name: what messages call this digest.
    """

    name: str
    mirrors: tuple[str, ...]
    sha256: str
    size: str = "unknown size"
    unpacked_sha256: str = ""
    digest: Callable[[Path], str] = sha256_of
    digest_name: str = "its sha256"

    @property
    def urls(self) -> list[str]:
        return [f"{mirror}{self.name}" for mirror in self.mirrors]

    @property
    def unpacked_name(self) -> str:
        """The name of the file in a .gz file."""
        return self.name.removesuffix(".gz")


class Source(NamedTuple):
    """A file on disk that a data set is read from, and whether it is the published one."""

    path: Path
    verified: bool


def fetch(file: RemoteFile, folder: Path, allow_unverified: bool = False) -> Source:
    """The Source of a published file in `folder`, which is downloaded if it is missing.

    The folder may hold a .gz file unpacked instead. An existing file is never replaced. frey_faces.py refuses a pickle
    that is not the published one, even if it is allowed here.

    Raises DataError if the existing file is not the published one and allow_unverified is false. Raises DownloadError
    if the file is missing and cannot be downloaded from any of its addresses.
    """
    published = {folder / file.name: file.sha256}
    if file.unpacked_sha256:
        published[folder / file.unpacked_name] = file.unpacked_sha256
    found = {path: file.digest(path) for path in published if path.is_file()}
    if not found:
        return Source(_download(file, folder), verified=True)
    for path, digest in found.items():
        if digest == published[path]:
            return Source(path, verified=True)
    path, digest = next(iter(found.items()))
    if allow_unverified:
        return Source(path, verified=False)
    raise DataError(
        f"{path} is not the published file: {file.digest_name} is {digest}, not {published[path]}\n"
        "remove it to have it downloaded, or accept it with --allow_unverified"
    )


def _download(file: RemoteFile, folder: Path) -> Path:
    """Downloads a file from the first of its addresses that has the published one; returns its path."""
    # Imported here because it takes a third of a second, which a start from the cache does not need.
    import pooch

    folder.mkdir(parents=True, exist_ok=True)
    download = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=TIMEOUT)
    reasons = []
    for url in file.urls:
        print(f"downloading {file.name} ({file.size}) from {url}", file=sys.stderr)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as scratch:
            path = Path(scratch, file.name)
            try:
                download(url, str(path), None)
                if file.digest(path) != file.sha256:
                    raise DataError(f"the server sent another file: {file.digest_name} is not the published one")
            except (OSError, ValueError) as error:
                # The errors of requests are OSErrors, except that a malformed redirect raises a ValueError.
                reasons.append(str(_first_cause(error)))
            else:
                # The file gets its final name only now.
                return path.replace(folder / file.name)
        # Here the error is gone, and with it the progress bar, which has ended its line.
        outlook = "" if url == file.urls[-1] else "; trying the next one"
        print(f"{url} failed: {reasons[-1]}{outlook}", file=sys.stderr)
    # Without network, the reason is the same for all addresses.
    raise DownloadError(f"cannot get {file.name} ({'; '.join(dict.fromkeys(reasons))})")


def _first_cause(error: BaseException) -> BaseException:
    """The error that led to this one. requests and urllib3 wrap it several times; a DataError says enough."""
    while error.__context__ is not None and not isinstance(error, DataError):
        error = error.__context__
    return error


def missing(files: Sequence[RemoteFile], folder: Path, reason: str, conjunction: str = "and") -> DownloadError:
    """The error if `files` are not in `folder` and cannot be downloaded, which gives the reason last.

    conjunction: "and" if all of them are needed, "or" if one is enough.
    """
    separator = f" {conjunction} "
    names = separator.join(file.name for file in files)
    addresses = separator.join(url for file in files for url in file.urls[:1])
    return DownloadError(
        f"put {names} into {folder.resolve()}, or give --data_dir <folder> if <folder>/{folder.name} has the data\n"
        f"it is published at {addresses}\n"
        f"it was not downloaded: {reason}"
    )


def read_mat_file(path: Path, names: Sequence[str]) -> list[np.ndarray]:
    """The arrays with these names in a MATLAB file. Raises DataError if it cannot be read or lacks one of them."""
    # Imported here because it takes half a second.
    from scipy.io import loadmat

    try:
        content = loadmat(path, variable_names=names)
        return [content[name] for name in names]
    except Exception as error:
        # SciPy raises errors of many kinds when it reads a damaged file.
        raise DataError(f"{path} cannot be read as a MATLAB file with {' and '.join(names)}: {error}") from None


# ---- The cache -----------------------------------------------------------------------------------------------------


def cached(path: Path, decode: Callable[[], tuple[Dataset, Iterable[Source]]], allow_unverified: bool) -> Dataset:
    """The Dataset that the file `path` (.npz) holds; if there is none to use, it is decoded and written there.

    decode() returns the Dataset and the Sources that it was read from. Verified data stays in use even if its sources
    are deleted. Unverified data is used only with allow_unverified, and only while its sources are what they were. A
    cache that cannot be read is replaced, and one that cannot be written is reported on stderr.
    """
    dataset = _read_cache(path, allow_unverified)
    if dataset is None:
        dataset, sources = decode()
        _write_cache(path, dataset, sources)
    if not dataset.verified:
        dataset = replace(dataset, digest=f"sha256:{sha256_of_arrays(_arrays(dataset))}")
    return dataset


def _arrays(dataset: Dataset) -> dict[str, Any]:
    """The images and labels by name. Labels that the data set does not have are left out."""
    names = ("train_images", "test_images", "train_labels", "test_labels")
    return {name: getattr(dataset, name) for name in names if getattr(dataset, name) is not None}


def _read_cache(path: Path, allow_unverified: bool) -> Dataset | None:
    """The Dataset of a cache, or None if it cannot be read or must not be used."""
    try:
        # Opened here, because np.load leaves a damaged file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            # The path (from the cache's folder) and the sha256 of each source that is not verified.
            unverified = content["unverified"].tolist()
            if unverified and not allow_unverified:
                return None
            if any(sha256_of(path.parent / source) != sha256 for source, sha256 in unverified):
                return None
            arrays = {name: content[name] for name in content if name != "unverified"}
            return Dataset(path.stem, **arrays, verified=not unverified)
    except Exception:
        # NumPy and zipfile raise errors of many kinds when they read a damaged file.
        return None


def _write_cache(path: Path, dataset: Dataset, sources: Iterable[Source]) -> None:
    """Writes the cache, or prints why it cannot be written."""
    unverified = [
        (str(source.path.relative_to(path.parent)), sha256_of(source.path)) for source in sources if not source.verified
    ]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".cache-", dir=path.parent) as scratch:
            written = Path(scratch, path.name)
            np.savez(written, unverified=np.array(unverified, np.str_), **_arrays(dataset))
            os.replace(written, path)
    except OSError as error:
        print(f"the decoded data was not cached: {error}", file=sys.stderr)
