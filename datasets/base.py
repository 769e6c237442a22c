"""What every data set is made with: Dataset, files fetched and checked, and the decoded cache."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

TIMEOUT = 30  # seconds without a byte before the next address is tried
WRONG_FILE = "what came is another file (its sha256 is not the published one)"
SPLIT_SEED = 0  # of the splits that no publisher drew; independent of --seed


class DataError(OSError):
    """Data that is missing, damaged or not what it should be; the message names the file and what to do."""


class DownloadError(DataError):
    """A file that is not there and that no address gave."""


@dataclass(frozen=True)
class Dataset:
    """Images uint8 [n, h, w, c] and labels uint8 [n] (or None), as published: no scaling, no noise.

    verified: whether every source file had its published sha256.
    """

    name: str
    train_images: np.ndarray
    test_images: np.ndarray
    train_labels: np.ndarray | None = None
    test_labels: np.ndarray | None = None
    verified: bool = True


class RemoteFile(NamedTuple):
    """A published file: name, addresses in the order to try, sha256; for a .gz also the sha256 of what it holds.

    content_sha256(path) is for files with no published sha256 of their own: it digests what `sha256` is of instead.
    """

    name: str
    urls: tuple[str, ...]
    sha256: str
    unpacked_sha256: str | None = None
    content_sha256: Callable[[Path], str] | None = None


class Source(NamedTuple):
    """A file on disk that a data set is read from."""

    path: Path
    sha256: str
    verified: bool


def split(num_images, num_train):
    """A fixed random split: (train indices, test indices), rising. RandomState, because its streams never change."""
    order = np.random.RandomState(SPLIT_SEED).permutation(num_images)
    return np.sort(order[:num_train]), np.sort(order[num_train:])


def sha256_of(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(file, folder, allow_unverified=False):
    """The Source of a RemoteFile in `folder`: what is there with the right sha256 (a .gz or unpacked), or a download.

    Raises DataError for a file with another sha256, unless allow_unverified takes it as it is; DownloadError where no
    address gives the file. A file that is there is never replaced.
    """
    candidates = [(folder / file.name, file.sha256)]
    if file.unpacked_sha256:
        candidates.append((folder / file.name.removesuffix(".gz"), file.unpacked_sha256))
    present = [(_source(path, sha256, file), sha256) for path, sha256 in candidates if path.is_file()]
    good = [source for source, _ in present if source.verified or allow_unverified]
    if good:
        return max(good, key=lambda source: source.verified)
    if present:
        source, sha256 = present[0]
        found = f"the sha256 of its content is {file.content_sha256(source.path)}" if file.content_sha256 else ""
        raise DataError(
            f"{source.path} is not the published file: {found or f'its sha256 is {source.sha256}'}, not {sha256}\n"
            "remove it to have it downloaded, or accept it with --allow_unverified"
        )
    return _download(file, folder)


def _source(path, sha256, file):
    found = sha256_of(path)
    return Source(path, found, sha256 == (file.content_sha256(path) if file.content_sha256 else found))


def _download(file, folder):
    """Tries each address; the file gets its final name only once its sha256 is known to be right."""
    import pooch  # imports requests: a third of a second that a cached start does not need

    pooch.get_logger().setLevel("ERROR")
    folder.mkdir(parents=True, exist_ok=True)
    failures = []
    for url in file.urls:
        downloader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=TIMEOUT)
        try:
            print(f"downloading {url}", file=sys.stderr)
            with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as scratch:
                known = None if file.content_sha256 else f"sha256:{file.sha256}"
                path = Path(pooch.retrieve(url, known, file.name, scratch, downloader=downloader))
                source = _source(path, file.sha256, file)
                if source.verified:
                    return source._replace(path=place(path, folder / file.name))
                failures.append(f"  {url}: {WRONG_FILE}")
        except (OSError, ValueError) as error:  # requests' errors are OSErrors; ValueError is pooch's for a wrong hash
            failures.append(f"  {url}: {_reason(error)}")
    raise DownloadError(
        "\n".join([f"cannot get {file.name}:", *failures])
        + f"\nput the file into {folder.resolve()} by hand "
        + f"(sha256{' of its content' if file.content_sha256 else ''} {file.sha256})"
    )


def _reason(error):
    """Why a download failed, in a few words: requests wraps the cause in several layers of its own."""
    if isinstance(error, ValueError):
        return WRONG_FILE
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP {response.status_code} {response.reason}"
    while isinstance(cause := getattr(error, "reason", None) or next(iter(error.args), None), Exception):
        error = cause
    return f"{type(error).__name__}: {cause or error}"


def place(path, final):
    """Moves a finished file of this user's to its final name in one step, readable for others as their umask says."""
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(path, 0o666 & ~umask)
    os.replace(path, final)
    return final


MAT_READER = """
import contextlib, sys
import numpy, scipy.io
with contextlib.suppress(ImportError, ValueError):  # ImportError: Windows
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (2**32, resource.RLIM_INFINITY))
path, result, *names = sys.argv[1:]
content = scipy.io.loadmat(path, variable_names=names)
numpy.savez(result, **{name: content[name] for name in names})
"""


def read_mat_file(path, names):
    """The arrays of those names in a MATLAB file.

    SciPy reads it in a process of its own, with at most 4 GB: bytes that are damaged can make its reader crash.
    """
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch, "arrays.npz")
        command = [sys.executable, "-c", MAT_READER, str(path), str(result), *names]
        one_thread = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # each would take of the 4 GB
        try:
            done = subprocess.run(command, capture_output=True, text=True, env=one_thread, timeout=600)
            if done.returncode:
                raise ValueError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
            with np.load(result, allow_pickle=False) as arrays:
                return [arrays[name] for name in names]
        except Exception as error:  # NumPy's reader answers a file that is cut off with whatever it runs into
            raise DataError(f"{path} cannot be read as a MATLAB file with {' and '.join(names)}: {error}") from None


def cached(name, path, decode, allow_unverified):
    """The Dataset that `decode() -> (Dataset, sources)` makes, kept in `path` (.npz) for the next start.

    The cache records each source's sha256 and whether all were verified; unverified data is given out only with
    allow_unverified, and read anew when a source has changed. A cache that cannot be read or written is done without.
    """
    dataset = _read_cache(name, path, allow_unverified)
    if dataset is None:
        dataset, sources = decode()
        _write_cache(dataset, sources, path)
    return dataset


ARRAYS = ("train_images", "test_images", "train_labels", "test_labels")


def _read_cache(name, path, allow_unverified):
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            facts = json.loads(str(file["facts"]))
            if not facts["verified"] and (not allow_unverified or _changed(facts["sources"])):
                return None
            arrays = {array: file[array] if array in facts["arrays"] else None for array in ARRAYS}
    except Exception:  # NumPy's and zipfile's readers answer damage with whatever they run into
        return None
    return Dataset(name, **arrays, verified=facts["verified"])


def _changed(sources):
    return any(not Path(path).is_file() or sha256_of(path) != sha256 for path, sha256 in sources.items())


def _write_cache(dataset, sources, path):
    arrays = {name: array for name in ARRAYS if (array := getattr(dataset, name)) is not None}
    sources = {str(source.path): source.sha256 for source in sources}
    facts = {"verified": dataset.verified, "sources": sources, "arrays": list(arrays)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".cache-", dir=path.parent) as scratch:
            written = Path(scratch, path.name)
            np.savez(written, facts=json.dumps(facts), **arrays)
            place(written, path)
    except OSError as error:
        print(f"no cache of the decoded data: {error}", file=sys.stderr)
