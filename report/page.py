"""The page RESULTS.md: results.template.md, with its {fields} filled from the files in docs/.

A field such as {mnist.nll} names an experiment and an attribute of its ResultText. To add a number to the page, add an
attribute to ResultText and fill it in describe_result, add_history or add_metrics. To add a column to the table of
experiments, also name the attribute in COLUMNS.
"""

import dataclasses
import math
import re
import shlex
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from config import Config
from report import results
from report.experiments import EXPERIMENTS, Experiment
from report.markdown import format_table
from report.results import Measure, Metrics, Result
from vae import files
from vae.training import HistoryRow

PAGE = Path("RESULTS.md")
TEMPLATE = Path(__file__).with_name("results.template.md")
NOT_RUN = "not run"

# The report finds this many of 20 latents in use (figure 4).
REPORT_LATENTS_IN_USE = 14

# The columns of the table of experiments: their headers, and the attributes of ResultText below them.
COLUMNS = {
    "command": "command",
    "epochs": "epochs",
    "time": "time",
    "ELBO": "elbo",
    "ELBO bits/dim": "elbo_bits_per_dim",
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


@dataclasses.dataclass(frozen=True)
class ResultText:
    """What the page shows of one run. Whatever no file in docs/ says stays NOT_RUN; what does not apply is empty.

    ELBO and NLL are in nats per image, except those in bits_per_dim. nll_of_q comes from samples of q(z|x), nll
    from a better proposal; the fields in _error are the estimators' own errors. num_samples is the number of
    importance samples per image, the same for both NLLs. effective_sample_size is the median over the images of the
    effective sample size of nll, and num_below_50 the number of images where it is below 50. share_of_active is the
    share that the first singular values, as many as there are active units, have in the sum of all;
    share_of_first_14 is that of the first 14.

    time is the median duration of the epochs multiplied by their number, and full_time the same for all planned epochs.
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
    singular_values: str = NOT_RUN
    share_of_active: str = NOT_RUN
    share_of_first_14: str = NOT_RUN


def write() -> None:
    """Writes RESULTS.md."""
    text = render()
    with files.replacing(PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")


def render() -> str:
    """Returns the text of RESULTS.md."""
    published = {experiment.name: results.read_published(experiment.config) for experiment in EXPERIMENTS}
    texts = {
        experiment.name: describe_result(experiment.config, published[experiment.name]) for experiment in EXPERIMENTS
    }
    experiment_rows = [[experiment.shows, *make_cells(texts[experiment.name])] for experiment in EXPERIMENTS]
    page = TEMPLATE.read_text(encoding="utf-8").format(
        experiments=format_table(["for", *COLUMNS], experiment_rows),
        frey_faces_seeds=make_seeds_table(published),
        mnist_test_elbos=make_test_elbo_table(
            "learning rate",
            {"constant": published["mnist"], "staged": published["mnist_staged"]},
            epochs=(10, 40, 120, 360, 500, 1090),
        ),
        svhn_test_elbos=make_test_elbo_table(
            "precision",
            {"float32": published["svhn"], "mixed_bfloat16": published["svhn_bfloat16"]},
            epochs=(10, 50, 100, 500),
        ),
        cifar10_test_elbos=make_test_elbo_table(
            "precision", {"mixed_bfloat16": published["cifar10_full"]}, epochs=(1, 10, 30, 100)
        ),
        planned_hours=sum_planned_hours(EXPERIMENTS, published),
        planned_hours_of_conv3=sum_planned_hours(
            [experiment for experiment in EXPERIMENTS if experiment.config.network == "conv3"], published
        ),
        **texts,
    )
    return PICTURE.sub(replace_missing_picture, page)


def describe_result(config: Config, result: Result | None) -> ResultText:
    """Returns what the page shows of the run of a Config.

    `result` is the run's result in docs/, or None if it has none. The singular values are read from docs/, too.
    """
    figures = (results.FIGURES / config.run_name).as_posix()
    if result is None:
        return ResultText(format_command(config), figures, epochs=format_epochs(0, config.num_epochs))

    command = format_command(config)
    if not result.data_verified:
        command += " (unverified)"
    values, running_shares = results.read_singular_values(config.run_name)
    text = ResultText(
        command=command,
        figures=figures,
        epochs=format_epochs(len(result.history), config.num_epochs),
        elbo=format_nats(result.elbo),
        elbo_bits_per_dim=format_bits_per_dim(result.elbo),
        singular_values=format_singular_values(values),
        share_of_first_14=format_share(running_shares, REPORT_LATENTS_IN_USE),
    )
    text = add_history(text, result.history, config.num_epochs)
    if result.metrics is None:
        return text
    return add_metrics(text, result.metrics, running_shares)


def add_history(text: ResultText, history: Sequence[HistoryRow], num_planned: int) -> ResultText:
    """Returns the text with what comes from history.csv, for a run that is to have num_planned epochs."""
    return dataclasses.replace(
        text,
        time=format_time(estimate_seconds(history, len(history))),
        full_time=format_time(estimate_seconds(history, num_planned)),
    )


def estimate_seconds(history: Sequence[HistoryRow], num_epochs: int) -> float:
    """Returns how long num_epochs take at the pace of a history."""
    # The mean would include the time for which a run was suspended.
    return statistics.median(row.seconds for row in history) * num_epochs


def add_metrics(text: ResultText, metrics: Metrics, running_shares: list[float]) -> ResultText:
    """Returns the text with what comes from metrics.json."""
    sample_size = metrics.effective_sample_size
    return dataclasses.replace(
        text,
        nll=format_nats(metrics.nll),
        nll_bits_per_dim=format_bits_per_dim(metrics.nll),
        nll_error=format_estimator_error(metrics.nll),
        num_samples="" if metrics.nll is None else str(metrics.num_samples),
        nll_of_q=format_nats(metrics.nll_of_q),
        nll_of_q_bits_per_dim=format_bits_per_dim(metrics.nll_of_q),
        nll_of_q_error=format_estimator_error(metrics.nll_of_q),
        effective_sample_size="" if sample_size is None else f"{sample_size.median:.0f}",
        num_below_50="" if sample_size is None else str(sample_size.num_below_50),
        active_units=str(metrics.num_active_units),
        share_of_active=format_share(running_shares, metrics.num_active_units),
    )


def make_seeds_table(published: Mapping[str, Result | None]) -> str:
    """Returns a table with both NLLs of each seed on Frey Faces, and their mean and standard deviation.

    `published` is what docs/ has of each experiment, by its name.
    """
    header = ["likelihood", "estimate", "seed 0", "seed 1", "seed 2", "mean", "standard deviation", "mean, bits/dim"]
    rows = []
    for estimate, attribute in (("NLL of q", "nll_of_q"), ("NLL", "nll")):
        for likelihood, names in FREY_FACES_SEEDS.items():
            measures = [get_measure(published[name], attribute) for name in names]
            cells = [format_nats(measure) or NOT_RUN for measure in measures]
            rows.append([likelihood, estimate, *cells, *summarize(measures)])
    return format_table(header, rows)


def get_measure(result: Result | None, attribute: str) -> Measure | None:
    """Returns the "nll" or "nll_of_q" of a result, or None if it has none."""
    if result is None or result.metrics is None:
        return None
    return getattr(result.metrics, attribute)


def make_test_elbo_table(header: str, by_label: Mapping[str, Result | None], epochs: Sequence[int]) -> str:
    """Returns a table with a row for each labelled result: its test ELBOs after these epochs, in nats.

    They are those of history.csv, over the whole test set. A cell is empty if there is no test ELBO of that epoch.
    """
    rows = []
    for label, result in by_label.items():
        history = [] if result is None else result.history
        test_elbos = {row.epoch: f"{row.test_elbo:.2f}" for row in history if math.isfinite(row.test_elbo)}
        rows.append([label, *(test_elbos.get(epoch, "") for epoch in epochs)])
    return format_table([header, *(f"epoch {epoch}" for epoch in epochs)], rows)


def sum_planned_hours(experiments: Sequence[Experiment], published: Mapping[str, Result | None]) -> str:
    """Returns how many hours all planned epochs of experiments take, at the pace of those that were run.

    `published` is what docs/ has of each experiment, by its name. Experiments that were not run do not count.
    """
    seconds = 0.0
    for experiment in experiments:
        result = published[experiment.name]
        if result is not None:
            seconds += estimate_seconds(result.history, experiment.config.num_epochs)
    return f"{seconds / 3600:.0f}"


def summarize(measures: Sequence[Measure | None]) -> list[str]:
    """Returns the mean of measures in nats, their standard deviation, and their mean in bits per dimension."""
    done = [measure for measure in measures if measure is not None]
    if len(done) < len(measures):
        return [NOT_RUN] * 3
    nats = [measure.nats for measure in done]
    bits_per_dim = [measure.bits_per_dim for measure in done if measure.bits_per_dim is not None]
    return [f"{statistics.mean(nats):.2f}", f"{statistics.stdev(nats):.2f}", f"{statistics.mean(bits_per_dim):.3f}"]


def format_command(config: Config) -> str:
    """Returns the command that trains a Config, as Markdown code."""
    return f"`{shlex.join(['train.py', *config.arguments()])}`"


def format_epochs(num_done: int, num_planned: int) -> str:
    """Returns "500" for a run that is done, and "25 of 1000" for one that is not."""
    if num_done < num_planned:
        return f"{num_done} of {num_planned}"
    return str(num_done)


def format_time(seconds: float) -> str:
    """Returns a time in seconds below one minute, in minutes below two hours, and otherwise in hours."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} hours"


def format_nats(measure: Measure | None) -> str:
    """Returns a measure in nats per image, with its standard error if that is known."""
    if measure is None:
        return ""
    if measure.standard_error is None:
        return f"{measure.nats:.2f}"
    return f"{measure.nats:.2f} ± {measure.standard_error:.2f}"


def format_bits_per_dim(measure: Measure | None) -> str:
    """Returns a measure in bits per dimension."""
    if measure is None or measure.bits_per_dim is None:
        return ""
    return f"{measure.bits_per_dim:.3f}"


def format_estimator_error(measure: Measure | None) -> str:
    """Returns the standard error that the importance samples of a measure add to it, in nats."""
    if measure is None or measure.estimator_error is None:
        return ""
    return f"{measure.estimator_error:.3f}"


def format_singular_values(values: list[float]) -> str:
    """Returns the singular values on one line, or NOT_RUN if there are none."""
    if not values:
        return NOT_RUN
    return " ".join(f"{value:.1f}" for value in values)


def format_share(running_shares: list[float], count: int) -> str:
    """Returns the share of the first `count` singular values in their sum, or NOT_RUN if there are not as many."""
    if not 1 <= count <= len(running_shares):
        return NOT_RUN
    return f"{running_shares[count - 1]:.3f}"


def make_cells(text: ResultText) -> list[str]:
    """Returns a run's cells in a table, in the order of COLUMNS. They are empty where the page's text has NOT_RUN."""
    cells = [getattr(text, attribute) for attribute in COLUMNS.values()]
    return ["" if cell == NOT_RUN else cell for cell in cells]


def replace_missing_picture(match: re.Match[str]) -> str:
    """Returns the matched PICTURE as it is, or "(caption: not drawn)" if its file does not exist."""
    caption, path = match.groups()
    if Path(path).exists():
        return match[0]
    return f"({caption}: not drawn)"
