"""This project, its peers and the limit, three epochs each in turn: medians of the rounds as Markdown tables."""

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent
ROUNDS, WARM_UPS = 5, 1
PAUSE = 0.3  # seconds, for what a contender still prepares when its epoch is over
LIMIT, OURS = "the limit", "this project"
FLAT = {
    LIMIT: ("limit.py", "flat"),
    OURS: ("ours.py", "flat_binarized"),
    "JAX, optax: scan, fed prepared blocks": ("peers/jax_scan.py", "prepared"),
    "JAX, optax: scan, its own draws": ("peers/jax_scan.py", "own_draws"),
    "Keras fit: jit_compile, 100 steps an execution": ("peers/keras_fit.py", "fit"),
    "PyTorch: torch.compile, fused Adam": ("peers/pytorch.py", "compiled"),
    "PyTorch: eager, fused Adam": ("peers/pytorch.py", "eager"),
}
CONV3 = {
    LIMIT: ("limit.py", "conv3"),
    OURS: ("ours.py", "conv3"),
    "PyTorch: channels-last, eager, fused Adam": ("peers/pytorch.py", "conv3"),
    "PyTorch: channels-last, torch.compile": ("peers/pytorch.py", "conv3_compiled"),
    "JAX, optax: jitted step": ("peers/jax_scan.py", "conv3"),
}


def take_turns(contenders, images, options=()):
    """{contender: [what it said of each epoch after the warm-up]}: one at a time, each round begins with another.

    A contender that fails is left out, with a word on standard error.
    """
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        np.save(scratch / "images.npy", images)
        processes, epochs = {}, {name: [] for name in contenders}
        for name, (script, kind) in contenders.items():
            command = [sys.executable, FOLDER / script, kind, str(scratch / "images.npy"), *options]
            errors = stack.enter_context(open(scratch / f"{len(processes)}.log", "w+"))
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors, "text": True}
            processes[name] = (subprocess.Popen(command, **pipes), errors)
        for place in range(WARM_UPS + ROUNDS):
            names = list(processes)
            for name in names[place % len(names) :] + names[: place % len(names)]:
                process, errors = processes[name]
                try:
                    process.stdin.write("\n")
                    process.stdin.flush()
                    epochs[name].append(json.loads(process.stdout.readline()))
                except (BrokenPipeError, ValueError):  # ValueError: an empty line is no JSON
                    process.communicate()
                    errors.seek(0)
                    print(f"{name} ended early and is left out:\n{errors.read()[-2000:]}", file=sys.stderr)
                    del processes[name], epochs[name]
                else:
                    print(f"{name}: {epochs[name][-1]}", file=sys.stderr, flush=True)
                time.sleep(PAUSE)
        for process, _ in processes.values():
            process.communicate()
    return {name: rows[WARM_UPS:] for name, rows in epochs.items()}


def median(rows, key):
    return statistics.median(row[key] for row in rows)


def table(epochs):
    """Markdown: seconds an epoch, how many times ours and the limit that is (medians of the rounds' ratios), memory."""
    lines = [
        "| | seconds an epoch | to this project | to the limit | ELBO reached | peak memory |",
        "|---|---|---|---|---|---|",
    ]

    def seconds(name):
        return [row["limit" if name == LIMIT else "seconds"] for row in epochs[name]]

    def ratio(name, other):
        return statistics.median(a / b for a, b in zip(seconds(name), seconds(other), strict=True))

    for name, rows in epochs.items():
        facts = ["", ""] if name == LIMIT else [f"{rows[-1]['elbo']:.2f}", f"{rows[-1]['peak'] / 2**30:.2f} GiB"]
        ratios = [f"{ratio(name, OURS):.2f}", f"{ratio(name, LIMIT):.2f}"]
        lines.append(" | ".join([f"| {name}", f"{statistics.median(seconds(name)):.3f}", *ratios, *facts]) + " |")
    return "\n".join(lines)


def flat(images, hidden_size):
    epochs = take_turns(FLAT, images, ("--hidden_size", str(hidden_size)))
    parts = {name: median(epochs[LIMIT], name) for name in ("NumPy", "TensorFlow", "XLA", "Adam", "loss")}
    one_by_one = statistics.median(
        ours["seconds"] / (min(limit["NumPy"], limit["TensorFlow"]) + limit["Adam"] + limit["loss"])
        for ours, limit in zip(epochs[OURS], epochs[LIMIT], strict=True)
    )
    limit = (
        f"The limit: products {parts['XLA']:.3f} (in one loop compiled by XLA; one by one TensorFlow "
        f"{parts['TensorFlow']:.3f}, NumPy {parts['NumPy']:.3f}), Adam {parts['Adam']:.3f}, loss {parts['loss']:.3f} "
        f"seconds. With products one by one, this project takes {one_by_one:.2f} times the limit."
    )
    head = f"### Binarized MNIST, 784-{hidden_size}-{hidden_size}-40 and back, {len(images) // 100} steps of 100"
    return "\n\n".join([head, table(epochs), limit])


def conv3(images):
    """Images 28x28x1, padded to 32x32 and with three equal channels."""
    images = np.pad(images[:1200], ((0, 0), (2, 2), (2, 2), (0, 0))).repeat(3, axis=3)
    epochs = take_turns(CONV3, images)
    return "\n\n".join(
        [
            f"### conv3 on 32x32x3: {len(images) // 100} steps of 100",
            table(epochs),
            f"The limit: {median(epochs[LIMIT], 'rate') / 1e9:.0f} billion operations a second, by the fastest product "
            "of two square matrices.",
        ]
    )
