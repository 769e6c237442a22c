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
from config import Config, UsageError
from report import experiments

TRAIN_SCRIPT = Path(__file__).with_name("train.py")


class ScriptFailed(Exception):
    """A script that ended with an exit code other than 0, after it printed the reason."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


@cli.script
def main(argv: Sequence[str] | None = None) -> int:
    names = " ".join(experiment.name for experiment in experiments.EXPERIMENTS)
    parser = cli.make_parser(f"{__doc__} The experiments: {names}")
    parser.add_argument(
        "--epochs_scale",
        type=cli.real_number,
        default=1.0,
        help="share of the epochs and samples; 0 trains nothing and takes all samples (default: %(default)s)",
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="run only these experiments (default: all)")
    cli.add_folder_flags(parser)
    args = parser.parse_args(argv)
    if not 0 <= args.epochs_scale <= 1:
        parser.error(f"argument --epochs_scale: takes a number from 0 to 1, got {args.epochs_scale}")
    chosen = choose_experiments(args.only)
    # The report is trained on one machine. train.py would look for the other workers.
    os.environ.pop("TF_CONFIG", None)
    # This process and train.py share a GPU. Without this variable, the first one would take all of its memory.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    with cli.tensorflow_messages_held_back():
        from report import page

    failed = []
    published = []
    for experiment in chosen:
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


def choose_experiments(names: Sequence[str] | None) -> list[experiments.Experiment]:
    """Returns the experiments with these names, in the order of the table; all of them if names is None."""
    known_names = [experiment.name for experiment in experiments.EXPERIMENTS]
    if names is None:
        names = known_names
    unknown_names = sorted(set(names) - set(known_names))
    if unknown_names:
        raise UsageError(f"argument --only: takes names out of {' '.join(known_names)}, got {' '.join(unknown_names)}")
    return [experiment for experiment in experiments.EXPERIMENTS if experiment.name in names]


def reproduce(experiment: experiments.Experiment, args: argparse.Namespace) -> bool:
    """Trains, evaluates, draws and publishes an experiment's model. Finished training and evaluation are not repeated.

    Returns whether the results were published; better ones that are there already are kept. Raises ScriptFailed at the
    first script that fails, and OSError if the run's files cannot be read or copied.
    """
    from report import results

    run_folder = args.checkpoints_dir / experiment.config.run_name
    num_samples = experiment.num_samples
    if args.epochs_scale > 0:
        num_samples = math.ceil(experiment.num_samples * args.epochs_scale)
        num_epochs = math.ceil(experiment.config.num_epochs * args.epochs_scale)
        train(experiment, args, num_epochs)
    if not results.is_evaluated(run_folder, num_samples):
        run_script("evaluate", experiment, args, "--num_samples", str(num_samples))
    for script_name in experiment.scripts:
        run_script(script_name, experiment, args)
    has_page = "explore" in experiment.scripts
    return results.publish(run_folder, args.pictures_dir / run_folder.name, has_page=has_page)


def train(experiment: experiments.Experiment, args: argparse.Namespace, num_epochs: int) -> None:
    """Trains an experiment's model up to num_epochs, or carries it on. Raises ScriptFailed if the exit code is not 0.

    train.py runs as a child process, because it chooses TensorFlow's threads for the model, and TensorFlow creates its
    threads only once in a process.
    """
    from vae import signals

    config = dataclasses.replace(experiment.config, num_epochs=num_epochs)
    arguments = [*config.arguments(), "--restore", "True", *cli.folder_arguments(args)]
    exit_code = signals.run_child([sys.executable, str(TRAIN_SCRIPT), *arguments])
    if exit_code < 0:
        print(describe_kill(-exit_code))
        raise ScriptFailed(1)
    if exit_code > 0:
        raise ScriptFailed(exit_code)


def describe_kill(number: int) -> str:
    """Returns a line that says which signal killed train.py."""
    text = f"train.py was killed by signal {number} ({signal.strsignal(number)})"
    if number == signal.SIGKILL:
        return f"{text}; if you did not kill it, the machine may have run out of memory"
    return text


def run_script(name: str, experiment: experiments.Experiment, args: argparse.Namespace, *more_arguments: str) -> None:
    """Runs a script for an experiment's model. Raises ScriptFailed if its exit code is not 0.

    No --num_epochs is given: a trained model is evaluated and drawn at the epoch it is at.
    """
    config = dataclasses.replace(experiment.config, num_epochs=Config.num_epochs)
    script = importlib.import_module(name)
    exit_code = script.main([*config.arguments(), *cli.folder_arguments(args), *more_arguments])
    if exit_code != 0:
        raise ScriptFailed(exit_code)


if __name__ == "__main__":
    sys.exit(main())
