"""Puts the page together: page.html with the style, the code and the data in it, so that it needs no other file."""

import base64
import hashlib
import html
import json
import math
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import numpy as np

from explorer import weights
from vae import latent
from vae.evaluation import ACTIVE_VARIANCE
from vae.model import VAE, Posterior
from vae.randomness import generator

FOLDER = Path(__file__).parent
SCRIPTS = ("decoder", "map", "page")

# The map has at most this many dots, and the row of test images at most this many images.
MAX_DOTS = 2000
MAX_THUMBNAILS = 20

# A slider reaches at least three standard deviations of the prior, and far enough for this share of the means.
MIN_REACH = 3.0
SHARE_IN_REACH = 0.999

# How many points of each kind are decoded to choose the precision of the weights.
NUM_TRIED = 128


class RunSummary(NamedTuple):
    """What the page says about a run. test_elbo is text, such as "-94.62 nats"; None if it was never measured.

    data_verified is None where the question makes no sense.
    """

    name: str
    dataset: str
    test_elbo: str | None
    data_verified: bool | None


def render(
    model: VAE,
    posterior: Posterior,
    images: np.ndarray,
    labels: np.ndarray | None,
    class_names: Sequence[str] | None,
    names: Sequence[str] | None,
    is_sequence: bool,
    summary: RunSummary,
    draw_seed: int,
) -> str:
    """The page of a model, as HTML.

    posterior: q(z|x) of the test images, in NumPy, [n, L] each. images: the test images, uint8 [n, h, w, c]. labels:
    their classes, [n], as indices of class_names; None for both if there are no classes. names: what the images are
    called, [n], or None if they only have numbers. If is_sequence, images without classes are coloured by their place.
    draw_seed decides which of the test images are on the page.
    """
    order = generator(draw_seed, "draw").permutation(len(images))
    reach = slider_reach(posterior.mean)
    data = {
        "summary": {**summary._asdict(), "epoch": model.epoch, "image_shows": model.likelihood.image_shows},
        "image_shape": model.image_shape,
        "class_names": class_names,
        "decoder": weights.export(model, points_to_try(posterior.mean[order], reach)),
        "latents": describe_latents(posterior.mean, reach),
        "map": {**describe_map(posterior.mean, labels, np.sort(order[:MAX_DOTS])), "is_sequence": is_sequence},
        "test_images": describe_test_images(posterior, images, labels, names, choose_thumbnails(labels, order)),
    }
    return fill_template(f"{summary.dataset}: the latent space", data)


def slider_reach(means: np.ndarray) -> float:
    """How far the sliders go in both directions, a multiple of 0.5, for means [n, L]."""
    reach_of_means = np.quantile(np.abs(means), SHARE_IN_REACH, axis=0).max()
    return max(MIN_REACH, math.ceil(2 * reach_of_means) / 2)


def points_to_try(means: np.ndarray, reach: float) -> np.ndarray:
    """Points of the latent space to try the weights on, float32 [n, L].

    They are means of q(z|x), draws from the prior, and corners of the box that the sliders span.
    """
    rng = generator(0, "draw", 1)
    shape = (NUM_TRIED, means.shape[1])
    corners = reach * rng.choice([-1, 1], shape)
    return np.concatenate([means[:NUM_TRIED], rng.standard_normal(shape), corners]).astype(np.float32)


def describe_latents(means: np.ndarray, reach: float) -> dict[str, Any]:
    """The page's entries on the latents, for means [n, L].

    `order` has their indices, those that carry most of the variance first, and `shares` their shares of it. The first
    num_in_use of them are in use.
    """
    variances = means.var(axis=0, dtype=np.float64)
    order = np.argsort(-variances, kind="stable")
    total = max(variances.sum(), np.finfo(np.float64).tiny)
    return {
        "reach": reach,
        "order": order.tolist(),
        "shares": (variances[order] / total).round(4).tolist(),
        "num_in_use": int(np.sum(variances > ACTIVE_VARIANCE)),
    }


def describe_map(means: np.ndarray, labels: np.ndarray | None, rows: np.ndarray) -> dict[str, Any]:
    """The entries of the map of means [n, L]. Its dots are the means in these rows."""
    axes = latent.map_axes(means)
    return {
        "origin": weights.encode(axes.origin, "float32"),
        "axes": [weights.encode(axis, "float32") for axis in axes.directions],
        "labels": axes.labels,
        "dots": weights.encode(axes.project(means[rows]), "float32"),
        "classes": None if labels is None else labels[rows].tolist(),
    }


def choose_thumbnails(labels: np.ndarray | None, order: np.ndarray) -> np.ndarray:
    """The rows of the test images that can be picked on the page.

    They are the first in `order`, a permutation of the rows, but as many of each class as possible.
    """
    if labels is None:
        return np.sort(order[:MAX_THUMBNAILS])
    # The number of images of the same class that come earlier in the order
    num_earlier = np.empty(len(order), dtype=int)
    for label in np.unique(labels):
        places = np.flatnonzero(labels[order] == label)
        num_earlier[places] = np.arange(len(places))
    chosen = order[np.argsort(num_earlier, kind="stable")[:MAX_THUMBNAILS]]
    return chosen[np.lexsort((chosen, labels[chosen]))]


def describe_test_images(
    posterior: Posterior,
    images: np.ndarray,
    labels: np.ndarray | None,
    names: Sequence[str] | None,
    rows: np.ndarray,
) -> dict[str, Any]:
    """The entries of the test images in these rows: their names, their pixels, and q(z|x)."""
    return {
        "names": [f"test image {row}" if names is None else names[row] for row in rows],
        "classes": None if labels is None else labels[rows].tolist(),
        "pixels": weights.encode(images[rows], "uint8"),
        "means": weights.encode(posterior.mean[rows], "float32"),
        "stds": weights.encode(np.exp(posterior.log_std[rows]), "float32"),
    }


def fill_template(title: str, data: dict[str, Any]) -> str:
    """page.html with its fields filled. The policy allows the page's own style and code, and nothing else."""
    style = read_source("style.css")
    scripts = {name: read_source(f"{name}.js") for name in SCRIPTS}
    script_hashes = " ".join(csp_hash(script) for script in scripts.values())
    policy = [
        "default-src 'none'",
        f"script-src {script_hashes}",
        f"style-src {csp_hash(style)}",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    # "<" only occurs in JSON's strings, where its code means the same. So no string can end the script element.
    escaped_data = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    return Template(read_source("page.html")).substitute(
        scripts, policy="; ".join(policy), title=html.escape(title), style=style, data=escaped_data
    )


def read_source(name: str) -> str:
    """The text of one of the page's source files."""
    return (FOLDER / name).read_text(encoding="utf-8")


def csp_hash(text: str) -> str:
    """The expression that allows a style or script with this text in a Content-Security-Policy."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
