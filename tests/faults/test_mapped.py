"""Images that are mapped into memory: training on 4 GB of them takes no more memory than on a hundredth."""

import math
import subprocess
import sys
from pathlib import Path

import injection  # noqa: F401  (skips this file where there is no /proc)
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
SHAPE = (32, 32, 3)
SET_BYTES = 4 * 10**9
MAX_MORE_BYTES = 2**30

# Trains an epoch of one block, or for conv3 of one step, with train.py. At the end it prints the peak of the anonymous
# memory in bytes. Mapped pages of files are not part of it.
TRAIN_AND_MEASURE = """\
import re, sys, threading, time
from pathlib import Path

import numpy as np
from vae import training
import train

peak = 0

def watch():
    global peak
    while True:
        status = Path("/proc/self/status").read_text()
        peak = max(peak, int(re.search(r"RssAnon:\\s+(\\d+) kB", status)[1]) * 1024)
        time.sleep(0.005)

compile_block = training.compile_block

def compile_one_block(state, batch_size):
    train_block = compile_block(state, batch_size)
    trained = []

    def train_first_block(block):
        if not trained:
            trained.append(block.num_steps)
            train_block(block._replace(num_steps=1) if "conv3" in sys.argv else block)
        return np.zeros((block.num_steps, 2), np.float32)

    return train_first_block

threading.Thread(target=watch, daemon=True).start()
training.compile_block = compile_one_block
assert train.main(sys.argv[1:]) == 0
print(peak)
"""


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """The paths of two folders of arrays with random bytes: a hundredth of SET_BYTES, and all of them."""
    rng = np.random.default_rng(0)
    num_images = SET_BYTES // math.prod(SHAPE)
    paths = []
    for name, num_train in (("small", num_images // 100), ("large", num_images)):
        folder = tmp_path_factory.mktemp(name)
        np.save(folder / "test_images.npy", rng.integers(0, 256, (200, *SHAPE), dtype=np.uint8))
        images = np.lib.format.open_memmap(folder / "train_images.npy", "w+", np.uint8, (num_train, *SHAPE))
        for first in range(0, num_train, 10_000):
            part = images[first : first + 10_000]
            part[:] = rng.integers(0, 256, part.shape, dtype=np.uint8)
        images.flush()
        paths.append(folder)
    yield paths
    for folder in paths:
        (folder / "train_images.npy").unlink()


def peak_memory(data, scratch, vae_type):
    """The peak of the anonymous memory in bytes of a process that trains on a folder of arrays."""
    argv = ["--dataset", str(data), "--vae_type", vae_type, "--num_epochs", "1"]
    argv += ["--checkpoints_dir", str(scratch / "checkpoints"), "--pictures_dir", str(scratch / "pictures")]
    command = [sys.executable, "-c", TRAIN_AND_MEASURE, *argv]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("vae_type", ["flat_binarized", "flat_cont_normal", "conv3"])
def test_mapped_images_stay_on_disk(vae_type, sets, tmp_path):
    small, large = (peak_memory(data, tmp_path / data.name, vae_type) for data in sets)
    print(f"{vae_type}: {small / 2**20:.0f} MiB for the small set, {large / 2**20:.0f} MiB for the large one")
    assert large - small < MAX_MORE_BYTES
