"""Trains a VAE and saves it (the report's section 4.1)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cli
from config import Config

if TYPE_CHECKING:
    import tqdm

    from datasets import Dataset
    from vae.runs import Run
    from vae.training import HistoryRow


@cli.script
def main(argv: Sequence[str] | None = None) -> int:
    args = cli.parse_args(argv, __doc__, cli.TRAINING_FLAGS)
    with cli.tensorflow_environment():
        import datasets
        from vae import runs

    cli.exit_if_list_is_wanted(args)
    config = args.config
    with runs.training_run(args.checkpoints_dir / config.run_name) as run:
        cli.refuse_to_replace(args, run.folder)
        if cli.is_finished(args, run.folder):
            return 0
        data = datasets.load(config.dataset, args.data_dir, args.allow_unverified)
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
    from vae import evaluation, runs, signals, training

    config = args.config
    image_shape = data.train_images.shape[1:]
    picture = args.pictures_dir / config.run_name / "learning_curves.png"
    state = training.create_state(runs.build(config, image_shape), config.learning_rate)
    measure_test_elbo = evaluation.make_test_elbo(state.model, data.test_images)
    # The earlier model makes way only now that the data and the new model are ready.
    if args.overwrite:
        run.move_to_replaced()
    else:
        run.restore(state, config)
    if args.restore and int(state.epoch) == 0:
        print(f"nothing saved yet in {run.folder}: starting at epoch 0")

    steps_per_epoch = len(data.train_images) // config.batch_size
    with signals.deferred() as received, progress_bar(config, int(state.epoch), steps_per_epoch) as bar:
        rows = training.fit(
            state,
            data.train_images,
            num_epochs=config.num_epochs,
            batch_size=config.batch_size,
            seed=config.seed,
            measure_test_elbo=measure_test_elbo,
            on_steps=bar.update,
        )
        for row in rows:
            # A signal may arrive at any moment: this epoch's decisions all depend on one look.
            is_stopped = bool(received)
            is_last = is_stopped or row.epoch == config.num_epochs
            if is_last and not training.is_tested(row.epoch):
                row = row._replace(test_elbo=measure_test_elbo())
            run.history.append(row)
            if is_last or run.is_save_due(row.epoch):
                run.save(state, config, image_shape, data_verified=data.verified)
                draw_learning_curves(run.history, picture, is_last)
            show_progress(bar, row, config.num_epochs, is_last)
            if is_stopped:
                break

    last_row = run.history[-1]
    test_elbo = evaluation.format_elbo(last_row.test_elbo, state.model)
    print(f"epoch {last_row.epoch}: test ELBO {test_elbo}; saved in {run.folder}")
    print(picture)
    if last_row.epoch == config.num_epochs:
        return 0
    print(f"stopped early; to continue: {cli.command('train.py', config, args)} --restore True")
    return 128 + received[0]


def progress_bar(config: Config, epoch: int, steps_per_epoch: int) -> tqdm.tqdm:
    """Returns the progress bar of a run that is at `epoch`. It is disabled if standard error is not a terminal."""
    import tqdm

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
    """Draws the learning curves, again with each save, so that a long run can be watched.

    Training goes on if they cannot be written. Only for the last ones does it raise OSError.
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
