"""Draws the test set's latent means projected on two principal components (the report's section 4.2, figure 3)."""

import dataclasses
import sys
from collections.abc import Sequence

import cli
from config import UsageError

# The report's task 1b compares models with these numbers of latents.
COMPARED = (2, 20)


@cli.script
def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.make_parser(__doc__)
    cli.add_trained_model_flags(parser)
    args = cli.parse_args(parser, argv)
    if args.config.latent_dim == 1:
        raise UsageError("argument --latent_dim: 1 is too few: one latent has no second principal component")
    trained = cli.open_trained_run(args)
    data = trained.data
    if len(data.test_images) < 2:
        raise UsageError(f"this picture needs 2 test images, and {data.name} has 1")

    from vae import evaluation, figures, latent, runs

    latent_dim = args.config.latent_dim
    plane = latent.project_to_plane(evaluation.posterior_means(trained.model, data.test_images))
    name = "latent_space_2d.png" if latent_dim == 2 else "latent_space_pca.png"
    picture = figures.latent_maps([plane], data.test_labels, data.class_names, data.is_sequence)
    cli.save_picture(picture, trained.pictures_folder / name)

    # Task 1b: this model beside its twin, which has another number of latents, if the twin is trained
    if latent_dim not in COMPARED:
        return
    (twin_dim,) = set(COMPARED) - {latent_dim}
    twin_config = dataclasses.replace(args.config, latent_dim=twin_dim)
    twin_folder = args.checkpoints_dir / twin_config.run_name
    if runs.saved_epoch(twin_folder) == 0:
        return
    # The twin may have been trained on other images of the user that were called the same, or on other unverified data.
    twin_saved = runs.read_config(twin_folder)
    runs.check_data(twin_folder, twin_saved, data.train_images.shape[1:], data.digest)
    if data.verified is False:
        cli.load_data(args, twin_saved)
    twin = runs.restore(twin_folder, twin_config)
    twin_plane = latent.project_to_plane(evaluation.posterior_means(twin, data.test_images))
    # The two may have been trained for different times.
    planes = {
        latent_dim: plane._replace(title=f"{plane.title}, epoch {trained.model.epoch}"),
        twin_dim: twin_plane._replace(title=f"{twin_plane.title}, epoch {twin.epoch}"),
    }
    both = [planes[number] for number in COMPARED]
    picture = figures.latent_maps(both, data.test_labels, data.class_names, data.is_sequence)
    cli.save_picture(picture, trained.pictures_folder / "latent_space_2_and_20.png")


if __name__ == "__main__":
    sys.exit(main())
