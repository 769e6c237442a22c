"""RESULTS.md against the files in docs/, and reproduce.py on small data."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import pretend_training
from PIL import Image

import config
import reproduce
import train
from report import page, results
from report.experiments import EXPERIMENTS, Experiment
from report.results import Result
from vae import evaluation, history, runs, signals
from vae.evaluation import Metrics
from vae.history import HistoryRow

ROOT = Path(config.__file__).parent


def test_results_md_is_what_the_files_in_docs_give(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert page.PAGE.read_text(encoding="utf-8") == page.render(), "run make report EPOCHS_SCALE=0"


def describe(config):
    """What RESULTS.md shows of a run."""
    return page.describe_result(config, results.read_published(config.run_name))


def test_every_published_run_belongs_to_an_experiment(monkeypatch):
    """A folder that no page shows is left from an earlier table of experiments."""
    monkeypatch.chdir(ROOT)
    run_names = {experiment.config.run_name for experiment in EXPERIMENTS}
    for folder in (results.RESULTS, results.FIGURES):
        assert {path.name for path in folder.iterdir() if path.is_dir()} <= run_names


def test_docs_has_the_pictures_that_a_page_shows_and_no_others(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert set(results.FIGURES.rglob("*.png")) == shown_figures()


def shown_figures():
    """The pictures of docs/figures that a page shows."""
    return {path for path in page.shown_pictures() if path.is_relative_to(results.FIGURES)}


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "results").iterdir()), ids=lambda path: path.name)
def test_published_metrics_are_read_and_written_without_a_change(path):
    entries = json.loads((path / "metrics.json").read_text(encoding="utf-8"))
    written = json.loads(Metrics.read(path).to_json())
    assert set(entries) - set(written) <= {"num_samples_of_q"}  # equal to num_samples
    assert entries | written == entries


def split_row(line):
    """The cells of a row of a table in Markdown."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_no_two_experiments_share_a_name_or_a_run():
    assert len({experiment.name for experiment in EXPERIMENTS}) == len(EXPERIMENTS)
    assert len({experiment.config.run_name for experiment in EXPERIMENTS}) == len(EXPERIMENTS)
    assert all(experiment.name.isidentifier() for experiment in EXPERIMENTS)  # fields of the template


METRICS = Metrics(
    num_images=100,
    num_samples=5000,
    seed=0,
    elbo={"mean": -2.5, "standard_error": 0.25},
    log_likelihood={"mean": -2.0, "standard_error": 0.25},
    kl={"mean": 0.5, "standard_error": 0.1},
    nll={"mean": 87.0, "standard_error": 0.5, "estimator_error": 0.0123},
    nll_of_q={"mean": 88.0, "standard_error": 0.5, "estimator_error": None},
    effective_sample_size={"median": 812.4, "num_below_50": 3},
    bits_per_dim={"elbo": None, "nll": 1.2345, "nll_of_q": None},
    active_units=[1, 4],
    epoch=7,
    model={"data_verified": True, "versions": {}},
    evaluation={"data_verified": True, "versions": {}},
)


def unverified(part):
    """METRICS with unverified data in training ("model") or in the evaluation ("evaluation")."""
    return replace(METRICS, **{part: {"data_verified": False, "versions": {}}})


def test_the_page_shows_what_was_measured():
    text = page.describe_result(SMALL.config, Result(make_history([1.0]), METRICS))
    assert (text.elbo, text.elbo_bits_per_dim) == ("-2.50 ± 0.25", "")
    assert (text.nll, text.nll_bits_per_dim, text.nll_error) == ("87.00 ± 0.50", "1.234", "0.012")
    assert (text.nll_of_q, text.nll_of_q_bits_per_dim, text.nll_of_q_error) == ("88.00 ± 0.50", "", "")
    assert (text.num_samples, text.effective_sample_size, text.num_below_50) == ("5000", "812", "3")
    assert (text.epochs, text.active_units, text.share_of_active) == ("1 of 4", "2", page.NOT_RUN)
    assert not text.command.endswith("(unverified)")


def test_a_model_without_a_likelihood_has_no_nll():
    metrics = replace(METRICS, nll=None, nll_of_q=None, effective_sample_size=None, bits_per_dim={"elbo": None})
    text = page.describe_result(SMALL.config, Result(make_history([1.0]), metrics))
    assert text.elbo == "-2.50 ± 0.25"
    assert text.nll == text.nll_of_q == text.num_samples == text.nll_error == text.effective_sample_size == ""


@pytest.mark.parametrize("part", ["model", "evaluation"])
def test_unverified_data_is_marked_in_training_as_in_evaluation(part):
    text = page.describe_result(SMALL.config, Result(make_history([1.0]), unverified(part)))
    assert text.command.endswith("` (unverified)")


def test_a_run_that_is_not_published_is_shown_as_not_run():
    text = page.describe_result(SMALL.config, None)
    assert (text.epochs, text.elbo, text.share_of_active) == ("0 of 4", page.NOT_RUN, page.NOT_RUN)


def make_history(seconds):
    """Rows for epochs of these durations; every second epoch has a test ELBO."""
    rows = []
    for epoch, duration in enumerate(seconds, start=1):
        test_elbo = -3.0 if epoch % 2 == 0 else math.nan
        rows.append(HistoryRow(epoch, -1.0, -1.0, 0.0, test_elbo, duration, learning_rate=0.001))
    return rows


def test_the_time_of_a_run_leaves_out_a_suspension():
    config = replace(SMALL.config, num_epochs=1000)
    text = page.describe_result(config, Result(make_history([10.0, 10.0, 3600.0, 10.0, 10.0]), METRICS))
    assert (text.time, text.full_time) == ("50 s", "2.8 hours")


@pytest.mark.parametrize(
    ("seconds", "expected"), [(59.4, "59 s"), (60, "1.0 min"), (7199, "120.0 min"), (7200, "2.0 hours")]
)
def test_a_time_has_a_unit_of_its_size(seconds, expected):
    assert page.format_time(seconds) == expected


def test_the_table_of_test_elbos_is_empty_where_nothing_was_measured():
    result = Result(make_history([1.0] * 4), METRICS)
    table = page.make_test_elbo_table("run", {"done": result, "missing": None}, epochs=(3, 4, 6))
    header, _, done, missing = [split_row(line) for line in table.splitlines()]
    assert header == ["run", "epoch 3", "epoch 4", "epoch 6"]
    assert done == ["done", "", "-3.00", ""]
    assert missing == ["missing", "", "", ""]


def test_the_planned_hours_count_what_was_run_at_its_pace():
    hour_long = Result(make_history([3600.0]), METRICS)
    assert page.sum_planned_hours([SMALL], {"small": hour_long}) == "4"
    assert page.sum_planned_hours([SMALL], {"small": None}) == "0"


@pytest.mark.parametrize("newest_epoch", [7, 8])
def test_a_run_is_evaluated_if_its_newest_model_was_with_enough_images_and_samples(newest_epoch, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "saved_epoch", lambda folder: newest_epoch)
    assert not results.is_evaluated(tmp_path, num_images=1, num_samples=1)
    (tmp_path / "metrics.json").write_text(METRICS.to_json())
    assert results.is_evaluated(tmp_path, num_images=100, num_samples=5000) == (newest_epoch == 7)
    assert not results.is_evaluated(tmp_path, num_images=101, num_samples=5000)
    assert not results.is_evaluated(tmp_path, num_images=100, num_samples=5001)


@pytest.mark.parametrize("text", ["", "{}", "[]", "null"])
def test_damaged_metrics_count_as_none(text, tmp_path):
    (tmp_path / "metrics.json").write_text(text)
    assert evaluation.find_metrics(tmp_path) is None


# ---- Publishing ----------------------------------------------------------------------------------------------------


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """A function that publishes a run with these Metrics, in a folder of the test; it returns whether it was published.

    history.csv has one epoch more than was evaluated. A page shows two of the run's three pictures.
    """
    monkeypatch.chdir(tmp_path)
    run_folder = Path("checkpoints/run")
    pictures = Path("pictures/run")
    for folder in (run_folder, pictures):
        folder.mkdir(parents=True)
    for name in ("generated.png", "interpolations.png", "singular_values.csv", "explorer.html"):
        (pictures / name).write_text(name)
    (run_folder / "config.json").write_text("config.json")
    # Each of its pixels has its own colour.
    rows, columns = np.indices((100, 200), dtype=np.uint8)
    Image.fromarray(np.stack([rows, columns, rows], axis=-1)).save(pictures / "latent_space_2d.png")
    shown = {results.FIGURES / "run" / name for name in ("generated.png", "latent_space_2d.png")}

    def publish(metrics, has_page=False):
        (run_folder / "metrics.json").write_text(metrics.to_json())
        rows = make_history([1.0] * (metrics.epoch + 1))
        lines = [",".join(map(str, row)) for row in (HistoryRow._fields, *rows)]
        (run_folder / "history.csv").write_text("\n".join(lines) + "\n")
        return results.publish(run_folder, pictures, shown=shown, has_page=has_page)

    return publish


def published_files():
    """The bytes of all files in docs/, by path."""
    return {path.as_posix(): path.read_bytes() for path in Path("docs").rglob("*") if path.is_file()}


@pytest.mark.parametrize("has_page", [False, True])
def test_a_run_is_published_up_to_the_epoch_that_was_evaluated(has_page, publish):
    """An experiment without a page can have one that the user made long ago."""
    assert publish(METRICS, has_page)
    files = {f"docs/results/run/{name}" for name in ("config.json", "metrics.json", "history.csv")}
    figures = {f"docs/figures/run/{name}" for name in ("generated.png", "latent_space_2d.png", "singular_values.csv")}
    pages = {"docs/explorer/run.html"} if has_page else set()
    assert set(published_files()) == files | figures | pages
    result = results.read_published("run")
    assert result.metrics == METRICS
    assert len(result.history) == METRICS.epoch


def test_a_scatter_plot_is_published_with_256_colours_that_are_close_to_its_own(publish):
    publish(METRICS)
    pixels = [
        np.asarray(Image.open(folder / "run" / "latent_space_2d.png").convert("RGB"), dtype=int)
        for folder in (Path("pictures"), results.FIGURES)
    ]
    assert len(np.unique(pixels[1].reshape(-1, 3), axis=0)) <= 256
    assert np.abs(pixels[0] - pixels[1]).max() <= 16


@pytest.mark.parametrize(
    "worse",
    [
        replace(METRICS, num_samples=4999),
        replace(METRICS, num_images=99, num_samples=6000),
        replace(METRICS, epoch=6, num_images=200),
        replace(unverified("evaluation"), epoch=8),
        replace(unverified("model"), epoch=8),
    ],
    ids=["samples", "images", "epochs", "evaluation", "model"],
)
def test_a_better_result_is_kept_and_a_worse_one_replaced(worse, publish, capsys):
    assert publish(worse)
    assert publish(METRICS)
    before = published_files()
    assert publish(METRICS)
    assert capsys.readouterr().out == ""
    assert not publish(worse)
    assert published_files() == before
    line = capsys.readouterr().out
    assert METRICS.describe_quality() in line and worse.describe_quality() in line


@pytest.mark.parametrize("name", ["metrics.json", "history.csv"])
def test_a_run_whose_publication_was_interrupted_counts_as_not_published(name, publish, capsys):
    """A kill can leave some of its files."""
    publish(METRICS)
    before = published_files()
    (results.RESULTS / "run" / name).unlink()
    assert results.read_published("run") is None
    assert f"{results.RESULTS / 'run'} counts as not published: " in capsys.readouterr().err
    assert publish(replace(METRICS, epoch=1))
    assert publish(METRICS)
    assert published_files() == before


# ---- reproduce.py --------------------------------------------------------------------------------------------------


def run_here(command):
    return train.main(command[2:])


@pytest.fixture
def report(tmp_path, small_data, monkeypatch):
    """A function that calls reproduce.py in a folder of its own with the given arguments; it returns the exit code.

    train.py runs in this process and only pretends to train. In faults/test_report.py it runs in a child process, as
    it does for users.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signals, "run_child", run_here)
    pretend_training(monkeypatch)
    return lambda *argv: reproduce.main([*argv, "--data_dir", str(small_data), "--allow_unverified"])


# A model that is trained in a second: few images of 8x8 pixels. Without a likelihood, its evaluation has no NLL.
SMALL = Experiment(
    name="small",
    shows="a test",
    config=config.Config("cifar10", "conv3", latent_dim=2, num_epochs=4),
    scripts=("make_pictures",),
    num_samples=3,
)


@pytest.fixture
def small(monkeypatch):
    """Makes the table of experiments a single small one; the value is its folder in docs/results."""
    make_only_experiment(monkeypatch)
    return Path("docs/results") / SMALL.config.run_name


def make_only_experiment(monkeypatch):
    monkeypatch.setattr(reproduce, "EXPERIMENTS", [SMALL])
    monkeypatch.setattr(page, "render", lambda: "")  # the template names the report's experiments


@pytest.fixture(scope="module")
def finished_folder(tmp_path_factory, small_data):
    """A folder in which reproduce.py is done with the single experiment. Tests use copies of it."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        make_only_experiment(patch)
        patch.setattr(signals, "run_child", run_here)
        pretend_training(patch)
        patch.chdir(folder)
        assert reproduce.main(["--data_dir", str(small_data), "--allow_unverified"]) == 0
    return folder


@pytest.fixture
def finished(report, small, finished_folder, tmp_path):
    """Fills the folder of a test with what reproduce.py made; the value is the folder in docs/results."""
    shutil.copytree(finished_folder, tmp_path, dirs_exist_ok=True)
    return small


def test_work_that_was_done_is_not_repeated(report, finished, capsys):
    before = published_files()
    capsys.readouterr()
    assert report("--only", "small") == 0
    assert report("--epochs_scale", "0") == 0
    assert "NLL" not in capsys.readouterr().out
    assert published_files() == before


def test_a_shorter_run_is_continued(report, finished, monkeypatch):
    longer = replace(SMALL, config=replace(SMALL.config, num_epochs=5))
    monkeypatch.setattr(reproduce, "EXPERIMENTS", [longer])
    assert len(history.read(finished)) == 4
    assert report() == 0
    assert len(history.read(finished)) == Metrics.read(finished).epoch == 5


def test_a_quick_look_changes_no_better_result(report, finished, capsys):
    before = published_files()
    assert report("--epochs_scale", "0.01", "--checkpoints_dir", "others") == 0
    assert published_files() == before
    assert "stay as they were" in capsys.readouterr().out


def test_an_evaluation_of_a_few_images_is_repeated_with_all(report, finished):
    run = Path("checkpoints") / finished.name
    before = (run / "metrics.json").read_bytes()
    quick = replace(Metrics.read(run), num_images=5)
    (run / "metrics.json").write_text(quick.to_json())
    assert report("--epochs_scale", "0") == 0
    assert (run / "metrics.json").read_bytes() == before


@pytest.mark.slow
def test_a_damaged_checkpoint_is_trained_again_and_damaged_metrics_are_measured_again(report, small, capsys):
    assert report("--epochs_scale", "0.5") == 0
    assert report() == 0
    run = Path("checkpoints") / small.name
    before = (small / "metrics.json").read_bytes()
    checkpoint = run / "epoch-4.npz"
    checkpoint.write_bytes(checkpoint.read_bytes()[:50])
    (run / "metrics.json").write_text("{}")
    assert report() == 0
    assert "epoch 2 is restored instead" in capsys.readouterr().out
    assert runs.restore(run).epoch == 4
    assert (small / "metrics.json").read_bytes() == before


def test_a_failure_is_named_and_the_other_experiments_are_done(report, small, monkeypatch, capsys):
    missing = Experiment("none", "a test", config.Config("digits", seed=9), scripts=(), num_samples=3)
    monkeypatch.setattr(reproduce, "EXPERIMENTS", [missing, SMALL])
    assert report("--only", "small") == 0
    assert report("--epochs_scale", "0") == 1
    assert "not done, for the reasons above: none" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ending:
        report("--only", "nonsense")
    assert ending.value.code == 2
    assert "argument --only: invalid choice: 'nonsense' (choose from" in capsys.readouterr().err
