"""Trains a VAE and saves it (the report's section 4.1)."""

from __future__ import annotations

import argparse
import contextlib
import functools
import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cli
from config import Config

if TYPE_CHECKING:
    import tensorflow as tf
    import tqdm

    from datasets import Dataset
    from vae.cluster import Cluster, Link
    from vae.distribution import Replicas
    from vae.model import VAE
    from vae.runs import Run
    from vae.training import HistoryRow

# The learning curves are drawn again with a save, so that a long run can be watched. Drawing takes 0.1 s, so a save
# does not draw them if the last drawing is less than this many seconds old.
DRAWING_SECONDS = 10


@cli.script
def main(argv: Sequence[str] | None = None) -> int:
    args = cli.parse_args(argv, __doc__, cli.TRAINING_FLAGS)
    cluster = None if args.list else read_cluster()
    with cli.tensorflow_environment():
        from vae import runs

    cli.exit_if_list_is_wanted(args)
    set_threads(args.config, num_workers=1 if cluster is None else len(cluster.tasks))
    if cluster is not None:
        return train_in_cluster(args, cluster)
    with runs.training_run(args.checkpoints_dir / args.config.run_name) as run:
        cli.refuse_to_replace(args, run.folder)
        if cli.report_if_finished(args, run.folder):
            return 0
        data = load_training_data(args)
        return train(args, run, data, replicas_on_gpus(args.config))


def set_threads(config: Config, num_workers: int) -> None:
    """Chooses TensorFlow's threads for this process, before it uses TensorFlow. See vae.cores."""
    from vae import cores

    cores.set_threads(config.network, config.batch_size // num_workers)


def load_training_data(args: argparse.Namespace) -> Dataset:
    """Returns the data set. Raises UsageError if a batch would need more images than the training set has."""
    data = cli.load_data(args)
    num_images = len(data.train_images)
    batch_size = args.config.batch_size
    if batch_size > num_images:
        raise cli.UsageError(
            f"argument --batch_size: takes 1 to {num_images} ({data.name}'s training images), got {batch_size}"
        )
    return data


# ---- Several replicas ----------------------------------------------------------------------------------------------


def read_cluster() -> Cluster | None:
    """Returns the cluster that TensorFlow's variable TF_CONFIG describes, or None if this process trains alone."""
    if "TF_CONFIG" not in os.environ:
        return None
    from vae import cluster

    try:
        return cluster.parse_tf_config(os.environ["TF_CONFIG"])
    except cluster.ClusterError as error:
        raise cli.UsageError(str(error)) from None


def replicas_on_gpus(config: Config) -> Replicas | None:
    """Returns the Replicas of this machine's GPUs, or None if it does not have several."""
    import tensorflow as tf

    if len(tf.config.list_physical_devices("GPU")) < 2:
        return None
    from vae import distribution

    replicas = distribution.on_gpus()
    check_shares(config, replicas.count)
    print(f"each batch is shared among {replicas.count} GPUs")
    return replicas


def check_shares(config: Config, num_replicas: int) -> None:
    """Raises UsageError if a batch cannot be shared out among the replicas equally."""
    rest = config.batch_size % num_replicas
    if rest == 0:
        return
    smaller = config.batch_size - rest
    nearest = [size for size in (smaller, smaller + num_replicas) if size > 0]
    raise cli.UsageError(
        f"argument --batch_size: takes a multiple of {num_replicas}, the number of replicas, got {config.batch_size}; "
        f"nearest: {' or '.join(map(str, nearest))}"
    )


def train_in_cluster(args: argparse.Namespace, cluster: Cluster) -> int:
    """Trains together with the other workers of a cluster, and returns the exit code.

    Only the chief has a folder. The other workers need the data, and get the state from the chief.
    """
    from vae import distribution, signals
    from vae.cluster import ClusterError, joined

    train_with = train_as_chief if cluster.index == 0 else train_as_worker
    try:
        with (
            signals.sigterm_as_ctrl_c(),
            joined(cluster, args.worker_timeout, ending_of) as link,
        ):
            check_agreement(link, "flags", shlex.join(["train.py", *args.config.arguments()]))
            with distribution.lost_worker_reported(link):
                return train_with(args, link)
    except ClusterError as error:
        raise cli.UsageError(str(error)) from None


def ending_of(error: BaseException) -> tuple[int, str]:
    """Returns the exit code and the message with which the other workers end after an error of this one."""
    from vae.cluster import ClusterError

    if isinstance(error, ClusterError):
        return 2, str(error)
    return cli.exit_code_of(error), cli.describe_ending(error)


def check_agreement(link: Link, name: str, value: str) -> None:
    """Raises UsageError if a value with this name is not the same on all workers."""
    chief_value, *other_values = link.exchange(value)
    for task, other_value in zip(link.tasks[1:], other_values, strict=True):
        if other_value != chief_value:
            raise cli.UsageError(
                f"the {name} of {task} differ from those of {link.tasks[0]}: {other_value!r} and {chief_value!r}; "
                f"give all workers the same {name}"
            )


def connect_replicas(args: argparse.Namespace, link: Link, data: Dataset) -> Replicas:
    """Returns the Replicas of the cluster's workers, once all of them have the same data."""
    from vae import distribution
    from vae.cluster import ClusterError

    digest = data.digest or distribution.digest([data.train_images, data.test_images])
    check_agreement(link, "images", digest)
    # The other workers end with the exit code of the error that leaves the block of `joined`.
    try:
        replicas = distribution.connect(link)
    except ClusterError as error:
        raise cli.UsageError(str(error)) from None
    check_shares(args.config, replicas.count)
    print(f"{link.task} is one of {len(link.tasks)} workers; each batch is shared among {replicas.count} replicas")
    return replicas


def train_as_chief(args: argparse.Namespace, link: Link) -> int:
    """Trains as the worker that reads and writes the run's folder, and returns the exit code."""
    from vae import runs

    with runs.training_run(args.checkpoints_dir / args.config.run_name) as run:
        cli.refuse_to_replace(args, run.folder)
        data = load_training_data(args)
        # TensorFlow's workers must be connected before anything else uses TensorFlow.
        replicas = connect_replicas(args, link, data)
        is_finished = cli.report_if_finished(args, run.folder, data)
        link.exchange(is_finished)
        if is_finished:
            return 0
        exit_code = train(args, run, data, replicas)
        link.exchange("saved")
        return exit_code


def train_as_worker(args: argparse.Namespace, link: Link) -> int:
    """Trains as a worker that is not the chief, and returns the exit code."""
    from vae import evaluation, signals

    config = args.config
    name = link.task.name
    data = load_training_data(args)
    replicas = connect_replicas(args, link, data)
    is_finished, *_ = link.exchange(None)
    if is_finished:
        print(f"{name}: nothing to do: the run is finished")
        return 0
    state = create_state(config, data, replicas)
    replicas.broadcast(state)
    measure_test_elbo = evaluation.make_test_elbo(state.model, data.test_images)
    signal_number = 0
    with signals.deferred() as received:
        rows = train_epochs(config, data, state, measure_test_elbo, lambda num_steps: None, replicas)
        with contextlib.closing(rows):
            for _ in rows:
                signal_number = replicas.agreed_signal(first_of(received))
                if signal_number:
                    break
        # The chief may still fail to save.
        link.exchange("trained")
    epoch = int(state.epoch)
    if signal_number == 0 or epoch == config.num_epochs:
        print(f"{name}: trained up to epoch {epoch}; saved by the chief")
        return 0
    print(f"{name}: stopped early after epoch {epoch}; saved by the chief")
    return 128 + signal_number


# ---- Training ------------------------------------------------------------------------------------------------------


def train(args: argparse.Namespace, run: Run, data: Dataset, replicas: Replicas | None) -> int:
    """Trains up to --num_epochs, saving on the way, and returns the exit code."""
    from vae import evaluation

    config = args.config
    num_replicas = 1 if replicas is None else replicas.count
    warn_about_memory(config, data.train_images.shape[1:], config.batch_size // num_replicas)
    picture = args.pictures_dir / config.run_name / "learning_curves.png"
    state = prepare_state(args, run, data, replicas)
    warn_about_precision(config, state.model)
    warn_about_workers(config, state.model, replicas)
    signal_number = train_and_save(config, run, data, state, picture, replicas)

    last_row = run.history[-1]
    test_elbo = evaluation.format_elbo(last_row.test_elbo, state.model)
    print(f"epoch {last_row.epoch}: test ELBO {test_elbo}; saved in {run.folder}")
    print(picture)
    if last_row.epoch == config.num_epochs:
        return 0
    print(f"stopped early; to continue: {cli.command('train.py', config, args)} --restore True")
    return 128 + signal_number


def warn_about_memory(config: Config, image_shape: tuple[int, ...], num_images: int) -> None:
    """Warns the user if a training step on num_images images needs more memory than the machine has."""
    import tensorflow as tf

    from vae import runs, training

    # In a graph of its own the model has shapes but no weights, so that it always fits into memory.
    with tf.Graph().as_default():
        model = runs.build(config, image_shape)
    step_bytes = training.step_bytes(model, num_images)
    machine_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if step_bytes > machine_bytes:
        print(
            f"a training step on {num_images} images of {runs.format_shape(image_shape)} needs about "
            f"{step_bytes / 2**30:.0f} GiB of memory, and this machine has {machine_bytes / 2**30:.0f} GiB: "
            "try a smaller --batch_size, or --image_size for your own images",
            file=sys.stderr,
        )


def prepare_state(args: argparse.Namespace, run: Run, data: Dataset, replicas: Replicas | None) -> tf.train.Checkpoint:
    """Returns the state to train: a new one, or with --restore that of the newest checkpoint.

    With --overwrite, the earlier model is moved away only now, when the data and the new model are ready.
    """
    from vae import runs

    config = args.config
    state = create_state(config, data, replicas)
    if args.overwrite:
        run.move_to_replaced()
    else:
        runs.check_digest(run.folder, data.digest)
        run.restore(state, config)
    if args.restore and int(state.epoch) == 0:
        print(f"nothing saved yet in {run.folder}: starting at epoch 0")
    elif args.restore:
        print(f"continuing after epoch {int(state.epoch)}")
    if replicas is not None:
        replicas.broadcast(state)
    return state


def create_state(config: Config, data: Dataset, replicas: Replicas | None) -> tf.train.Checkpoint:
    """Returns a new state to train, on one replica or several."""
    from vae import runs, training

    build_model = functools.partial(runs.build, config, image_shape=data.train_images.shape[1:])
    if replicas is None:
        return training.create_state(build_model(), config.learning_rate)
    return replicas.create_state(build_model, config.learning_rate)


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


def warn_about_workers(config: Config, model: VAE, replicas: Replicas | None) -> None:
    """Tells the user that several workers without GPUs train a flat model more slowly than one machine does."""
    if replicas is None or replicas.link is None or not model.jit_compile:
        return
    print(
        f"{config.vae_type} trains faster on one machine than on several without GPUs: see docs/distributed.md",
        file=sys.stderr,
    )


def has_bfloat16_instructions() -> bool:
    """Returns whether the processor computes in bfloat16, according to Linux. Elsewhere it is assumed."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return True
    # x86 names them avx512_bf16 and amx_bf16, and ARM bf16.
    return "bf16" in cpuinfo.read_text()


def train_epochs(
    config: Config,
    data: Dataset,
    state: tf.train.Checkpoint,
    measure_test_elbo: Callable[[], float],
    on_steps: Callable[[int], object],
    replicas: Replicas | None,
) -> Generator[HistoryRow, None, None]:
    """Trains an epoch for each row that it yields: training.fit with the parameters of a Config, on all replicas."""
    from vae import training

    rate_of_epoch = training.LEARNING_RATE_SCHEDULES[config.learning_rate_schedule]
    train_block = None
    if replicas is not None:
        train_block = replicas.compile_block(state, config.batch_size)
    return training.fit(
        state,
        data.train_images,
        num_epochs=config.num_epochs,
        batch_size=config.batch_size,
        seed=config.seed,
        learning_rate_of=functools.partial(rate_of_epoch, config.learning_rate),
        measure_test_elbo=measure_test_elbo,
        on_steps=on_steps,
        train_block=train_block,
    )


def train_and_save(
    config: Config, run: Run, data: Dataset, state: tf.train.Checkpoint, picture: Path, replicas: Replicas | None
) -> int:
    """Trains, saves and draws until the final epoch or a signal; returns the signal's number, or 0."""
    from vae import evaluation, signals

    measure_test_elbo = evaluation.make_test_elbo(state.model, data.test_images)
    last_drawn = -math.inf
    undisturbed = contextlib.nullcontext if replicas is None else replicas.undisturbed
    with contextlib.ExitStack() as stack:
        received = stack.enter_context(signals.deferred())
        bar = stack.enter_context(progress_bar(config, int(state.epoch), len(data.train_images)))
        rows = train_epochs(config, data, state, measure_test_elbo, bar.update, replicas)
        stack.enter_context(contextlib.closing(rows))
        for row in rows:
            # A signal may arrive at any time, so this is the only look at it in an epoch.
            signal_number = first_of(received)
            if replicas is not None:
                signal_number = replicas.agreed_signal(signal_number)
            is_last = signal_number > 0 or row.epoch == config.num_epochs
            if is_last:
                row = with_test_elbo(row, measure_test_elbo)
            run.history.append(row)
            if is_last or run.is_save_due(row.epoch):
                with undisturbed():
                    run.save(state, config, data_verified=data.verified, data_digest=data.digest)
                if is_last or time.monotonic() - last_drawn >= DRAWING_SECONDS:
                    draw_learning_curves(run.history, picture, is_last)
                    last_drawn = time.monotonic()
            show_progress(bar, row, config.num_epochs, is_last)
            if signal_number:
                return signal_number
    return 0


def with_test_elbo(row: HistoryRow, measure_test_elbo: Callable[[], float]) -> HistoryRow:
    """Returns a row with the test ELBO, which is measured unless the row has it.

    Raises FloatingPointError if it is not a finite number.
    """
    from vae import training

    if training.is_tested(row.epoch):
        return row
    test_elbo = measure_test_elbo()
    training.check_finite(row.epoch, test_elbo)
    return row._replace(test_elbo=test_elbo)


def first_of(received: Sequence[int]) -> int:
    """Returns the number of the first signal that was received, or 0."""
    return received[0] if received else 0


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
