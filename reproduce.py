"""Trains, evaluates and draws the experiments of report/experiments.py, fills docs/, and writes RESULTS.md."""

import argparse
import dataclasses
import importlib
import math
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import cli
from config import Config
from report.experiments import EXPERIMENTS, Experiment

TRAIN_SCRIPT = Path(__file__).with_name("train.py")


class ScriptFailed(Exception):
    """A script that ended with an exit code other than 0, after it printed the reason."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


@cli.script
def main(argv: Sequence[str] | None = None) -> int:
    names = [experiment.name for experiment in EXPERIMENTS]
    parser = cli.make_parser(f"{__doc__} The experiments: {' '.join(names)}")
    parser.add_argument(
        "--epochs_scale",
        type=cli.real_number,
        default=1.0,
        help="the share of each experiment's epochs and samples to run; 0 does not train, and evaluates with all "
        "samples (default: %(default)s)",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=names,
        default=names,
        metavar="NAME",
        help="run only these (default: all)",
    )
    cli.add_folder_flags(parser)
    args = parser.parse_args(argv)
    if not 0 <= args.epochs_scale <= 1:
        parser.error(f"argument --epochs_scale: takes a number from 0 to 1, got {args.epochs_scale}")
    # The report is trained on one machine. train.py would look for the other workers.
    os.environ.pop("TF_CONFIG", None)
    # This process and train.py share a GPU. Without this variable, the first one would take all of its memory.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    with cli.tensorflow_messages_held_back():
        from report import page

    failed = []
    published = []
    for experiment in EXPERIMENTS:
        if experiment.name not in args.only:
            continue
        print(f"\n{experiment.name} ({experiment.shows})", flush=True)
        try:
            is_published = reproduce(experiment, args)
        except ScriptFailed as error:
            # An exit code above 1 means a signal, or a mistake that every experiment would repeat.
            if error.exit_code > 1:
                return error.exit_code
            failed.append(experiment.name)
        except OSError as error:
            # A file of this experiment could not be read or written. The others do not need it.
            print(error)
            failed.append(experiment.name)
        else:
            if is_published:
                published.append(experiment.name)
        page.write()

    if failed:
        print(f"\nnot done, for the reasons above: {' '.join(failed)}")
        return 1
    if not published:
        print(f"\nall done, but docs/ and {page.PAGE} stay as they were: the results there are better")
        return 0
    print(f"\nall done: {page.PAGE}")
    return 0


def reproduce(experiment: Experiment, args: argparse.Namespace) -> bool:
    """Trains, evaluates, draws and publishes an experiment's model. Finished training and evaluation are not repeated.

    Returns whether the results were published; better ones that are there already are kept. Raises ScriptFailed at the
    first script that fails, and OSError if the run's files cannot be read or copied.
    """
    import datasets
    from report import page, results
    from vae import evaluation, signals

    config = experiment.config
    run_folder = args.checkpoints_dir / config.run_name

    # train.py carries the model on to the last epoch. It runs as a child process, because it chooses TensorFlow's
    # threads for the model, and TensorFlow creates its threads only once in a process.
    num_samples = experiment.num_samples
    if args.epochs_scale > 0:
        num_samples = math.ceil(num_samples * args.epochs_scale)
        num_epochs = math.ceil(config.num_epochs * args.epochs_scale)
        flags = dataclasses.replace(config, num_epochs=num_epochs).arguments()
        exit_code = signals.run_child(
            [sys.executable, str(TRAIN_SCRIPT), *flags, "--restore", "True", *cli.folder_arguments(args)]
        )
        if exit_code < 0:
            print(f"train.py was killed by signal {-exit_code} ({signal.strsignal(-exit_code)})")
            if -exit_code == signal.SIGKILL:
                print("if you did not kill it, the machine may have run out of memory")
            raise ScriptFailed(1)
        if exit_code > 0:
            raise ScriptFailed(exit_code)

    test_images = datasets.load(config.dataset, args.data_dir, args.allow_unverified).test_images
    num_images = len(test_images[: evaluation.DEFAULT_EFFORT[config.network].num_images])
    if not results.is_evaluated(run_folder, num_images, num_samples):
        run_script("evaluate", experiment, args, "--num_samples", str(num_samples))
    for script_name in experiment.scripts:
        run_script(script_name, experiment, args)
    has_page = "explore" in experiment.scripts
    pictures = args.pictures_dir / config.run_name
    return results.publish(run_folder, pictures, shown=page.shown_pictures(), has_page=has_page)


def run_script(name: str, experiment: Experiment, args: argparse.Namespace, *more_arguments: str) -> None:
    """Runs a script for an experiment's model. Raises ScriptFailed if its exit code is not 0.

    No --num_epochs is given: a trained model is evaluated and drawn at the epoch it is at.
    """
    config = dataclasses.replace(experiment.config, num_epochs=Config.num_epochs)
    if name == "plots_latent_space_2d":
        # It has no such flag, because its models have two latents.
        config = dataclasses.replace(config, latent_dim=Config.latent_dim)
    script = importlib.import_module(name)
    exit_code = script.main([*config.arguments(), *cli.folder_arguments(args), *more_arguments])
    if exit_code != 0:
        raise ScriptFailed(exit_code)


if __name__ == "__main__":
    sys.exit(main())
