"""Trains a run: restores it, fits it, saves it, and draws its learning curves on the way."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf
import tqdm

from config import Config, UsageError
from vae import cores, distribution, evaluation, figures, files, model, runs, signals, training
from vae.distribution import Replicas
from vae.history import HistoryRow
from vae.likelihoods import LIKELIHOODS
from vae.messages import note, printing_may_fail, say
from vae.runs import Run

if TYPE_CHECKING:
    from datasets import Dataset

# The learning curves are drawn again with a save, so that a long run can be watched. Drawing takes 0.1 s, so a save
# does not draw them if the last drawing is less than this many seconds old.
DRAWING_SECONDS = 10
# Without a bar, there is a line of progress at least this often.
LINE_SECONDS = 60

# With a smaller KL, in nats, no latent is in use.
COLLAPSED_KL = 0.1
# With fewer steps in an epoch, the user is told how to get more.
FEW_STEPS = 10
# Binarizing loses little unless most pixels are grey: neither nearly black nor nearly white.
GREY = range(26, 230)
# They are counted in about so many pixels: mapped images can be larger than memory.
NUM_COUNTED_PIXELS = 1_000_000


def train(
    run: Run, config: Config, data: Dataset, *, overwrite: bool, picture: Path, replicas: Replicas | None = None
) -> int:
    """Trains a run up to config.num_epochs, and draws its learning curves into `picture`.

    It continues from the newest checkpoint. With `overwrite` it trains from scratch, and the earlier model is moved
    away. Ctrl-C, SIGTERM or SIGHUP stops it at the end of the epoch. Returns the signal's number if it stopped early,
    and 0 if the run is complete. With several workers (`replicas`), only the chief writes to `run` and `picture`.
    Raises UsageError if a batch would need more images than the training set has.
    """
    num_images = len(data.train_images)
    image_shape = data.train_images.shape[1:]
    if config.batch_size > num_images:
        raise UsageError(
            f"argument --batch_size: takes 1 to {num_images} ({data.name}'s training images), got {config.batch_size}"
        )
    # TensorFlow creates its threads when it is used for the first time.
    cores.set_threads(config.network, config.batch_size)
    if replicas is None:
        replicas = distribution.on_gpus(config.batch_size)
    is_chief = replicas is None or replicas.is_chief
    num_replicas = 1
    scope: contextlib.AbstractContextManager = contextlib.nullcontext()
    if replicas is not None:
        replicas.check_agreement(config, data.train_images, data.test_images)
        num_replicas = replicas.count
        scope = replicas.strategy.scope()
    check_memory(config, image_shape, config.batch_size // num_replicas)
    warn_about_precision(config)
    warn_about_images(config, data.train_images)

    # ---- Restore: the state is a new one, or comes from the newest checkpoint
    with scope:
        state = training.create_state(model.create(config, image_shape))
    if is_chief and overwrite:
        # Only now, when the data and the new model are ready.
        run.move_to_replaced()
    elif is_chief:
        run.restore(state, config, data.digest)
    if replicas is not None:
        replicas.broadcast(state)
    if state.epoch >= config.num_epochs:
        if is_chief and not picture.exists():
            draw_learning_curves(run.history, picture, is_last=True)
        print(f"nothing to do: {run.folder} is at epoch {state.epoch}")
        print(f"to train it further, give a --num_epochs above {state.epoch}")
        return 0
    if is_chief and state.epoch > 0:
        say(f"continuing after epoch {state.epoch}")
    elif is_chief:
        say(f"new run: {run.folder.name} ({num_images} training and {len(data.test_images)} test images)")

    # ---- Fit: an epoch for each row
    progress = Progress(state.epoch, config.num_epochs, num_images // config.batch_size, is_shown=is_chief)
    compile_block = training.compile_block if replicas is None else replicas.compile_block
    rate_of_epoch = training.LEARNING_RATE_SCHEDULES[config.learning_rate_schedule]
    last_drawn = -math.inf
    with signals.deferred(end_at_once=replicas is not None) as received, contextlib.closing(progress):
        rows = training.fit(
            state,
            data.train_images,
            compile_block(state, config.batch_size),
            num_epochs=config.num_epochs,
            batch_size=config.batch_size,
            seed=config.seed,
            learning_rate_of=functools.partial(rate_of_epoch, config.learning_rate),
            measure_test_elbo=evaluation.make_test_elbo(state.model, data.test_images),
            on_steps=progress.add_steps,
            stop=lambda: bool(received) if replicas is None else replicas.share_signal(received),
        )
        with contextlib.closing(rows):
            for row in rows:
                if not is_chief:
                    continue
                run.history.append(row)
                progress.end_epoch(row)

                # ---- Save, and draw. After a signal that `fit` has not seen yet, this epoch is saved, and one more.
                is_last = row.epoch == config.num_epochs or bool(received)
                if not is_last and not run.is_save_due(row.epoch):
                    continue
                # If the disk stops answering, the chief ends as a worker does that waits for the others in vain.
                with contextlib.nullcontext() if replicas is None else replicas.waiting():
                    run.save(state, config, data_verified=data.verified, data_digest=data.digest, data_path=data.path)
                if is_last or time.monotonic() - last_drawn >= DRAWING_SECONDS:
                    draw_learning_curves(run.history, picture, is_last)
                    last_drawn = time.monotonic()

    if replicas is not None:
        # A worker has succeeded only if the chief has saved.
        replicas.meet()
    signal_number = 0 if state.epoch == config.num_epochs else received[0]
    if not is_chief:
        return signal_number
    last_row = run.history[-1]
    test_elbo = evaluation.format_elbo(last_row.test_elbo, state.model)
    say(f"epoch {last_row.epoch}: test ELBO {test_elbo}; saved in {run.folder}")
    say(str(picture))
    if last_row.train_kl < COLLAPSED_KL:
        note(
            f"the model has collapsed: with a KL of {last_row.train_kl:.2f} nats, z carries no information about x; "
            "try more epochs, a lower --learning_rate, another --seed, or another --vae_type"
        )
    return signal_number


class Progress:
    """What is shown while a model trains: on a terminal a bar, elsewhere a line for each epoch with a test ELBO.

    Elsewhere, there is a line for each minute as well, since an epoch of conv3 can take half an hour.
    """

    def __init__(self, epoch: int, num_epochs: int, steps_per_epoch: int, is_shown: bool) -> None:
        self._epoch = epoch
        self._num_epochs = num_epochs
        self._steps_per_epoch = steps_per_epoch
        self._num_steps = 0
        self._last_line = time.monotonic()
        self._is_shown = is_shown
        self._bar = tqdm.tqdm(
            initial=epoch * steps_per_epoch,
            total=num_epochs * steps_per_epoch,
            # Short enough to show the test ELBO on 80 columns.
            bar_format="{desc}{bar:6} {remaining} left{postfix}",
            disable=not is_shown or not sys.stderr.isatty(),
        )

    def add_steps(self, num_steps: int) -> None:
        """Adds num_steps to the steps that are shown as done."""
        self._num_steps += num_steps
        with printing_may_fail():
            self._bar.update(num_steps)
        if self._bar.disable and time.monotonic() - self._last_line >= LINE_SECONDS:
            self._say(f"epoch {self._epoch + 1}/{self._num_epochs}: step {self._num_steps} of {self._steps_per_epoch}")

    def end_epoch(self, row: HistoryRow) -> None:
        """Shows the numbers of an epoch that is done."""
        self._epoch = row.epoch
        self._num_steps = 0
        name = f"epoch {row.epoch}/{self._num_epochs}"
        self._bar.set_description(name, refresh=False)
        with printing_may_fail():
            self._bar.set_postfix_str(training.describe(row))
        if self._bar.disable and not math.isnan(row.test_elbo):
            self._say(f"{name}: {training.describe(row)}")

    def close(self) -> None:
        with printing_may_fail():
            self._bar.close()

    def _say(self, line: str) -> None:
        if self._is_shown:
            say(line)
        self._last_line = time.monotonic()


def draw_learning_curves(rows: Sequence[HistoryRow], path: Path, is_last: bool) -> None:
    """Draws the learning curves so far.

    If they cannot be written, training goes on; only after the last epoch is OSError raised.
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
        note(f"training goes on without a picture of its learning curves: {error}")


def check_memory(config: Config, image_shape: tuple[int, ...], num_images: int) -> None:
    """Warns the user if a step on num_images needs more memory than there is. Raises UsageError if the model does."""
    # Inside a graph, the model has shapes but no weights, so it always fits into memory.
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
        note(f"a training step on {num_images} {images} needs about {step_bytes / 2**30:.0f} {advice}")


def warn_about_images(config: Config, images: np.ndarray) -> None:
    """Tells the user if the type does not suit pictures with grey levels, or if an epoch has few steps."""
    some_images = images[: math.ceil(NUM_COUNTED_PIXELS / math.prod(images.shape[1:]))]
    share_of_grey = np.mean((some_images >= GREY.start) & (some_images < GREY.stop))
    if LIKELIHOODS[config.likelihood].binarizes and share_of_grey > 0.5:
        note(
            f"{config.vae_type} makes each pixel black or white at random; for grey levels or colours, try --vae_type "
            "flat_cont_normal, flat_cont_logit or conv3"
        )
    num_steps = len(images) // config.batch_size
    if num_steps < FEW_STEPS:
        note(
            f"an epoch has only {num_steps} steps of {config.batch_size} images; with a smaller one, such as "
            f"--batch_size {max(1, len(images) // FEW_STEPS)}, it has more, and training needs fewer epochs"
        )


def warn_about_precision(config: Config) -> None:
    """Tells the user where mixed_bfloat16 makes training slower, not faster."""
    if config.precision == "float32":
        return
    # x86 names them avx512_bf16 and amx_bf16, and ARM bf16. Where there is no such file, they are assumed.
    cpuinfo = Path("/proc/cpuinfo")
    has_bfloat16_instructions = not cpuinfo.exists() or "bf16" in cpuinfo.read_text()
    if config.network == "flat":
        note(f"--precision {config.precision}: {config.vae_type} trains faster with float32")
    elif not has_bfloat16_instructions:
        note(
            f"--precision {config.precision} will be slow: this processor has no bfloat16 instructions "
            "(AVX512_BF16 or AMX)"
        )
