"""Measures how long train.py takes to start, phase by phase, and what time and memory whole scripts take.

One of the scripts trains on data of SVHN's size.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.io import savemat

from benchmarks.rounds import median_of
from report.markdown import format_table

ROOT = Path(__file__).parents[1]

# The rounds that count. One more comes first, to warm up.
ROUNDS = 3

# The numbers of images in SVHN's files.
SVHN_SIZES = {"train": 73257, "test": 26032}


class CommandResult(NamedTuple):
    """The seconds that a command took, the peak memory of its largest process in bytes, and what it printed."""

    seconds: float
    peak_memory: float
    output: str


def section(data_dir: Path) -> str:
    """Returns the section on start-up, saving and memory. MNIST must be in data_dir."""
    data_dir = data_dir.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        parts = [
            "## Start-up, saving and memory",
            phases_part(data_dir, Path(scratch, "phases")),
            scripts_part(data_dir, Path(scratch, "scripts")),
            svhn_part(Path(scratch, "svhn")),
        ]
    return "\n\n".join(parts)


def run_python(*arguments: str) -> CommandResult:
    """Runs Python with these arguments at the root of the repository. Raises ChildProcessError if that fails."""
    python = find_python()
    command = [python, "-m", "benchmarks.watch", python, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise ChildProcessError(f"{' '.join(arguments)} failed:\n{done.stderr}")
    last_line = done.stderr.splitlines()[-1]
    return CommandResult(**json.loads(last_line), output=done.stdout)


def find_python() -> str:
    """Returns the interpreter of a user's environment, in which the peers' libraries are not installed.

    TensorFlow's import takes longer with JAX beside it.
    """
    path = ROOT / ".venv" / "bin" / "python"
    if path.exists():
        return str(path)
    return sys.executable


def phases_part(data_dir: Path, scratch: Path) -> str:
    """Returns the part on the phases of a start, and on a save."""
    rounds = []
    for round_number in range(1 + ROUNDS):
        run_folder = scratch / str(round_number)
        result = run_python("-m", "benchmarks.phases", str(data_dir), str(run_folder))
        rounds.append(json.loads(result.output))
    after_warm_up = rounds[1:]
    seconds = {name: median_of(after_warm_up, name) for name in rounds[0]}
    save = seconds.pop("save")
    first_save = seconds.pop("the first save")
    rows = [(name, f"{value:.2f}") for name, value in seconds.items()]
    return "\n\n".join(
        [
            "The phases from the start of `python train.py` to the end of its first epoch, without its check of the "
            f"memory, medians of {ROUNDS} rounds:",
            format_table(["phase", "seconds"], rows),
            f"Together, the phases take {sum(seconds.values()):.2f} s. Saving config.json, a history of 500 rows and a "
            f"checkpoint takes {save * 1e3:.0f} ms, and {first_save * 1e3:.0f} ms the first time. train.py saves after "
            "10 epochs or 60 s, whichever comes first.",
        ]
    )


def scripts_part(data_dir: Path, scratch: Path) -> str:
    """Returns the part on whole scripts, as a user runs them, with the default model after one epoch."""
    paths = path_arguments(data_dir, scratch)
    commands = {
        "train.py --help": [],
        "train.py --num_epochs 1 --overwrite": paths,
        "make_pictures.py": paths,
        "evaluate.py --num_samples 5": paths,
    }
    results: dict[str, list[CommandResult]] = {command: [] for command in commands}
    for _ in range(1 + ROUNDS):
        for command, arguments in commands.items():
            results[command].append(run_python(*command.split(), *arguments))
    rows = []
    for command, rounds in results.items():
        after_warm_up = rounds[1:]
        seconds = statistics.median(result.seconds for result in after_warm_up)
        peak_memory = statistics.median(result.peak_memory for result in after_warm_up)
        rows.append((f"`{command}`", f"{seconds:.2f}", f"{peak_memory / 2**30:.2f} GiB"))
    table = format_table(["command", "seconds", "peak memory"], rows)
    return f"Whole commands on MNIST, medians of {ROUNDS} rounds:\n\n{table}"


def svhn_part(scratch: Path) -> str:
    """Returns the part on training with files of SVHN's size, which are made here."""
    data_dir = scratch / "data"
    write_random_svhn(data_dir / "svhn")
    options = ["--dataset", "svhn", "--num_epochs", "1", "--overwrite", "--allow_unverified"]
    options += path_arguments(data_dir, scratch)
    vae_types = {
        "flat_cont_normal, files decoded": "flat_cont_normal",
        "flat_cont_normal, from the cache": "flat_cont_normal",
        "conv3, from the cache": "conv3",
    }
    rows = []
    for name, vae_type in vae_types.items():
        result = run_python("train.py", "--vae_type", vae_type, *options)
        memory = f"{result.peak_memory / 2**30:.2f} GiB ({result.peak_memory / 1e9:.2f} GB)"
        rows.append((name, f"{result.seconds:.1f}", memory))
    table = format_table(["train.py --dataset svhn", "seconds", "peak memory"], rows)
    heading = (
        f"One epoch of training on {SVHN_SIZES['train']:,} random images of 32x32x3 and a test on "
        f"{SVHN_SIZES['test']:,}, as many as SVHN has. Each row was measured once:"
    )
    return f"{heading}\n\n{table}"


def path_arguments(data_dir: Path, scratch: Path) -> list[str]:
    """Returns the arguments that make a script read data_dir and write into `scratch`."""
    return [
        f"--data_dir={data_dir}",
        f"--checkpoints_dir={scratch / 'checkpoints'}",
        f"--pictures_dir={scratch / 'pictures'}",
    ]


def write_random_svhn(folder: Path) -> None:
    """Writes random images and labels in the format of SVHN's files, and as many of them."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, num_images in SVHN_SIZES.items():
        images = rng.integers(0, 256, size=(32, 32, 3, num_images), dtype=np.uint8)
        labels = rng.integers(1, 11, size=(num_images, 1), dtype=np.uint8)
        savemat(folder / f"{name}_32x32.mat", {"X": images, "y": labels})
