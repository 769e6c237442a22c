"""The results of runs as small files in docs/: copying them there, and reading them back as numbers."""

import csv
import json
import math
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from config import Config
from vae import files, history, runs
from vae.history import HistoryRow
from vae.likelihoods import LIKELIHOODS

# The first two have one folder per run, the last one a page per run. Like all default paths, they are relative to the
# current folder.
RESULTS = Path("docs/results")
FIGURES = Path("docs/figures")
PAGES = Path("docs/explorer")


class Measure(NamedTuple):
    """A mean over the test images, in nats per image and in bits per dimension of the bytes.

    standard_error (nats) comes from the spread over the images, and is None if it is unknown. bits_per_dim is None if
    the likelihood is not a density of dequantized pixels. estimator_error (nats) comes from the importance samples of
    an NLL, and is None if there are fewer than two of them.
    """

    nats: float
    standard_error: float | None
    bits_per_dim: float | None
    estimator_error: float | None = None


class SampleSize(NamedTuple):
    """The effective sizes of the images' importance samples: their median, and how many are below 50."""

    median: float
    num_below_50: int


@dataclass(frozen=True)
class Metrics:
    """What evaluate.py measured of a model, from the run's metrics.json.

    `nll_of_q` is the literature's estimate, from `num_samples` samples of q(z|x) per image. `nll` is the better one,
    from as many samples of the mixture of vae.importance, and `effective_sample_size` says how many those are worth.
    All three are None if the model has no likelihood. `data_verified` says whether both the model and its evaluation
    used verified data.
    """

    epoch: int
    num_samples: int
    elbo: Measure
    nll: Measure | None
    nll_of_q: Measure | None
    effective_sample_size: SampleSize | None
    num_active_units: int
    data_verified: bool


class Quality(NamedTuple):
    """Ranks the results of one run: compared field by field, the larger Quality is better."""

    data_verified: bool
    num_epochs: int
    num_samples: int

    def __str__(self) -> str:
        return f"verified: {self.data_verified}, epochs: {self.num_epochs}, samples: {self.num_samples}"


@dataclass(frozen=True)
class Result:
    """What the small files in a run's folder say. `metrics` is None if evaluate.py has not written any."""

    saved: runs.SavedConfig
    history: list[HistoryRow]
    metrics: Metrics | None

    @property
    def data_verified(self) -> bool:
        """Whether the data was verified, both in training and in the evaluation."""
        return bool(self.saved.data_verified) and (self.metrics is None or self.metrics.data_verified)

    @property
    def quality(self) -> Quality:
        """How good the result is, compared with others of the same run."""
        if self.metrics is None:
            return Quality(self.data_verified, num_epochs=len(self.history), num_samples=0)
        return Quality(self.data_verified, num_epochs=self.metrics.epoch, num_samples=self.metrics.num_samples)

    @property
    def elbo(self) -> Measure:
        """The ELBO on the test images: from metrics.json, or else the last one in history.csv."""
        if self.metrics is not None:
            return self.metrics.elbo
        tests = [row.test_elbo for row in self.history if math.isfinite(row.test_elbo)]
        nats = tests[-1]
        likelihood = LIKELIHOODS[self.saved.config.likelihood]
        bits_per_dim = likelihood.bits_per_dim(-nats, math.prod(self.saved.image_shape))
        return Measure(nats, standard_error=None, bits_per_dim=bits_per_dim)


def read(folder: Path) -> Result:
    """Reads the small files of a run's folder. Raises RunError if one is damaged. Only metrics.json may be missing."""
    return Result(saved=runs.read_config(folder), history=history.read(folder), metrics=read_metrics(folder))


def read_published(config: Config) -> Result | None:
    """Returns what docs/ has of the run of a Config, or None if it has nothing that can be read.

    A kill in the middle of `publish` can leave some of a run's files. Then the user is told, and the run counts as not
    published, so that reproduce.py publishes it again.
    """
    folder = RESULTS / config.run_name
    if not folder.is_dir():
        return None
    try:
        return read(folder)
    except runs.RunError as error:
        problem = str(error).splitlines()[0]
        print(f"{folder} counts as not published: {problem}", file=sys.stderr)
        return None


def read_metrics(folder: Path) -> Metrics | None:
    """Reads metrics.json in a run's folder. Returns None if there is none; raises RunError if it is damaged."""
    path = folder / "metrics.json"
    try:
        return parse_metrics(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except RecursionError:
        problem = "it is nested too deeply"
    except KeyError as error:
        problem = f"it has no {error}"
    except (OSError, ValueError, TypeError) as error:
        problem = str(error)
    raise runs.RunError(f"{path} cannot be read: {problem}\nremove it, and evaluate.py writes a new one")


def parse_metrics(entries: dict[str, Any]) -> Metrics:
    """Returns the Metrics in the entries of a metrics.json."""
    return Metrics(
        epoch=int(entries["epoch"]),
        num_samples=int(entries["num_samples"]),
        elbo=parse_measure(entries, "elbo"),
        nll=parse_measure(entries, "nll") if entries["nll"] else None,
        nll_of_q=parse_measure(entries, "nll_of_q") if entries["nll_of_q"] else None,
        effective_sample_size=parse_sample_size(entries["effective_sample_size"]),
        num_active_units=len(entries["active_units"]),
        data_verified=bool(entries["model"]["data_verified"] and entries["evaluation"]["data_verified"]),
    )


def parse_measure(entries: dict[str, Any], name: str) -> Measure:
    """Returns the Measure of a name that has an entry of its own and one in "bits_per_dim"."""
    return Measure(
        nats=float(entries[name]["mean"]),
        standard_error=float(entries[name]["standard_error"]),
        bits_per_dim=entries["bits_per_dim"][name],
        estimator_error=entries[name].get("estimator_error"),
    )


def parse_sample_size(entry: dict[str, Any] | None) -> SampleSize | None:
    """Returns the SampleSize in a metrics.json, or None if the model has no NLL."""
    if entry is None:
        return None
    return SampleSize(median=float(entry["median"]), num_below_50=int(entry["num_below_50"]))


def read_singular_values(run_name: str) -> tuple[list[float], list[float]]:
    """Returns the singular values that plot_singular_values.py wrote for a run, and their running shares of the sum.

    Both lists are empty if the run's singular values were not drawn.
    """
    path = FIGURES / run_name / "singular_values.csv"
    if not path.is_file():
        return [], []
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    values = [float(row["singular_value"]) for row in rows]
    running_shares = [float(row["running_share"]) for row in rows]
    return values, running_shares


def is_evaluated(run_folder: Path, num_samples: int) -> bool:
    """Returns whether a run's metrics are those of its newest checkpoint, with num_samples or more per image.

    Metrics that cannot be read, such as those of earlier versions, do not count, so that evaluate.py replaces them.
    """
    try:
        metrics = read_metrics(run_folder)
    except runs.RunError:
        return False
    if metrics is None:
        return False
    return metrics.epoch == runs.saved_epoch(run_folder) and metrics.num_samples >= num_samples


def publish(run_folder: Path, pictures: Path, has_page: bool) -> bool:
    """Copies the small files of an evaluated run and its pictures into docs/; returns whether it did.

    With has_page, its explorer.html is copied, too. Without has_page, an explorer.html among the pictures may be out of
    date, so it is not copied. A better result of the same run that is already there is kept instead, and the user is
    told.
    """
    published = RESULTS / run_folder.name
    new = read(run_folder)
    old = read_published(new.saved.config)
    if old is not None and old.quality > new.quality:
        print(
            f"{published} ({old.quality}) and its figures are kept, because {run_folder} ({new.quality}) is not as good"
        )
        return False
    for name in ("config.json", "metrics.json"):
        copy(run_folder / name, published / name)
    for picture in sorted(pictures.glob("[!.]*")):
        if picture.name != "explorer.html":
            copy(picture, FIGURES / run_folder.name / picture.name)
        elif has_page:
            copy(picture, PAGES / f"{run_folder.name}.html")
    copy_history(run_folder, published, num_epochs=new.quality.num_epochs)
    return True


def copy(source: Path, destination: Path) -> None:
    """Copies a file. The destination has its old content or its new one at any moment."""
    with files.replacing(destination) as temporary:
        shutil.copyfile(source, temporary)


def copy_history(run_folder: Path, published: Path, num_epochs: int) -> None:
    """Copies history.csv up to num_epochs, at which the model was evaluated. Training may have gone on since."""
    lines = (run_folder / "history.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    header_and_rows = lines[: 1 + num_epochs]
    with files.replacing(published / "history.csv") as temporary:
        temporary.write_text("".join(header_and_rows), encoding="utf-8", newline="")
