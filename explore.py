"""Writes a page on which the latent space of a trained model can be explored in a browser: explorer.html."""

from __future__ import annotations

import sys
import webbrowser
from collections.abc import Sequence
from typing import TYPE_CHECKING

import cli
from config import UsageError

if TYPE_CHECKING:
    from datasets import Dataset

# A page above this size, in bytes, is slow to open and too large to mail.
LARGE_PAGE = 20e6

# Two principal components need two images.
MIN_TEST_IMAGES = 2


@cli.script
def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.make_parser(__doc__)
    cli.add_trained_model_flags(parser)
    cli.add_draw_seed(parser, "decides which test images are on the page")
    parser.add_argument("--open", action="store_true", help="open the page in the default browser")
    args = cli.parse_args(parser, argv)
    trained = cli.open_trained_run(args)
    if len(trained.data.test_images) < MIN_TEST_IMAGES:
        raise UsageError(f"the page needs {MIN_TEST_IMAGES} test images, and {trained.data.name} has only one")
    text = make_page(trained, args.draw_seed)

    from vae import files

    path = trained.pictures_folder / "explorer.html"
    with files.replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
    print(path)
    size = path.stat().st_size
    if size > LARGE_PAGE:
        print(
            f"the page is large, {size / 1e6:.0f} MB: it holds the decoder's weights and up to 20 test images",
            file=sys.stderr,
        )
    if args.open and not webbrowser.open(path.resolve().as_uri()):
        print("no browser was found; open the page yourself", file=sys.stderr)


def make_page(trained: cli.TrainedRun, draw_seed: int) -> str:
    """The page of a trained run."""
    from explorer import page
    from vae import evaluation, runs

    model = trained.model
    data = trained.data
    return page.render(
        model,
        evaluation.posteriors(model, evaluation.prepare_test(model.likelihood, data.test_images)),
        images=data.test_images,
        labels=data.test_labels,
        class_names=class_names(data),
        names=data.test_names,
        is_sequence=data.is_sequence,
        summary=page.RunSummary(
            name=trained.folder.name,
            dataset=data.name,
            test_elbo=describe_test_elbo(trained),
            data_verified=runs.read_config(trained.folder).data_verified,
        ),
        draw_seed=draw_seed,
    )


def describe_test_elbo(trained: cli.TrainedRun) -> str | None:
    """The last test ELBO of a run as text, such as "-94.62 nats"; None if there is none.

    Tells the user if history.csv cannot be read.
    """
    from vae import evaluation, history, runs

    model = trained.model
    try:
        last = history.last_tested(trained.folder, model.epoch)
    except runs.RunError as error:
        problem = str(error).splitlines()[0]
        print(f"the page has no test ELBO: {problem}", file=sys.stderr)
        return None
    if last is None:
        return None
    text = evaluation.format_elbo(last.test_elbo, model)
    if last.epoch != model.epoch:
        text += f" at epoch {last.epoch}"
    return text


def class_names(data: Dataset) -> list[str] | None:
    """The names of a data set's classes, or None if it has no labels."""
    if data.test_labels is None:
        return None
    if data.class_names is not None:
        return list(data.class_names)
    return [str(label) for label in range(int(data.test_labels.max()) + 1)]


if __name__ == "__main__":
    sys.exit(main())
