"""What stops a script at its start: Ctrl-C, packages that are missing or broken, too little memory. One line each."""

import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import config

ROOT = Path(config.__file__).parent

# Sends Ctrl-C when a module is imported, and then runs a script as a program.
INTERRUPTED = """\
import os, runpy, signal, sys
name, *sys.argv = sys.argv[1:]

def interrupt(event, arguments):
    if event == "import" and arguments[0] == name:
        os.kill(os.getpid(), signal.SIGINT)

sys.addaudithook(interrupt)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def argv(tmp_path):
    """The command line of a short training."""
    paths = ["--checkpoints_dir", tmp_path / "checkpoints", "--pictures_dir", tmp_path / "pictures"]
    argv = [ROOT / "train.py", "--dataset", "digits", "--hidden_size", "8", "--num_epochs", "1", *paths]
    return list(map(str, argv))


@pytest.mark.parametrize(
    "module",
    [
        *("datasets", "numpy", "numpy._core._multiarray_umath", "vae", "filelock", "tensorflow", "wrapt", "h5py"),
        *("tensorflow.python._pywrap_tensorflow_internal", "keras.src.layers", "vae.training"),
        *("sklearn", "scipy.linalg", "tqdm", "matplotlib", "matplotlib.figure"),
    ],
)
def test_ctrl_c_while_a_module_is_imported_is_one_line(module, argv):
    command = [sys.executable, "-c", INTERRUPTED, module, *argv]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    lines = done.stderr.strip().splitlines()
    if "stopping at the end of this epoch; " in done.stderr:
        # The module is imported while the model trains.
        assert done.returncode in (0, 130) and len(lines) == 1
    else:
        assert (done.returncode, lines) == (130, ["stopped"])


@pytest.mark.parametrize("package", ["numpy", "tensorflow", "keras", "filelock", "matplotlib", "tqdm", "sklearn"])
@pytest.mark.parametrize("error", ["ModuleNotFoundError", "ImportError"])
def test_a_package_that_cannot_be_imported_is_one_line(package, error, argv, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / f"{package}.py").write_text(f"raise {error}('a problem with {package}')")
    command = [sys.executable, *argv]
    environment = {"PYTHONPATH": str(broken), "HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"a problem with {package}: activate the environment" in line


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory has no effect here")
@pytest.mark.parametrize("megabytes", [20, 50, 100, 200, 400, 700, 1000, 1100, 1200, 1250, 1300, 1400])
def test_too_little_memory_is_one_line(megabytes, argv):
    """A C++ library may abort the process itself, with a text of its own."""

    def limit_memory():
        resource.setrlimit(resource.RLIMIT_AS, (megabytes * 10**6, megabytes * 10**6))

    command = [sys.executable, *argv]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit_memory, timeout=120)
    assert "Traceback" not in done.stderr
    if done.returncode not in (0, -signal.SIGABRT):
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert "memory" in line
