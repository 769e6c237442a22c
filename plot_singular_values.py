"""Draws the singular values of the test set's latent means and their running share (section 4.3, figure 4)."""

import csv
import sys
from collections.abc import Sequence

import cli

COLUMNS = ("index", "singular_value", "running_share")


@cli.script
def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.make_parser(__doc__)
    cli.add_trained_model_flags(parser)
    args = cli.parse_args(parser, argv)
    trained = cli.open_trained_run(args)

    from vae import evaluation, figures, files, latent

    means = evaluation.posterior_means(trained.model, trained.data.test_images)
    values, shares = latent.singular_values(means)
    rows = [COLUMNS]
    for index, (value, share) in enumerate(zip(values, shares, strict=True), start=1):
        rows.append((str(index), f"{value:.6g}", f"{share:.6g}"))
    csv.writer(sys.stdout, dialect="excel-tab", lineterminator="\n").writerows(rows)
    cli.save_picture(figures.singular_values(values, shares), trained.pictures_folder / "singular_values.png")
    table = trained.pictures_folder / "singular_values.csv"
    with files.replacing(table) as path, path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    print(table)


if __name__ == "__main__":
    sys.exit(main())
