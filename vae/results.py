"""What is known of every run, from the small files in docs/ alone: docs/results, docs/figures, and RESULTS.md."""

import csv
import json
import math
import re
import shutil
from collections import defaultdict
from pathlib import Path

from config import command
from vae import runs
from vae.experiments import EXPERIMENTS
from vae.likelihoods import LIKELIHOODS

DOCS, PAGE = Path("docs"), Path("RESULTS.md")
TEMPLATE = Path(__file__).parent.parent / "docs" / "results.template.md"
COLUMNS = ("command", "epochs", "time", "ELBO", "ELBO bits/dim", "NLL", "NLL bits/dim", "samples", "active")
NOT_RUN = "not run"


def read_metrics(folder):
    """A run's metrics.json as evaluate.py wrote it; {} where there is none."""
    path = Path(folder) / "metrics.json"
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        if missing := {"epoch", "elbo", "nll", "nll_of_q", "num_samples_of_q", "bits_per_dim"} - set(metrics):
            raise ValueError(f"it has no {' '.join(sorted(missing))}")
        return metrics
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise runs.RunError(f"{path} cannot be read: {error}\nremove it, and evaluate.py makes it anew") from None


def evaluated(run, num_samples):
    """Whether a run's metrics.json is whole, of its newest epoch, and of num_samples at least."""
    try:
        metrics = read_metrics(run)
    except runs.RunError:
        return False
    return metrics.get("epoch") == runs.saved_epoch(run) and metrics["num_samples"] >= num_samples


def publish(run, pictures, docs=DOCS):
    """Copies an evaluated run's small files and its pictures into docs/, unless a better run of that name is there.

    Better is what was trained on verified data, then for more epochs, then evaluated with more samples.
    """
    results = docs / "results" / run.name
    if results.is_dir() and (there := _rank(results)) > (new := _rank(run)):
        words = "{} (verified: {}, epochs: {}, samples: {})"
        return print(f"{words.format(results, *there)} and its figures are kept: {words.format(run, *new)} is less")
    copies = {run / name: results / name for name in ("config.json", "metrics.json")}
    copies |= {path: docs / "figures" / run.name / path.name for path in sorted(pictures.glob("[!.]*"))}
    for source, copy in copies.items():
        with runs.replacing(copy) as temporary:
            shutil.copyfile(source, temporary)
    rows = (run / "history.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    with runs.replacing(results / "history.csv") as temporary:  # as far as the model that was evaluated
        temporary.write_text("".join(rows[: 1 + read_metrics(run)["epoch"]]), encoding="utf-8", newline="")


def _rank(folder):
    metrics = read_metrics(folder) or {"epoch": len(runs.read_history(folder)), "num_samples": 0}
    return runs.read_facts(folder)["data_verified"], metrics["epoch"], metrics["num_samples"]


def write(docs=DOCS, path=PAGE):
    """Writes RESULTS.md."""
    with runs.replacing(path) as temporary:
        temporary.write_text(page(docs), encoding="utf-8")


def page(docs):
    """The text of RESULTS.md: docs/results.template.md with its {fields} filled from the files in docs/."""
    known = {experiment.name: facts(docs, experiment.config) for experiment in EXPERIMENTS}
    rows = [{"for": experiment.shows} | known[experiment.name] for experiment in EXPERIMENTS]
    names = {experiment.config.run_name for experiment in EXPERIMENTS}
    folders = [folder for folder in sorted((docs / "results").glob("[!.]*")) if folder.name not in names]
    others = [facts(docs, runs.read_facts(folder)["config"]) for folder in folders]
    template = TEMPLATE.read_text(encoding="utf-8")
    text = template.format(experiments=_table(["for", *COLUMNS], rows), others=_table(COLUMNS, others), **known)
    return re.sub(
        r"!\[(.*?)\]\((.*?)\)", lambda m: m[0] if (docs.parent / m[2]).exists() else f"({m[1]}: not drawn)", text
    )


def _table(columns, rows):
    cells = [columns, ["---"] * len(columns), *([row.get(column, "") for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def facts(docs, config):
    """What docs/ knows of the run of a Config, in words: COLUMNS, `figures` (their folder), and _singular_values'."""
    folder, known = docs / "results" / config.run_name, defaultdict(lambda: NOT_RUN)
    known["command"] = f"`{command('train.py', config).removeprefix('python ')}`"
    known["figures"] = f"docs/figures/{config.run_name}"
    if not folder.is_dir():
        return known | {"epochs": f"0 of {config.num_epochs}"}
    history, metrics = runs.read_history(folder), read_metrics(folder)
    seconds = sum(row["seconds"] for row in history)
    known["epochs"] = (
        f"{len(history)} of {config.num_epochs}" if len(history) < config.num_epochs else f"{len(history)}"
    )
    known["time"] = f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"
    tested = [row["test_elbo"] for row in history if math.isfinite(row["test_elbo"])]
    run = runs.read_facts(folder)
    bits = LIKELIHOODS[config.likelihood].bits_per_dim(-tested[-1], math.prod(run["image_shape"]))
    known |= {"ELBO": f"{tested[-1]:.2f}", "ELBO bits/dim": "" if bits is None else f"{bits:.3f}"}
    known["command"] += "" if run["data_verified"] else " (unverified)"
    return known | _measured(metrics) | _singular_values(docs / "figures" / config.run_name, metrics)


def _measured(metrics):
    """What comes from metrics.json: ELBO and NLL in nats and in bits/dim, and "q NLL", that of q(z|x) alone."""
    if not metrics:
        return {}
    words = {"active": str(len(metrics["active_units"])), "samples": str(metrics["num_samples"])}
    words["q samples"] = str(metrics["num_samples_of_q"])
    for name, column in (("elbo", "ELBO"), ("nll", "NLL"), ("nll_of_q", "q NLL")):
        bits = metrics["bits_per_dim"].get(name)
        words[column] = _nats(metrics[name]) if metrics[name] else ""
        words[f"{column} bits/dim"] = "" if bits is None else f"{bits:.3f}"
    return words if metrics["nll"] else words | {"samples": ""}


def _nats(measure):
    return f"{measure['mean']:.2f} ± {measure['standard_error']:.2f}"


def _singular_values(folder, metrics):
    """values, shares, and the share at the 14th and at the last active unit, where they are drawn."""
    path = folder / "singular_values.csv"
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = [(float(row["singular_value"]), float(row["running_share"])) for row in csv.DictReader(file)]
    values, shares = zip(*rows, strict=True)
    words = {"values": " ".join(f"{v:.1f}" for v in values), "shares": " ".join(f"{s:.3f}" for s in shares)}
    words |= {"share at 14": f"{shares[13]:.3f}"} if len(shares) > 14 else {}
    active = len(metrics.get("active_units", ()))
    return words | ({"share": f"{shares[active - 1]:.3f}"} if active else {})
