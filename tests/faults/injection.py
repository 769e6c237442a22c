"""What the tests of faults share: scripts that run in a child process, which can be killed at any change of a file."""

import os
import resource
import signal
import sys
import traceback
import warnings
from pathlib import Path

import pytest
from conftest import saved

# Imported here, so that no child process waits for the import of TensorFlow.
from vae import runs, session  # noqa: F401

if sys.platform != "linux":
    pytest.skip(
        "these tests need Linux: they fork after TensorFlow is imported, and read /proc", allow_module_level=True
    )

DIGITS = ["--dataset", "digits", "--latent_dim", "2", "--hidden_size", "8"]
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


# ---- Child processes -----------------------------------------------------------------------------------------------


def start_child(function, *args):
    """Starts function(*args), which returns an exit code, in a fork of this process. Returns the fork's process id.

    This process may import TensorFlow, but must not use it: a fork does not have the threads of its parent, and would
    wait for them.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        child = os.fork()
    if child == 0:
        exit_code = 99
        try:
            exit_code = function(*args) or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(exit_code)
    return child


def wait_for(child):
    """Waits for a child process; returns its exit code, or minus the number of the signal that ended it."""
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def in_child(function, *args):
    """Runs function(*args) in a child process, and returns the exit code."""
    return wait_for(start_child(function, *args))


def folders_below(folder):
    """The flags that put all that a script writes below `folder`."""
    paths = {"checkpoints_dir": "checkpoints", "pictures_dir": "pictures", "data_dir": "data"}
    return [f"--{flag}={folder / name}" for flag, name in paths.items()]


def run_script(main, folder, *argv):
    """Runs a script with all its folders below `folder`, where it saves after every epoch. Returns the exit code."""
    runs.SAVE_EPOCHS = 1
    return main([*argv, *folders_below(folder)])


# ---- Faults --------------------------------------------------------------------------------------------------------


def run_until_change(folder, number, function, *args):
    """Runs function(*args) in a child process, which is killed just before a change below `folder`.

    The changes are counted from 0 up to `number`. Just before the next change is just after this one, so that going
    through all numbers tests a kill before and after each change. Returns the exit code as wait_for does.
    """
    count = 0

    def audit(event, arguments):
        nonlocal count
        if is_change_below(folder, event, arguments):
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1

    def run_audited():
        sys.addaudithook(audit)
        return function(*args)

    return in_child(run_audited)


def is_change_below(folder, event, arguments):
    """Whether an audit event of Python is a change below `folder`.

    Changes are: a file opened for writing, renamed, removed, linked or truncated, and a folder made or removed.
    """
    if event == "open":
        flags = arguments[2]
        if not isinstance(flags, int) or not flags & WRITING:
            return False
    elif event not in CHANGES:
        return False
    names = [os.fspath(argument) for argument in arguments[:2] if isinstance(argument, str | os.PathLike)]
    if event in ("os.remove", "os.rmdir") and arguments[1] >= 0:
        # shutil.rmtree gives a name and the descriptor of its folder.
        parent = os.readlink(f"/proc/self/fd/{arguments[1]}")
        names = [os.path.join(parent, names[0])]
    # Audit events come before the call: a file that is not there is not removed, nor is a folder made twice.
    if event == "os.remove" and not os.path.lexists(names[0]):
        return False
    if event == "os.mkdir" and os.path.lexists(names[0]):
        return False
    return any(Path(name).is_relative_to(folder) for name in names)


def limit_files(size, effect=signal.SIG_IGN):
    """Limits this process's files to `size` bytes. A write beyond them fails; with SIG_DFL it kills the process."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, effect)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


# ---- Runs ----------------------------------------------------------------------------------------------------------


def only_run(folder):
    """The one trained run below a folder that was given to run_script."""
    (run,) = runs.trained_folders(folder / "checkpoints")
    return run


def saved_epoch_below(folder):
    """The epoch of the one run below a folder, or 0 if nothing is saved yet."""
    return max(map(runs.saved_epoch, runs.trained_folders(folder / "checkpoints")), default=0)


def saved_up_to_checkpoint(run):
    """What `saved` returns, but with the history up to the newest checkpoint.

    history.csv is written before the checkpoint, so that a kill or a full disk can leave it ahead.
    """
    arrays, rows = saved(run)
    return arrays, rows[: runs.saved_epoch(run)]
