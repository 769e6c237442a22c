"""Runs the benchmarks and writes benchmarks/RESULTS.md: python -m benchmarks.run.

The part of the page from "## Tried" on is written by hand, and kept.
"""

import datetime
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

import cli
import datasets
from benchmarks import compare, growth, pictures, rounds, startup, turns, workers
from vae.files import replacing

RESULTS = Path(__file__).with_name("RESULTS.md")
NOTES_HEADING = "## Tried"
INTRODUCTION = """# Benchmarks

`make benchmark` wrote the sections above [Tried](#tried) on {date}. The rest is written by hand. {machine}

An epoch is timed from its first step to its last. The data is drawn again for each epoch. NumPy prepares it on a thread
while the model trains, unless the row says otherwise. The programs in a table take turns of {epochs_per_turn} epochs.
Each program runs in its own process, with as many threads as it likes. This project sets its own environment variables
for XLA and oneDNN, as it does for every user, and the limit is measured with the same ones. No environment variable
tunes the other libraries, except in rows that name this project's XLA flags. These rows, and those with the batch in
two halves, show what the users of a library get with this project's tricks. (A step of this project has two parts with
H = 200, and one with H = 500; H is the number of neurons in each hidden layer.) The other rows show what they get
without them.

After {warm_ups} warm-up round, {rounds} rounds are measured. Each round starts with a different program. Seconds are
medians over the rounds. Ratios are medians of the ratios within each round, so slow changes in the machine's speed
matter little. The ELBO is the mean over the training images in the last epoch. Seconds cannot be compared between
machines."""

PACKAGES = ("tensorflow", "keras", "numpy", "torch", "jax", "optax")

# The widest comes first.
VECTOR_EXTENSIONS = ("avx512f", "avx2", "avx")


@cli.script
def main(argv: Sequence[str] | None = None) -> None:
    """Measures one section after the other, and writes the page after each of them."""
    args = cli.parse_args(argv, __doc__, flags=("data_dir",))
    rounds.prepare_environment()
    images = datasets.load("mnist", args.data_dir, allow_unverified=False).train_images
    notes = read_notes()
    finished = []
    for section in measure_sections(images, args.data_dir):
        finished.append(section)
        write_page(finished, notes)


def read_notes() -> str:
    """Returns the part of the page that is written by hand."""
    _, heading, notes = RESULTS.read_text(encoding="utf-8").partition(NOTES_HEADING)
    return heading + notes


def write_page(sections: Sequence[str], notes: str) -> None:
    """Writes the page: the sections that have been measured, and then the part that is written by hand."""
    page = "\n\n".join([*sections, notes])
    with replacing(RESULTS) as temporary:
        temporary.write_text(page, encoding="utf-8")


def measure_sections(images: np.ndarray, data_dir: Path) -> Iterator[str]:
    """Yields the sections of the page. `images` are MNIST's training images, uint8 [60000, 28, 28, 1]."""
    top = f"{introduction()}\n\n## Comparison with other libraries and the limit"
    yield f"{top}\n\n{compare.flat_section(images, hidden_size=200)}"
    yield compare.flat_section(images, hidden_size=500)
    yield compare.conv3_section(images)
    yield startup.section(data_dir)
    yield pictures.section(images)
    yield growth.section(images)
    yield workers.section()


def introduction() -> str:
    """Returns the top of the page: the date, the machine, and how the numbers were measured."""
    return INTRODUCTION.format(
        date=datetime.date.today(),
        machine=describe_machine(),
        epochs_per_turn=turns.EPOCHS_PER_TURN,
        warm_ups=rounds.WARM_UPS,
        rounds=rounds.ROUNDS,
    )


def describe_machine() -> str:
    """Returns two sentences: one on the processor and the memory, and one on the versions of the libraries."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    return (
        f"Machine: {os.cpu_count()} cores of {processor_name()} ({vector_extension()}), {memory / 2**30:.0f} GiB of "
        f"memory, no GPU used. Software: {platform.system()}, Python {platform.python_version()}, {versions}."
    )


def processor_name() -> str:
    """Returns the name of the processor."""
    return read_cpuinfo().get("model name", platform.processor())


def vector_extension() -> str:
    """Returns the widest of the VECTOR_EXTENSIONS that the processor has."""
    flags = read_cpuinfo().get("flags", "")
    for name in VECTOR_EXTENSIONS:
        if name in flags:
            return name
    return "no AVX"


def read_cpuinfo() -> dict[str, str]:
    """Returns what Linux knows about the first core: names and values. Returns an empty dict on other systems."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    first_core = path.read_text().split("\n\n")[0]
    fields = {}
    for line in first_core.splitlines():
        name, _, value = line.partition(":")
        fields[name.strip()] = value.strip()
    return fields


if __name__ == "__main__":
    sys.exit(main())
