"""The report's figures: arrays in, Matplotlib Figure out. Nothing here shows or saves one."""

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

DPI = 100


def image_grid(images, line_after=None, zoom=2):
    """Pictures edge to edge, no axes (figures 1a-c and 5-8). images: [rows, columns, h, w, c] in [0, 1], c 1 or 3.

    line_after: draw a red line after that many columns. zoom: screen pixels an image pixel.
    """
    rows, columns, height, width, channels = images.shape
    sheet = images.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)
    sheet = np.rint(np.broadcast_to(sheet, (*sheet.shape[:2], 3)) * 255).astype(np.uint8)
    size = (columns * width * zoom / DPI, rows * height * zoom / DPI)
    figure = Figure(figsize=size, dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    axes.imshow(sheet, interpolation="nearest")
    if line_after:
        axes.axvline(line_after * width - 0.5, color="red", linewidth=2)
    return figure


def learning_curves(history):
    """Train and test ELBO, and the KL, by epoch. history: dicts with the columns of history.csv."""
    epochs, train, test, kl = (
        np.array([row[name] for row in history]) for name in ("epoch", "train_elbo", "test_elbo", "train_kl")
    )
    figure = Figure(figsize=(10, 4), dpi=DPI, layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(epochs, train, label="train")
    tested = np.isfinite(test)
    left.plot(epochs[tested], test[tested], marker=".", label="test")
    shown = np.concatenate([train, test[tested]])
    low, high = np.quantile(shown, 0.1 if len(shown) > 20 else 0), shown.max()  # the first epochs would hide the rest
    left.set_ylim(low - 0.05 * (high - low) - 1e-3, high + 0.05 * (high - low) + 1e-3)
    left.legend()
    right.plot(epochs, kl)
    for axes, label in ((left, "ELBO (nats)"), (right, "KL(q(z|x) || p(z)), training (nats)")):
        axes.set(xlabel="epoch", ylabel=label)
        axes.grid(True)
    return figure


def latent_maps(panels):
    """Points of the latent space, a dot an image, one panel beside the other (figures 2 and 3).

    panels: a list of (points [n, 2], labels [n] or None, title, (x label, y label)). Labels are digits or classes
    0..9; without any, points are coloured by their place in the test set (Frey Faces: by frame).
    """
    figure = Figure(figsize=(7.5 * len(panels), 6), dpi=DPI, layout="constrained")
    for axes, (points, labels, title, (xlabel, ylabel)) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        style = {"s": 6, "linewidths": 0}
        if labels is None:
            dots = axes.scatter(*points.T, c=np.arange(len(points)), cmap="viridis", **style)
            figure.colorbar(dots, ax=axes, label="place in the test set (no labels)")
        else:
            cmap = ListedColormap([f"C{i}" for i in range(10)])
            dots = axes.scatter(*points.T, c=labels, cmap=cmap, vmin=-0.5, vmax=9.5, **style)
            figure.colorbar(dots, ax=axes, ticks=range(10))
        axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
        axes.set_axisbelow(True)
        axes.grid(True)
    return figure


def singular_values(values, shares):
    """Two bar charts over 1..L, a value on each bar: singular values, and their running share (figure 4)."""
    figure = Figure(figsize=(max(6, 0.55 * len(values) + 2), 8), dpi=DPI, layout="constrained")
    titles = ("Singular values of the latent means", "Running share of the sum of the singular values")
    for axes, heights, form, title in zip(
        figure.subplots(2, 1), (values, shares), ("{:.1f}", "{:.3f}"), titles, strict=True
    ):
        bars = axes.bar(np.arange(1, len(heights) + 1), heights)
        axes.bar_label(bars, [form.format(height) for height in heights], fontsize=8)
        axes.set(title=title, xticks=np.arange(1, len(heights) + 1))
        axes.margins(y=0.1)
    return figure
