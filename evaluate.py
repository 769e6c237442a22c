"""Evaluates a trained model on the test set: ELBO, importance-sampled NLLs, bits/dim, active units (metrics.json)."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import cli
from config import UsageError


class Effort(NamedTuple):
    """How much of the test set is evaluated (None: all of it), and with how many importance samples for each NLL."""

    num_images: int | None
    num_samples: int


# The decoder of conv3 costs some 100 times as much as a flat one.
DEFAULT_EFFORT = {"flat": Effort(None, 5000), "conv3": Effort(1000, 100)}


@cli.script
def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.make_parser(__doc__)
    cli.add_trained_model_flags(parser)
    parser.add_argument(
        "--num_samples",
        type=cli.at_least(1),
        help="importance samples per image for each NLL (default: 5000; conv3: 100, of the first 1000 images)",
    )
    args = cli.parse_args(parser, argv)
    trained = cli.open_trained_run(args)
    num_images = len(trained.data.test_images)
    if num_images < 2:
        raise UsageError(f"the standard errors need 2 test images, and {trained.data.name} has {num_images}")

    import tqdm

    from vae import evaluation, files, runs

    # Another process may save the run during the evaluation, so this is read now.
    saved = runs.read_config(trained.folder)
    effort = DEFAULT_EFFORT[args.config.network]
    num_samples = effort.num_samples if args.num_samples is None else args.num_samples
    # The whole test set is prepared, so that each image is the one that train.py and the figures have.
    x = evaluation.prepare_test(trained.model.likelihood, trained.data.test_images)[: effort.num_images]
    with tqdm.tqdm(total=len(x), unit="image", disable=not sys.stderr.isatty()) as bar:
        metrics = evaluation.compute_metrics(trained.model, x, num_samples, on_image=bar.update)

    metrics["epoch"] = trained.model.epoch
    # The table comes first, so that the results of a long evaluation are not lost if the file cannot be written.
    print(format_table(metrics), flush=True)

    metrics["model"] = {"data_verified": saved.data_verified, "versions": saved.versions}
    metrics["evaluation"] = {"data_verified": trained.data.verified, "versions": runs.library_versions()}
    path = trained.folder / "metrics.json"
    with files.replacing(path) as temporary:
        temporary.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    print(path)


def format_table(metrics: dict[str, Any]) -> str:
    """Returns the metrics as lines for a person to read."""
    labels = {
        "elbo": "ELBO",
        "log_likelihood": "log-likelihood term",
        "kl": "KL",
        "nll_of_q": f"NLL, {metrics['num_samples']} samples of q(z|x)",
        "nll": f"NLL, {metrics['num_samples']} samples of the mixture",
    }
    lines = [f"epoch {metrics['epoch']}, {metrics['num_images']} test images, seed {metrics['seed']}"]
    for name, label in labels.items():
        if metrics[name] is not None:
            lines.append(format_line(label, metrics[name], metrics["bits_per_dim"].get(name)))
    sample_size = metrics["effective_sample_size"]
    if sample_size is None:
        lines.append("no NLL: the cross-entropy with grey intensities is not a likelihood")
    else:
        line = f"{'effective samples of the mixture':34} {sample_size['median']:10.0f}    median"
        # With 50 samples or fewer, no image has more than 50 effective ones.
        if metrics["num_samples"] > 50:
            line += f"; below 50 for {sample_size['num_below_50']} images"
        lines.append(line)
    active_units = metrics["active_units"]
    numbers = " ".join(str(unit) for unit in active_units)
    lines.append(f"{'active units':34} {len(active_units):10}    {numbers}")
    lines.append("+-: the standard error over the images")
    if sample_size is not None:
        if metrics["nll"]["estimator_error"] is not None:
            lines += [
                "estimator's error: the standard error that the random importance samples add.",
                "It leaves out the estimate's bias, which falls as samples are added.",
            ]
        lines += [
            "Each NLL is, in expectation, an upper bound on the true one. With enough samples, that of the mixture is",
            "closer to it.",
            "Compare the NLL of q(z|x) with the literature.",
        ]
    return "\n".join(lines)


def format_line(label: str, summary: dict[str, float | None], bits_per_dim: float | None) -> str:
    """Returns the line for a mean over the test images, with its standard error, and for an NLL the estimator's own."""
    line = f"{label:34} {summary['mean']:10.2f} +- {summary['standard_error']:.2f} nats"
    if bits_per_dim is not None:
        line += f"   {bits_per_dim:.3f} bits/dim"
    if summary.get("estimator_error") is not None:
        line += f"   (estimator's error {summary['estimator_error']:.3f} nats)"
    return line


if __name__ == "__main__":
    sys.exit(main())
