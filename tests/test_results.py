"""RESULTS.md and the README against the files in docs/, and reproduce.py on small data."""

import json
import re
import shlex
from pathlib import Path

import pytest

import config
import reproduce
from vae import results, runs
from vae.experiments import EXPERIMENTS, Experiment

ROOT = Path(config.__file__).parent


def test_the_page_of_results_is_what_the_files_in_docs_make(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert results.PAGE.read_text(encoding="utf-8") == results.page(results.DOCS), "run make report EPOCHS_SCALE=0"


@pytest.mark.parametrize("page", ["README.md", "RESULTS.md"])
def test_every_picture_and_file_that_a_page_links_to_is_there(page):
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    assert links and not [link for link in links if "://" not in link and not (ROOT / link).exists()]


def test_the_readmes_results_are_those_of_the_files(monkeypatch):
    """Each row of its table: what the command's run has in docs/results, letter for letter."""
    monkeypatch.chdir(ROOT)
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("## Results")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:3] == "| `"]
    header = [cell.strip() for cell in re.search(r"\| (command .*) \|\n", text)[1].split("|")]
    assert len(rows) >= 10
    for row in rows:
        cells = dict(zip(header, row, strict=True))
        words = shlex.split(re.search("`(.*?)`", cells["command"])[1])
        known = results.facts(results.DOCS, config.parse_args(words[1:], "", config.TRAIN_FLAGS).config)
        for column in cells.keys() - {"command"}:
            assert cells[column] == known.get(column, ""), (row, column)


def test_experiments_have_names_and_runs_of_their_own():
    assert len({experiment.name for experiment in EXPERIMENTS}) == len(EXPERIMENTS)
    assert len({experiment.config.run_name for experiment in EXPERIMENTS}) == len(EXPERIMENTS)
    assert all(experiment.name.isidentifier() for experiment in EXPERIMENTS)  # fields of the template


@pytest.fixture
def report(tmp_path, small_data, monkeypatch):
    """reproduce.py in a folder of its own; called with arguments, it gives the exit code."""
    monkeypatch.chdir(tmp_path)
    return lambda *argv: reproduce.main([*argv, "--data_dir", str(small_data), "--allow_unverified"])


def test_the_whole_report_at_a_small_scale(report, tmp_path):
    """On small data, a 500th of the epochs: every experiment is trained, evaluated, drawn and published."""
    assert report("--epochs_scale", "0.002") == 0
    for e in EXPERIMENTS:
        run = tmp_path / "docs" / "results" / e.config.run_name
        assert len(runs.read_history(run)) == max(1, e.config.num_epochs // 500)
        assert json.loads((run / "metrics.json").read_text())["num_samples"] == max(1, e.num_samples // 500)
        pictures = {path.name for path in (tmp_path / "docs" / "figures" / run.name).iterdir()}
        assert ("generated.png" in pictures) == ("make_pictures" in e.scripts) and "learning_curves.png" in pictures
    page = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert "| 2 of 1000 |" in page and results.NOT_RUN not in page


DIGITS = Experiment("digits", "a test", config.Config("digits", hidden_size=8, num_epochs=4), 3, ("make_pictures",))


@pytest.fixture
def digits(monkeypatch):
    """The table of experiments, of a single small one; gives its folder in docs/results."""
    monkeypatch.setattr("vae.experiments.EXPERIMENTS", [DIGITS])
    monkeypatch.setattr(results, "page", lambda docs: "")
    return Path("docs/results") / DIGITS.config.run_name


def test_what_is_trained_and_evaluated_is_not_done_again(report, digits, capsys):
    assert report() == 0
    before, _ = (digits / "history.csv").read_bytes(), capsys.readouterr()
    assert report("--only", "digits") == 0 and report("--epochs_scale", "0") == 0
    assert "NLL" not in capsys.readouterr().out and (digits / "history.csv").read_bytes() == before


def test_a_shorter_run_is_carried_on_and_never_replaces_a_longer_one(report, digits, capsys):
    assert report("--epochs_scale", "0.5") == 0 and len(runs.read_history(digits)) == 2
    assert report() == 0 and len(runs.read_history(digits)) == 4
    before = (digits / "metrics.json").read_bytes()
    assert report("--epochs_scale", "0.25", "--checkpoints_dir", "others") == 0
    assert "epochs: 4, samples: 3) and its figures are kept" in capsys.readouterr().out
    assert len(runs.read_history(digits)) == 4 and (digits / "metrics.json").read_bytes() == before


def test_a_quick_look_at_what_is_done_changes_nothing(report, digits):
    """Fewer samples, unverified data: what is in docs/ is the better."""
    assert report("--epochs_scale", "1") == 0
    before = {path: path.read_bytes() for path in Path("docs").rglob("*") if path.is_file()}
    assert report("--epochs_scale", "0.01") == 0
    assert report("--epochs_scale", "0.01", "--checkpoints_dir", "others") == 0
    assert {path: path.read_bytes() for path in Path("docs").rglob("*") if path.is_file()} == before
    facts = json.loads((digits / "config.json").read_text())
    (digits / "config.json").write_text(json.dumps(facts | {"data_verified": False}))
    assert report("--epochs_scale", "0.25", "--checkpoints_dir", "others") == 0  # verified: better, though shorter
    assert len(runs.read_history(digits)) == 1 and runs.read_facts(digits)["data_verified"]


def test_a_damaged_final_checkpoint_is_trained_again_and_damaged_metrics_are_made_anew(report, digits, capsys):
    assert report("--epochs_scale", "0.5") == 0 and report() == 0
    before, run = results.read_metrics(digits), Path("checkpoints") / digits.name
    (data,) = run.glob("epoch-4.data*")
    data.write_bytes(data.read_bytes()[:50])
    (run / "metrics.json").write_text("{}")
    assert report() == 0 and "epoch 2 is taken instead" in capsys.readouterr().out
    assert runs.restore(run).epoch == 4 and results.read_metrics(digits) == before


def test_history_is_published_as_far_as_the_model_that_was_evaluated(report, digits):
    assert report() == 0
    run = Path("checkpoints") / digits.name
    before = (digits / "history.csv").read_bytes()
    with (run / "history.csv").open("a") as file:  # a trainer that goes on, or was killed, writes it first
        file.write("5,-1,-1,0,-1,1\n")
    assert report("--epochs_scale", "0") == 0 and (digits / "history.csv").read_bytes() == before


def test_what_cannot_be_done_is_named_and_the_rest_is_done(report, digits, monkeypatch, capsys):
    missing = Experiment("none", "a test", config.Config("digits", seed=9), 3, ())
    monkeypatch.setattr("vae.experiments.EXPERIMENTS", [missing, DIGITS])
    assert report("--only", "digits") == 0
    assert report("--epochs_scale", "0") == 1
    assert "not done, for the reasons above: none" in capsys.readouterr().out
    assert report("--only", "nonsense") == 2 and "--only: takes names out of none digits" in capsys.readouterr().err
