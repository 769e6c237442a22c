"""Draws the test set's latent means projected on two principal components (the report's section 4.2, figure 3)."""

import dataclasses
import sys

import config


@config.script
def main(argv=None):
    args = config.parse_args(argv, __doc__, config.DRAW_FLAGS, idle=("draw_seed",))
    with config.tensorflow_environment():
        import datasets
        from vae import figures, runs
    if args.list:
        return print(runs.listing(args.checkpoints_dir))
    if args.config.latent_dim == 1:
        raise runs.RunError("--latent_dim 1: one latent has no second principal component to draw")
    model = runs.restore_for(args)
    data = datasets.load(args.config.dataset, args.data_dir, args.allow_unverified)
    folder = args.pictures_dir / args.config.run_name
    own = panel(model, data)
    runs.save_picture(figures.latent_maps([own]), folder / "latent_space_pca.png")

    flat, wide = (dataclasses.replace(args.config, latent_dim=size) for size in (2, 20))
    folders = [args.checkpoints_dir / c.run_name for c in (flat, wide)]
    if args.config in (flat, wide) and all(map(runs.saved_epoch, folders)):  # the report's task 1b
        panels = [own if run.name == folder.name else panel(runs.restore(run), data) for run in folders]
        runs.save_picture(figures.latent_maps(panels), folder / "latent_space_2_and_20.png")


def panel(model, data):
    """One panel of figures.latent_maps: the PCA of the test set's means, or the means themselves in two dimensions."""
    from vae import evaluation, latent

    means = evaluation.posterior_means(model, data.test_images)
    if model.latent_dim == 2:
        return means, data.test_labels, "Means of q(z|x), 2 latents", ("z1", "z2")
    title = f"PCA of the means of q(z|x), {model.latent_dim} latents"
    return latent.principal_components(means), data.test_labels, title, ("component 1", "component 2")


if __name__ == "__main__":
    sys.exit(main())
