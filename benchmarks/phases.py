"""Does what train.py does until the end of its first epoch, then saves: python -m benchmarks.phases DATA_DIR FOLDER.

train.py's check of the memory, its choice of threads and its look for GPUs are left out.

It prints the seconds of each phase as JSON. The environment variable STARTED has the time at which the process started.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import cli
from config import Config

# At run time, the imports are one of the phases.
if TYPE_CHECKING:
    import tensorflow as tf

    from datasets import Dataset

# The number of rows in the history that is saved, and the number of saves that are timed.
HISTORY_ROWS = 500
SAVES = 10


class Stopwatch:
    """Measures phases that follow one another."""

    def __init__(self, started: float) -> None:
        self.seconds: dict[str, float] = {}
        self._phase_started = started

    def end_phase(self, name: str) -> None:
        """Records the seconds since the previous phase ended. Phases with the same name are added up."""
        seconds = time.time() - self._phase_started
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self._phase_started = time.time()


def main() -> None:
    """Measures the phases and prints them."""
    watch = Stopwatch(started=float(os.environ["STARTED"]))
    watch.end_phase("Python starts")
    data_dir = Path(sys.argv[1])
    run_folder = Path(sys.argv[2])
    measure_imports(watch)
    data = measure_data(watch, data_dir)
    state = measure_epoch(watch, data)
    measure_saves(watch, state, data, run_folder)
    print(json.dumps(watch.seconds))


def measure_imports(watch: Stopwatch) -> None:
    """Imports what train.py imports."""
    with cli.tensorflow_environment():
        import datasets  # noqa: F401
        from vae import evaluation, figures, runs, signals, training  # noqa: F401
    import tqdm  # noqa: F401

    watch.end_phase("imports, TensorFlow among them")


def measure_data(watch: Stopwatch, data_dir: Path) -> Dataset:
    """Loads MNIST, for which a decoded copy must already exist."""
    import datasets

    data = datasets.load("mnist", data_dir, allow_unverified=False)
    watch.end_phase("data, from the decoded cache")
    return data


def measure_epoch(watch: Stopwatch, data: Dataset) -> tf.train.Checkpoint:
    """Trains a new model for one epoch, and returns the state that training changes."""
    from vae import evaluation, runs, training

    config = Config()
    model = runs.build(config, data.train_images.shape[1:])
    state = training.create_state(model, config.learning_rate)
    watch.end_phase("model and optimizer")
    measure_test_elbo = evaluation.make_test_elbo(model, data.test_images)
    watch.end_phase("preparing the test set")
    blocks_done = 0

    def end_block(num_steps: int) -> None:
        nonlocal blocks_done
        if blocks_done == 0:
            watch.end_phase(f"preparing, compiling, {num_steps} steps")
        else:
            watch.end_phase(f"the next {num_steps} steps")
        blocks_done += 1

    rows = training.fit(
        state,
        data.train_images,
        num_epochs=1,
        batch_size=config.batch_size,
        seed=config.seed,
        learning_rate_of=lambda epoch: config.learning_rate,
        measure_test_elbo=measure_test_elbo,
        on_steps=end_block,
    )
    next(rows)
    watch.end_phase("compiling the test ELBO, the first one")
    return state


def measure_saves(watch: Stopwatch, state: tf.train.Checkpoint, data: Dataset, run_folder: Path) -> None:
    """Saves the state in a run's folder. The phase "save" is the mean of all saves but the first."""
    from vae import runs, training

    row = training.HistoryRow(
        epoch=1,
        train_elbo=0.1,
        train_log_likelihood=0.1,
        train_kl=0.1,
        test_elbo=0.1,
        seconds=0.1,
    )
    with runs.training_run(run_folder) as run:
        run.history = [row._replace(epoch=epoch) for epoch in range(1, HISTORY_ROWS + 1)]
        run.save(state, Config(), data_verified=True)
        watch.end_phase("the first save")
        for _ in range(SAVES):
            run.save(state, Config(), data_verified=True)
        watch.end_phase("save")
    watch.seconds["save"] /= SAVES


if __name__ == "__main__":
    main()
