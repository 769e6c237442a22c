"""Copies arrays from a MATLAB file into an .npz file, with at most 4 GB of memory. matlab.py runs this program.

Its arguments are the MATLAB file, the .npz file and the names of the arrays.
"""

import sys

import numpy as np
import scipy.io

# The memory that this process may use, in bytes.
MAX_MEMORY = 2**32


def main() -> None:
    """Copies the arrays that the arguments name."""
    path, result, *names = sys.argv[1:]
    _limit_memory()
    content = scipy.io.loadmat(path, variable_names=names)
    np.savez(result, **{name: content[name] for name in names})


def _limit_memory() -> None:
    """Limits the memory of this process if the operating system can do so."""
    try:
        # Windows does not have this module.
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, resource.RLIM_INFINITY))
    except (ImportError, ValueError):
        pass


if __name__ == "__main__":
    main()
