"""Faults at chosen places: a function run in a forked child that dies at its n-th change of the file system."""

import os
import signal
import sys
import traceback
import warnings
from pathlib import Path

import pytest

from vae import runs

if sys.platform != "linux":
    pytest.skip(
        "these faults are injected by means of Linux: fork after importing TensorFlow, /proc", allow_module_level=True
    )

DIGITS = ["--dataset", "digits", "--latent_dim", "2", "--hidden_size", "8"]
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "os.truncate", "os.chmod"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def fork(function, *args):
    """Starts function(*args) in a fork of this process, whose exit code it gives; returns the process's number.

    TensorFlow may be imported here, but not used: a fork has no threads of its parent, and would wait for them.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        child = os.fork()
    if child == 0:
        code = 99
        try:
            code = function(*args) or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return child


def wait(child):
    """The exit code of a child, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def in_child(function, *args):
    """Runs function(*args) in a fork, to its end; its exit code."""
    return wait(fork(function, *args))


def script(main, folder, *argv):
    """Runs a script's main below `folder`, saving after every epoch."""
    runs.SAVE_EPOCHS = 1
    paths = {"checkpoints": folder / "checkpoints", "pictures": folder / "pictures", "data": folder / "data"}
    return main([*argv, *(word for name, path in paths.items() for word in (f"--{name}_dir", str(path)))])


def dying(folder, place, function, *args):
    """Runs function in a child that is killed just before its `place`-th change below `folder`, counted from 0.

    A change is an open for writing, a rename, a removal, a folder made or gone (Python's audit events); before the
    next one is after this one, so that running through the places is a kill before and after each.
    """
    count = 0

    def audit(event, arguments):
        nonlocal count
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING
        named = [os.fspath(a) for a in arguments[:2] if isinstance(a, str | os.PathLike)]
        if event in ("os.remove", "os.rmdir") and arguments[1] >= 0:  # as shutil.rmtree does it: a name and its folder
            named = [os.path.join(os.readlink(f"/proc/self/fd/{arguments[1]}"), named[0])]
        if (writes or event in CHANGES) and any(Path(name).is_relative_to(folder) for name in named):
            if count == place:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1

    def watched():
        sys.addaudithook(audit)
        return function(*args)

    return in_child(watched)
