"""The data sets of the report, and scikit-learn's digits.

`load(name, data_dir)` returns a Dataset of raw bytes. Each module reads one data set; cifar10.py also crops it.
"""

from collections.abc import Callable
from pathlib import Path

from datasets import cifar10, digits, frey_faces, mnist, svhn
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


def load(name: str, data_dir: str | Path = "data", allow_unverified: bool = False) -> Dataset:
    """Returns the data set with the given name. Downloads its files into data_dir if they are not there yet.

    With allow_unverified, files whose sha256 is not the published one are accepted, except pickles. The Dataset then
    has verified=False.

    Raises DataError if the data is damaged or is not the published data, or if it is missing and cannot be downloaded.
    """
    return LOADERS[name](Path(data_dir), allow_unverified)
