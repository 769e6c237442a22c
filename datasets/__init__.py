"""The data sets of the report, scikit-learn's digits, and the user's own images.

`load(name, data_dir)` gives a Dataset of raw bytes. Each module reads one data set; cifar10.py also crops it, and
own.py reads what a path leads to.
"""

import os
from collections.abc import Callable
from pathlib import Path

from config import is_path
from datasets import cifar10, digits, frey_faces, mnist, own, svhn
from datasets.base import DataError, Dataset

__all__ = ["LOADERS", "DataError", "Dataset", "load"]

# Each loader takes the data folder and allow_unverified.
LOADERS: dict[str, Callable[[Path, bool], Dataset]] = {
    "mnist": mnist.load,
    "frey_faces": frey_faces.load,
    "cifar10": cifar10.load_crops,
    "cifar10_full": cifar10.load_full,
    "svhn": svhn.load,
    "digits": digits.load,
}


def load(
    name: str | Path, data_dir: str | Path = "data", allow_unverified: bool = False, image_size: int | None = None
) -> Dataset:
    """The data set with the given name. Its files are downloaded into data_dir if they are not there yet.

    With allow_unverified, files whose sha256 is not the published one are accepted, except pickles. The Dataset then
    has verified=False.

    Any other `name` is the path of the user's own images: see datasets.own. They are scaled and cropped to image_size,
    if it is given. The other arguments have no effect on them.

    Raises DataError if the data is damaged or is not the published data, or if it is missing and cannot be downloaded.
    Raises ValueError if image_size is given for a data set that has a name.
    """
    if name in LOADERS:
        if image_size is not None:
            raise ValueError(f"image_size is for your own images only; {name} has a size of its own")
        return LOADERS[str(name)](Path(data_dir), allow_unverified)
    if not is_path(str(name)) and not os.path.exists(name):
        raise DataError(f"takes {', '.join(LOADERS)}, or the path of your own images, got {str(name)!r}")
    return own.load(Path(name), image_size)
