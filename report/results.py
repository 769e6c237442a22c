"""The results of runs as small files in docs/: copying them there, and reading them back."""

import csv
import shutil
import sys
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from vae import files, history, runs
from vae.evaluation import Metrics, find_metrics
from vae.history import HistoryRow

# The first two have one folder per run, the last one a page per run. Like all default paths, they are relative to the
# current folder.
RESULTS = Path("docs/results")
FIGURES = Path("docs/figures")
PAGES = Path("docs/explorer")


class Result(NamedTuple):
    """What history.csv and metrics.json of an evaluated run say."""

    history: list[HistoryRow]
    metrics: Metrics


def read_published(run_name: str) -> Result | None:
    """What docs/ has of a run, or None if it has nothing that can be read.

    A kill in the middle of `publish` can leave some of a run's files. Then the user is told, and the run counts as not
    published, so that reproduce.py publishes it again.
    """
    folder = RESULTS / run_name
    if not folder.is_dir():
        return None
    try:
        return Result(history.read(folder), Metrics.read(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = str(error).splitlines()[0]
        print(f"{folder} counts as not published: a file cannot be read: {problem}", file=sys.stderr)
        return None


def read_running_shares(run_name: str) -> list[float]:
    """The running shares of a run's singular values in their sum, from plot_singular_values.py; empty without them."""
    path = FIGURES / run_name / "singular_values.csv"
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [float(row["running_share"]) for row in csv.DictReader(file)]


def is_evaluated(run_folder: Path, num_images: int, num_samples: int) -> bool:
    """Whether a run's newest checkpoint was evaluated with as many images and samples per image, or more."""
    metrics = find_metrics(run_folder)
    if metrics is None or metrics.epoch != runs.saved_epoch(run_folder):
        return False
    return metrics.num_images >= num_images and metrics.num_samples >= num_samples


def publish(run_folder: Path, pictures: Path, *, shown: Collection[Path], has_page: bool) -> bool:
    """Copies the small files of an evaluated run and its shown pictures into docs/; returns whether it did.

    `shown` holds the paths in docs/ of the pictures that a page shows. With has_page, explorer.html is copied, too.
    Without has_page, an explorer.html among the pictures may be out of date, so it is not copied. A better result of
    the same run that is already there is kept instead, and the user is told.
    """
    published = RESULTS / run_folder.name
    new = Metrics.read(run_folder)
    old = read_published(run_folder.name)
    if old is not None and old.metrics.quality > new.quality:
        print(
            f"{published} ({old.metrics.describe_quality()}) and its figures are kept, "
            f"because {run_folder} ({new.describe_quality()}) is not as good"
        )
        return False

    copies = {run_folder / name: published / name for name in ("config.json", "metrics.json")}
    for picture in sorted(pictures.glob("[!.]*")):
        destination = FIGURES / run_folder.name / picture.name
        if destination in shown or picture.suffix == ".csv":
            copies[picture] = destination
        elif picture.name == "explorer.html" and has_page:
            copies[picture] = PAGES / f"{run_folder.name}.html"
    for source, destination in copies.items():
        with files.replacing(destination) as temporary:
            if source.name.startswith("latent_space"):
                copy_with_256_colours(source, temporary)
            else:
                shutil.copyfile(source, temporary)

    # history.csv ends at the epoch that was evaluated. Training may have gone on since.
    lines = (run_folder / "history.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    header_and_rows = lines[: 1 + new.epoch]
    with files.replacing(published / "history.csv") as temporary:
        temporary.write_text("".join(header_and_rows), encoding="utf-8", newline="")
    return True


def copy_with_256_colours(source: Path, destination: Path) -> None:
    """Copies a scatter plot with a palette of 256 colours, which makes its file three times smaller."""
    with Image.open(source) as image:
        image.convert("RGB").quantize(256).save(destination, format="PNG", optimize=True)
