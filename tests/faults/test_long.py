"""A thousand epochs: memory and file handles do not grow, and history.csv stays whole."""

import gc
import os
from pathlib import Path

import numpy as np
from injection import folders_below, in_child, only_run

import train
from vae import history, runs

NUM_EPOCHS = 1000
SAVE_EPOCHS = 20


def train_and_measure(folder, record):
    """Trains for NUM_EPOCHS, and appends a line to `record` after each save. Returns the exit code.

    A line has the epoch, the resident memory in bytes and the number of open file handles.
    """
    save = runs.Run.save

    def save_and_measure(run, state, *args, **options):
        save(run, state, *args, **options)
        # A Matplotlib figure refers to itself, so that those of the learning curves stay until Python collects garbage.
        gc.collect()
        num_pages = int(Path("/proc/self/statm").read_text().split()[1])
        num_handles = len(os.listdir("/proc/self/fd"))
        with record.open("a") as file:
            file.write(f"{state.epoch} {num_pages * os.sysconf('SC_PAGE_SIZE')} {num_handles}\n")

    # This process is a child: nothing else sees these changes.
    runs.Run.save = save_and_measure
    runs.SAVE_EPOCHS = SAVE_EPOCHS
    argv = ["--dataset", "digits", "--num_epochs", str(NUM_EPOCHS), "--hidden_size", "32"]
    return train.main([*argv, *folders_below(folder)])


def test_memory_and_file_handles_do_not_grow(tmp_path):
    """The slope of the resident memory over the last 800 epochs is less than 5 KB per epoch."""
    record = tmp_path / "record"
    assert in_child(train_and_measure, tmp_path, record) == 0
    epochs, memory, handles = np.loadtxt(record).T
    assert len(epochs) == NUM_EPOCHS / SAVE_EPOCHS
    is_steady = epochs > 200
    slope = np.polyfit(epochs[is_steady], memory[is_steady], 1)[0]
    assert slope < 5000, f"{slope:.0f} bytes per epoch"
    assert np.ptp(handles[is_steady]) <= 1
    assert [row.epoch for row in history.read(only_run(tmp_path))] == list(range(1, NUM_EPOCHS + 1))
