"""Start-up and the small things: phases of the first epoch, whole processes, a save, memory with SVHN's size."""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from scipy.io import savemat

ROOT = Path(__file__).parents[1]
BIN = ROOT / ".venv" / "bin" / "python"
PYTHON = str(BIN) if BIN.exists() else sys.executable  # a user's: with JAX beside it, TensorFlow's import takes longer
WATCHER = """
import json, os, resource, subprocess, sys, time
os.environ["BEGUN"] = repr(begun := time.time())
code = subprocess.run(sys.argv[1:]).returncode
seconds, peak = time.time() - begun, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps([seconds, peak * (1 if sys.platform == "darwin" else 1024)]), file=sys.stderr)
sys.exit(code)
"""
ROUNDS = 3


def run(*command):
    """Runs a Python command: (seconds, peak memory in bytes of its largest process, what it printed)."""
    words = [PYTHON, "-c", WATCHER, PYTHON, *map(str, command)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} failed:\n{done.stderr}")
    return *json.loads(done.stderr.splitlines()[-1]), done.stdout


def phases(data_dir, scratch):
    """Medians of each phase of a start, seconds, and of a save."""
    rows = []
    for place in range(ROUNDS + 1):
        command = "benchmarks/phases.py", data_dir, Path(scratch, f"phases{place}")
        rows.append(json.loads(run(*command)[2]))
    return {name: statistics.median(row[name] for row in rows[1:]) for name in rows[0]}


def whole(data_dir, scratch):
    """{command: (median seconds, peak memory)} of the scripts as a user runs them, on a small model."""
    folders = ["--checkpoints_dir", Path(scratch, "c"), "--pictures_dir", Path(scratch, "p"), "--data_dir", data_dir]
    commands = {
        "train.py --help": ["train.py", "--help"],
        "train.py --num_epochs 1 --overwrite": ["train.py", "--num_epochs", "1", "--overwrite", *folders],
        "make_pictures.py": ["make_pictures.py", *folders],
        "evaluate.py --num_samples 5": ["evaluate.py", "--num_samples", "5", *folders],
    }
    times = {name: [] for name in commands}
    for _ in range(ROUNDS + 1):
        for name, command in commands.items():
            times[name].append(run(*command)[:2])
    return {name: tuple(map(statistics.median, zip(*rows[1:], strict=True))) for name, rows in times.items()}


def svhn(scratch):
    """{what: (seconds, peak memory)} of training on files of SVHN's sizes, made here."""
    data, rng = Path(scratch, "data"), np.random.default_rng(0)
    (data / "svhn").mkdir(parents=True)
    for name, n in (("train", 73257), ("test", 26032)):
        images = rng.integers(0, 256, (32, 32, 3, n), dtype=np.uint8)
        savemat(data / "svhn" / f"{name}_32x32.mat", {"X": images, "y": rng.integers(1, 11, (n, 1), dtype=np.uint8)})
    del images
    folders = ["--checkpoints_dir", Path(scratch, "c"), "--pictures_dir", Path(scratch, "p"), "--data_dir", data]
    options = ["--dataset", "svhn", "--num_epochs", "1", "--overwrite", "--allow_unverified", *folders]
    return {
        "flat_cont_normal, files decoded": run("train.py", "--vae_type", "flat_cont_normal", *options)[:2],
        "flat_cont_normal, from the cache": run("train.py", "--vae_type", "flat_cont_normal", *options)[:2],
        "conv3, from the cache": run("train.py", "--vae_type", "conv3", *options)[:2],
    }


def section(data_dir):
    """The Markdown of all three."""
    data_dir = Path(data_dir).resolve()
    with tempfile.TemporaryDirectory() as scratch:
        marks, scripts, large = phases(data_dir, scratch), whole(data_dir, scratch), svhn(scratch)
    save, first_save = marks.pop("save"), marks.pop("the first save")
    lines = [
        "## Start-up and the small things",
        f"From `python train.py` to the end of its first epoch, medians of {ROUNDS}:",
    ]
    lines.append(rows(["phase", "seconds"], [(n, f"{s:.2f}") for n, s in marks.items()]))
    lines.append(
        f"Together {sum(marks.values()):.2f} s. A save (config.json, a history of 500 rows, a checkpoint; one in "
        f"10 epochs or in 60 s) takes {save * 1e3:.0f} ms, the first one {first_save * 1e3:.0f}."
    )
    lines.append("Whole processes, on MNIST:")
    measured = [(f"`{n}`", f"{s:.2f}", f"{m / 2**30:.2f} GiB") for n, (s, m) in scripts.items()]
    lines.append(rows(["command", "seconds", "peak memory"], measured))
    lines.append("One epoch of 73,257 random images of 32x32x3 and a test of 26,032, SVHN's sizes, once each:")
    measured = [(n, f"{s:.1f}", f"{m / 2**30:.2f} GiB ({m / 1e9:.2f} GB)") for n, (s, m) in large.items()]
    lines.append(rows(["train.py --dataset svhn", "seconds", "peak memory"], measured))
    return "\n\n".join(lines)


def rows(head, lines):
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *lines))
