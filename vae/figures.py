"""The report's figures: arrays in, Matplotlib Figure out. The scripts call these, and cli.save_picture saves them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# At run time this import would load scikit-learn, which train.py does not need.
if TYPE_CHECKING:
    from vae.latent import LatentPlane

DPI = 100
NUM_CLASSES = 10

# Each image pixel is a square of MIN_ZOOM screen pixels a side, or of more if that brings the sheet of images nearer to
# SHEET_WIDTH screen pixels from left to right. Ten images of 8x8 would be a stamp otherwise.
MIN_ZOOM = 2
SHEET_WIDTH = 640

# A figure has at most this many screen pixels a side. Matplotlib draws fewer than 65536.
MAX_SIDE = 10000

# The colours of the user's own classes. Any two are at least 0.08 apart in OKLab (Ottosson 2020), with full colour
# vision and with each kind of colour blindness (Machado et al. 2009). The first few are further apart. Two of
# Matplotlib's own ten colours are only 0.006 apart.
CLASS_COLOURS = (
    "#0011bb",
    "#ffaa44",
    "#aa1100",
    "#9966aa",
    "#88bbbb",
    "#ee7711",
    "#cc11ff",
    "#33aa77",
    "#223355",
    "#884488",
    "#ccaaff",
    "#cc5511",
    "#aa88bb",
    "#448866",
    "#661188",
    "#4455bb",
    "#552200",
    "#555544",
    "#dd66ff",
    "#00dd88",
)
# Longer names of classes are cut.
MAX_NAME_LENGTH = 24


def image_grid(images: np.ndarray, line_after: int | None = None) -> Figure:
    """Draws pictures edge to edge, without axes (figures 1a to 1c and 5 to 8).

    images: [rows, columns, h, w, c] in [0, 1], where c is 1 or 3. line_after: the number of columns before a red line.
    Each image pixel has a whole number of screen pixels a side (see MIN_ZOOM), unless the sheet would then have more
    than MAX_SIDE a side.
    """
    rows, columns, height, width, channels = images.shape
    # [rows, columns, h, w, c] -> [rows, h, columns, w, c] -> one sheet [rows h, columns w, c], in bytes and in colour
    sheet = images.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)
    sheet = np.broadcast_to(sheet, (*sheet.shape[:2], 3))
    sheet = np.rint(sheet * 255).astype(np.uint8)

    zoom = max(MIN_ZOOM, round(SHEET_WIDTH / (columns * width)))
    scale = min(zoom, MAX_SIDE / max(columns * width, rows * height))
    size_in_inches = (columns * width * scale / DPI, rows * height * scale / DPI)
    figure = Figure(figsize=size_in_inches, dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    axes.imshow(sheet, interpolation="nearest")
    if line_after is not None:
        axes.axvline(line_after * width - 0.5, color="red", linewidth=2)
    return figure


def learning_curves(
    epochs: Sequence[int], train_elbo: Sequence[float], test_elbo: Sequence[float], train_kl: Sequence[float]
) -> Figure:
    """Draws training and test ELBO, and the KL, by epoch, in nats. The test ELBO is NaN where it was not measured."""
    figure = Figure(figsize=(10, 4), dpi=DPI, layout="constrained")
    left, right = figure.subplots(1, 2)
    is_tested = np.isfinite(test_elbo)
    tested_epochs = np.asarray(epochs)[is_tested]
    tested_elbo = np.asarray(test_elbo)[is_tested]
    # One epoch is a point, which a line without a marker does not show.
    marker = "." if len(epochs) == 1 else None
    left.plot(epochs, train_elbo, marker=marker, label="train (during the epoch)")
    left.plot(tested_epochs, tested_elbo, marker=".", label="test (after it)")
    left.set_ylim(*elbo_limits(np.concatenate([epochs, tested_epochs]), np.concatenate([train_elbo, tested_elbo])))
    left.legend()
    right.plot(epochs, train_kl, marker=marker)
    label_curves(left, "ELBO (nats)")
    label_curves(right, "KL(q(z|x) || p(z)), training (nats)")
    return figure


def elbo_limits(epochs: np.ndarray, elbos: np.ndarray) -> tuple[float, float]:
    """The limits of the ELBO's axis, for ELBOs [n] after the epochs [n].

    They leave out low ELBOs of the first tenth of the epochs, which would hide all that follows.
    """
    low = elbos[epochs >= epochs.max() / 10].min()
    high = elbos.max()
    margin = 0.05 * (high - low) + 1e-3
    return low - margin, high + margin


def label_curves(axes: Axes, y_label: str) -> None:
    """Labels the axes of a curve over epochs."""
    axes.set(xlabel="epoch", ylabel=y_label)
    # Epochs are whole numbers, even if the axis has only one.
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=(1, 2, 5, 10), integer=True, min_n_ticks=1))
    axes.grid(True)


def latent_maps(
    planes: Sequence[LatentPlane],
    labels: np.ndarray | None,
    class_names: Sequence[str] | None = None,
    is_sequence: bool = True,
) -> Figure:
    """Draws points of the latent space, one dot per image, in panels side by side (figures 2 and 3).

    The panels show the same images, in different models. labels: [n], digits or classes 0..9, or places in class_names.
    Without labels the dots of a sequence are coloured by their place in the test set; for Frey Faces that is the order
    of the video. Classes have no colours if there are more of them than CLASS_COLOURS.
    """
    figure = Figure(figsize=(7.5 * len(planes), 6), dpi=DPI, layout="constrained")
    panels = figure.subplots(1, len(planes), squeeze=False)[0]
    for axes, plane in zip(panels, planes, strict=True):
        x, y = plane.points.T
        if labels is None and is_sequence:
            dots = axes.scatter(x, y, s=6, linewidths=0, c=np.arange(len(x)), cmap="viridis")
            figure.colorbar(dots, ax=axes, label="place in the test set (no labels)")
        elif labels is None or (class_names is not None and len(class_names) > len(CLASS_COLOURS)):
            axes.scatter(x, y, s=6, linewidths=0)
        elif class_names is None:
            draw_classes(axes, plane.points, labels, [f"C{label}" for label in range(NUM_CLASSES)])
        else:
            # Files are sorted by class. In their order, the dots of the last class would cover all others.
            order = np.random.RandomState(0).permutation(len(labels))
            bar = draw_classes(axes, plane.points[order], labels[order], CLASS_COLOURS[: len(class_names)])
            bar.set_ticklabels([shorten(name) for name in class_names])
        axes.set(title=plane.title, xlabel=plane.x_label, ylabel=plane.y_label)
        axes.set_axisbelow(True)
        axes.grid(True)
    return figure


def draw_classes(axes: Axes, points: np.ndarray, labels: np.ndarray, colours: Sequence[str]) -> Colorbar:
    """Draws points [n, 2] in the colours of their labels [n], and returns the colour bar that is the legend."""
    x, y = points.T
    dots = axes.scatter(
        x, y, s=6, linewidths=0, c=labels, cmap=ListedColormap(colours), vmin=-0.5, vmax=len(colours) - 0.5
    )
    return axes.figure.colorbar(dots, ax=axes, ticks=range(len(colours)))


def shorten(name: str) -> str:
    """The name of a class for a legend: at most MAX_NAME_LENGTH characters, with its dollar signs escaped."""
    if len(name) > MAX_NAME_LENGTH:
        name = f"{name[: MAX_NAME_LENGTH - 3]}..."
    # Matplotlib takes what is between two dollar signs for a formula.
    return name.replace("$", r"\$")


def singular_values(values: np.ndarray, shares: np.ndarray) -> Figure:
    """Draws the singular values and their running share, [k] each: two bar charts, a value on each bar (figure 4)."""
    width_in_inches = min(max(6, 0.55 * len(values) + 2), MAX_SIDE / DPI)
    figure = Figure(figsize=(width_in_inches, 8), dpi=DPI, layout="constrained")
    upper, lower = figure.subplots(2, 1)
    draw_bars(upper, values, "{:.1f}", "Singular values of the latent means")
    draw_bars(lower, shares, "{:.3f}", "Running share of the sum of the singular values")
    lower.set_xlabel("number of the singular value")
    return figure


def draw_bars(axes: Axes, heights: np.ndarray, label_format: str, title: str) -> None:
    """Draws bars over 1..k for heights [k], with a label on each."""
    numbers = np.arange(1, len(heights) + 1)
    bars = axes.bar(numbers, heights)
    axes.bar_label(bars, [label_format.format(height) for height in heights], fontsize=8)
    axes.set(title=title, xticks=numbers)
    axes.margins(y=0.1)
