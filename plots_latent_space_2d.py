"""Draws the latent space of a model with two latents: the test set's means, and the decoder's manifold (figure 2)."""

import sys
from collections.abc import Sequence

import cli

LATENT_DIM = 2
GRID_SIZE = 20


@cli.script
def main(argv: Sequence[str] | None = None) -> None:
    args = cli.parse_args_for_trained_model(argv, __doc__, ignored=("draw_seed",), fixed={"latent_dim": LATENT_DIM})
    trained = cli.open_trained_run(args)

    from vae import evaluation, figures, latent

    data = trained.data
    plane = latent.project_to_plane(evaluation.posterior_means(trained.model, data.test_images))
    picture = figures.latent_maps([plane], data.test_labels, data.class_names)
    cli.save_picture(picture, trained.pictures_folder / "latent_space_2d.png")
    manifold = trained.model.images(latent.quantile_grid(GRID_SIZE))
    cli.save_picture(figures.image_grid(manifold), trained.pictures_folder / "latent_manifold_2d.png")


if __name__ == "__main__":
    sys.exit(main())
