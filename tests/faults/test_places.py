"""A kill before and after each change of a file that a script makes, and between its writes: nothing is lost, and
nothing is taken half."""

import functools
import hashlib
import http.server
import itertools
import shutil
import signal
import threading
from types import SimpleNamespace

import numpy as np
from conftest import saved
from injection import (
    DIGITS,
    in_child,
    limit_files,
    only_run,
    run_script,
    run_until_change,
    saved_epoch_below,
    saved_up_to_checkpoint,
)
from PIL import Image

import config
import datasets
import evaluate
import plot_singular_values
import train
from datasets import base
from vae import runs
from vae.evaluation import Metrics
from vae.history import HistoryRow


def kill_at_each_change(folder, function, *args):
    """Runs function(*args) until it succeeds, killed one change later each time. Yields after each kill.

    The changes are those below `folder`. What a killed run has left there is there in the next run too, unless the
    caller removes it.
    """
    for number in itertools.count():
        exit_code = run_until_change(folder, number, function, *args)
        if exit_code != -signal.SIGKILL:
            assert exit_code == 0
            assert number > 1
            return
        yield


class Variable:
    """Stands for a tf.Variable, so that a save needs no TensorFlow."""

    def __init__(self, value):
        self.value = value
        self.shape = value.shape

    def numpy(self):
        return self.value

    def assign(self, value):
        self.value = value


def save_without_training(folder, num_epochs):
    """Saves 30 arrays after each epoch up to num_epochs. Continues the run below `folder`, if there is one."""
    run_config = config.Config("digits", latent_dim=2, hidden_size=8)
    variables = {f"array_{number}": Variable(np.full((8, 8), number, np.float32)) for number in range(30)}
    state = SimpleNamespace(epoch=0, model=SimpleNamespace(image_shape=(8, 8, 1)), variables=lambda: variables)
    with runs.training_run(folder / "checkpoints" / run_config.run_name) as run:
        run.restore(state, run_config, data_digest=None)
        for epoch in range(state.epoch + 1, num_epochs + 1):
            state.epoch = epoch
            for variable in variables.values():
                variable.value = variable.value * 1.5
            run.history.append(HistoryRow(epoch, -1.5, -1.0, 0.5, -2.0, seconds=0.25, learning_rate=0.001))
            run.save(state, run_config, data_verified=True, data_digest=None)


def test_saves_killed_at_every_change_leave_the_newest_whole_checkpoint(tmp_path):
    """The fourth save also removes the oldest checkpoint."""
    num_epochs = 4
    expected = {}
    for epoch in range(1, num_epochs + 1):
        undisturbed = tmp_path / f"undisturbed_{epoch}"
        assert in_child(save_without_training, undisturbed, epoch) == 0
        expected[epoch] = saved(only_run(undisturbed))

    def check(folder):
        """Checks what a kill has left, and that the run can be continued. Returns the epoch that was left."""
        epoch = saved_epoch_below(folder)
        if epoch > 0:
            assert saved_up_to_checkpoint(only_run(folder)) == expected[epoch]
        assert in_child(save_without_training, folder, num_epochs) == 0
        run = only_run(folder)
        assert saved(run) == expected[num_epochs]
        assert not list(run.glob(".*"))
        shutil.rmtree(folder)
        return epoch

    folder = tmp_path / "killed"
    epochs = [check(folder) for _ in kill_at_each_change(folder, save_without_training, folder, num_epochs)]
    assert epochs == sorted(epochs)
    assert set(epochs) == {0, 1, 2, 3, 4}

    def save_until(size):
        limit_files(size, effect=signal.SIG_DFL)
        return save_without_training(folder, num_epochs)

    # The kernel kills between two writes: of config.json, and of the checkpoint.
    (checkpoint,) = folder.rglob("epoch-4.npz")
    checkpoint_size = checkpoint.stat().st_size
    shutil.rmtree(folder)
    for size in (0, 100, 300, *np.linspace(1000, checkpoint_size - 1, 10, dtype=int).tolist()):
        shutil.copytree(tmp_path / "undisturbed_3", folder)
        assert in_child(save_until, size) == -signal.SIGXFSZ
        assert {path.stat().st_size for path in folder.rglob(".*.tmp")} == {size}
        assert check(folder) == 3


def test_overwriting_killed_at_every_change_never_loses_the_earlier_model(tmp_path):
    """The earlier model is whole in its place or in replaced/, and training ends as if undisturbed."""
    assert in_child(run_script, train.main, tmp_path / "earlier", *DIGITS, "--num_epochs", "2") == 0
    expected = saved(only_run(tmp_path / "earlier"))
    folder = tmp_path / "killed"
    shutil.copytree(tmp_path / "earlier", folder)
    run = only_run(folder)
    replaced = run.parent / "replaced" / f"{run.name}.1"
    outcomes = set()
    for _ in kill_at_each_change(folder, run_script, train.main, folder, *DIGITS, "--num_epochs", "1", "--overwrite"):
        is_replaced = replaced.exists()
        outcomes.add((is_replaced, runs.saved_epoch(run)))
        earlier = replaced if is_replaced else run
        assert saved(earlier) == expected

        assert in_child(run_script, train.main, folder, *DIGITS, "--num_epochs", "2", "--restore") == 0
        assert saved(run) == expected
        assert saved(earlier) == expected
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "earlier", folder)
    assert outcomes == {(False, 2), (True, 0), (True, 1)}


def test_an_evaluation_killed_at_every_change_leaves_whole_metrics_or_none(tmp_path):
    assert in_child(run_script, train.main, tmp_path, *DIGITS, "--num_epochs", "1") == 0
    run = only_run(tmp_path)
    found = []
    exit_code = -signal.SIGKILL
    while exit_code != 0:
        # Each evaluation has its own number of samples, which shows which evaluation a file is from.
        argv = [*DIGITS, "--num_samples", str(len(found) + 2)]
        exit_code = run_until_change(tmp_path, len(found), run_script, evaluate.main, tmp_path, *argv)
        found.append(Metrics.read(run).num_samples if (run / "metrics.json").exists() else None)
    assert found == [None, None, 4]


def test_a_picture_killed_at_every_change_is_whole_or_not_there(tmp_path):
    assert in_child(run_script, train.main, tmp_path, *DIGITS, "--num_epochs", "1") == 0
    (learning_curves,) = tmp_path.rglob("*.png")
    learning_curves.unlink()
    numbers_of_pictures = []

    def count_whole_pictures():
        pictures = list(tmp_path.rglob("[!.]*.png"))
        for picture in pictures:
            with Image.open(picture) as image:
                image.load()
            picture.unlink()
        return len(pictures)

    for _ in kill_at_each_change(tmp_path, run_script, plot_singular_values.main, tmp_path, *DIGITS):
        numbers_of_pictures.append(count_whole_pictures())
    assert count_whole_pictures() == 1
    # The table of the values is written after the picture.
    assert set(numbers_of_pictures) == {0, 1}


def test_a_cache_killed_at_every_change_is_whole_or_written_again(tmp_path, small_data):
    shutil.copytree(small_data / "mnist", tmp_path / "mnist")
    expected = datasets.load("mnist", small_data, allow_unverified=True)

    def load():
        loaded = datasets.load("mnist", tmp_path, allow_unverified=True)
        assert np.array_equal(loaded.train_images, expected.train_images)
        assert np.array_equal(loaded.test_images, expected.test_images)

    for _ in kill_at_each_change(tmp_path, load):
        assert in_child(load) == 0
        for cache in tmp_path.rglob("*.npz"):
            cache.unlink()


def test_a_download_killed_at_every_change_is_whole_or_done_again(tmp_path):
    content = np.random.default_rng(0).bytes(300_000)
    served = tmp_path / "served"
    served.mkdir()
    (served / "file").write_bytes(content)
    folder = tmp_path / "data"
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        mirror = f"http://127.0.0.1:{server.server_port}/"
        file = base.RemoteFile("file", (mirror,), hashlib.sha256(content).hexdigest())

        def load():
            assert base.fetch(file, folder).path.read_bytes() == content

        for _ in kill_at_each_change(folder, load):
            downloaded = folder / "file"
            assert not downloaded.exists() or downloaded.read_bytes() == content
            assert in_child(load) == 0
            downloaded.unlink()
        server.shutdown()
