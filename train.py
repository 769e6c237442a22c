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
        print(runs.listing(args.checkpoints_dir))
    elif runs.wants_training(args):
        data = datasets.load(args.config.dataset, args.data_dir, args.allow_unverified)
        if args.config.batch_size <= len(data.train_images):
            with runs.Run(args.checkpoints_dir / args.config.run_name, args.overwrite) as run:
                return train(args, data, run)
        takes = f"at most {len(data.train_images)}, the training images of {data.name}"
        print(f"train.py: error: argument --batch_size: takes {takes}, got {args.config.batch_size}", file=sys.stderr)
        return 2


def train(args, data, run):
    """Trains up to args.config.num_epochs, saving on the way; returns the exit code."""
    import tqdm

    from vae import evaluation, figures, runs, training

    c, shape = args.config, data.train_images.shape[1:]
    model = runs.build(c, shape)
    state = training.create_state(model, c.learning_rate)
    run.restore(state)
    evaluate, first = evaluation.test_elbo(model, data.test_images), int(state.epoch)
    steps = len(data.train_images) // c.batch_size
    bar = tqdm.tqdm(initial=first * steps, total=c.num_epochs * steps, unit="step", disable=not sys.stderr.isatty())
    with config.deferred_signals() as signals, bar:
        bar.set_description(f"epoch {first + 1}/{c.num_epochs}")
        for row in training.fit(state, data.train_images, c.num_epochs, c.batch_size, c.seed, evaluate, bar.update):
            run.history.append(row)
            epoch, last = row["epoch"], row["epoch"] == c.num_epochs or bool(signals)
            bar.set_description(f"epoch {min(epoch + 1, c.num_epochs)}/{c.num_epochs}", refresh=False)
            bar.set_postfix_str(training.describe(row))
            if last or run.due(epoch):
                run.save(state, c, shape, data.verified)
            if bar.disable and (last or training.tests_at(epoch)):
                print(f"epoch {epoch}/{c.num_epochs}: {training.describe(row)}", flush=True)
            if last:
                break
    runs.save_picture(figures.learning_curves(run.history), args.pictures_dir / c.run_name / "learning_curves.png")
    print(f"epoch {epoch}: test ELBO {evaluation.in_units(evaluate(), model)}; saved in {run.folder}")
    if epoch < c.num_epochs:
        print(f"stopped early; to carry on: {config.command('train.py', c, args)} --restore True")
        return 128 + signals[0]


if __name__ == "__main__":
    sys.exit(main())
