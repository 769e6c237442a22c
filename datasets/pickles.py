"""Pickles of NumPy arrays, read without running anything they name, NumPy's own unpickling included."""

import pickle

import numpy as np

from datasets.base import DataError

KINDS = frozenset(order + code for order in "<>|" for code in ("u1", "i4", "i8", "f4", "f8"))


def load(file):
    """What a pickle of arrays, lists, tuples and numbers holds, with a PickledArray in each array's place.

    Damaged, it raises DataError, or whatever its reading ran into: as the unpickler of the standard library does.
    """
    return _Unpickler(file, encoding="latin1").load()


class PickledArray:
    """What a pickle says of an array; array() makes it, from the bytes alone.

    NumPy's own ndarray.__setstate__ trusts what it is told and can crash the process on damaged bytes.
    """

    def __init__(self, *_):
        self._state = None

    def __setstate__(self, state):
        _version, self.shape, self.dtype, self.column_major, self._content = state

    def array(self):
        kind = self.dtype.order + self.dtype.code
        if kind not in KINDS:
            raise DataError(f"a pickled array of {kind!r} is refused: only numbers are read")
        content = self._content.encode("latin1") if isinstance(self._content, str) else self._content
        return np.frombuffer(content, kind).reshape(self.shape, order="F" if self.column_major else "C")


class _PickledDtype:
    def __init__(self, code, *_):
        self.code, self.order = code, "|"

    def __setstate__(self, state):
        self.order = state[1]


NAMES = {"_reconstruct": PickledArray, "ndarray": PickledArray, "dtype": _PickledDtype}


class _Unpickler(pickle._Unpickler):
    """Python's own unpickler, not C's, whose table of objects a few damaged bytes can make 2**32 entries long."""

    def find_class(self, module, name):
        if module.split(".")[0] == "numpy" and name in NAMES:
            return NAMES[name]
        raise DataError(f"a pickle that asks for {module}.{name} is refused: only arrays are read")
