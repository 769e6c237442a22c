"""Data files for tests."""

import numpy as np


def idx(array):
    """The content of an IDX file, the format of MNIST, with an array of bytes."""
    sizes = np.array(array.shape, ">u4").tobytes()
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()
