"""The program that matlab.py runs: it copies arrays from a MATLAB file into an .npz file, with at most 4 GB of memory.

Its arguments are the MATLAB file, the .npz file and the names of the arrays.
"""

import sys

import numpy as np
import scipy.io

MAX_MEMORY = 2**32  # bytes


def main() -> None:
    path, result, *names = sys.argv[1:]
    _limit_memory()
    content = scipy.io.loadmat(path, variable_names=names)
    np.savez(result, **{name: content[name] for name in names})


def _limit_memory() -> None:
    """Limits the memory of this process where the operating system can do so."""
    try:
        import resource  # not on Windows

        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, resource.RLIM_INFINITY))
    except (ImportError, ValueError):
        pass


if __name__ == "__main__":
    main()
