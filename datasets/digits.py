"""digits: the 8x8 digits that come with scikit-learn, for tests and first trials. Nothing is downloaded.

They are a copy of the test set of the UCI "Optical Recognition of Handwritten Digits" data set (E. Alpaydin, C. Kaynak
1998; CC BY 4.0): 1797 images of 17 grey levels, 0..16, scaled here to 0..255. With so few levels, bits/dim cannot be
compared with those of any other data set.
"""

from pathlib import Path

import numpy as np

from datasets.base import Dataset, split

NUM_TRAIN = 1437


def load(data_dir: Path, allow_unverified: bool) -> Dataset:
    """1437 training and 360 test images, 8x8x1, with labels 0..9. Neither argument is used."""
    # Imported here because it takes a second.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.uint8)
    train, test = split(len(images), NUM_TRAIN)
    return Dataset(
        "digits",
        train_images=images[train],
        test_images=images[test],
        train_labels=labels[train],
        test_labels=labels[test],
    )
