"""Evaluates a trained model on the test set: ELBO, importance-sampled NLLs, bits/dim, active units (metrics.json)."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import cli
from config import UsageError

if TYPE_CHECKING:
    from vae.evaluation import Metrics


@cli.script
def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.make_parser(__doc__)
    cli.add_trained_model_flags(parser)
    parser.add_argument(
        "--num_samples",
        type=cli.at_least(1),
        help="importance samples per image for each NLL (default: 5000; conv3: 100)",
    )
    parser.add_argument(
        "--num_images",
        type=cli.at_least(2),
        metavar="N",
        help="evaluate only the first N test images (default: all of them; conv3: the first 1000)",
    )
    args = cli.parse_args(parser, argv)
    trained = cli.open_trained_run(args)
    test_images = trained.data.test_images
    if len(test_images) < 2:
        raise UsageError(f"the standard errors need 2 test images, and {trained.data.name} has {len(test_images)}")

    import tqdm

    from vae import evaluation, files, runs

    # Another process may save the run during the evaluation, so this is read now.
    saved = runs.read_config(trained.folder)
    default = evaluation.DEFAULT_EFFORT[args.config.network]
    num_images = default.num_images if args.num_images is None else args.num_images
    num_samples = default.num_samples if args.num_samples is None else args.num_samples
    # The whole test set is prepared, so that each image is the one that train.py and the figures have.
    x = evaluation.prepare_test(trained.model.likelihood, test_images)[:num_images]
    # Only the NLL takes long.
    is_bar_shown = trained.model.likelihood.normalized and sys.stderr.isatty()
    with tqdm.tqdm(total=len(x), unit="image", disable=not is_bar_shown) as bar:
        metrics = evaluation.compute_metrics(trained.model, x, num_samples, on_image=bar.update)

    # The table comes first, so that the results of a long evaluation are not lost if the file cannot be written. And if
    # the table cannot be printed, they are not lost either.
    with contextlib.suppress(OSError):
        print(format_table(metrics, num_test_images=len(test_images)), flush=True)

    metrics = dataclasses.replace(
        metrics,
        model={"data_verified": saved.data_verified, "versions": saved.versions},
        evaluation={"data_verified": trained.data.verified, "versions": runs.library_versions()},
    )
    path = trained.folder / "metrics.json"
    # Metrics of another checkpoint are always replaced, so that the file describes the model that is there.
    earlier = evaluation.find_metrics(trained.folder)
    if earlier is not None and earlier.epoch == metrics.epoch and earlier.quality > metrics.quality:
        print(f"{path} is kept, because its evaluation is better: {earlier.describe_quality()}")
        return
    with files.replacing(path) as temporary:
        temporary.write_text(metrics.to_json(), encoding="utf-8")
    print(path)


def format_table(metrics: Metrics, num_test_images: int) -> str:
    """The metrics as lines for a person to read. num_test_images is the size of the whole test set."""
    images = f"{metrics.num_images} test images"
    if metrics.num_images < num_test_images:
        images = f"the first {metrics.num_images} of {num_test_images} test images"
    lines = [f"epoch {metrics.epoch}, {images}, seed {metrics.seed}"]

    labels = {
        "elbo": "ELBO",
        "log_likelihood": "reconstruction term" if metrics.nll is None else "log-likelihood term",
        "kl": "KL",
        "nll_of_q": f"NLL, {metrics.num_samples} samples of q(z|x)",
        "nll": f"NLL, {metrics.num_samples} samples of the mixture",
    }
    for name, label in labels.items():
        mean = getattr(metrics, name)
        if mean is not None:
            lines.append(format_line(label, mean, metrics.bits_per_dim.get(name)))
    sample_size = metrics.effective_sample_size
    if sample_size is None:
        lines.append("no NLL: the reconstruction term of this model is not a likelihood (--likelihood trains with one)")
    else:
        line = f"{'effective samples of the mixture':34} {sample_size['median']:10.0f}    median"
        # With 50 samples or fewer, no image has more than 50 effective ones.
        if metrics.num_samples > 50:
            line += f"; below 50 for {sample_size['num_below_50']} images"
        lines.append(line)
    numbers = " ".join(str(unit) for unit in metrics.active_units)
    lines.append(f"{'active units':34} {len(metrics.active_units):10}    {numbers}")

    lines.append("+-: the standard error over the images")
    if metrics.nll is None:
        return "\n".join(lines)
    if metrics.nll["estimator_error"] is not None:
        lines += [
            "estimator's error: the standard error that the random importance samples add. It is too small where a few",
            "samples carry an image's weight, and leaves out the estimate's bias, which falls as samples are added.",
        ]
    lines += [
        "In expectation, each NLL is an upper bound on the true one. With enough samples, the mixture's bound is",
        "tighter.",
        "To compare with the literature, use the NLL of q(z|x).",
    ]
    return "\n".join(lines)


def format_line(label: str, mean: dict[str, Any], bits_per_dim: float | None) -> str:
    """The line for a mean over the test images, with its standard error, and for an NLL the estimator's own."""
    line = f"{label:34} {mean['mean']:10.2f} +- {mean['standard_error']:.2f} nats"
    if bits_per_dim is not None:
        line += f"   {bits_per_dim:.3f} bits/dim"
    if mean.get("estimator_error") is not None:
        line += f"   (estimator's error {mean['estimator_error']:.3f} nats)"
    return line


if __name__ == "__main__":
    sys.exit(main())
