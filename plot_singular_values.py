"""Draws the singular values of the test set's latent means and their running share (section 4.3, figure 4)."""

import sys

import config


@config.script
def main(argv=None):
    args = config.parse_args(argv, __doc__, config.DRAW_FLAGS, idle=("draw_seed",))
    with config.tensorflow_environment():
        import datasets
        from vae import evaluation, figures, latent, runs
    if args.list:
        return print(runs.listing(args.checkpoints_dir))
    model = runs.restore_for(args)
    data = datasets.load(args.config.dataset, args.data_dir, args.allow_unverified)
    means = evaluation.posterior_means(model, data.test_images)
    values, shares = latent.singular_values(means)
    rows = [f"{i},{value:.6g},{share:.6g}" for i, (value, share) in enumerate(zip(values, shares, strict=True), 1)]
    table = "\n".join(["index,singular_value,running_share", *rows]) + "\n"
    print(table.replace(",", "\t"), end="")
    folder = args.pictures_dir / args.config.run_name
    runs.save_picture(figures.singular_values(values, shares), folder / "singular_values.png")
    with runs.replacing(folder / "singular_values.csv") as path:
        path.write_text(table, encoding="utf-8")
    print(folder / "singular_values.csv")


if __name__ == "__main__":
    sys.exit(main())
