"""Runs the benchmarks and writes benchmarks/RESULTS.md: python benchmarks/run.py [--data_dir data]

What stands in RESULTS.md from "## Tried" on is written by hand, and kept.
"""

import datetime
import importlib.metadata
import os
import platform
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import compare
import growth
import startup

import config
import datasets

RESULTS = Path(__file__).with_name("RESULTS.md")
HEAD = """# Benchmarks

Written by `make benchmark` on {date}. {machine}

An epoch is timed from its first step to its last, with its data prepared on the way (drawn anew each epoch), by NumPy
on a thread where nothing else is said. All of a table work in turn, three epochs each, in processes of their own with
as many threads as each likes: {warm_ups} round to warm up, then {rounds}, each beginning with another. Seconds are
medians; ratios are medians of the rounds' ratios, so that a machine that changes its pace between rounds does not
matter. ELBO: of the training images in the last of these epochs. Only ratios compare between machines."""
TUNING = ("OPENBLAS_", "OMP_", "MKL_", "XLA_", "TF_", "PYTHONDONTWRITEBYTECODE")  # everyone at their own defaults
PACKAGES = ("tensorflow", "keras", "numpy", "torch", "jax", "optax")


def machine():
    names = [line.split(":")[1].strip() for line in read("/proc/cpuinfo") if line.startswith("model name")]
    flags = next((line for line in read("/proc/cpuinfo") if line.startswith("flags")), "")
    widest = next((name for name in ("avx512f", "avx2", "avx") if name in flags), "no AVX")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    processor = names[0] if names else platform.processor()
    return (
        f"The machine: {os.cpu_count()} cores of {processor} ({widest}), {memory:.0f} GiB, no GPU used; "
        f"{platform.system()}, Python {platform.python_version()}, {versions}."
    )


def read(path):
    return Path(path).read_text().splitlines() if Path(path).exists() else []


@config.script
def main(argv=None):
    args = config.parse_args(argv, __doc__, ("data_dir",))
    for name in [name for name in os.environ if name.startswith(TUNING)]:
        del os.environ[name]
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    images = datasets.load("mnist", args.data_dir).train_images
    facts = {
        "date": datetime.date.today(),
        "machine": machine(),
        "rounds": compare.ROUNDS,
        "warm_ups": compare.WARM_UPS,
    }
    _, _, tried = RESULTS.read_text(encoding="utf-8").partition("## Tried")
    parts = [HEAD.format(**facts), "## Against the peers and the limit"]
    sections = [lambda: compare.flat(images, 200), lambda: compare.flat(images, 500), lambda: compare.conv3(images)]
    for section in (*sections, lambda: startup.section(args.data_dir), lambda: growth.section(images)):
        parts.append(section())
        RESULTS.write_text("\n\n".join(parts) + "\n\n## Tried" + tried, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
