"""digits: the 8x8 digits that scikit-learn ships; no download, for tests and first trials.

A copy of the test set of the UCI "Optical Recognition of Handwritten Digits" data set (E. Alpaydin, C. Kaynak 1998;
CC BY 4.0): 1797 images of 17 grey levels, here 0..16 scaled to 0..255. Bits/dim of 17 levels compare with nothing.
"""

import numpy as np

from datasets.base import Dataset, split


def load(data_dir, allow_unverified):
    """1437 training and 360 test images, 8x8x1; neither argument has a part in it."""
    from sklearn.datasets import load_digits  # a second to import

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    train, test = split(len(images), num_train=1437)
    labels = bunch.target.astype(np.uint8)
    return Dataset("digits", images[train], images[test], labels[train], labels[test])
