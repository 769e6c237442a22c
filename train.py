"""Trains a VAE and saves it (the report's section 4.1)."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import cli


@cli.script
def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.make_parser(__doc__)
    cli.add_model_flags(parser)
    parser.add_argument(
        "--restore",
        type=cli.true_or_false,
        nargs="?",
        const=True,
        default=False,
        help="continue a saved run up to --num_epochs (default: %(default)s)",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="train from scratch where a trained model exists; the earlier run moves to <checkpoints_dir>/replaced",
    )
    parser.add_argument(
        "--worker_timeout",
        type=cli.at_least(1),
        default=120,
        help="seconds without progress after which one of several workers gives up (default: %(default)s)",
    )
    cli.add_folder_flags(parser)
    args = cli.parse_args(parser, argv)
    if args.overwrite and args.restore:
        parser.error(
            "argument --overwrite: cannot be combined with --restore True: one trains from scratch, the other continues"
        )

    config = args.config
    from vae import messages, runs

    replicas = None
    if os.environ.get("TF_CONFIG"):
        # The workers meet before anything else, so that an error of one of them reaches the others.
        with cli.tensorflow_messages_held_back():
            from vae import distribution
        replicas = distribution.connect(config, args.worker_timeout)
    is_chief = replicas is None or replicas.is_chief
    # Only the chief writes to the run's folder, so only the chief locks it.
    opened_run = runs.training_run(args.run) if is_chief else contextlib.nullcontext(runs.Run(args.run))
    with opened_run as run:
        epoch = runs.saved_epoch(run.folder)
        if is_chief and epoch > 0 and not args.restore and not args.overwrite:
            raise runs.RunError(describe_trained_model(args, run.folder, epoch))
        saved = runs.read_config(run.folder) if epoch > 0 and args.restore else None
        data = cli.load_data(args, saved)
        with cli.tensorflow_messages_held_back():
            from vae import session
        picture = args.pictures_dir / config.run_name / "learning_curves.png"
        signal_number = session.train(run, config, data, overwrite=args.overwrite, picture=picture, replicas=replicas)
    if signal_number == 0:
        return 0
    messages.say(f"stopped early; to continue: {cli.command('train.py', config, args)} --restore True")
    return 128 + signal_number


def describe_trained_model(args: argparse.Namespace, folder: Path, epoch: int) -> str:
    """The error for a folder that holds a trained model, if neither --restore nor --overwrite was given."""
    # If the run has reached --num_epochs, continuing it needs a larger number.
    num_epochs = args.config.num_epochs if args.config.num_epochs > epoch else 2 * epoch
    longer = dataclasses.replace(args.config, num_epochs=num_epochs)
    return (
        f"{folder} holds a model trained to epoch {epoch}\n"
        f"to continue it:              {cli.command('train.py', longer, args)} --restore True\n"
        f"to train again from scratch: {cli.command('train.py', args.config, args)} --overwrite"
    )


if __name__ == "__main__":
    sys.exit(main())
