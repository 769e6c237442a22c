"""Draws the test set's latent means projected on two principal components (the report's section 4.2, figure 3)."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cli

if TYPE_CHECKING:
    from datasets import Dataset
    from vae.latent import LatentPlane
    from vae.model import VAE

# The report's task 1b compares models with these numbers of latents.
COMPARED = (2, 20)


@cli.script
def main(argv: Sequence[str] | None = None) -> None:
    run = cli.open_trained_run(argv, __doc__, cli.DRAWING_FLAGS, ignored=("draw_seed",))

    from vae import figures, runs

    if run.model.latent_dim == 1:
        raise runs.RunError("--latent_dim 1: one latent has no second principal component to draw")
    plane = plane_of(run.model, run.data)
    name = "latent_space_2d.png" if run.model.latent_dim == 2 else "latent_space_pca.png"
    cli.save_picture(figures.latent_maps([plane], run.data.test_labels), run.pictures_folder / name)

    folders = compared_folders(run)
    if run.folder in folders and all(runs.saved_epoch(folder) > 0 for folder in folders):
        planes = []
        for folder in folders:
            is_this_run = folder == run.folder
            planes.append(plane if is_this_run else plane_of(runs.restore(folder), run.data))
        picture = figures.latent_maps(planes, run.data.test_labels)
        cli.save_picture(picture, run.pictures_folder / "latent_space_2_and_20.png")


def plane_of(model: VAE, data: Dataset) -> LatentPlane:
    """Returns the test set's posterior means in the plane to draw them in."""
    from vae import evaluation, latent

    return latent.project_to_plane(evaluation.posterior_means(model, data.test_images))


def compared_folders(run: cli.TrainedRun) -> list[Path]:
    """Returns the folders of the runs that differ from this one in nothing but the latents of the comparison."""
    configs = [dataclasses.replace(run.args.config, latent_dim=latent_dim) for latent_dim in COMPARED]
    return [run.args.checkpoints_dir / config.run_name for config in configs]


if __name__ == "__main__":
    sys.exit(main())
