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
    args = config.parse_args(argv, __doc__, config.REPORT_FLAGS)
    with config.tensorflow_environment():
        from vae import experiments, results
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it takes many models in one process for retracing
    known = [experiment.name for experiment in experiments.EXPERIMENTS]
    if unknown := set(args.only or ()) - set(known):
        return config.refuse("only", f"names out of {' '.join(known)}", " ".join(sorted(unknown)))
    failed = []
    for experiment in experiments.EXPERIMENTS:
        if experiment.name in (args.only or known):
            print(f"\n{experiment.name} ({experiment.shows})", flush=True)
            code = reproduce(experiment, args)
            if code > 1:  # stopped by a signal, or by a mistake that the others would repeat
                return code
            failed += [experiment.name] * code
            results.write()
    print(f"\nnot done, for the reasons above: {' '.join(failed)}" if failed else "\nall done; RESULTS.md is written")
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
        implied = {"latent_dim": 20} if script == "plots_latent_space_2d" else {}  # a default: no flag is written
        model = dataclasses.replace(experiment.config, num_epochs=500, **implied)
        words = shlex.split(config.command(script, model, args))[2:]
        if code := importlib.import_module(script).main([*words, *options]):
            return code
    results.publish(run, args.pictures_dir / run.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
