"""Measures how long a folder of many small pictures takes to load, compared with Pillow alone."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

import datasets
from datasets import own
from report.markdown import format_table

NUM_PICTURES = 100_000

OURS = "this project"
ONE_THREAD = "Pillow alone, one thread"
ALL_CORES = "Pillow alone, a thread for each core"

# The rounds that count. One more comes first, to warm up.
ROUNDS = 3


def section(images: np.ndarray) -> str:
    """Returns the section on the user's pictures. `images` are MNIST's training images, uint8 [60000, 28, 28, 1]."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "pictures")
        write_pictures(folder, images, NUM_PICTURES)
        return describe(measure(folder))


def write_pictures(folder: Path, images: np.ndarray, num_pictures: int) -> None:
    """Writes images as numbered PNG files, from the first one again after the last."""
    folder.mkdir()
    for number in range(num_pictures):
        image = images[number % len(images), :, :, 0]
        Image.fromarray(image).save(folder / f"{number:06}.png")


def measure(folder: Path) -> dict[str, list[float]]:
    """Returns the seconds that each program takes for the pictures in a folder, in each round."""
    programs: dict[str, Callable[[Path], object]] = {
        OURS: datasets.load,
        ONE_THREAD: lambda folder: decode_with_pillow(folder, num_threads=1),
        ALL_CORES: lambda folder: decode_with_pillow(folder, num_threads=os.cpu_count()),
    }
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(1 + ROUNDS):
        for name, program in programs.items():
            started = time.perf_counter()
            program(folder)
            seconds[name].append(time.perf_counter() - started)
    return {name: measured[1:] for name, measured in seconds.items()}


def decode_with_pillow(folder: Path, num_threads: int | None) -> None:
    """Decodes the pictures in a folder with Pillow and nothing else."""
    paths = sorted(entry.path for entry in os.scandir(folder))
    firsts = range(0, len(paths), own.MAX_PICTURES_PER_TASK)
    tasks = [paths[first : first + own.MAX_PICTURES_PER_TASK] for first in firsts]
    with ThreadPoolExecutor(num_threads) as threads:
        for _ in threads.map(decode_all, tasks):
            pass


def decode_all(paths: Sequence[str]) -> None:
    """Decodes pictures one after the other."""
    for path in paths:
        with Image.open(path) as image:
            image.load()


def describe(seconds: dict[str, list[float]]) -> str:
    """Returns the section for the seconds of each program in each round."""
    rows = []
    for name, measured in seconds.items():
        ratio = statistics.median(mine / other for mine, other in zip(measured, seconds[ONE_THREAD], strict=True))
        rows.append((name, f"{statistics.median(measured):.2f}", f"{ratio:.2f}"))
    return "\n\n".join(
        [
            "## The user's own pictures",
            f"{NUM_PICTURES:,} PNG files with MNIST's digits, 28x28 grey pixels each, medians of {ROUNDS} rounds. This "
            "project finds, reads and checks the files, and computes their digest. It reads files as small as these on "
            "one thread:",
            format_table(["", "seconds", f"relative to {ONE_THREAD}"], rows),
        ]
    )
