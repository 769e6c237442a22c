"""SIGKILL before and after each change of a file that a script makes: nothing is lost, and nothing is taken half."""

import functools
import hashlib
import http.server
import itertools
import shutil
import signal
import threading

import numpy as np
import pytest
from conftest import saved
from injection import DIGITS, in_child, only_run, run_script, run_until_change, saved_up_to_checkpoint
from PIL import Image

import config
import evaluate
import make_pictures
import train
from datasets import base
from vae import runs, training
from vae.evaluation import Metrics
from vae.training import HistoryRow


def kill_at_each_change(folder, function, *args):
    """Runs function(*args) until it succeeds, killed one change later each time. Yields after each kill.

    The changes are those below `folder`. What a killed run has left there is there in the next run too, unless the
    caller removes it.
    """
    for number in itertools.count():
        exit_code = run_until_change(folder, number, function, *args)
        if exit_code != -signal.SIGKILL:
            assert exit_code == 0
            assert number > 3
            return
        yield number


@pytest.fixture
def undisturbed(tmp_path):
    """A function of a type and a number of epochs that returns what an undisturbed run saves. Each is trained once."""

    @functools.cache
    def train_undisturbed(vae_type, num_epochs):
        folder = tmp_path / f"undisturbed_{vae_type}_{num_epochs}"
        argv = [*DIGITS, "--vae_type", vae_type, "--num_epochs", str(num_epochs)]
        assert in_child(run_script, train.main, folder, *argv) == 0
        return saved(only_run(folder))

    return train_undisturbed


@pytest.mark.parametrize("vae_type", config.VAE_TYPES)
def test_training_killed_at_every_change_ends_as_if_undisturbed(vae_type, tmp_path, undisturbed):
    """A fresh run is killed at a change, continued and killed at the next one, until it succeeds."""
    folder = tmp_path / "killed"
    num_epochs = 5
    argv = [*DIGITS, "--vae_type", vae_type, "--num_epochs", str(num_epochs), "--restore", "True"]
    epochs = set()
    for _ in kill_at_each_change(folder, run_script, train.main, folder, *argv):
        for run in runs.trained(folder / "checkpoints"):
            epoch = runs.saved_epoch(run)
            epochs.add(epoch)
            assert saved_up_to_checkpoint(run) == undisturbed(vae_type, epoch)
            if epoch == num_epochs:
                shutil.rmtree(folder)
    assert epochs == {1, 2, 3, 4, 5}
    assert saved(only_run(folder)) == undisturbed(vae_type, num_epochs)


def save_without_training(folder, num_epochs):
    """Saves a small model after each epoch up to num_epochs. Continues the run below `folder`, if there is one."""
    run_config = config.Config("digits", latent_dim=2, hidden_size=8)
    image_shape = (8, 8, 1)
    with runs.training_run(folder / "checkpoints" / run_config.run_name) as run:
        state = training.create_state(runs.build(run_config, image_shape), run_config.learning_rate)
        run.restore(state, run_config)
        for epoch in range(int(state.epoch) + 1, num_epochs + 1):
            state.epoch.assign(epoch)
            run.history.append(HistoryRow(epoch, -1.5, -1.0, 0.5, -2.0, seconds=0.25))
            run.save(state, run_config, data_verified=True)


def test_saves_killed_at_every_change_leave_the_newest_whole_checkpoint(tmp_path):
    """The fourth and the fifth save also remove the oldest checkpoint."""
    num_epochs = 5
    expected = {}
    for epoch in range(1, num_epochs + 1):
        folder = tmp_path / f"undisturbed_{epoch}"
        assert in_child(save_without_training, folder, epoch) == 0
        expected[epoch] = saved(only_run(folder))

    folder = tmp_path / "killed"
    epochs = [0]
    for _ in kill_at_each_change(folder, save_without_training, folder, num_epochs):
        if runs.trained(folder / "checkpoints"):
            run = only_run(folder)
            epochs.append(runs.saved_epoch(run))
            assert saved_up_to_checkpoint(run) == expected[epochs[-1]]
        assert in_child(save_without_training, folder, num_epochs) == 0
        assert saved(only_run(folder)) == expected[num_epochs]
        shutil.rmtree(folder)
    assert epochs == sorted(epochs)
    assert set(epochs) == {0, 1, 2, 3, 4, 5}


def test_overwriting_killed_at_every_change_never_loses_the_earlier_model(tmp_path, undisturbed):
    """The earlier model is whole in its place or in replaced/, and --restore True afterwards ends as undisturbed."""
    assert in_child(run_script, train.main, tmp_path / "earlier", *DIGITS, "--num_epochs", "3") == 0
    earlier = saved(only_run(tmp_path / "earlier"))
    folder = tmp_path / "killed"
    shutil.copytree(tmp_path / "earlier", folder)
    run = only_run(folder)
    replaced = run.parent / "replaced" / f"{run.name}.1"
    outcomes = set()
    for _ in kill_at_each_change(folder, run_script, train.main, folder, *DIGITS, "--num_epochs", "2", "--overwrite"):
        is_replaced = replaced.exists()
        epoch = runs.saved_epoch(run)
        outcomes.add((is_replaced, epoch))
        if is_replaced:
            assert saved(replaced) == earlier
        else:
            assert saved(run) == earlier
        if epoch > 0:
            assert saved_up_to_checkpoint(run) == undisturbed("flat_binarized", epoch)

        argv = [*DIGITS, "--num_epochs", "3", "--restore", "True"]
        assert in_child(run_script, train.main, folder, *argv) == 0
        assert saved(run) == undisturbed("flat_binarized", 3)
        assert replaced.exists() == is_replaced
        if is_replaced:
            assert saved(replaced) == earlier
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "earlier", folder)
    assert outcomes == {(False, 3), (True, 0), (True, 1), (True, 2)}
    assert saved(run) == undisturbed("flat_binarized", 2)
    assert saved(replaced) == earlier


def test_an_evaluation_killed_at_every_change_leaves_whole_metrics_or_none(tmp_path):
    assert in_child(run_script, train.main, tmp_path, *DIGITS, "--num_epochs", "1") == 0
    run = only_run(tmp_path)
    possible = [None]  # the numbers of samples that metrics.json may hold
    found = []
    exit_code = -signal.SIGKILL
    while exit_code != 0:
        # Each evaluation has its own number of samples, which shows which evaluation a file is from.
        num_samples = len(found) + 2
        argv = [*DIGITS, "--num_samples", str(num_samples)]
        exit_code = run_until_change(tmp_path, len(found), run_script, evaluate.main, tmp_path, *argv)
        possible.append(num_samples)
        # Raises an error if the file is half-written.
        found.append(Metrics.read(run).num_samples if (run / "metrics.json").exists() else None)
        assert found[-1] in possible
    assert found[-1] == possible[-1]
    assert None in found
    assert len(found) > 3


def test_pictures_killed_at_every_change_are_whole_or_not_there(tmp_path):
    assert in_child(run_script, train.main, tmp_path, *DIGITS, "--num_epochs", "1") == 0
    counts = set()
    for _ in kill_at_each_change(tmp_path, run_script, make_pictures.main, tmp_path, *DIGITS):
        pictures = [path for path in tmp_path.rglob("*.png") if not path.name.startswith(".")]
        counts.add(len(pictures))
        for path in pictures:
            with Image.open(path) as image:
                image.load()
    assert len(counts) >= 4


def test_a_cache_killed_at_every_change_is_whole_or_written_again(tmp_path):
    path = tmp_path / "x.npz"
    train_images, test_images = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 4, 1), dtype=np.uint8)
    dataset = base.Dataset("x", train_images, test_images)

    def load():
        cached = base.cached(
            "x", path, lambda: (dataset, []), False, image_shape=(4, 4, 1), is_published=lambda dataset: True
        )
        assert np.array_equal(cached.train_images, train_images)
        assert np.array_equal(cached.test_images, test_images)

    for _ in kill_at_each_change(tmp_path, load):
        assert in_child(load) == 0
        path.unlink()


def test_a_download_killed_at_every_change_is_whole_or_done_again(tmp_path):
    content = np.random.default_rng(0).bytes(300_000)
    served = tmp_path / "served"
    served.mkdir()
    (served / "file").write_bytes(content)
    folder = tmp_path / "data"
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/file"
        file = base.RemoteFile("file", (url,), hashlib.sha256(content).hexdigest())

        def load():
            assert base.fetch(file, folder).path.read_bytes() == content

        for _ in kill_at_each_change(folder, load):
            downloaded = folder / "file"
            assert not downloaded.exists() or downloaded.read_bytes() == content
            assert in_child(load) == 0
            downloaded.unlink()
        server.shutdown()
