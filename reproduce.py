"""Trains, evaluates and draws the table of vae/experiments.py, copies what came of it to docs/, writes RESULTS.md."""

import dataclasses
import importlib
import logging
import math
import shlex
import sys

import config


@config.script
def main(argv=None):
    from vae import experiments

    args = config.parse_args(argv, __doc__, config.REPORT_FLAGS)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it takes many models in one process for retracing
    known = [e.name for e in experiments.EXPERIMENTS]
    if unknown := " ".join(sorted(set(args.only or ()) - set(known))):
        return config.refuse("only", f"names out of {' '.join(known)}", unknown)
    with config.tensorflow_environment():
        from vae import results
    failed = []
    for experiment in (e for e in experiments.EXPERIMENTS if e.name in (args.only or known)):
        print(f"\n{experiment.name} ({experiment.shows})", flush=True)
        try:
            code = reproduce(experiment, args)
        except OSError as error:  # of its files, which is no reason to leave out the others
            code = print(error) or 1
        if code > 1:  # stopped by a signal, or by a mistake that the others would repeat
            return code
        failed += [experiment.name] * code
        results.write()
    print(f"\nnot done, for the reasons above: {' '.join(failed)}" if failed else "\nall done: RESULTS.md")
    return int(bool(failed))


def reproduce(experiment, args):
    """Trains on from what is there, evaluates what is not evaluated, draws and publishes; returns the exit code."""
    from vae import results

    epochs = math.ceil(experiment.config.num_epochs * args.epochs_scale)
    num_samples = math.ceil(experiment.num_samples * (args.epochs_scale or 1))
    run = args.checkpoints_dir / experiment.config.run_name
    steps = [("train", "--restore", "True", "--num_epochs", str(epochs))] if epochs else []
    steps += [("evaluate", "--num_samples", str(num_samples)), *((name,) for name in experiment.scripts)]
    for script, *options in steps:
        if script == "evaluate" and results.evaluated(run, num_samples):
            continue
        own = {"latent_dim": 20} if script == "plots_latent_space_2d" else {}  # a default: no flag is written
        words = shlex.split(config.command(script, dataclasses.replace(experiment.config, num_epochs=500, **own), args))
        if code := importlib.import_module(script).main([*words[2:], *options]):
            return code
    results.publish(run, args.pictures_dir / run.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
