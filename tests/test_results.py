"""RESULTS.md and the README against the files in docs/, and reproduce.py on small data."""

import dataclasses
import json
import math
import re
import shlex
import shutil
import statistics
from pathlib import Path

import pytest

import cli
import config
import reproduce
import train
from report import page, results
from report.experiments import EXPERIMENTS, Experiment
from vae import runs, signals
from vae.training import HistoryRow

ROOT = Path(config.__file__).parent


def test_results_md_is_what_the_files_in_docs_give(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert page.PAGE.read_text(encoding="utf-8") == page.render(), "run make report EPOCHS_SCALE=0"


# ---- Numbers in RESULTS.md that are written by hand, unlike those of the template's fields ---------------------------


@pytest.fixture
def page_text(monkeypatch):
    """The text of RESULTS.md on one line. The current folder is the repository, as read_published needs."""
    monkeypatch.chdir(ROOT)
    return read_on_one_line(page.PAGE)


def read_on_one_line(path):
    """Returns the text of a page, whose sentences may be broken anywhere, on one line."""
    return " ".join(path.read_text(encoding="utf-8").split())


def read_experiment(name):
    """Returns the published result of an experiment."""
    (experiment,) = (experiment for experiment in EXPERIMENTS if experiment.name == name)
    return results.read_published(experiment.config)


def rows_with_test_elbo(result, first_epoch=1, last_epoch=math.inf):
    """Returns the rows of a result's history that have a test ELBO, from one epoch to another."""
    in_range = [row for row in result.history if first_epoch <= row.epoch <= last_epoch]
    return [row for row in in_range if math.isfinite(row.test_elbo)]


def mean_test_elbo(result, first_epoch, last_epoch):
    """Returns the mean of the test ELBOs from one epoch to another."""
    return statistics.mean(row.test_elbo for row in rows_with_test_elbo(result, first_epoch, last_epoch))


def test_the_text_on_burda_et_als_recipe_agrees_with_the_files(page_text):
    burda = read_experiment("mnist_burda")
    difference = burda.metrics.nll_of_q.nats - 86.76
    assert f"The result is {difference:.2f} nats above that of the paper" in page_text
    assert f"can account for a difference of {difference:.2f} nats" in page_text


def test_the_text_on_the_trials_of_burda_et_als_points_agrees_with_their_tables(page_text):
    elbos_and_nll = r"(-[\d.]+) \| (-[\d.]+) \| ([\d.]+) \| \d+ \|"
    rows = re.findall(rf"\| ([^|]+) \| {elbos_and_nll}", page_text)
    trials = {name: [float(value) for value in values] for name, *values in rows}
    biases = "biases begin at the log-odds of the mean image"
    gains = [
        trials["this project, seed 0"][2] - trials[f"{biases}, seed 0"][2],
        trials["this project, seed 1"][2] - trials["the same, seed 1"][2],
    ]
    assert {f"{gain:.1f}" for gain in gains} == {"0.7"}
    assert "only the initial biases lower the NLL, by 0.7 nats with both seeds" in page_text
    _, test_elbo, nll = trials["this project"]
    assert f"the biases lower the NLL, by {nll - trials[biases][2]:.1f} nats" in page_text
    assert f"the test ELBO is {trials[biases][1] - test_elbo:.1f} nats higher" in page_text
    nll_of_all = trials["all points but the equal weights"][2]
    assert f"the NLL is {nll - nll_of_all:.1f} nats lower than this project's" in page_text
    published = read_experiment("mnist_burda").history
    assert f"its test ELBO after 40 epochs is {published[39].test_elbo:.2f}." in page_text


def test_the_text_on_the_falling_learning_rate_agrees_with_the_files(page_text):
    staged = read_experiment("mnist_staged")
    constant = read_experiment("mnist")
    assert f"its mean is {mean_test_elbo(staged, 460, 500):.2f} nats with the falling rate" in page_text
    assert f"and {mean_test_elbo(constant, 460, 500):.2f} with the constant one" in page_text
    assert f"Over the epochs 1050, 1060, ..., 1090, it is {mean_test_elbo(staged, 1050, 1090):.2f}." in page_text


def test_the_text_on_the_seeds_of_frey_faces_agrees_with_the_files(page_text):
    metrics = {
        likelihood: [read_experiment(name).metrics for name in names]
        for likelihood, names in page.FREY_FACES_SEEDS.items()
    }
    means = {name: statistics.mean(each.nll.nats for each in all_seeds) for name, all_seeds in metrics.items()}
    assert f"the logit-normal is {means['Normal'] - means['logit-normal']:.0f} nats better" in page_text
    gaps = [each.nll_of_q.nats - each.nll.nats for all_seeds in metrics.values() for each in all_seeds]
    assert f"The two estimates are {min(gaps):.0f} to {max(gaps):.0f} nats apart" in page_text


def test_the_text_on_figure_4_agrees_with_the_files(page_text):
    names = ("mnist_h500", "mnist_h500_seed1", "mnist_h500_seed2")
    texts = [describe(read_experiment(name).saved.config) for name in names]
    assert [text.active_units for text in texts] == ["15", "14", "14"]
    assert "14 latents are in use with the seeds 1 and 2. With seed 0, there are 15" in page_text
    values = [results.read_singular_values(read_experiment(name).saved.config.run_name)[0] for name in names]
    unused = [each[int(text.active_units) :] for each, text in zip(values, texts, strict=True)]
    largest = [each[0] for each in unused]
    second = max(each[1] for each in unused)
    neighbours = f"just below 10 ({min(largest):.1f} to {max(largest):.1f})"
    assert f"{neighbours}, and the others after it are {second:.1f} or less." in page_text


def test_the_text_on_figure_7_agrees_with_the_files(page_text):
    falls = {}
    for name in ("svhn", "svhn_bfloat16"):
        rows = rows_with_test_elbo(read_experiment(name))
        best = max(rows, key=lambda row: row.test_elbo)
        assert f"the test ELBO is highest after {best.epoch} epochs." in page_text
        falls[name] = best.test_elbo - rows[-1].test_elbo
    expected = f"it falls by {falls['svhn']:.1f} nats in float32 and by {falls['svhn_bfloat16']:.1f} nats in bfloat16"
    assert expected in page_text
    histories = [read_experiment(name).history[-50:] for name in ("svhn", "svhn_bfloat16")]
    float32, bfloat16 = (statistics.mean(row.train_elbo for row in history) for history in histories)
    assert f"lower in bfloat16, by {float32 - bfloat16:.1f} nats over the last 50 epochs" in page_text


def test_the_text_on_figure_8_agrees_with_the_files(page_text):
    history = read_experiment("cifar10_full").history
    after_10, after_30, after_100 = (history[epoch - 1] for epoch in (10, 30, 100))
    rise = after_30.test_elbo - after_10.test_elbo
    loss = after_10.test_elbo - after_100.test_elbo
    rise_in_training = after_100.train_elbo - after_10.train_elbo
    assert (
        f"The test ELBO rises by {rise:.1f} nats until epoch 30, and then falls to {loss:.1f} nats below" in page_text
    )
    assert f"From epoch 10 to 100, the training ELBO rises by {rise_in_training:.1f} nats" in page_text


# ---- The pages -----------------------------------------------------------------------------------------------------


# docs/promises.md and docs/glossary.md have no links.
PAGES_WITH_LINKS = [
    "README.md",
    "RESULTS.md",
    "benchmarks/RESULTS.md",
    "docs/distributed.md",
    "docs/extending.md",
    "docs/usage.md",
]


@pytest.mark.parametrize("name", PAGES_WITH_LINKS)
def test_every_file_and_heading_that_a_page_links_to_exists(name):
    page_path = ROOT / name
    links = re.findall(r"\]\(([^)]+)\)", page_path.read_text(encoding="utf-8"))
    links_to_files = [link for link in links if "://" not in link]
    assert links_to_files
    for link in links_to_files:
        file, _, anchor = link.partition("#")
        target = page_path.parent / file if file else page_path
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


def anchors_of(page_path):
    """Returns the anchors that GitHub gives the headings of a page in Markdown."""
    headings = re.findall(r"^#+ (.*)$", page_path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_test_that_the_promises_name_exists():
    names = re.findall(r"`(tests/\S+?)`", (ROOT / "docs" / "promises.md").read_text(encoding="utf-8"))
    assert names
    assert not [name for name in names if not (ROOT / name).exists()]


def test_the_readmes_table_of_results_agrees_with_the_files(monkeypatch):
    """Each cell is what docs/results has for the run of the row's command, letter for letter."""
    monkeypatch.chdir(ROOT)
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Results")[1].split("\n## ")[0]
    header = split_row(re.search(r"\| command .* \|\n", section)[0])
    rows = [split_row(line) for line in section.splitlines() if line.startswith("| `")]
    assert len(rows) >= 6
    for row in rows:
        written = dict(zip(header, row, strict=True))
        command = re.search("`(.*?)`", written["command"])[1]
        row_config = cli.parse_args(shlex.split(command)[1:], "", cli.TRAINING_FLAGS).config
        from_files = dict(zip(page.COLUMNS, page.make_cells(describe(row_config)), strict=True))
        assert written == {column: from_files[column] for column in written}, row


def describe(config):
    """Returns what RESULTS.md shows of a run."""
    return page.describe_result(config, results.read_published(config))


def test_the_numbers_at_the_beginning_of_the_readme_agree_with_the_files(monkeypatch):
    monkeypatch.chdir(ROOT)
    readme = read_on_one_line(ROOT / "README.md")
    burda = read_experiment("mnist_burda").metrics
    assert (
        f"has a negative log-likelihood of {burda.nll_of_q.nats:.2f} nats here, and of 86.76 in their paper" in readme
    )
    after_20 = read_experiment("mnist").history[19]
    assert f"prints `epoch {after_20.epoch}: test ELBO {after_20.test_elbo:.2f} nats`" in readme


def test_every_published_run_can_be_read_and_belongs_to_an_experiment(monkeypatch):
    """A folder that no page shows is left from an earlier table of experiments."""
    monkeypatch.chdir(ROOT)
    for folder in results.RESULTS.iterdir():
        results.read(folder)  # raises RunError if a file is damaged
    run_names = {experiment.config.run_name for experiment in EXPERIMENTS}
    for folder in (results.RESULTS, results.FIGURES):
        assert {path.name for path in folder.iterdir() if path.is_dir()} <= run_names


def split_row(line):
    """The cells of a row of a table in Markdown."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_no_two_experiments_share_a_name_or_a_run():
    assert len({experiment.name for experiment in EXPERIMENTS}) == len(EXPERIMENTS)
    assert len({experiment.config.run_name for experiment in EXPERIMENTS}) == len(EXPERIMENTS)
    assert all(experiment.name.isidentifier() for experiment in EXPERIMENTS)  # fields of the template


VERIFIED = {"data_verified": True, "versions": {}}
UNVERIFIED = {"data_verified": False, "versions": {}}
METRICS = {
    "num_samples": 3,
    "elbo": {"mean": -2.5, "standard_error": 0.25},
    "nll": None,
    "nll_of_q": None,
    "effective_sample_size": None,
    "bits_per_dim": {"elbo": None},
    "active_units": [1, 4],
    "epoch": 7,
    "model": VERIFIED,
    "evaluation": VERIFIED,
}


@pytest.mark.parametrize(
    ("model", "evaluation", "data_verified"),
    [(VERIFIED, VERIFIED, True), (VERIFIED, UNVERIFIED, False), (UNVERIFIED, VERIFIED, False)],
)
def test_metrics_are_verified_if_model_and_evaluation_used_verified_data(model, evaluation, data_verified, tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps(METRICS | {"model": model, "evaluation": evaluation}))
    metrics = results.read_metrics(tmp_path)
    assert metrics.data_verified is data_verified
    assert metrics.elbo == (-2.5, 0.25, None, None)
    assert (metrics.epoch, metrics.num_samples, metrics.num_active_units) == (7, 3, 2)


NLLS = {
    "epoch": 4,
    "num_samples": 5000,
    "nll": {"mean": 87.0, "standard_error": 0.5, "estimator_error": 0.0123},
    "nll_of_q": {"mean": 88.0, "standard_error": 0.5, "estimator_error": 0.25},
    "effective_sample_size": {"median": 812.4, "num_below_50": 3},
    "bits_per_dim": {"elbo": None, "nll": None, "nll_of_q": None},
}


def test_the_page_shows_both_nlls_and_how_they_were_estimated(finished):
    path = finished / "metrics.json"
    path.write_text(json.dumps(METRICS | NLLS))
    text = describe(DIGITS.config)
    assert (text.nll, text.nll_error) == ("87.00 ± 0.50", "0.012")
    assert (text.nll_of_q, text.nll_of_q_error) == ("88.00 ± 0.50", "0.250")
    assert (text.num_samples, text.effective_sample_size, text.num_below_50) == ("5000", "812", "3")

    one_sample = {"nll": {"mean": 87.0, "standard_error": 0.5, "estimator_error": None}}
    path.write_text(json.dumps(METRICS | NLLS | one_sample))
    assert describe(DIGITS.config).nll_error == ""

    path.write_text(json.dumps(METRICS))
    text = describe(DIGITS.config)
    assert (text.elbo, text.nll, text.nll_of_q, text.num_samples) == ("-2.50 ± 0.25", "", "", "")
    assert (text.nll_error, text.effective_sample_size, text.num_below_50) == ("", "", "")


def make_history(seconds, test_elbo=-3.0):
    """Returns rows for epochs of these durations."""
    return [HistoryRow(epoch, -1.0, -1.0, 0.0, test_elbo, duration) for epoch, duration in enumerate(seconds, 1)]


def test_the_time_of_a_run_leaves_out_that_for_which_it_was_suspended():
    text = page.describe_result(DIGITS.config, result=None)
    text = page.add_history(text, make_history([10.0, 10.0, 3600.0, 10.0, 10.0]), num_planned=1000)
    assert (text.time, text.full_time) == ("50 s", "2.8 hours")


@pytest.mark.parametrize(
    ("seconds", "expected"), [(59.4, "59 s"), (60, "1.0 min"), (7199, "120.0 min"), (7200, "2.0 hours")]
)
def test_a_time_has_a_unit_of_its_size(seconds, expected):
    assert page.format_time(seconds) == expected


def test_the_table_of_test_elbos_is_empty_where_nothing_was_measured(finished):
    table = page.make_test_elbo_table(
        "run", {"done": results.read_published(DIGITS.config), "missing": None}, epochs=(4, 5)
    )
    header, _, done, missing = [split_row(line) for line in table.splitlines()]
    assert header == ["run", "epoch 4", "epoch 5"]
    assert done == ["done", f"{runs.read_history(finished)[-1].test_elbo:.2f}", ""]
    assert missing == ["missing", "", ""]


def test_the_planned_hours_count_what_was_run_at_its_pace(finished):
    published = {"digits": results.read_published(DIGITS.config)}
    hour_long = dataclasses.replace(published["digits"], history=make_history([3600.0]))
    assert page.sum_planned_hours([DIGITS], {"digits": hour_long}) == "4"
    assert page.sum_planned_hours([DIGITS], {"digits": None}) == "0"


@pytest.mark.parametrize("missing", ["effective_sample_size", "model", "evaluation"])
def test_models_with_metrics_of_earlier_versions_are_evaluated_again(missing, finished):
    run = Path("checkpoints") / finished.name
    path = run / "metrics.json"
    metrics = METRICS | NLLS
    path.write_text(json.dumps(metrics))
    assert results.is_evaluated(run, num_samples=5000)
    del metrics[missing]
    path.write_text(json.dumps(metrics))
    assert not results.is_evaluated(run, num_samples=3)


def test_a_run_whose_publication_was_interrupted_counts_as_not_published(report, finished, capsys):
    """A kill can leave some of its files. The page is written without it, and it is published again."""
    before = (finished / "history.csv").read_bytes()
    (finished / "history.csv").unlink()
    assert describe(DIGITS.config).elbo == page.NOT_RUN
    assert f"{finished} counts as not published: {finished / 'history.csv'} cannot be read" in capsys.readouterr().err
    assert report("--epochs_scale", "0") == 0
    assert (finished / "history.csv").read_bytes() == before


def test_damaged_metrics_are_reported_with_their_path(tmp_path):
    assert results.read_metrics(tmp_path) is None
    wrong_measure = json.dumps(METRICS | {"elbo": 1})
    wrong_model = json.dumps(METRICS | {"model": True})
    for text in ("", "{}", "[]", "null", "[" * 100_000, wrong_measure, wrong_model):
        (tmp_path / "metrics.json").write_text(text)
        with pytest.raises(runs.RunError, match=re.escape(f"{tmp_path / 'metrics.json'} cannot be read: ")):
            results.read_metrics(tmp_path)
    assert not results.is_evaluated(tmp_path, num_samples=1)


@pytest.fixture
def report(tmp_path, small_data, monkeypatch):
    """A function that calls reproduce.py in a folder of its own with the given arguments; it returns the exit code.

    train.py runs in this process, because each start of TensorFlow takes seconds. In finished_folder, it runs in a
    child process, as it does for users.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signals, "run_child", lambda command: train.main(command[2:]))
    return lambda *argv: reproduce.main([*argv, "--data_dir", str(small_data), "--allow_unverified"])


# conv3 has no NLL unless a likelihood is chosen. Its evaluation therefore takes one second instead of ten.
DIGITS = Experiment(
    name="digits",
    shows="a test",
    config=config.Config("digits", "conv3", num_epochs=4),
    scripts=("make_pictures",),
    num_samples=3,
)


@pytest.fixture
def digits(monkeypatch):
    """Makes the table of experiments a single small one; the value is its folder in docs/results."""
    make_only_experiment(monkeypatch)
    return Path("docs/results") / DIGITS.config.run_name


def make_only_experiment(monkeypatch):
    monkeypatch.setattr("report.experiments.EXPERIMENTS", [DIGITS])
    monkeypatch.setattr(page, "render", lambda: "")  # the template names the report's experiments


@pytest.fixture(scope="module")
def finished_folder(tmp_path_factory, small_data):
    """Returns a folder in which reproduce.py is done with the single experiment. Tests use copies of it."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        make_only_experiment(patch)
        patch.chdir(folder)
        assert reproduce.main(["--data_dir", str(small_data), "--allow_unverified"]) == 0
    return folder


@pytest.fixture
def finished(report, digits, finished_folder, tmp_path):
    """Fills the folder of a test with what reproduce.py made; the value is the folder in docs/results."""
    shutil.copytree(finished_folder, tmp_path, dirs_exist_ok=True)
    return digits


def test_work_that_was_done_is_not_repeated(report, finished, capsys):
    before = (finished / "history.csv").read_bytes()
    capsys.readouterr()
    assert report("--only", "digits") == 0 and report("--epochs_scale", "0") == 0
    assert "NLL" not in capsys.readouterr().out
    assert (finished / "history.csv").read_bytes() == before


def test_a_shorter_run_is_continued_and_never_replaces_a_longer_one(report, digits, capsys):
    assert report("--epochs_scale", "0.5") == 0 and len(runs.read_history(digits)) == 2
    assert report() == 0 and len(runs.read_history(digits)) == 4
    before = (digits / "metrics.json").read_bytes()
    assert report("--epochs_scale", "0.25", "--checkpoints_dir", "others") == 0
    assert "epochs: 4, samples: 3) and its figures are kept" in capsys.readouterr().out
    assert len(runs.read_history(digits)) == 4 and (digits / "metrics.json").read_bytes() == before


def test_a_quick_look_changes_no_better_result(report, finished, capsys):
    """Fewer samples or fewer epochs: what is in docs/ is better and stays. Verified data counts before both."""
    before = {path: path.read_bytes() for path in Path("docs").rglob("*") if path.is_file()}
    assert report("--epochs_scale", "0.01") == 0
    assert report("--epochs_scale", "0.01", "--checkpoints_dir", "others") == 0
    assert {path: path.read_bytes() for path in Path("docs").rglob("*") if path.is_file()} == before
    assert "stay as they were" in capsys.readouterr().out
    content = json.loads((finished / "config.json").read_text())
    (finished / "config.json").write_text(json.dumps(content | {"data_verified": False}))
    assert report("--epochs_scale", "0.25", "--checkpoints_dir", "others") == 0  # verified: better, though shorter
    assert len(runs.read_history(finished)) == 1 and runs.read_config(finished).data_verified


@pytest.mark.slow
def test_an_evaluation_on_unverified_data_makes_a_result_unverified(report, finished):
    assert results.read(finished).data_verified
    entries = json.loads((finished / "metrics.json").read_text())
    entries["evaluation"]["data_verified"] = False
    (finished / "metrics.json").write_text(json.dumps(entries))
    assert not results.read(finished).data_verified
    assert describe(DIGITS.config).command.endswith("` (unverified)")
    assert report("--epochs_scale", "0.25", "--checkpoints_dir", "others") == 0
    assert len(runs.read_history(finished)) == 1 and results.read(finished).data_verified


@pytest.mark.slow
def test_a_damaged_checkpoint_is_trained_again_and_damaged_metrics_are_measured_again(report, digits, capsys):
    assert report("--epochs_scale", "0.5") == 0 and report() == 0
    run = Path("checkpoints") / digits.name
    before = (digits / "metrics.json").read_bytes()
    (data,) = run.glob("epoch-4.data*")
    data.write_bytes(data.read_bytes()[:50])
    (run / "metrics.json").write_text("{}")
    assert report() == 0 and "epoch 2 is restored instead" in capsys.readouterr().out
    assert runs.restore(run).epoch == 4 and (digits / "metrics.json").read_bytes() == before


@pytest.mark.slow
def test_a_page_that_is_left_from_long_ago_is_not_published(report, digits):
    """The experiment has no page. The user can have made one with explore.py."""
    left = Path("pictures") / digits.name / "explorer.html"
    left.parent.mkdir(parents=True)
    left.write_text("out of date")
    assert report() == 0
    assert (Path("docs/figures") / digits.name / "generated.png").exists()
    assert not list(Path("docs").rglob("*.html"))


def test_history_is_published_up_to_the_epoch_that_was_evaluated(report, finished):
    run = Path("checkpoints") / finished.name
    before = (finished / "history.csv").read_bytes()
    with (run / "history.csv").open("a") as file:  # a trainer that goes on, or was killed, writes it first
        file.write("5,-1,-1,0,-1,1,0.001\n")
    assert report("--epochs_scale", "0") == 0 and (finished / "history.csv").read_bytes() == before


def test_a_failure_is_named_and_the_other_experiments_are_done(report, digits, monkeypatch, capsys):
    missing = Experiment("none", "a test", config.Config("digits", seed=9), scripts=(), num_samples=3)
    monkeypatch.setattr("report.experiments.EXPERIMENTS", [missing, DIGITS])
    assert report("--only", "digits") == 0
    assert report("--epochs_scale", "0") == 1
    assert "not done, for the reasons above: none" in capsys.readouterr().out
    assert report("--only", "nonsense") == 2
    assert "argument --only: takes names out of none digits, got nonsense" in capsys.readouterr().err
