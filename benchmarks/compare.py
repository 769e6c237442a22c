"""Compares this project with other libraries and with the limit of the machine: tables of benchmarks/RESULTS.md."""

import statistics
from collections.abc import Sequence

import numpy as np

from benchmarks.rounds import Contender, Measurement, run_rounds
from benchmarks.turns import BATCH_SIZE
from report.markdown import format_table

LIMIT = "the limit"
OURS = "this project"
# Each library has the variant that was fastest, or as fast as the fastest. RESULTS.md has the others under "Tried".
FLAT = (
    Contender(LIMIT, "benchmarks.limit", kind="flat_binarized"),
    Contender(OURS, "benchmarks.ours", kind="flat_binarized"),
    Contender("JAX + Optax: `lax.scan`, data prepared by NumPy", "benchmarks.peers.jax_scan", kind="flat"),
    Contender("Keras: `fit`, XLA, `steps_per_execution=100`", "benchmarks.peers.keras_fit", kind="flat"),
    Contender("PyTorch: torch.compile, fused Adam", "benchmarks.peers.pytorch", kind="flat"),
)
CONV3 = (
    Contender(LIMIT, "benchmarks.limit", kind="conv3"),
    Contender(OURS, "benchmarks.ours", kind="conv3"),
    Contender(f"{OURS}, mixed_bfloat16", "benchmarks.ours", kind="conv3_mixed_bfloat16"),
    Contender("PyTorch: channels-last, eager, fused Adam", "benchmarks.peers.pytorch", kind="conv3"),
    Contender(
        "PyTorch: channels-last, eager, fused Adam, bfloat16 autocast",
        "benchmarks.peers.pytorch",
        kind="conv3_bfloat16",
    ),
    Contender("JAX + Optax: jitted step", "benchmarks.peers.jax_scan", kind="conv3"),
)
HEADER = ("", "seconds per epoch", "relative to this project", "relative to the limit", "training ELBO", "peak memory")


def flat_section(images: np.ndarray, hidden_size: int) -> str:
    """The section on the flat model with this hidden size. images: uint8 [60000, 28, 28, 1]."""
    measurements = run_rounds(FLAT, images, ["--hidden_size", str(hidden_size)])
    steps = len(images) // BATCH_SIZE
    layers = f"784-{hidden_size}-{hidden_size}-40"
    heading = f"### Binarized MNIST, encoder {layers}, mirrored decoder, {steps} steps of {BATCH_SIZE} images"
    return "\n\n".join([heading, make_table(measurements), describe_limit(measurements)])


def conv3_section(images: np.ndarray) -> str:
    """The section on conv3, with the first 1200 images, padded to 32x32 and with three equal channels."""
    padded = np.pad(images[:1200], ((0, 0), (2, 2), (2, 2), (0, 0)))
    color_images = padded.repeat(3, axis=3)
    measurements = run_rounds(CONV3, color_images)
    steps = len(color_images) // BATCH_SIZE
    heading = f"### conv3 on 32x32x3, {steps} steps of {BATCH_SIZE} images"
    return "\n\n".join([heading, make_table(measurements), describe_limit(measurements)])


def make_table(measurements: dict[str, list[Measurement]]) -> str:
    """The table of a comparison, with one row per contender. run.INTRODUCTION explains the numbers."""
    ours = column(measurements[OURS], "seconds")
    limit = column(measurements[LIMIT], "seconds")
    rows = []
    for name, rounds in measurements.items():
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
    return format_table(HEADER, rows)


def describe_limit(measurements: dict[str, list[Measurement]]) -> str:
    """The rate that the limit was computed with, as a sentence."""
    rate = statistics.median(column(measurements[LIMIT], "rate"))
    return f"The limit is computed with {rate / 1e9:.0f} billion operations per second."


def column(rounds: Sequence[Measurement], name: str) -> list[float]:
    """The value with this name from each round."""
    return [measurement[name] for measurement in rounds]


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """The median of the rounds' ratios. The pace of the machine may change from one round to the next."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))
