"""reproduce.py: the whole report, which takes some minutes even at a small scale, and what a signal does to it."""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import reproduce
from report import page
from report.experiments import EXPERIMENTS
from vae import history, runs


def test_the_whole_report_at_a_small_scale(small_data, tmp_path, monkeypatch):
    """On small data, a 500th of the epochs: every experiment is trained, evaluated, drawn and published."""
    monkeypatch.chdir(tmp_path)
    argv = ["--epochs_scale", "0.002", "--data_dir", str(small_data), "--allow_unverified"]
    assert reproduce.main(argv) == 0
    for experiment in EXPERIMENTS:
        run = tmp_path / "docs" / "results" / experiment.config.run_name
        assert len(history.read(run)) == math.ceil(experiment.config.num_epochs * 0.002)
        metrics = json.loads((run / "metrics.json").read_text())
        assert metrics["num_samples"] == math.ceil(experiment.num_samples * 0.002)
        page_path = tmp_path / "docs" / "explorer" / f"{run.name}.html"
        assert page_path.exists() == ("explore" in experiment.scripts)
    text = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert "| 2 of 1000 |" in text and page.NOT_RUN not in text and "not drawn" not in text


@pytest.mark.parametrize(
    ("number", "send"), [(signal.SIGINT, os.killpg), (signal.SIGTERM, os.killpg), (signal.SIGTERM, os.kill)]
)
def test_a_signal_stops_training_after_the_epoch_and_then_the_report(number, send, small_data, tmp_path):
    """A terminal sends Ctrl-C to both processes. SIGTERM may reach both, or reproduce.py alone, which passes it on."""
    script = Path(reproduce.__file__)
    argv = [sys.executable, str(script), "--only", "mnist", "--data_dir", str(small_data), "--allow_unverified"]
    process = subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        for line in process.stdout:
            if line.startswith("epoch 1/"):
                break
        send(process.pid, number)
        rest, _ = process.communicate(timeout=300)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 128 + number
    assert rest.count("stopped early") == 1 and "all done" not in rest
    (run,) = runs.trained_folders(tmp_path / "checkpoints")
    assert 1 <= len(history.read(run)) < 500
