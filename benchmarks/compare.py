"""Compares this project with its peers and with the limit of the machine: the sections of RESULTS.md with tables."""

import statistics
from collections.abc import Sequence

import numpy as np

from benchmarks.markdown import markdown_table
from benchmarks.rounds import Contender, Report, run_rounds
from benchmarks.turns import BATCH_SIZE

LIMIT = "the limit"
OURS = "this project"
FLAT = (
    Contender(LIMIT, "benchmarks.limit", "flat"),
    Contender(OURS, "benchmarks.ours", "flat_binarized"),
    Contender("JAX, optax: scan, fed prepared blocks", "benchmarks.peers.jax_scan", "prepared"),
    Contender("JAX, optax: scan, its own draws", "benchmarks.peers.jax_scan", "own_draws"),
    Contender("Keras fit: jit_compile, 100 steps an execution", "benchmarks.peers.keras_fit", "fit"),
    Contender("PyTorch: torch.compile, fused Adam", "benchmarks.peers.pytorch", "compiled"),
    Contender("PyTorch: eager, fused Adam", "benchmarks.peers.pytorch", "eager"),
)
CONV3 = (
    Contender(LIMIT, "benchmarks.limit", "conv3"),
    Contender(OURS, "benchmarks.ours", "conv3"),
    Contender("PyTorch: channels-last, eager, fused Adam", "benchmarks.peers.pytorch", "conv3"),
    Contender("PyTorch: channels-last, torch.compile", "benchmarks.peers.pytorch", "conv3_compiled"),
    Contender("JAX, optax: jitted step", "benchmarks.peers.jax_scan", "conv3"),
)
HEADER = ("", "seconds an epoch", "to this project", "to the limit", "ELBO reached", "peak memory")


def flat_section(images: np.ndarray, hidden_size: int) -> str:
    """Returns the section on the flat model with this hidden size. images: uint8 [n, 28, 28, 1]."""
    reports = run_rounds(FLAT, images, ["--hidden_size", str(hidden_size)])
    steps = len(images) // BATCH_SIZE
    layers = f"784-{hidden_size}-{hidden_size}-40"
    heading = f"### Binarized MNIST, encoder {layers}, mirrored decoder, {steps} steps of {BATCH_SIZE} images"
    return "\n\n".join([heading, make_table(reports), describe_flat_limit(reports)])


def describe_flat_limit(reports: dict[str, list[Report]]) -> str:
    """Returns a sentence on the parts of the limit, and one on the limit without XLA's loop of products."""
    parts = {name: median(reports[LIMIT], name) for name in ("NumPy", "TensorFlow", "XLA", "Adam", "loss")}
    ours = column(reports[OURS], "seconds")
    limit = column(reports[LIMIT], "seconds_one_by_one")
    return (
        f"The limit is the time of the matrix products, Adam and the loss. The products take {parts['XLA']:.3f} s in "
        f"one loop compiled by XLA. One by one, they take {parts['TensorFlow']:.3f} s in TensorFlow and "
        f"{parts['NumPy']:.3f} s in NumPy. The fastest of the three counts. Adam takes {parts['Adam']:.3f} s and the "
        f"loss {parts['loss']:.3f} s. This project takes {median_ratio(ours, limit):.2f} times the limit for products "
        "that run one by one."
    )


def conv3_section(images: np.ndarray) -> str:
    """Returns the section on conv3. images: uint8 [n, 28, 28, 1].

    It uses the first 1200 images, padded to 32x32 and with three equal channels.
    """
    padded = np.pad(images[:1200], ((0, 0), (2, 2), (2, 2), (0, 0)))
    color_images = padded.repeat(3, axis=3)
    reports = run_rounds(CONV3, color_images)
    steps = len(color_images) // BATCH_SIZE
    heading = f"### conv3 on 32x32x3, {steps} steps of {BATCH_SIZE} images"
    rate = median(reports[LIMIT], "rate")
    limit = (
        f"The limit is the time that an epoch's operations take at {rate / 1e9:.0f} billion operations per second. "
        "This is the rate of the fastest product of two square matrices."
    )
    return "\n\n".join([heading, make_table(reports), limit])


def make_table(reports: dict[str, list[Report]]) -> str:
    """Returns the table of a comparison, with one row per contender. run.INTRODUCTION explains the numbers."""
    ours = column(reports[OURS], "seconds")
    limit = column(reports[LIMIT], "seconds")
    rows = []
    for name, rounds in reports.items():
        seconds = column(rounds, "seconds")
        row = [
            name,
            f"{statistics.median(seconds):.3f}",
            f"{median_ratio(seconds, ours):.2f}",
            f"{median_ratio(seconds, limit):.2f}",
        ]
        if name == LIMIT:
            row += ["", ""]
        else:
            last = rounds[-1]
            row += [f"{last['elbo']:.2f}", f"{last['peak_memory'] / 2**30:.2f} GiB"]
        rows.append(row)
    return markdown_table(HEADER, rows)


def column(rounds: Sequence[Report], key: str) -> list[float]:
    """Returns one value of each round."""
    return [report[key] for report in rounds]


def median(rounds: Sequence[Report], key: str) -> float:
    """Returns the median of a value over the rounds."""
    return statistics.median(column(rounds, key))


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Returns the median of the rounds' ratios. The pace of the machine may change from one round to the next."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))
