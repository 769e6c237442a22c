"""svhn: Street View House Numbers, cropped digits, 32x32 colour (Netzer et al. 2011; for non-commercial use only).

The data set is two MATLAB files, each with X, uint8 [32, 32, 3, n], and y, [n, 1] in 1..10, where 10 is the digit 0.
"""

from pathlib import Path

import numpy as np

from datasets.base import (
    DataError,
    Dataset,
    DownloadError,
    RemoteFile,
    Source,
    cached,
    fetch,
    missing,
    read_mat_file,
)

MIRRORS = ("http://ufldl.stanford.edu/housenumbers/", "https://ufldl.stanford.edu/housenumbers/")
TRAIN = RemoteFile(
    "train_32x32.mat",
    MIRRORS,
    sha256="435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
    size="182 MB",
)
TEST = RemoteFile(
    "test_32x32.mat",
    MIRRORS,
    sha256="cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
    size="64 MB",
)


def load(data_dir: Path, allow_unverified: bool) -> Dataset:
    """73257 training and 26032 test images, 32x32x3, with labels 0..9."""
    folder = data_dir / "svhn"
    return cached(data_dir / "svhn.npz", lambda: _decode(folder, allow_unverified), allow_unverified)


def _decode(folder: Path, allow_unverified: bool) -> tuple[Dataset, list[Source]]:
    """The Dataset, and the Sources that it was read from."""
    try:
        sources = [fetch(file, folder, allow_unverified) for file in (TRAIN, TEST)]
    except DownloadError as error:
        raise missing((TRAIN, TEST), folder, str(error)) from None
    train_images, train_labels = read_mat(sources[0].path)
    test_images, test_labels = read_mat(sources[1].path)
    dataset = Dataset(
        "svhn",
        train_images=train_images,
        test_images=test_images,
        train_labels=train_labels,
        test_labels=test_labels,
        verified=all(source.verified for source in sources),
    )
    return dataset, sources


def read_mat(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [n, 32, 32, 3] and labels uint8 [n] in 0..9 from one of the two files.

    Raises DataError if the file does not hold them.
    """
    images, labels = read_mat_file(path, ("X", "y"))
    labels = labels.ravel()
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[:3] != (32, 32, 3) or not images.size:
        raise DataError(f"{path}: X is {images.dtype} {images.shape}, not bytes (32, 32, 3, n)")
    if len(labels) != images.shape[3] or not np.isin(labels, range(1, 11)).all():
        raise DataError(f"{path}: y does not hold one label of 1..10 for each of the {images.shape[3]} images")
    return np.ascontiguousarray(images.transpose(3, 0, 1, 2)), (labels % 10).astype(np.uint8)
