"""Trains a VAE and saves it (the report's section 4.1)."""

import sys

import config


@config.script
def main(argv=None):
    args = config.parse_args(argv, __doc__, config.TRAIN_FLAGS)
    with config.tensorflow_environment():
        import datasets
        from vae import runs
    if args.list:
        return print(runs.listing(args.checkpoints_dir))
    with runs.Run(args.checkpoints_dir / args.config.run_name, args.overwrite) as run:
        if not runs.wants_training(args, run.folder):
            return 0
        data = datasets.load(args.config.dataset, args.data_dir, args.allow_unverified)
        if args.config.batch_size > (most := len(data.train_images)):
            return config.refuse("batch_size", f"1 to {most} ({data.name}'s training images)", args.config.batch_size)
        return train(args, data, run)


def train(args, data, run):
    """Trains up to args.config.num_epochs, saving on the way; returns the exit code."""
    import tqdm

    from vae import evaluation, figures, runs, signals, training

    c, shape = args.config, data.train_images.shape[1:]
    state = training.create_state(runs.build(c, shape), c.learning_rate)
    run.restore(state, c)
    evaluate, steps = evaluation.test_elbo(state.model, data.test_images), len(data.train_images) // c.batch_size
    options = {"total": c.num_epochs * steps, "unit": "step", "disable": not sys.stderr.isatty()}
    with signals.deferred() as received, tqdm.tqdm(initial=int(state.epoch) * steps, **options) as bar:
        for row in training.fit(state, data.train_images, c.num_epochs, c.batch_size, c.seed, evaluate, bar.update):
            run.history.append(row)
            epoch, last, stop = row["epoch"], row["epoch"] == c.num_epochs, bool(received)
            bar.set_description(f"epoch {epoch}/{c.num_epochs}", refresh=False)
            bar.set_postfix_str(training.describe(row))
            if last or run.due(epoch) or (stop and not run.replaces):
                run.save(state, c, shape, data.verified)
            if bar.disable and (last or stop or training.tests_at(epoch)):
                print(f"epoch {epoch}/{c.num_epochs}: {training.describe(row)}", flush=True)
            if stop:
                break
    if run.replaces:
        print(f"stopped at epoch {epoch}, before the first save: the older model in {run.folder} is kept")
        return 128 + received[0]
    elbo = row["test_elbo"] if training.tests_at(epoch) else evaluate()
    print(f"epoch {epoch}: test ELBO {evaluation.in_units(elbo, state.model)}; saved in {run.folder}")
    runs.save_picture(figures.learning_curves(run.history), args.pictures_dir / c.run_name / "learning_curves.png")
    if not last:
        print(f"stopped early; to carry on: {config.command('train.py', c, args)} --restore True")
        return 128 + received[0]


if __name__ == "__main__":
    sys.exit(main())
