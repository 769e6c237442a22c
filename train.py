"""Trains a VAE and saves it (the report's section 4.1)."""

from __future__ import annotations

import argparse
import contextlib
import functools
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cli
from config import Config

if TYPE_CHECKING:
    import tensorflow as tf
    import tqdm

    from datasets import Dataset
    from vae.model import VAE
    from vae.runs import Run
    from vae.training import HistoryRow

# The learning curves are drawn again with a save, so that a long run can be watched. Drawing takes 0.1 s, so a save
# that follows the last drawing more closely than this leaves it out.
DRAWING_SECONDS = 10


@cli.script
def main(argv: Sequence[str] | None = None) -> int:
    args = cli.parse_args(argv, __doc__, cli.TRAINING_FLAGS)
    with cli.tensorflow_environment():
        from vae import runs

    cli.exit_if_list_is_wanted(args)
    config = args.config
    with runs.training_run(args.checkpoints_dir / config.run_name) as run:
        cli.refuse_to_replace(args, run.folder)
        if cli.report_if_finished(args, run.folder):
            return 0
        data = cli.load_data(args)
        check_batch_size(config, data)
        return train(args, run, data)


def check_batch_size(config: Config, data: Dataset) -> None:
    """Raises UsageError if a batch would need more images than the training set has."""
    num_images = len(data.train_images)
    if config.batch_size > num_images:
        raise cli.UsageError(
            f"argument --batch_size: takes 1 to {num_images} ({data.name}'s training images), got {config.batch_size}"
        )


def train(args: argparse.Namespace, run: Run, data: Dataset) -> int:
    """Trains up to --num_epochs, saving on the way, and returns the exit code."""
    from vae import evaluation

    config = args.config
    warn_about_memory(config, data.train_images.shape[1:])
    picture = args.pictures_dir / config.run_name / "learning_curves.png"
    state = prepare_state(args, run, data)
    warn_about_precision(config, state.model)
    signal_number = train_and_save(config, run, data, state, picture)

    last_row = run.history[-1]
    test_elbo = evaluation.format_elbo(last_row.test_elbo, state.model)
    print(f"epoch {last_row.epoch}: test ELBO {test_elbo}; saved in {run.folder}")
    print(picture)
    if last_row.epoch == config.num_epochs:
        return 0
    print(f"stopped early; to continue: {cli.command('train.py', config, args)} --restore True")
    return 128 + signal_number


def warn_about_memory(config: Config, image_shape: tuple[int, ...]) -> None:
    """Warns the user if a training step needs more memory than the machine has."""
    import tensorflow as tf

    from vae import runs, training

    # In a graph of its own the model has shapes but no weights, so that it always fits into memory.
    with tf.Graph().as_default():
        model = runs.build(config, image_shape)
    step_bytes = training.step_bytes(model, config.batch_size)
    machine_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if step_bytes > machine_bytes:
        size = "x".join(map(str, image_shape))
        print(
            f"a training step on {config.batch_size} images of {size} needs about {step_bytes / 2**30:.0f} GiB of "
            f"memory, and this machine has {machine_bytes / 2**30:.0f} GiB: "
            "try a smaller --batch_size, or --image_size for your own images",
            file=sys.stderr,
        )


def prepare_state(args: argparse.Namespace, run: Run, data: Dataset) -> tf.train.Checkpoint:
    """Returns the state to train: a new one, or with --restore that of the newest checkpoint.

    With --overwrite, the earlier model is moved away only now, when the data and the new model are ready.
    """
    from vae import runs, training

    config = args.config
    model = runs.build(config, image_shape=data.train_images.shape[1:])
    state = training.create_state(model, config.learning_rate)
    if args.overwrite:
        run.move_to_replaced()
    else:
        runs.check_digest(run.folder, data.digest)
        run.restore(state, config)
    if args.restore and int(state.epoch) == 0:
        print(f"nothing saved yet in {run.folder}: starting at epoch 0")
    return state


def warn_about_precision(config: Config, model: VAE) -> None:
    """Tells the user where mixed_bfloat16 makes training slower, not faster."""
    if config.precision == "float32":
        return
    if model.jit_compile:
        print(f"--precision {config.precision}: {config.vae_type} trains faster with float32", file=sys.stderr)
    elif not has_bfloat16_instructions():
        print(
            f"--precision {config.precision} will be slow: this processor has no bfloat16 instructions "
            "(AVX512_BF16 or AMX)",
            file=sys.stderr,
        )


def has_bfloat16_instructions() -> bool:
    """Returns whether the processor computes in bfloat16, according to Linux. Elsewhere it is assumed."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return True
    # x86 names them avx512_bf16 and amx_bf16, and ARM bf16.
    return "bf16" in cpuinfo.read_text()


def train_and_save(config: Config, run: Run, data: Dataset, state: tf.train.Checkpoint, picture: Path) -> int:
    """Trains, saves and draws until the final epoch or a signal; returns the signal's number, or 0."""
    from vae import evaluation, signals, training

    measure_test_elbo = evaluation.make_test_elbo(state.model, data.test_images)
    rate_of_epoch = training.LEARNING_RATE_SCHEDULES[config.learning_rate_schedule]
    last_drawn = -math.inf
    with contextlib.ExitStack() as stack:
        received = stack.enter_context(signals.deferred())
        bar = stack.enter_context(progress_bar(config, int(state.epoch), len(data.train_images)))
        rows = training.fit(
            state,
            data.train_images,
            num_epochs=config.num_epochs,
            batch_size=config.batch_size,
            seed=config.seed,
            learning_rate_of=functools.partial(rate_of_epoch, config.learning_rate),
            measure_test_elbo=measure_test_elbo,
            on_steps=bar.update,
        )
        stack.enter_context(contextlib.closing(rows))
        for row in rows:
            # A signal may arrive at any time, so this is the only look at it in an epoch.
            is_stopped = bool(received)
            is_last = is_stopped or row.epoch == config.num_epochs
            if is_last and not training.is_tested(row.epoch):
                row = row._replace(test_elbo=measure_test_elbo())
            run.history.append(row)
            if is_last or run.is_save_due(row.epoch):
                run.save(state, config, data_verified=data.verified, data_digest=data.digest)
                if is_last or time.monotonic() - last_drawn >= DRAWING_SECONDS:
                    draw_learning_curves(run.history, picture, is_last)
                    last_drawn = time.monotonic()
            show_progress(bar, row, config.num_epochs, is_last)
            if is_stopped:
                return received[0]
    return 0


def progress_bar(config: Config, epoch: int, num_images: int) -> tqdm.tqdm:
    """Returns the progress bar of a run that is at `epoch`. It is disabled if standard error is not a terminal."""
    import tqdm

    steps_per_epoch = num_images // config.batch_size
    return tqdm.tqdm(
        initial=epoch * steps_per_epoch,
        total=config.num_epochs * steps_per_epoch,
        unit="step",
        disable=not sys.stderr.isatty(),
    )


def show_progress(bar: tqdm.tqdm, row: HistoryRow, num_epochs: int, is_last: bool) -> None:
    """Shows an epoch's numbers in the bar; without a bar it prints a line for each epoch with a test ELBO."""
    from vae import training

    progress = f"epoch {row.epoch}/{num_epochs}"
    bar.set_description(progress, refresh=False)
    bar.set_postfix_str(training.describe(row))
    if bar.disable and (is_last or training.is_tested(row.epoch)):
        print(f"{progress}: {training.describe(row)}", flush=True)


def draw_learning_curves(history: list[HistoryRow], path: Path, is_last: bool) -> None:
    """Draws the learning curves so far.

    Training goes on if they cannot be written. Raises OSError only for those of the last epoch.
    """
    from vae import figures, files

    figure = figures.learning_curves(
        epochs=[row.epoch for row in history],
        train_elbo=[row.train_elbo for row in history],
        test_elbo=[row.test_elbo for row in history],
        train_kl=[row.train_kl for row in history],
    )
    try:
        files.save_figure(figure, path)
    except OSError as error:
        if is_last:
            raise
        print(f"training goes on without a picture of its learning curves: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
