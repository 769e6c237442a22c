"""Draws the latent space of a model with two latents: the test set's means, and the decoder's manifold (figure 2)."""

import sys
from collections.abc import Sequence

import cli
from config import UsageError

LATENT_DIM = 2
GRID_SIZE = 20


@cli.script
def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.make_parser(__doc__)
    cli.add_trained_model_flags(parser, without=["latent_dim"])
    parser.set_defaults(latent_dim=LATENT_DIM)
    args = cli.parse_args(parser, argv)
    if args.config.latent_dim != LATENT_DIM:
        raise UsageError(
            f"this script draws models with {LATENT_DIM} latents, and {args.run} has {args.config.latent_dim}; "
            f"train one with --latent_dim {LATENT_DIM}"
        )
    trained = cli.open_trained_run(args)

    from vae import evaluation, figures, latent

    data = trained.data
    plane = latent.project_to_plane(evaluation.posterior_means(trained.model, data.test_images))
    picture = figures.latent_maps([plane], data.test_labels, data.class_names, data.is_sequence)
    cli.save_picture(picture, trained.pictures_folder / "latent_space_2d.png")
    z = latent.quantile_grid(GRID_SIZE)
    limits = f"from {z.min():.2f} to {z.max():.2f}"
    cli.save_picture(
        figures.image_grid(trained.model.images(z)),
        trained.pictures_folder / "latent_manifold_2d.png",
        caption=f"z[0] to the right, z[1] upwards, {limits} in steps of equal probability under the prior",
    )


if __name__ == "__main__":
    sys.exit(main())
