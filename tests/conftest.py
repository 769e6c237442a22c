"""Small data files in the official formats, and TensorFlow imported the way the scripts import it."""

import gzip

import numpy as np
import pytest
from scipy.io import savemat
from workers import running_workers

import cli

with cli.tensorflow_environment():
    import tensorflow

    from vae import runs


# The data sets that need no files, and are always verified.
NO_FILES = {"digits"}


def idx(array):
    """Returns an array of bytes as an IDX file holds it, which is the format of MNIST."""
    sizes = np.array(array.shape, ">u4").tobytes()
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def saved(run):
    """Returns all that a run's folder holds of training: the newest checkpoint's tensors, and history without times."""
    reader = tensorflow.train.load_checkpoint(str(run / f"epoch-{runs.saved_epoch(run)}"))
    # Keras numbers the layers of a process, and their names are part of the entry that is left out.
    names = set(reader.get_variable_to_shape_map()) - {"_CHECKPOINTABLE_OBJECT_GRAPH"}
    tensors = {name: np.asarray(reader.get_tensor(name)).tobytes() for name in sorted(names)}
    assert len(tensors) > 30  # weights, Adam's two moments of each, epoch and step
    history = [repr(row._replace(seconds=0.0)) for row in runs.read_history(run)]
    return tensors, history


@pytest.fixture(autouse=True)
def default_paths(monkeypatch):
    """Removes the environment variables that whoever runs the tests may have set for folders."""
    for path_flag in cli.PATH_FLAGS.values():
        monkeypatch.delenv(path_flag.variable, raising=False)


@pytest.fixture(autouse=True)
def default_threads(monkeypatch):
    """Removes TensorFlow's numbers of threads, which decide the parts of a step of conv3."""
    for variable in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture(autouse=True)
def no_worker_is_left_behind(monkeypatch):
    """Checks after each test that no process of a cluster is still running."""
    monkeypatch.delenv("TF_CONFIG", raising=False)
    yield
    assert not running_workers()


@pytest.fixture(scope="session")
def small_data(tmp_path_factory):
    """Returns a data_dir with a file or more for every data set; random images, so all of it is unverified."""
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
