"""The page RESULTS.md: results.template.md, with its {fields} filled from the files in docs/.

evaluate.py measures the numbers and writes them to a run's metrics.json. reproduce.py copies this file to docs/results
(report.results.publish). This module reads it there (report.results) and formats it.

A field such as {mnist.nll} names an experiment and an attribute of its ResultText. To add a number to the page, add an
attribute to ResultText and fill it in describe_result. To add a column to the table of experiments, also name the
attribute in COLUMNS.
"""

import math
import re
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config import Config
from report import results
from report.experiments import EXPERIMENTS, Experiment
from report.markdown import format_table
from report.results import Result
from vae import files
from vae.history import HistoryRow

PAGE = Path("RESULTS.md")
TEMPLATE = Path(__file__).with_name("results.template.md")
README = Path(__file__).parents[1] / "README.md"
NOT_RUN = "not run"

# The columns of the table of experiments: their headers, and the attributes of ResultText below them.
COLUMNS = {
    "command": "command",
    "epochs": "epochs",
    "time": "time",
    "ELBO": "elbo",
    "NLL of q": "nll_of_q",
    "NLL": "nll",
    "NLL bits/dim": "nll_bits_per_dim",
    "samples": "num_samples",
    "ESS": "effective_sample_size",
    "active": "active_units",
}

# The experiments on Frey Faces that differ in their seed only, by the name of their likelihood.
FREY_FACES_SEEDS = {
    "Normal": ("frey_normal", "frey_normal_seed1", "frey_normal_seed2"),
    "logit-normal": ("frey_logit", "frey_logit_seed1", "frey_logit_seed2"),
}

# A picture in Markdown: ![caption](path).
PICTURE = re.compile(r"!\[(.*?)\]\((.*?)\)")


@dataclass(frozen=True)
class ResultText:
    """What the page shows of one run. Whatever no file in docs/ says stays NOT_RUN; what does not apply is empty.

    ELBO and NLLs are in nats per image, except those in bits_per_dim. nll_of_q comes from samples of q(z|x), and nll
    from a better proposal; the fields in _error are the estimators' own errors. num_samples is the number of
    importance samples per image, the same for both NLLs. effective_sample_size belongs to nll: it is the median over
    the images, and num_below_50 is the number of images where it is below 50.

    active_units is their number, and share_of_active the share of the sum of all singular values that as many of them
    have.

    time is the median duration of an epoch times the number of epochs, and full_time the same for all planned epochs.
    """

    command: str
    figures: str
    epochs: str
    time: str = NOT_RUN
    full_time: str = NOT_RUN
    elbo: str = NOT_RUN
    elbo_bits_per_dim: str = NOT_RUN
    nll: str = NOT_RUN
    nll_bits_per_dim: str = NOT_RUN
    nll_error: str = NOT_RUN
    num_samples: str = NOT_RUN
    nll_of_q: str = NOT_RUN
    nll_of_q_bits_per_dim: str = NOT_RUN
    nll_of_q_error: str = NOT_RUN
    effective_sample_size: str = NOT_RUN
    num_below_50: str = NOT_RUN
    active_units: str = NOT_RUN
    share_of_active: str = NOT_RUN


def write() -> None:
    """Writes RESULTS.md."""
    text = render()
    with files.replacing(PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")


def render() -> str:
    """The text of RESULTS.md."""
    published = {experiment.name: results.read_published(experiment.config.run_name) for experiment in EXPERIMENTS}
    texts = {
        experiment.name: describe_result(experiment.config, published[experiment.name]) for experiment in EXPERIMENTS
    }
    experiment_rows = [[experiment.shows, *make_cells(texts[experiment.name])] for experiment in EXPERIMENTS]
    page = TEMPLATE.read_text(encoding="utf-8").format(
        experiments=format_table(["for", *COLUMNS], experiment_rows),
        frey_faces_seeds=make_seeds_table(published),
        svhn_test_elbos=make_test_elbo_table(
            "precision",
            {"float32": published["svhn"], "mixed_bfloat16": published["svhn_bfloat16"]},
            epochs=(10, 50, 500),
        ),
        planned_hours=sum_planned_hours(EXPERIMENTS, published),
        planned_hours_of_conv3=sum_planned_hours(
            [experiment for experiment in EXPERIMENTS if experiment.config.network == "conv3"], published
        ),
        **texts,
    )
    return PICTURE.sub(replace_missing_picture, page)


def shown_pictures() -> set[Path]:
    """The paths of the pictures that RESULTS.md and the README show."""
    text = TEMPLATE.read_text(encoding="utf-8") + README.read_text(encoding="utf-8")
    for experiment in EXPERIMENTS:
        figures = results.FIGURES / experiment.config.run_name
        text = text.replace(f"{{{experiment.name}.figures}}", figures.as_posix())
    return {Path(path) for _, path in PICTURE.findall(text)}


def describe_result(config: Config, result: Result | None) -> ResultText:
    """What the page shows of the run of a Config. `result` is what docs/ has of it, or None."""
    command = f"`{shlex.join(['train.py', *config.arguments()])}`"
    figures = (results.FIGURES / config.run_name).as_posix()
    if result is None:
        return ResultText(command, figures, epochs=f"0 of {config.num_epochs}")

    history, metrics = result
    num_epochs = len(history)
    running_shares = results.read_running_shares(config.run_name)
    sample_size = metrics.effective_sample_size
    return ResultText(
        command=command if metrics.data_verified else f"{command} (unverified)",
        figures=figures,
        epochs=str(num_epochs) if num_epochs >= config.num_epochs else f"{num_epochs} of {config.num_epochs}",
        time=format_time(estimate_seconds(history, num_epochs)),
        full_time=format_time(estimate_seconds(history, config.num_epochs)),
        elbo=format_nats(metrics.elbo),
        elbo_bits_per_dim=format_number(metrics.bits_per_dim["elbo"]),
        nll=format_nats(metrics.nll),
        nll_bits_per_dim=format_number(metrics.bits_per_dim.get("nll")),
        nll_error=format_estimator_error(metrics.nll),
        num_samples="" if metrics.nll is None else str(metrics.num_samples),
        nll_of_q=format_nats(metrics.nll_of_q),
        nll_of_q_bits_per_dim=format_number(metrics.bits_per_dim.get("nll_of_q")),
        nll_of_q_error=format_estimator_error(metrics.nll_of_q),
        effective_sample_size="" if sample_size is None else f"{sample_size['median']:.0f}",
        num_below_50="" if sample_size is None else str(sample_size["num_below_50"]),
        active_units=str(len(metrics.active_units)),
        share_of_active=format_share(running_shares, len(metrics.active_units)),
    )


def make_cells(text: ResultText) -> list[str]:
    """A run's cells in a table, in the order of COLUMNS. They are empty where the page's text has NOT_RUN."""
    cells = [getattr(text, attribute) for attribute in COLUMNS.values()]
    return ["" if cell == NOT_RUN else cell for cell in cells]


def make_seeds_table(published: Mapping[str, Result | None]) -> str:
    """A table with the mean and the standard deviation of both NLLs over the seeds on Frey Faces.

    `published` is what docs/ has of each experiment, by its name.
    """
    header = ["likelihood", "NLL of q", "bits/dim", "NLL", "bits/dim"]
    rows = []
    for likelihood, names in FREY_FACES_SEEDS.items():
        of_seeds = [published[name] for name in names]
        metrics = [result.metrics for result in of_seeds if result is not None]
        cells = [likelihood]
        for attribute in ("nll_of_q", "nll"):
            if len(metrics) < len(names):
                cells += [NOT_RUN, NOT_RUN]
                continue
            nlls = [getattr(each, attribute)["mean"] for each in metrics]
            bits_per_dim = [each.bits_per_dim[attribute] for each in metrics]
            cells.append(f"{statistics.mean(nlls):.2f} ({statistics.stdev(nlls):.2f})")
            cells.append(f"{statistics.mean(bits_per_dim):.3f}")
        rows.append(cells)
    return format_table(header, rows)


def make_test_elbo_table(header: str, by_label: Mapping[str, Result | None], epochs: Sequence[int]) -> str:
    """A table with a row for each labelled result: its test ELBOs after these epochs, in nats.

    They come from history.csv, and so cover the whole test set. A cell is empty if its epoch has no test ELBO.
    """
    rows = []
    for label, result in by_label.items():
        history = [] if result is None else result.history
        test_elbos = {row.epoch: f"{row.test_elbo:.2f}" for row in history if math.isfinite(row.test_elbo)}
        rows.append([label, *(test_elbos.get(epoch, "") for epoch in epochs)])
    return format_table([header, *(f"epoch {epoch}" for epoch in epochs)], rows)


def sum_planned_hours(experiments: Sequence[Experiment], published: Mapping[str, Result | None]) -> str:
    """How many hours all planned epochs of experiments take, at the pace of the epochs that were run.

    `published` is what docs/ has of each experiment, by its name. Experiments that were not run do not count.
    """
    seconds = 0.0
    for experiment in experiments:
        result = published[experiment.name]
        if result is not None:
            seconds += estimate_seconds(result.history, experiment.config.num_epochs)
    return f"{seconds / 3600:.0f}"


def estimate_seconds(history: Sequence[HistoryRow], num_epochs: int) -> float:
    """How long num_epochs take at the pace of a history."""
    # The mean would include the time for which a run was suspended.
    return statistics.median(row.seconds for row in history) * num_epochs


def format_time(seconds: float) -> str:
    """A time in seconds below one minute, in minutes below two hours, and otherwise in hours."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} hours"


def format_nats(mean: dict[str, Any] | None) -> str:
    """A mean over the test images in nats, with its standard error; empty without one."""
    if mean is None:
        return ""
    return f"{mean['mean']:.2f} ± {mean['standard_error']:.2f}"


def format_estimator_error(nll: dict[str, Any] | None) -> str:
    """The standard error that the importance samples add to an NLL, in nats; empty without one."""
    return "" if nll is None else format_number(nll["estimator_error"])


def format_number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def format_share(running_shares: list[float], count: int) -> str:
    """The share of the first `count` singular values in their sum, or NOT_RUN if there are not as many."""
    if not 1 <= count <= len(running_shares):
        return NOT_RUN
    return f"{running_shares[count - 1]:.3f}"


def replace_missing_picture(match: re.Match[str]) -> str:
    """The matched PICTURE as it is, or "(caption: not drawn)" if its file does not exist."""
    caption, path = match.groups()
    if Path(path).exists():
        return match[0]
    return f"({caption}: not drawn)"
