"""Runs the benchmarks and writes benchmarks/RESULTS.md: python -m benchmarks.run.

The part of the page from "## Tried" on is written by hand, and kept.
"""

import argparse
import datetime
import importlib.metadata
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

import datasets
from benchmarks import compare, growth, rounds, turns, workers
from vae.files import replacing

RESULTS = Path(__file__).with_name("RESULTS.md")
NOTES_HEADING = "## Tried"
INTRODUCTION = """# Benchmarks

`make benchmark` wrote the sections above [Tried](#tried) on {date}. The rest is written by hand. {machine}

An epoch is timed from its first step to its last. NumPy draws and prepares its data on a thread. The
programs of a table take turns of {epochs_per_turn} epochs, each in its own process with as many threads as it likes.
This project sets its own variables for XLA and oneDNN, as for every user. The other libraries run with their defaults.

After {warm_ups} warm-up round, {rounds} rounds are measured. Seconds are medians over the rounds. Ratios are medians of
the ratios within each round, so slow changes in the machine's speed matter little. The ELBO is the mean over the
training images in the last epoch. Seconds cannot be compared between machines.

The limit is the time of an epoch's matrix products and convolutions, forward and backward, at the rate of the fastest
product of two large float32 matrices. Activations, the loss and Adam are not counted. bfloat16 can be faster than
that."""

PACKAGES = ("tensorflow", "keras", "numpy", "torch", "jax", "optax")


def main() -> None:
    """Measures one section after the other, and writes the page after each of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", type=Path, default=os.environ.get("VAE_DATA_DIR", "data"), help="for MNIST")
    args = parser.parse_args()
    rounds.prepare_environment()
    images = datasets.load("mnist", args.data_dir).train_images
    notes = read_notes()
    finished = []
    for section in measure_sections(images):
        finished.append(section)
        write_page(finished, notes)


def read_notes() -> str:
    """The part of the page that is written by hand."""
    _, heading, notes = RESULTS.read_text(encoding="utf-8").partition(NOTES_HEADING)
    return heading + notes


def write_page(sections: Sequence[str], notes: str) -> None:
    """Writes the page: the sections that have been measured, and then the part that is written by hand."""
    page = "\n\n".join([*sections, notes])
    with replacing(RESULTS) as temporary:
        temporary.write_text(page, encoding="utf-8")


def measure_sections(images: np.ndarray) -> Iterator[str]:
    """Yields the sections of the page. `images` are MNIST's training images, uint8 [60000, 28, 28, 1]."""
    top = f"{introduction()}\n\n## Comparison with other libraries and the limit"
    yield f"{top}\n\n{compare.flat_section(images, hidden_size=200)}"
    yield compare.flat_section(images, hidden_size=500)
    yield compare.conv3_section(images)
    yield growth.section(images)
    yield workers.section()


def introduction() -> str:
    """The top of the page: the date, the machine, and how the numbers were measured."""
    return INTRODUCTION.format(
        date=datetime.date.today(),
        machine=describe_machine(),
        epochs_per_turn=turns.EPOCHS_PER_TURN,
        warm_ups=rounds.WARM_UPS,
        rounds=rounds.ROUNDS,
    )


def describe_machine() -> str:
    """Two sentences: one on the processor and the memory, and one on the versions of the libraries."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    return (
        f"Machine: {os.cpu_count()} cores of {describe_processor()}, {memory / 2**30:.0f} GiB of memory, no GPU used. "
        f"Software: {platform.system()}, Python {platform.python_version()}, {versions}."
    )


def describe_processor() -> str:
    """The processor's name, and the widest of its vector instructions, if Linux knows them."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor()
    lines = [line.partition(":") for line in cpuinfo.read_text().splitlines()]
    fields = {name.strip(): value.strip() for name, _, value in lines}
    flags = fields.get("flags", "").split()
    vectors = [name for name in ("avx512f", "avx2", "avx") if name in flags]
    return f"{fields.get('model name', platform.processor())} ({vectors[0] if vectors else 'no AVX'})"


if __name__ == "__main__":
    main()
