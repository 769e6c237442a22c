"""svhn: Street View House Numbers, cropped digits, 32x32 colour (Netzer et al. 2011; for non-commercial use only).

Two MATLAB files: X uint8 [32, 32, 3, n] and y [n, 1] in 1..10, where 10 is the digit 0.
"""

import numpy as np

from datasets.base import DataError, Dataset, RemoteFile, cached, fetch, read_mat_file

MIRRORS = ("http://ufldl.stanford.edu/housenumbers/", "https://ufldl.stanford.edu/housenumbers/")
FILES = {
    part: RemoteFile(f"{part}_32x32.mat", tuple(f"{mirror}{part}_32x32.mat" for mirror in MIRRORS), sha256)
    for part, sha256 in (
        ("train", "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8"),
        ("test", "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b"),
    )
}


def load(data_dir, allow_unverified):
    """73257 training and 26032 test images, 32x32x3, with labels 0..9."""
    folder = data_dir / "svhn"
    return cached("svhn", data_dir / "svhn.npz", lambda: _decode(folder, allow_unverified), allow_unverified)


def _decode(folder, allow_unverified):
    sources = [fetch(FILES[part], folder, allow_unverified) for part in ("train", "test")]
    (train_images, train_labels), (test_images, test_labels) = (read_mat(source.path) for source in sources)
    verified = all(source.verified for source in sources)
    return Dataset("svhn", train_images, test_images, train_labels, test_labels, verified), sources


def read_mat(path):
    """(images uint8 [n, 32, 32, 3], labels uint8 [n] in 0..9) of one of the two files."""
    images, labels = read_mat_file(path, ("X", "y"))
    labels = labels.ravel()
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[:3] != (32, 32, 3) or not images.shape[3]:
        raise DataError(f"{path}: X is {images.dtype} {images.shape}, not bytes (32, 32, 3, n)")
    if labels.dtype.kind not in "iuf" or len(labels) != images.shape[3] or not np.isin(labels, range(1, 11)).all():
        raise DataError(f"{path}: y is not one label of 1..10 for each of the {images.shape[3]} images")
    return np.ascontiguousarray(images.transpose(3, 0, 1, 2)), (labels % 10).astype(np.uint8)
