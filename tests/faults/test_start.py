"""What stops a script at its start: Ctrl-C, packages that are missing or broken, too little memory. One line each."""

import resource
import signal
import subprocess
import sys

import pytest
from conftest import ROOT

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
def run(tmp_path):
    """A function that runs a short training, with arguments of Python before it. Returns the finished process."""

    def run_training(*python_arguments, **options):
        paths = [f"--checkpoints_dir={tmp_path / 'checkpoints'}", f"--pictures_dir={tmp_path / 'pictures'}"]
        argv = [ROOT / "train.py", "--dataset", "digits", "--hidden_size", "8", "--num_epochs", "1", *paths]
        command = [sys.executable, *python_arguments, *argv]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **options)

    return run_training


@pytest.mark.parametrize(
    "module",
    [
        *("datasets", "numpy._core._multiarray_umath", "vae", "filelock", "tensorflow", "h5py", "keras.src.layers"),
        *("tensorflow.python._pywrap_tensorflow_internal", "vae.training", "sklearn", "matplotlib.figure"),
    ],
)
def test_ctrl_c_while_a_module_is_imported_is_one_line(module, run):
    done = run("-c", INTERRUPTED, module)
    lines = done.stderr.strip().splitlines()
    if "stopping at the end of this epoch; " in done.stderr:
        # The module is imported while the model trains.
        assert done.returncode in (0, 130) and len(lines) == 1
    else:
        assert (done.returncode, lines) == (130, ["stopped"])


@pytest.mark.parametrize("package", ["numpy", "tensorflow", "keras", "filelock", "matplotlib", "tqdm", "sklearn"])
def test_a_package_that_cannot_be_imported_is_one_line(package, run, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / f"{package}.py").write_text(f"raise ImportError('a problem with {package}')")
    done = run(env={"PYTHONPATH": str(broken), "HOME": str(tmp_path)})
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"a problem with {package}: activate the environment" in line


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory has no effect here")
@pytest.mark.parametrize("megabytes", [20, 50, 100, 200, 400, 700, 1000, 1200, 1300, 1400])
def test_too_little_memory_is_one_line(megabytes, run):
    """A C++ library may abort the process itself, with a text of its own."""

    def limit_memory():
        resource.setrlimit(resource.RLIMIT_AS, (megabytes * 10**6, megabytes * 10**6))

    done = run(preexec_fn=limit_memory)
    assert "Traceback" not in done.stderr
    if done.returncode not in (0, -signal.SIGABRT):
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert "memory" in line.lower()  # OpenBLAS has a text of its own
