"""Draws the test set's latent means projected on two principal components (the report's section 4.2, figure 3)."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cli
from config import Config, UsageError

if TYPE_CHECKING:
    from datasets import Dataset
    from vae.latent import LatentPlane
    from vae.model import VAE

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

    from vae import figures

    plane = plane_of(trained.model, data)
    name = "latent_space_2d.png" if trained.model.latent_dim == 2 else "latent_space_pca.png"
    picture = figures.latent_maps([plane], data.test_labels, data.class_names)
    cli.save_picture(picture, trained.pictures_folder / name)

    draw_comparison(args, trained, plane)


def draw_comparison(args: argparse.Namespace, trained: cli.TrainedRun, plane: LatentPlane) -> None:
    """Draws the trained run, whose points are in `plane`, beside its twin with the other number of COMPARED latents.

    Nothing is drawn if the run has no twin, or if the twin is not trained yet.
    """
    from vae import figures, runs

    compared = compared_runs(args)
    if trained.folder not in compared or any(runs.saved_epoch(folder) == 0 for folder in compared):
        return
    data = trained.data
    planes = []
    for folder, config in compared.items():
        # The twin may have been trained on other images of the user that were called the same.
        runs.check_data(folder, runs.read_config(folder), data.train_images.shape[1:], data.digest)
        if folder == trained.folder:
            planes.append(plane)
        else:
            planes.append(plane_of(runs.restore(folder, config), data))
    picture = figures.latent_maps(planes, data.test_labels, data.class_names)
    cli.save_picture(picture, trained.pictures_folder / "latent_space_2_and_20.png")


def plane_of(model: VAE, data: Dataset) -> LatentPlane:
    """Returns the test set's posterior means in the plane to draw them in."""
    from vae import evaluation, latent

    return latent.project_to_plane(evaluation.posterior_means(model, data.test_images))


def compared_runs(args: argparse.Namespace) -> dict[Path, Config]:
    """Returns the runs that differ from this one in nothing but the latents of the comparison: folders and Configs."""
    configs = [dataclasses.replace(args.config, latent_dim=latent_dim) for latent_dim in COMPARED]
    return {args.checkpoints_dir / config.run_name: config for config in configs}


if __name__ == "__main__":
    sys.exit(main())
