"""Measures how the time of an epoch grows with the number of images, the sizes of the layers, and the batch size."""

import statistics
import sys
from typing import Any

import numpy as np

from config import Config

# The epochs that count. One more comes first, to warm up.
EPOCHS = 5
SIZES = {
    "images": (7500, 15000, 30000, 60000),
    "hidden_size": (50, 100, 200, 400, 800, 1600),
    "latent_dim": (2, 10, 20, 50, 100, 200, 400),
    "batch_size": (10, 25, 50, 100, 200, 400, 800),
}


def section(images: np.ndarray) -> str:
    """The section on growth, with a line for each of the SIZES. images: uint8 [60000, 28, 28, 1]."""
    lines = []
    for name, sizes in SIZES.items():
        times = []
        for size in sizes:
            if name == "images":
                seconds = seconds_per_epoch(images[:size], Config())
            else:
                parameter: dict[str, Any] = {name: size}
                seconds = seconds_per_epoch(images, Config(**parameter))
            print(f"{name} {size}: {seconds:.3f} s", file=sys.stderr, flush=True)
            times.append(f"{seconds:.2f} ({size})")
        lines.append(f"- {name.replace('_', ' ')}: {', '.join(times)}")
    return "\n\n".join(
        [
            "## How the cost grows",
            f"Seconds per epoch on binarized MNIST, medians of {EPOCHS} epochs, with one parameter not at its default:",
            "\n".join(lines),
        ]
    )


def seconds_per_epoch(images: np.ndarray, config: Config) -> float:
    """The median time of an epoch."""
    # This stands here, and not at the top of the file, because it changes the environment. Contenders that are started
    # later would inherit the change.
    from benchmarks import ours

    _, *after_warm_up = ours.train(images, config, num_epochs=1 + EPOCHS)
    return statistics.median(row.seconds for row in after_warm_up)
