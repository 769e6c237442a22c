"""What train.py does to the end of its first epoch, phase by phase, and a save: seconds as JSON.

python benchmarks/phases.py DATA_DIR FOLDER, with time.time() just before this process was started in BEGUN.
"""

import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import config

SAVES = 10


def main():
    marks, begun = {}, float(os.environ["BEGUN"])

    def mark(name):
        nonlocal begun
        marks[name] = marks.get(name, 0) + time.time() - begun
        begun = time.time()

    mark("Python starts")
    with config.tensorflow_environment():
        import datasets
        from vae import evaluation, figures, runs, signals, training  # noqa: F401
    import tqdm  # noqa: F401

    mark("imports, TensorFlow among them")
    data = datasets.load("mnist", Path(sys.argv[1]))
    mark("data, from the decoded cache")
    c = config.Config()
    state = training.create_state(runs.build(c, data.train_images.shape[1:]), c.learning_rate)
    mark("model and optimizer")
    evaluate = evaluation.test_elbo(state.model, data.test_images)
    mark("preparing the test set")
    blocks = []

    def on_steps(count):
        mark(f"preparing, compiling, {count} steps" if not blocks else f"the next {count} steps")
        blocks.append(count)

    next(training.fit(state, data.train_images, 1, c.batch_size, c.seed, evaluate, on_steps))
    mark("compiling the test ELBO, the first one")
    with runs.Run(Path(sys.argv[2], "run")) as run:
        run.history = [dict.fromkeys(training.HISTORY, 0.1)] * 500
        run.save(state, c, data.train_images.shape[1:], True)
        mark("the first save")
        for _ in range(SAVES):
            run.save(state, c, data.train_images.shape[1:], True)
        mark("save")
    marks["save"] /= SAVES
    print(json.dumps(marks))


if __name__ == "__main__":
    main()
