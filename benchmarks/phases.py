"""What train.py does up to its first step, phase by phase, and a save: seconds as JSON.

python benchmarks/phases.py TIME DATA_DIR FOLDER, where TIME is time.time() just before this process was started.
"""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import config

SAVES = 10


def main():
    marks, begun = {}, float(sys.argv[1])

    def mark(name):
        nonlocal begun
        marks[name], begun = time.time() - begun, time.time()

    mark("Python starts")
    with config.tensorflow_environment():
        import datasets
        from vae import evaluation, figures, runs, signals, training  # noqa: F401
    import tqdm  # noqa: F401

    mark("imports, TensorFlow among them")
    images = datasets.load("mnist", Path(sys.argv[2])).train_images
    mark("data, from the decoded cache")
    c = config.Config()
    state = training.create_state(runs.build(c, images.shape[1:]), c.learning_rate)
    mark("model and optimizer")
    blocks = []

    def on_steps(count):
        mark(f"preparing, compiling, {count} steps" if not blocks else f"the next {count} steps")
        blocks.append(count)

    next(training.fit(state, images, 1, c.batch_size, c.seed, lambda: 0.0, on_steps))
    mark("checks at the epoch's end")
    with runs.Run(Path(sys.argv[3], "run")) as run:
        run.history = [dict.fromkeys(training.HISTORY, 0.1)] * 500
        run.save(state, c, images.shape[1:], True)
        mark("the first save")
        for _ in range(SAVES):
            run.save(state, c, images.shape[1:], True)
        mark("save")
    marks["save"] /= SAVES
    print(json.dumps(marks))


if __name__ == "__main__":
    main()
