"""Small data files in the official formats, folders for runs, and what several files of tests read of a run."""

import gzip
import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

import cli

# Imported before any test imports TensorFlow, because it sets the variables that TensorFlow reads at its import.
from vae import checkpoints, history, runs

ROOT = Path(cli.__file__).parent

# The data sets that need no files, and are always verified.
NO_FILES = {"digits"}

# Seconds after which a process counts as hanging.
TIMEOUT = 900

# The flags of a small run, with 20 latents and with 2.
DIGITS_20 = ("--dataset", "digits", "--hidden_size", "16")
DIGITS = (*DIGITS_20, "--latent_dim", "2")


def idx(array):
    """An array of bytes as an IDX file holds it, which is the format of MNIST."""
    sizes = np.array(array.shape, ">u4").tobytes()
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def saved(run):
    """All that a run's folder holds of training: the newest checkpoint's arrays, and the history without its times."""
    with np.load(checkpoints.path_of(run, runs.saved_epoch(run))) as content:
        arrays = {name: content[name].tobytes() for name in content.files}
    assert len(arrays) > 30  # weights, Adam's two moments of each, step and epoch
    return arrays, [repr(row._replace(seconds=0.0)) for row in history.read(run)]


def contents(folder):
    """The bytes of every file in a folder, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Workspace:
    """Folders for runs and pictures, and the scripts that work in them."""

    def __init__(self, folder, data_dir):
        self.checkpoints = folder / "checkpoints"
        self.pictures = folder / "pictures"
        self.data_dir = data_dir

    @property
    def folder_arguments(self):
        arguments = ["--checkpoints_dir", self.checkpoints, "--pictures_dir", self.pictures]
        arguments += ["--data_dir", self.data_dir]
        return [str(argument) for argument in arguments]

    def run(self, script, *argv):
        """Runs a script in this process, and returns its exit code."""
        main = importlib.import_module(script).main
        try:
            return main([*argv, *self.folder_arguments])
        except SystemExit as ending:
            return ending.code

    def start(self, script, *argv, **options):
        """Starts a script as a process."""
        command = [sys.executable, str(ROOT / f"{script}.py"), *argv, *self.folder_arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)

    def train(self, *argv):
        """Trains a model, and returns the folder of the only trained run."""
        assert self.run("train", *argv) == 0
        (folder,) = runs.trained_folders(self.checkpoints)
        return folder


@pytest.fixture(autouse=True)
def default_environment(monkeypatch):
    """Removes the variables that whoever runs the tests may have set: folders, TensorFlow's threads, a cluster."""
    variables = [variable for variable, _ in cli.FOLDER_FLAGS.values()]
    for variable in (*variables, "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "TF_CONFIG"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture(scope="session")
def small_data(tmp_path_factory):
    """A data_dir with a file or more for every data set; random images, so all of it is unverified."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)

    def images(*shape):
        return rng.integers(0, 256, shape, dtype=np.uint8)

    for name in ("mnist", "frey_faces", "cifar10", "svhn"):
        (folder / name).mkdir()
    for part, count in (("train", 300), ("t10k", 100)):
        (folder / "mnist" / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images(count, 28, 28)), 1))
        (folder / "mnist" / f"{part}-labels-idx1-ubyte").write_bytes(idx(images(count) % 10))
    savemat(folder / "frey_faces" / "frey_rawface.mat", {"ff": images(560, 1965)})
    for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
        records = images(50, 3073)
        records[:, 0] %= 10
        (folder / "cifar10" / name).write_bytes(records.tobytes())
    for part, count in (("train", 200), ("test", 50)):
        labels = rng.integers(1, 11, (count, 1)).astype(np.uint8)
        savemat(folder / "svhn" / f"{part}_32x32.mat", {"X": images(32, 32, 3, count), "y": labels})
    return folder


@pytest.fixture
def workspace(tmp_path, small_data):
    """A Workspace without a run, in a folder whose name has spaces, accents and the characters of a glob pattern."""
    return Workspace(tmp_path / "mes modèles 模型 [1]*", small_data)


@pytest.fixture(scope="session")
def original(tmp_path_factory, small_data):
    """A Workspace with the run of DIGITS after one pretended epoch. Tests work on copies of it."""
    workspace = Workspace(tmp_path_factory.mktemp("original"), small_data)
    with pytest.MonkeyPatch.context() as monkeypatch:
        pretend_training(monkeypatch)
        workspace.train(*DIGITS, "--num_epochs", "1")
    return workspace


@pytest.fixture
def trained(workspace, original):
    """A Workspace with the run of DIGITS after one epoch."""
    shutil.copytree(original.checkpoints, workspace.checkpoints)
    shutil.copytree(original.pictures, workspace.pictures)
    return workspace


def pretend_training(monkeypatch):
    """Makes training take no time, and no step: an epoch adds 0.01 to the first weight. Returns the signals to receive.

    {2: [signal.SIGINT]} sends a signal to this process in epoch 2, as Ctrl-C does. The picture of the learning curves
    has their number of epochs only.
    """
    from matplotlib.figure import Figure

    from vae import figures, training  # loads TensorFlow, which most tests do not need

    signals_of_epochs = {}

    def fit(state, images, train_block, *, num_epochs, stop, **options):
        weight = state.model.trainable_variables[0]
        for epoch in range(state.epoch + 1, num_epochs + 1):
            weight.assign_add(np.full(weight.shape, 0.01))
            for number in signals_of_epochs.get(epoch, ()):
                os.kill(os.getpid(), number)
            state.epoch = epoch
            is_last = stop() or epoch == num_epochs
            yield history.HistoryRow(epoch, -epoch, -1.0, 0.5, -1.25, seconds=0.25, learning_rate=0.001)
            if is_last:
                return

    def learning_curves(epochs, **curves):
        figure = Figure(figsize=(1, 1))
        figure.text(0, 0, str(len(epochs)))
        return figure

    monkeypatch.setattr(training, "fit", fit)
    monkeypatch.setattr(figures, "learning_curves", learning_curves)
    return signals_of_epochs


@pytest.fixture
def pretended(monkeypatch):
    """Training is pretended. The value takes the signals to receive."""
    return pretend_training(monkeypatch)
