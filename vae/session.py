"""Trains a run: restores it, fits it, saves it, and draws its learning curves on the way."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tensorflow as tf
import tqdm

from config import Config, UsageError
from vae import cores, distribution, evaluation, figures, files, model, runs, signals, training
from vae.distribution import Replicas
from vae.history import HistoryRow
from vae.runs import Run

if TYPE_CHECKING:
    from datasets import Dataset

# The learning curves are drawn again with a save, so that a long run can be watched. Drawing takes 0.1 s, so a save
# does not draw them if the last drawing is less than this many seconds old.
DRAWING_SECONDS = 10


def train(
    run: Run, config: Config, data: Dataset, *, overwrite: bool, picture: Path, replicas: Replicas | None = None
) -> int:
    """Trains a run up to config.num_epochs, and draws its learning curves into `picture`.

    It continues from the newest checkpoint. With `overwrite` it trains from scratch, and the earlier model is moved
    away. Ctrl-C, SIGTERM or SIGHUP stops it at the end of the epoch. Returns the signal's number if it stopped early,
    and 0 if the run is complete. Of several workers, `replicas`, the chief alone writes to `run` and `picture`. Raises
    UsageError if a batch would need more images than the training set has.
    """
    num_images = len(data.train_images)
    image_shape = data.train_images.shape[1:]
    if config.batch_size > num_images:
        raise UsageError(
            f"argument --batch_size: takes 1 to {num_images} ({data.name}'s training images), got {config.batch_size}"
        )
    # TensorFlow creates its threads when it is used for the first time.
    cores.set_threads(config.network, config.batch_size)
    replicas = replicas or distribution.on_gpus(config.batch_size)
    is_chief = replicas is None or replicas.is_chief
    if replicas is not None:
        replicas.check_agreement(config, data.train_images, data.test_images)
    share = config.batch_size if replicas is None else config.batch_size // replicas.count
    check_memory(config, image_shape, share)
    warn_about_precision(config)

    # ---- Restore: the state is a new one, or comes from the newest checkpoint
    with contextlib.nullcontext() if replicas is None else replicas.strategy.scope():
        state = training.create_state(model.create(config, image_shape))
    if is_chief and overwrite:
        # Only now, when the data and the new model are ready.
        run.move_to_replaced()
    elif is_chief:
        run.restore(state, config, data.digest)
    if replicas is not None:
        replicas.broadcast(state)
    if state.epoch >= config.num_epochs:
        print(f"nothing to do: {run.folder} is at epoch {state.epoch}")
        print(f"to train it further, give a --num_epochs above {state.epoch}")
        return 0
    if state.epoch > 0:
        show(print, f"continuing after epoch {state.epoch}")
    else:
        show(print, f"new run: {run.folder.name}")

    # ---- Fit: an epoch for each row
    steps_per_epoch = num_images // config.batch_size
    bar = tqdm.tqdm(
        initial=state.epoch * steps_per_epoch,
        total=config.num_epochs * steps_per_epoch,
        unit="step",
        disable=not sys.stderr.isatty() or not is_chief,
    )
    compile_block = training.compile_block if replicas is None else replicas.compile_block
    rate_of_epoch = training.LEARNING_RATE_SCHEDULES[config.learning_rate_schedule]
    last_drawn = -math.inf
    with signals.deferred(end_at_once=replicas is not None) as received, bar:
        rows = training.fit(
            state,
            data.train_images,
            compile_block(state, config.batch_size),
            num_epochs=config.num_epochs,
            batch_size=config.batch_size,
            seed=config.seed,
            learning_rate_of=functools.partial(rate_of_epoch, config.learning_rate),
            measure_test_elbo=evaluation.make_test_elbo(state.model, data.test_images),
            on_steps=functools.partial(show, bar.update),
            stop=lambda: bool(received) if replicas is None else replicas.share_signal(received),
        )
        with contextlib.closing(rows):
            for row in rows:
                if not is_chief:
                    continue
                run.history.append(row)
                show(show_row, bar, row, config.num_epochs)

                # ---- Save, and draw
                is_last = row.epoch == config.num_epochs or bool(received)
                if not is_last and not run.is_save_due(row.epoch):
                    continue
                run.save(state, config, data_verified=data.verified, data_digest=data.digest)
                if is_last or time.monotonic() - last_drawn >= DRAWING_SECONDS:
                    draw_learning_curves(run.history, picture, is_last)
                    last_drawn = time.monotonic()

    if replicas is not None:
        # A worker has succeeded only if the chief has saved.
        replicas.meet()
    if is_chief:
        test_elbo = evaluation.format_elbo(run.history[-1].test_elbo, state.model)
        show(print, f"epoch {state.epoch}: test ELBO {test_elbo}; saved in {run.folder}")
        show(print, picture)
    return 0 if state.epoch == config.num_epochs else received[0]


def show(print_progress: Callable[..., object], *args: Any, **options: Any) -> None:
    """Calls a function that prints. Training goes on if it cannot: the terminal is closed, or the disk is full."""
    with contextlib.suppress(OSError):
        print_progress(*args, **options)


def show_row(bar: tqdm.tqdm, row: HistoryRow, num_epochs: int) -> None:
    """Shows an epoch's numbers in the bar; without a bar it prints a line for each epoch with a test ELBO."""
    progress = f"epoch {row.epoch}/{num_epochs}"
    bar.set_description(progress, refresh=False)
    bar.set_postfix_str(training.describe(row))
    if bar.disable and not math.isnan(row.test_elbo):
        print(f"{progress}: {training.describe(row)}", flush=True)


def draw_learning_curves(rows: Sequence[HistoryRow], path: Path, is_last: bool) -> None:
    """Draws the learning curves so far.

    Training goes on if they cannot be written. Only after the last epoch, that raises OSError.
    """
    figure = figures.learning_curves(
        epochs=[row.epoch for row in rows],
        train_elbo=[row.train_elbo for row in rows],
        test_elbo=[row.test_elbo for row in rows],
        train_kl=[row.train_kl for row in rows],
    )
    try:
        files.save_figure(figure, path)
    except OSError as error:
        if is_last:
            raise
        warn(f"training goes on without a picture of its learning curves: {error}")


def warn(message: str) -> None:
    show(print, message, file=sys.stderr)


def check_memory(config: Config, image_shape: tuple[int, ...], num_images: int) -> None:
    """Warns the user if a step on num_images needs more memory than there is. Raises UsageError if the model does."""
    # In a graph of its own the model has shapes but no weights, so that it always fits into memory.
    with tf.Graph().as_default():
        shapes_only = model.create(config, image_shape)
    state_bytes = training.state_bytes(shapes_only)
    step_bytes = training.step_bytes(shapes_only, num_images)
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        memory_bytes = min(memory_bytes, limit)
    advice = (
        f"GiB of memory, and there are {memory_bytes / 2**30:.0f} GiB: "
        "try a smaller --batch_size or --hidden_size, or --image_size for your own images"
    )
    images = f"images of {runs.format_shape(image_shape)}"
    if state_bytes > memory_bytes:
        raise UsageError(f"a model of {images} needs about {state_bytes / 2**30:.0f} {advice}")
    if step_bytes > memory_bytes:
        warn(f"a training step on {num_images} {images} needs about {step_bytes / 2**30:.0f} {advice}")


def warn_about_precision(config: Config) -> None:
    """Tells the user where mixed_bfloat16 makes training slower, not faster."""
    if config.precision == "float32":
        return
    # x86 names them avx512_bf16 and amx_bf16, and ARM bf16. Where there is no such file, they are assumed.
    cpuinfo = Path("/proc/cpuinfo")
    has_bfloat16_instructions = not cpuinfo.exists() or "bf16" in cpuinfo.read_text()
    if config.network == "flat":
        warn(f"--precision {config.precision}: {config.vae_type} trains faster with float32")
    elif not has_bfloat16_instructions:
        warn(
            f"--precision {config.precision} will be slow: this processor has no bfloat16 instructions "
            "(AVX512_BF16 or AMX)"
        )
