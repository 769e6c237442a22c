"""Measures how the time of an epoch grows with the number of images, the sizes of the layers, and the batch size."""

import itertools
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import cli
from config import Config
from vae import files

# The epochs that count. One more comes first, to warm up.
EPOCHS = 5
SIZES = {
    "images": (7500, 15000, 30000, 60000),
    "hidden_size": (50, 100, 200, 400, 800, 1600),
    "latent_dim": (2, 10, 20, 50, 100, 200, 400),
    "batch_size": (10, 25, 50, 100, 200, 400, 800),
}
FIGURE_PATH = Path(__file__).parents[1] / "docs" / "figures" / "growth.png"


def section(images: np.ndarray) -> str:
    """Returns the section on growth, and saves its figure. images: uint8 [60000, 28, 28, 1]."""
    times = measure(images)
    files.save_figure(draw(times), FIGURE_PATH)
    return "\n\n".join(
        [
            "## How the cost grows",
            "![seconds per epoch](../docs/figures/growth.png)",
            f"Binarized MNIST, with all other parameters at their defaults. Times are medians of {EPOCHS} epochs.",
            make_list(times),
        ]
    )


def measure(images: np.ndarray) -> dict[str, list[float]]:
    """Returns the seconds per epoch for every size in SIZES, with all other parameters at their defaults."""
    times: dict[str, list[float]] = {}
    for name, sizes in SIZES.items():
        times[name] = []
        for size in sizes:
            if name == "images":
                seconds = seconds_per_epoch(images[:size], Config())
            else:
                parameter: dict[str, Any] = {name: size}
                seconds = seconds_per_epoch(images, Config(**parameter))
            print(f"{name} {size}: {seconds:.3f} s", file=sys.stderr, flush=True)
            times[name].append(seconds)
    return times


def seconds_per_epoch(images: np.ndarray, config: Config) -> float:
    """Returns the median time of an epoch of training, as train.py does it, but without a test ELBO."""
    # This stands here, and not at the top of the file, because it changes the environment. Contenders that are started
    # later would inherit the change.
    with cli.tensorflow_environment():
        from vae import runs, training

    model = runs.build(config, images.shape[1:])
    state = training.create_state(model, config.learning_rate)
    rows = training.fit(
        state,
        images,
        num_epochs=EPOCHS + 1,
        batch_size=config.batch_size,
        seed=config.seed,
        learning_rate_of=lambda epoch: config.learning_rate,
        measure_test_elbo=lambda: 0.0,
    )
    after_warm_up = itertools.islice(rows, 1, None)
    return statistics.median(row.seconds for row in after_warm_up)


def draw(times: dict[str, list[float]]) -> Figure:
    """Returns a figure with a panel for each parameter in SIZES, on logarithmic axes."""
    figure = Figure(figsize=(12, 3.2), layout="constrained")
    panels = figure.subplots(1, len(SIZES), sharey=True)
    for axes, (name, sizes) in zip(panels, SIZES.items(), strict=True):
        axes.loglog(sizes, times[name], "o-")
        axes.set_xlabel(with_spaces(name))
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("seconds per epoch")
    return figure


def make_list(times: dict[str, list[float]]) -> str:
    """Returns a Markdown list with the numbers of the figure."""
    items = []
    for name, sizes in SIZES.items():
        numbers = [f"{seconds:.2f} s for {size}" for size, seconds in zip(sizes, times[name], strict=True)]
        items.append(f"- {with_spaces(name)}: {', '.join(numbers)}")
    return "\n".join(items)


def with_spaces(name: str) -> str:
    """Returns the name of a parameter with spaces in place of its underscores."""
    return name.replace("_", " ")
