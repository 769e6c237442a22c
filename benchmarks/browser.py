"""Measures how long the page of explore.py takes to decode a picture in Chromium: python -m benchmarks.browser.

`make benchmark` leaves it out, because it needs a browser and the packages of requirements-dev.txt.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import cli
from benchmarks import chromium
from config import Config
from report.markdown import format_table

NUM_TIMES = 200

# The browser's clock has steps of 0.1 ms, so each of the NUM_TIMES times is that of several pictures.
PICTURES_PER_TIME = 10

# Returns NUM_TIMES times in milliseconds. Some more come first, to warm up. "decode" runs the decoder alone; "render"
# also draws the picture, the marks on the map and the sliders.
MEASURE = """([operation, numLatents, numTimes, perTime]) => {
    const times = [];
    for (let i = -20; i < numTimes; i++) {
        const z = Float64Array.from({ length: numLatents }, randomNormal);
        preview = z;
        const started = performance.now();
        for (let k = 0; k < perTime; k++) {
            if (operation === "decode") decode(z);
            else render();
        }
        if (i >= 0) times.push((performance.now() - started) / perTime);
    }
    return times;
}"""


class Decoder(NamedTuple):
    """A model whose decoder is timed, with fresh weights: relu returns about as many zeros as in a trained one."""

    name: str
    config: Config
    image_shape: tuple[int, ...]


DECODERS = (
    Decoder("flat, 28x28x1 (the default)", Config(), (28, 28, 1)),
    Decoder("flat, 500 neurons, 28x28x1", Config(hidden_size=500), (28, 28, 1)),
    Decoder("conv3, 32x32x3", Config("svhn", "conv3"), (32, 32, 3)),
)


@cli.script
def main(argv: Sequence[str] | None = None) -> None:
    cli.parse_args(argv, __doc__, flags=())
    path = chromium.find()
    if path is None:
        raise FileNotFoundError(chromium.HOW_TO_INSTALL)
    rows = []
    with tempfile.TemporaryDirectory() as scratch, chromium.launch(path) as running:
        for decoder in DECODERS:
            page_path = Path(scratch, "explorer.html")
            page_path.write_text(make_page(decoder), encoding="utf-8", newline="")
            opened = chromium.open_page(running.new_context(), page_path)
            latent_dim = decoder.config.latent_dim
            medians = [measure(opened, operation, latent_dim) for operation in ("decode", "render")]
            rows.append((decoder.name, *(f"{median:.2f}" for median in medians)))
            opened.context.close()
        print(f"Chromium {running.version}, medians of {NUM_TIMES}:\n")
    print(format_table(["decoder", "decode (ms)", "decode and draw (ms)"], rows))


def make_page(decoder: Decoder) -> str:
    """Returns a page of a model with fresh weights and random test images."""
    with cli.tensorflow_environment():
        from explorer import page
        from vae import runs
        from vae.model import Posterior

    rng = np.random.default_rng(0)
    num_images = page.MAX_DOTS
    mean = rng.standard_normal((num_images, decoder.config.latent_dim), dtype=np.float32)
    return page.render(
        runs.build(decoder.config, decoder.image_shape),
        Posterior(mean, np.zeros_like(mean)),
        images=rng.integers(0, 256, (num_images, *decoder.image_shape), dtype=np.uint8),
        labels=rng.integers(0, 10, num_images),
        class_names=[str(digit) for digit in range(10)],
        summary=page.RunSummary("random", "random", None, data_verified=None),
        draw_seed=0,
    )


def measure(opened: Any, operation: str, num_latents: int) -> float:
    """Returns the median time of "decode" or "render" in an open page, in milliseconds."""
    return float(np.median(opened.evaluate(MEASURE, [operation, num_latents, NUM_TIMES, PICTURES_PER_TIME])))


if __name__ == "__main__":
    sys.exit(main())
