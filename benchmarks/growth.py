"""How the cost of an epoch grows with images, hidden size, latent size and batch size; docs/figures/growth.png."""

import itertools
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from matplotlib.figure import Figure

import config

EPOCHS = 5  # after one to warm up
SIZES = {
    "images": (7500, 15000, 30000, 60000),
    "hidden_size": (50, 100, 200, 400, 800, 1600),
    "latent_dim": (2, 10, 20, 50, 100, 200, 400),
    "batch_size": (10, 25, 50, 100, 200, 400, 800),
}
PICTURE = Path(__file__).parents[1] / "docs" / "figures" / "growth.png"


def seconds(images, **options):
    """The median seconds of an epoch of train.py's training."""
    from vae import runs, training

    c = config.Config(**options)
    state = training.create_state(runs.build(c, images.shape[1:]), c.learning_rate)
    epochs = training.fit(state, images, EPOCHS + 1, c.batch_size, c.seed, test_elbo=lambda: 0.0)
    return statistics.median(row["seconds"] for row in itertools.islice(epochs, 1, None))


def measure(images):
    """{what grows: [seconds]} as SIZES; all else as the defaults have it."""
    times = {name: [] for name in SIZES}
    for name, sizes in SIZES.items():
        for size in sizes:
            part, options = (images[:size], {}) if name == "images" else (images, {name: size})
            times[name].append(seconds(part, **options))
            print(f"{name} {size}: {times[name][-1]:.3f} s", file=sys.stderr, flush=True)
    return times


def draw(times):
    figure = Figure(figsize=(12, 3.2), layout="constrained")
    for axes, (name, sizes) in zip(figure.subplots(1, len(SIZES), sharey=True), SIZES.items(), strict=True):
        axes.loglog(sizes, times[name], "o-")
        axes.set_xlabel(name.replace("_", " "))
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("seconds an epoch")
    return figure


def section(images):
    """The Markdown, with the picture drawn."""
    with config.tensorflow_environment():
        from vae import runs
    times = measure(images)
    runs.save_picture(draw(times), PICTURE)
    lines = ["## How the cost grows", "![seconds an epoch](../docs/figures/growth.png)"]
    lines.append("Binarized MNIST, all else at its default; medians of 5 epochs.")
    for name, sizes in SIZES.items():
        cells = [f"{size}: {value:.2f}" for size, value in zip(sizes, times[name], strict=True)]
        lines.append(f"- {name.replace('_', ' ')} (seconds): " + ", ".join(cells))
    return "\n\n".join(lines[:3]) + "\n\n" + "\n".join(lines[3:])
