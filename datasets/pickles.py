"""Pickles of NumPy arrays, read without running anything they name, NumPy's own unpickling included."""

import io
import pickle

import numpy as np

from datasets.base import DataError

KINDS = frozenset(order + code for order in "<>|" for code in ("u1", "i4", "i8", "f4", "f8"))


# The opcodes that Python 2 wrote arrays with. Others would make memory by a number in the file, or hash what it nests.
OPCODES = (
    *(pickle.PROTO, pickle.MARK, pickle.STOP, pickle.GLOBAL, pickle.REDUCE, pickle.BUILD),
    *(pickle.EMPTY_LIST, pickle.LIST, pickle.APPEND, pickle.APPENDS),
    *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
    *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.INT, pickle.BININT, pickle.BININT1, pickle.BININT2),
    *(pickle.LONG1, pickle.STRING, pickle.BINSTRING, pickle.SHORT_BINSTRING),
    *(pickle.PUT, pickle.BINPUT, pickle.LONG_BINPUT, pickle.GET, pickle.BINGET, pickle.LONG_BINGET),
)


def load(content):
    """What a Python 2 pickle of arrays, lists and tuples holds, with a PickledArray in each array's place.

    Damaged, it raises DataError, or whatever its reading ran into: as the unpickler of the standard library does.
    """
    return _Unpickler(io.BytesIO(content), encoding="latin1").load()


class PickledArray:
    """What a pickle says of an array; array() makes it, from the bytes alone.

    NumPy's own ndarray.__setstate__ trusts what it is told and can crash the process on damaged bytes.
    """

    def __init__(self, *_):
        pass

    def __setstate__(self, state):
        _version, self.shape, self.dtype, self.column_major, self._content = state

    def array(self):
        kind = f"{self.dtype.order}{self.dtype.code}"
        if kind not in KINDS:
            raise DataError(f"a pickled array of {kind[:20]!r} is refused: only numbers are read")
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

    dispatch = {code[0]: pickle._Unpickler.dispatch[code[0]] for code in OPCODES}  # noqa: RUF012

    def find_class(self, module, name):
        if module.split(".")[0] == "numpy" and name in NAMES:
            return NAMES[name]
        raise DataError(f"a pickle that asks for {module}.{name} is refused: only arrays are read")
