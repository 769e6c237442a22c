"""Compares this project with other libraries and with the limit of the machine: tables of benchmarks/RESULTS.md."""

import statistics
from collections.abc import Sequence

import numpy as np

from benchmarks.rounds import Contender, Measurement, median_of, run_rounds
from benchmarks.turns import BATCH_SIZE
from report.markdown import format_table

LIMIT = "the limit"
OURS = "this project"
# What cli.tensorflow_environment sets for this project. Rows that name these flags are measured with them.
OUR_XLA_FLAGS = "--xla_cpu_prefer_vector_width=512"
# A peer is measured as its users get it. If it gains from this project's XLA flags, or from steps that compute their
# batch in two halves, it has a second row with them.
FLAT = (
    Contender(LIMIT, "benchmarks.limit", kind="flat_binarized"),
    Contender(OURS, "benchmarks.ours", kind="flat_binarized"),
    Contender("JAX + Optax: `lax.scan`, data prepared by NumPy", "benchmarks.peers.jax_scan", kind="prepared"),
    Contender(
        "JAX + Optax: `lax.scan`, data prepared by NumPy; batch in two halves",
        "benchmarks.peers.jax_scan",
        kind="prepared_parts",
    ),
    Contender("JAX + Optax: `lax.scan`, draws its own data", "benchmarks.peers.jax_scan", kind="own_draws"),
    Contender(
        "JAX + Optax: `lax.scan`, draws its own data; batch in two halves",
        "benchmarks.peers.jax_scan",
        kind="own_draws_parts",
    ),
    Contender("Keras: `fit`, XLA, `steps_per_execution=100`", "benchmarks.peers.keras_fit", kind="fit"),
    Contender(
        "Keras: `fit`, XLA, `steps_per_execution=100`; this project's XLA flags",
        "benchmarks.peers.keras_fit",
        kind="fit",
        xla_flags=OUR_XLA_FLAGS,
    ),
    Contender("PyTorch: torch.compile, fused Adam", "benchmarks.peers.pytorch", kind="compiled"),
    Contender("PyTorch: eager, fused Adam", "benchmarks.peers.pytorch", kind="eager"),
)
CONV3 = (
    Contender(LIMIT, "benchmarks.limit", kind="conv3"),
    Contender(OURS, "benchmarks.ours", kind="conv3"),
    Contender(f"{OURS}, mixed_bfloat16", "benchmarks.ours", kind="conv3_mixed_bfloat16"),
    Contender("PyTorch: channels-last, eager, fused Adam", "benchmarks.peers.pytorch", kind="conv3"),
    Contender("PyTorch: channels-last, torch.compile", "benchmarks.peers.pytorch", kind="conv3_compiled"),
    Contender(
        "PyTorch: channels-last, eager, fused Adam, bfloat16 autocast",
        "benchmarks.peers.pytorch",
        kind="conv3_bfloat16",
    ),
    Contender("JAX + Optax: jitted step", "benchmarks.peers.jax_scan", kind="conv3"),
)
HEADER = ("", "seconds per epoch", "relative to this project", "relative to the limit", "training ELBO", "peak memory")


def flat_section(images: np.ndarray, hidden_size: int) -> str:
    """Returns the section on the flat model with this hidden size. images: uint8 [n, 28, 28, 1]."""
    measurements = measure(FLAT, images, ["--hidden_size", str(hidden_size)])
    steps = len(images) // BATCH_SIZE
    layers = f"784-{hidden_size}-{hidden_size}-40"
    heading = f"### Binarized MNIST, encoder {layers}, mirrored decoder, {steps} steps of {BATCH_SIZE} images"
    return "\n\n".join([heading, make_table(measurements), describe_limit(measurements)])


def conv3_section(images: np.ndarray) -> str:
    """Returns the section on conv3. images: uint8 [n, 28, 28, 1].

    It uses the first 1200 images, padded to 32x32 and with three equal channels.
    """
    padded = np.pad(images[:1200], ((0, 0), (2, 2), (2, 2), (0, 0)))
    color_images = padded.repeat(3, axis=3)
    measurements = measure(CONV3, color_images)
    steps = len(color_images) // BATCH_SIZE
    heading = f"### conv3 on 32x32x3, {steps} steps of {BATCH_SIZE} images"
    limit = (
        f"{describe_limit(measurements)} The same limit, that of float32, is used for every row. With bfloat16, a "
        "processor can be faster than that."
    )
    return "\n\n".join([heading, make_table(measurements), limit])


def measure(
    contenders: Sequence[Contender],
    images: np.ndarray,
    options: Sequence[str] = (),
) -> dict[str, list[Measurement]]:
    """Returns the measurements of the contenders that did not fail, by their names. See run_rounds.

    Raises ChildProcessError if the limit or this project failed, since every row of the table is relative to them.
    """
    measurements = run_rounds(contenders, images, options)
    for name in (LIMIT, OURS):
        if name not in measurements:
            raise ChildProcessError(
                f"{name} could not be measured, and the tables compare every row with it. "
                "Its own errors are printed above: fix them, then run the benchmarks again"
            )
    return measurements


def make_table(measurements: dict[str, list[Measurement]]) -> str:
    """Returns the table of a comparison, with one row per contender. run.INTRODUCTION explains the numbers."""
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
    """Returns what the limit is, with the rate that it was computed with."""
    rate = median_of(measurements[LIMIT], "rate")
    return (
        "The limit is the time that the matrix products and convolutions of an epoch would take, forward and backward, "
        f"at {rate / 1e9:.0f} billion operations per second. This is the rate of the fastest product of two large "
        "square matrices. Activations, the loss and Adam are not counted."
    )


def column(rounds: Sequence[Measurement], name: str) -> list[float]:
    """Returns the value with this name from each round."""
    return [measurement[name] for measurement in rounds]


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Returns the median of the rounds' ratios. The pace of the machine may change from one round to the next."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))
