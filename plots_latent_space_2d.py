"""Draws the latent space of a model with two latents: the test set's means, and the decoder's manifold (figure 2)."""

import sys

import config

FLAGS = tuple(flag for flag in config.DRAW_FLAGS if flag != "latent_dim")


@config.script
def main(argv=None):
    args = config.parse_args(argv, __doc__, FLAGS, idle=("draw_seed",), latent_dim=2)
    with config.tensorflow_environment():
        import datasets
        from vae import evaluation, figures, latent, runs
    if args.list:
        return print(runs.listing(args.checkpoints_dir))
    model = runs.restore_for(args)
    data = datasets.load(args.config.dataset, args.data_dir, args.allow_unverified)
    means = evaluation.posterior_means(model, data.test_images)
    panel = (means, data.test_labels, "Means of q(z|x), 2 latents", ("z1", "z2"))
    folder = args.pictures_dir / args.config.run_name
    runs.save_picture(figures.latent_maps([panel]), folder / "latent_space_2d.png")
    manifold = figures.image_grid(model.images(latent.quantile_grid(20)))
    runs.save_picture(manifold, folder / "latent_manifold_2d.png")


if __name__ == "__main__":
    sys.exit(main())
