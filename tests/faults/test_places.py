"""SIGKILL before and after each change of the file system that a script makes: nothing is lost or taken half."""

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
from injection import DIGITS, dying, in_child, script
from PIL import Image

import evaluate
import make_pictures
import train
from datasets import base
from vae import results, runs


def the_run(folder):
    (run,) = runs.trained(folder / "checkpoints")
    return run


def places(folder, function, *args):
    """Kills function(*args) at each of its changes below `folder`, anew each time; yields after each kill."""
    for place in itertools.count():
        code = dying(folder, place, function, *args)
        if code != -signal.SIGKILL:
            assert code == 0 and place > 3
            return
        yield place


@pytest.fixture
def reference(tmp_path):
    """What an undisturbed run of so many epochs leaves: a function of (vae_type, epochs), each trained once."""

    @functools.cache
    def of(vae_type, epochs):
        folder = tmp_path / f"reference_{vae_type}_{epochs}"
        argv = [*DIGITS, "--vae_type", vae_type, "--num_epochs", str(epochs)]
        assert in_child(script, train.main, folder, *argv) == 0
        return saved(the_run(folder))

    return of


@pytest.mark.parametrize("vae_type", ["flat_binarized", "flat_cont_normal", "flat_cont_logit", "conv3"])
def test_training_killed_at_every_change_ends_as_if_undisturbed(vae_type, tmp_path, reference):
    """A fresh run is killed at a place, carried on and killed at the next, until one gets through."""
    folder, epochs = tmp_path / "killed", 5
    argv = [*DIGITS, "--vae_type", vae_type, "--num_epochs", str(epochs), "--restore", "True"]
    reached = []
    for _ in places(folder, script, train.main, folder, *argv):
        reached += [runs.saved_epoch(run) for run in runs.trained(folder / "checkpoints")]
        if reached and reached[-1] == epochs:
            shutil.rmtree(folder)
    assert set(reached) >= {1, 2, 3, 4, 5}
    assert saved(the_run(folder)) == reference(vae_type, epochs)


def test_overwriting_killed_at_every_change_leaves_the_old_model_or_the_new_one(tmp_path, reference):
    folder, found = tmp_path / "killed", []
    assert in_child(script, train.main, tmp_path / "old", *DIGITS, "--num_epochs", "3") == 0
    shutil.copytree(tmp_path / "old", folder)
    for _ in places(folder, script, train.main, folder, *DIGITS, "--num_epochs", "1", "--overwrite"):
        run = the_run(folder)
        found.append(runs.saved_epoch(run))
        assert saved(run) == reference("flat_binarized", found[-1])
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "old", folder)
    assert set(found) == {1, 3}


def test_an_evaluation_killed_at_every_change_leaves_metrics_whole_or_not_there(tmp_path):
    assert in_child(script, train.main, tmp_path, *DIGITS, "--num_epochs", "1") == 0
    run, found = the_run(tmp_path), []
    for place in itertools.count():
        samples = place + 2  # another number each time, to know which evaluation a file is from
        code = dying(tmp_path, place, script, evaluate.main, tmp_path, *DIGITS, "--num_samples", str(samples))
        found.append(results.read_metrics(run).get("num_samples"))  # raises where the file is half
        assert found[-1] == samples if code == 0 else found[-1] in (None, samples, *found[:-1])
        if code == 0:
            break
    assert None in found and len(found) > 3


def test_pictures_killed_at_every_change_are_whole_or_not_there(tmp_path):
    assert in_child(script, train.main, tmp_path, *DIGITS, "--num_epochs", "1") == 0
    counts = []
    for _ in places(tmp_path, script, make_pictures.main, tmp_path, *DIGITS):
        pictures = [path for path in tmp_path.rglob("*.png") if not path.name.startswith(".")]
        counts.append(len(pictures))
        for path in pictures:
            with Image.open(path) as image:
                image.load()
    assert len(set(counts)) >= 4


def test_a_cache_killed_at_every_change_is_whole_or_made_anew(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 5, 4, 4, 1), dtype=np.uint8)
    dataset, path = base.Dataset("x", images[0], images[1]), tmp_path / "x.npz"

    def load():
        got = base.cached("x", path, lambda: (dataset, []), False)
        return 0 if np.array_equal(got.train_images, images[0]) and np.array_equal(got.test_images, images[1]) else 3

    for _ in places(tmp_path, load):
        assert in_child(load) == 0
        path.unlink()


def test_a_download_killed_at_every_change_is_whole_or_done_anew(tmp_path):
    content = np.random.default_rng(0).bytes(300_000)
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "file").write_bytes(content)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "served"))
    data = tmp_path / "data"
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/file"
        file = base.RemoteFile("file", (url,), hashlib.sha256(content).hexdigest())

        def load():
            return 0 if base.fetch(file, data).path.read_bytes() == content else 3

        for _ in places(data, load):
            assert not (data / "file").exists() or (data / "file").read_bytes() == content
            assert in_child(load) == 0
            (data / "file").unlink()
        server.shutdown()
