"""The data sets of the report, and scikit-learn's digits: `load(name, data_dir)` gives raw bytes, a Dataset."""

from pathlib import Path

from datasets import cifar10, digits, frey_faces, mnist, svhn
from datasets.base import DataError, Dataset

__all__ = ["LOADERS", "DataError", "Dataset", "load"]

LOADERS = {
    "mnist": mnist.load,
    "frey_faces": frey_faces.load,
    "cifar10": cifar10.load_crops,
    "cifar10_full": cifar10.load,
    "svhn": svhn.load,
    "digits": digits.load,
}


def load(name, data_dir="data", allow_unverified=False):
    """The data set `name` as a Dataset, downloaded into data_dir where it is not there yet.

    allow_unverified accepts files whose sha256 is not the published one (the Dataset then says verified=False).
    Raises DataError where the data is missing and cannot be had, damaged, or not what it should be.
    """
    return LOADERS[name](Path(data_dir), allow_unverified)
