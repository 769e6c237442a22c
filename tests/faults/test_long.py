"""A thousand epochs: memory and file handles do not grow, and history.csv stays whole."""

import os

import numpy as np
from injection import in_child

import train
from vae import runs, training

EPOCHS, EVERY = 1000, 20


def test_memory_and_file_handles_do_not_grow(tmp_path):
    """The slope of resident memory over the last 800 epochs is less than 5 KB an epoch."""
    record = tmp_path / "record"

    def watched():
        tests_at, runs.SAVE_EPOCHS = training.tests_at, EVERY

        def measure(epoch):
            if epoch % EVERY == 0:
                pages = int(open("/proc/self/statm").read().split()[1])
                with record.open("a") as file:
                    file.write(f"{epoch} {pages * os.sysconf('SC_PAGE_SIZE')} {len(os.listdir('/proc/self/fd'))}\n")
            return tests_at(epoch)

        training.tests_at = measure
        options = ["--dataset", "digits", "--num_epochs", str(EPOCHS), "--hidden_size", "32"]
        options += ["--checkpoints_dir", str(tmp_path / "runs"), "--pictures_dir", str(tmp_path / "pictures")]
        return train.main(options)

    assert in_child(watched) == 0
    epochs, memory, handles = np.loadtxt(record).T
    steady = epochs > 200
    slope = np.polyfit(epochs[steady], memory[steady], 1)[0]
    assert slope < 5000, f"{slope:.0f} bytes an epoch"
    assert handles[steady].max() - handles[steady].min() <= 1
    (run,) = runs.trained(tmp_path / "runs")
    assert [row["epoch"] for row in runs.read_history(run)] == list(range(1, EPOCHS + 1))
