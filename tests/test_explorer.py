"""The page of explore.py: what Python writes into it, and what it does in a real Chromium."""

import base64
import json
import os
import re
import sys
import urllib.parse
from pathlib import Path

import keras
import numpy as np
import pytest
from colours import VISIONS, smallest_distance
from keras import layers

import config
from benchmarks import chromium
from config import Config
from explorer import page, weights
from report.experiments import EXPERIMENTS
from vae import latent, model
from vae.likelihoods import LIKELIHOODS
from vae.model import Posterior

ROOT = Path(config.__file__).parent

# A byte of a picture may be rounded up or down.
ONE_BYTE = 1

# Names that would run code if any of them became HTML.
HOSTILE = "<img src=x onerror=alert(1)>"
HOSTILE_END = "</script><script>alert(2)</script><!--"


class Example:
    """A small model with random weights, and the arguments of its page."""

    def __init__(self, shape=(8, 8, 1), num_images=60, num_classes=3, seed=0, **parameters):
        self.rng = np.random.default_rng(seed)
        parameters = {"vae_type": "flat_binarized", "latent_dim": 3, "hidden_size": 16} | parameters
        self.model = model.create(Config("digits", **parameters), shape)
        self.model.epoch = 7
        # Glorot's initial weights would give grey pictures.
        self.model.decoder.set_weights(
            [2 * array + self.rng.normal(0, 0.2, array.shape) for array in self.model.decoder.get_weights()]
        )
        latent_dim = self.model.latent_dim
        # Each latent has another spread. The last one, if there are several, is not in use.
        spreads = np.linspace(0.5, 1, latent_dim) * (np.arange(latent_dim) < max(latent_dim - 1, 1))
        mean = self.rng.normal(0.1, spreads, (num_images, latent_dim)).astype(np.float32)
        self.posterior = Posterior(mean, np.full_like(mean, np.log(0.01)))
        self.images = self.rng.integers(0, 256, (num_images, *shape), dtype=np.uint8)
        self.labels = self.rng.integers(0, num_classes, num_images) if num_classes else None
        self.class_names = [f"name {i}" for i in range(num_classes)] if num_classes else None
        self.names = None
        self.is_sequence = True
        self.summary = page.RunSummary("a_run", "digits", "-12.34 nats", data_verified=True)

    def render(self):
        return page.render(
            self.model,
            self.posterior,
            images=self.images,
            labels=self.labels,
            class_names=self.class_names,
            names=self.names,
            is_sequence=self.is_sequence,
            summary=self.summary,
            draw_seed=0,
        )

    def bytes_of(self, z):
        """The bytes that the pictures of z, [n, L], have on a screen: [n, h, w, 3]."""
        z = np.asarray(z, np.float32)
        images = np.rint(255 * self.model.likelihood.image(weights.copy_in_float32(self.model.decoder)(z)).numpy())
        return np.broadcast_to(images.reshape(-1, *self.model.image_shape), (len(z), *self.model.image_shape[:2], 3))


def data_of(html):
    """The data in a page."""
    return json.loads(re.search(r'id="data">(.*?)</script>', html, re.DOTALL)[1])


# ---- What Python writes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_the_formula_of_a_picture_is_that_of_its_likelihood(name):
    """decoder.js has no other formula: see Likelihood.image_squeeze."""
    likelihood = LIKELIHOODS[name]
    params = np.random.default_rng(0).normal(0, 4, (5, 7, likelihood.num_params)).astype(np.float32)
    squeeze = likelihood.image_squeeze
    expected = np.clip((1 / (1 + np.exp(-params[..., 0])) - squeeze) / (1 - 2 * squeeze), 0, 1)
    assert np.allclose(likelihood.image(params), expected, atol=1e-6)
    assert likelihood.image_shows in ("mean", "median")


def test_weights_are_float16_unless_that_changes_a_picture():
    z = np.random.default_rng(1).normal(0, 1, (50, 3)).astype(np.float32)
    example = Example()
    assert weights.export(example.model, z)["dtype"] == "float16"

    decoder = example.model.decoder
    decoder.set_weights([6 * array for array in decoder.get_weights()])  # logits so steep that rounding is seen
    assert weights.export(example.model, z)["dtype"] == "float32"
    decoder.set_weights([np.full_like(array, 1e5) for array in decoder.get_weights()])  # too large for float16
    assert weights.export(example.model, z)["dtype"] == "float32"


def test_only_the_outputs_that_pictures_are_made_of_are_stored():
    for vae_type in ("flat_cont_normal", "flat_cont_logit"):
        entries = weights.export(Example(vae_type=vae_type).model, np.zeros((1, 3), np.float32))
        itemsize = np.dtype(entries["dtype"]).itemsize
        assert len(base64.b64decode(entries["layers"][-1]["bias"])) == 64 * itemsize
    model = Example((9, 8, 3), vae_type="conv3", likelihood="normal").model
    last = weights.export(model, np.zeros((1, 3), np.float32))["layers"][-1]
    assert last["output_shape"] == (9, 8, 3)


@pytest.mark.parametrize("place", [1, 2])
@pytest.mark.parametrize("unknown", [layers.LayerNormalization, layers.Activation])
def test_a_layer_that_the_page_does_not_know_is_named(unknown, place):
    decoder_layers = [keras.Input((3,)), layers.Dense(64), layers.Reshape((64, 1))]
    decoder_layers.insert(place, unknown("relu") if unknown is layers.Activation else unknown())
    with pytest.raises(ValueError, match=rf"decoder.js has no layer .* \({unknown.__name__}\)"):
        weights.describe_layers(keras.Sequential(decoder_layers), "float32")


@pytest.mark.parametrize("num_classes", [0, 1, 3, 10, 30])
def test_thumbnails_come_from_as_many_classes_as_possible(num_classes):
    rng = np.random.default_rng(0)
    order = rng.permutation(500)
    labels = rng.integers(0, num_classes, 500) if num_classes else None
    chosen = page.choose_thumbnails(labels, order)
    assert len(set(chosen)) == 20
    if labels is None:
        assert np.array_equal(chosen, np.sort(order[:20]))
        return
    counts = np.bincount(labels[chosen], minlength=num_classes)
    assert counts.max() - counts.min() <= 1
    assert np.array_equal(chosen, sorted(chosen, key=lambda row: (labels[row], row)))


def test_a_rare_class_and_a_small_test_set_leave_no_gap():
    labels = np.array([0] * 30 + [1])
    assert len(page.choose_thumbnails(labels, np.arange(31))) == 20
    assert list(page.choose_thumbnails(np.array([1, 0, 1]), np.arange(3))) == [1, 0, 2]


def test_latents_are_ordered_by_their_share_of_the_variance():
    means = np.random.default_rng(0).normal(0, [0.5, 2, 0.05, 1], (4000, 4))
    entries = page.describe_latents(means, reach=3.0)
    assert entries["order"] == [1, 3, 0, 2] and entries["num_in_use"] == 3
    assert np.allclose(entries["shares"], np.array([4, 1, 0.25, 0.0025]) / 5.2525, atol=0.03)
    assert page.describe_latents(np.ones((5, 2)), reach=3.0)["shares"] == [0, 0]


def test_sliders_reach_the_test_set():
    means = np.random.default_rng(0).normal(0, [0.1, 1], (5000, 2))
    assert page.slider_reach(means) in (3.0, 3.5, 4.0)
    assert page.slider_reach(0.01 * means) == 3.0
    assert page.slider_reach(10 * means) > 25


def test_the_map_has_at_most_2000_dots_where_figure_3_has_them():
    example = Example(num_images=2500, latent_dim=5)
    entries = data_of(example.render())["map"]
    dots = np.frombuffer(base64.b64decode(entries["dots"]), "<f4").reshape(-1, 2)
    assert len(dots) == len(entries["classes"]) == 2000
    in_figure = latent.project_to_plane(example.posterior.mean).points
    distances = np.abs(dots[:, None] - in_figure[None]).sum(axis=-1).min(axis=1)
    assert distances.max() < 1e-4


def test_names_cannot_become_html():
    example = Example()
    example.summary = page.RunSummary(HOSTILE, HOSTILE_END, HOSTILE, data_verified=None)
    example.class_names = [HOSTILE, HOSTILE_END, "'\"&"]
    html = example.render()
    assert "<img" not in html and html.count("</script>") == 4
    assert data_of(html)["class_names"] == example.class_names
    assert data_of(html)["summary"]["name"] == HOSTILE


def test_the_same_model_gives_the_same_page():
    assert Example().render() == Example().render()


@pytest.mark.parametrize("vision", VISIONS)
def test_the_colours_of_classes_stay_apart_for_every_vision(vision):
    colours = re.findall(r"--class-\d: (#\w{6});", page.read_source("style.css"))
    assert len(colours) == 20
    light = colours[:10]
    dark = colours[10:]
    assert smallest_distance(light, vision) > 0.085
    assert smallest_distance(dark, vision) > 0.085


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "explorer").glob("*.html")), ids=lambda path: path.name)
def test_the_pages_in_docs_have_the_html_the_style_and_the_scripts_of_today(path):
    text = path.read_text(encoding="utf-8")
    data = data_of(text)
    # pytest would show the difference of two long pages very slowly.
    is_todays_page = page.fill_template(f"{data['summary']['dataset']}: the latent space", data) == text
    assert is_todays_page, "explorer/ has changed: run explore.py again for this model, and copy its page here"
    # The run is one of today's experiments.
    assert path.stem in {experiment.config.run_name for experiment in EXPERIMENTS if "explore" in experiment.scripts}


# ---- In a browser --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def running_chromium():
    path = chromium.find()
    if path is None and os.environ.get("CI") == "true" and sys.platform == "linux":
        pytest.fail(chromium.HOW_TO_INSTALL)
    if path is None:
        pytest.skip(chromium.HOW_TO_INSTALL)
    with chromium.launch(path) as running:
        yield running


@pytest.fixture
def visit(running_chromium, tmp_path):
    """A function that opens an Example's page, at an address and with a context's options.

    At the end, no page may have asked for anything, and none may have an error on its console.
    """
    contexts = []
    complaints = []

    def open_example(example, fragment="", **options):
        path = tmp_path / "explorer.html"
        path.write_text(example.render(), encoding="utf-8", newline="")
        context = running_chromium.new_context(**options)
        contexts.append(context)
        own_address = path.resolve().as_uri()

        def check_request(request):
            if urllib.parse.urldefrag(request.url).url != own_address and not request.url.startswith("data:"):
                complaints.append(f"asked for {request.url}")

        def check_message(message):
            if message.type == "error":
                complaints.append(message.text)

        context.on("request", check_request)
        context.on("console", check_message)
        context.on("weberror", lambda error: complaints.append(str(error.error)))
        context.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        opened = chromium.open_page(context, path, fragment)
        next_frame(opened)
        return opened

    yield open_example
    for context in contexts:
        context.close()
    assert not complaints


def next_frame(opened):
    """Waits until the page has drawn what has changed."""
    opened.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done())))")


# Returns the size and the bytes of a canvas. Base64 is much faster here than an array of numbers.
READ_CANVAS = """(canvas) => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return [canvas.height, canvas.width, btoa(Array.from(data, (byte) => String.fromCharCode(byte)).join(""))];
}"""


def canvas_bytes(opened, selector):
    """The bytes of a canvas, [h, w, 3]."""
    return read_canvas(opened.locator(selector).evaluate(READ_CANVAS))


def read_canvas(result):
    """The bytes that READ_CANVAS returned, [h, w, 3]."""
    height, width, encoded = result
    return np.frombuffer(base64.b64decode(encoded), np.uint8).reshape(height, width, 4)[..., :3].astype(int)


def picture(opened):
    next_frame(opened)
    return canvas_bytes(opened, "#picture")


def settle(opened):
    """Waits until the point has rested for a while: the address has it, and all open strips are drawn."""
    opened.wait_for_function("() => !frame && !hasMoved")
    opened.wait_for_function("""() => [between, ...latentStrips].every(
        (strip) => strip.numDrawn === IMAGES_PER_STRIP || !isOpen(strip.canvas)
    )""")


def point(opened):
    """z where it rests, from the address, once the page has written it there."""
    settle(opened)
    address = urllib.parse.urlparse(opened.url).fragment
    return np.array([float(number) for number in address.removeprefix("z=").split(",")])


def shows(opened, example, z):
    """Whether the picture is that of z, [L]."""
    return np.abs(picture(opened) - example.bytes_of(np.array([z]))[0]).max() <= ONE_BYTE


def slider(opened, index):
    return opened.locator(f"#latent-{index + 1}")


def value_of(opened, index):
    """The number that is written beside a latent's slider."""
    return opened.locator(f".latent:has(#latent-{index + 1}) .value").inner_text()


def set_slider(locator, value):
    locator.evaluate("(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }", value)


QUICK = [
    ((8, 8, 1), "flat_binarized", {}),
    ((6, 5, 1), "flat_cont_logit", {"latent_dim": 1, "hidden_size": 1}),
    ((13, 22, 3), "conv3", {"likelihood": "normal"}),
]
SHAPES_AND_TYPES = [
    *(((8, 8, 1), vae_type, {}) for vae_type in config.VAE_TYPES),
    *(((32, 32, 3), vae_type, {}) for vae_type in config.VAE_TYPES),
    *(((13, 22, 3), "conv3", {"likelihood": likelihood}) for likelihood in config.LIKELIHOODS),
    *((shape, "conv3", {}) for shape in ((28, 28, 1), (28, 20, 1), (5, 7, 1), (1, 1, 1), (97, 61, 3))),
    *(((6, 5, 1), "flat_binarized", {"activation": activation}) for activation in config.ACTIVATIONS),
    ((6, 5, 1), "flat_cont_logit", {"latent_dim": 1, "hidden_size": 1}),
]


@pytest.mark.parametrize(
    ("shape", "vae_type", "parameters"),
    [pytest.param(*case, marks=[] if case in QUICK else [pytest.mark.slow]) for case in SHAPES_AND_TYPES],
)
def test_the_page_decodes_what_the_model_decodes(shape, vae_type, parameters, visit):
    example = Example(shape, vae_type=vae_type, **parameters)
    z = example.rng.normal(0, 1, (21, example.model.latent_dim)).round(4)
    z[0] = 0
    opened = visit(example)
    code = f"""(points) => points.map((z) => {{
        moveTo(z);
        render();
        return ({READ_CANVAS})(document.getElementById("picture"));
    }})"""
    shown = np.array([read_canvas(result) for result in opened.evaluate(code, z.tolist())])
    expected = np.rint(255 * example.model.images(z.astype(np.float32)))
    assert np.abs(shown - expected).max() <= ONE_BYTE
    assert np.ptp(expected, axis=0).max() > 25  # the pictures do depend on z


@pytest.mark.slow
def test_a_model_in_bfloat16_is_decoded_in_float32(visit):
    example = Example(latent_dim=4, precision="mixed_bfloat16")
    assert example.model.decoder.layers[0].compute_dtype == "bfloat16"
    in_float32 = Example(latent_dim=4)
    in_float32.model.decoder.set_weights(example.model.decoder.get_weights())
    z = [0.5, -1, 0.25, 2]
    opened = visit(example, "#z=0.5,-1,0.25,2")
    assert np.abs(picture(opened) - np.rint(255 * in_float32.model.images(np.array([z], np.float32))[0])).max() <= 1


def test_the_address_moves_the_point_and_follows_it(visit):
    example = Example()
    opened = visit(example, "#z=1,-0.5,0.25")
    assert shows(opened, example, [1, -0.5, 0.25])
    opened.evaluate("location.hash = '#z=-2,0,1.5'")
    assert shows(opened, example, [-2, 0, 1.5])

    set_slider(slider(opened, 0), 0.5)
    assert shows(opened, example, [0.5, 0, 1.5])
    assert np.array_equal(point(opened), [0.5, 0, 1.5])
    opened.reload()
    assert shows(opened, example, [0.5, 0, 1.5])


@pytest.mark.parametrize(
    "fragment",
    [
        "#z=1,2",
        *(pytest.param(f"#z={bad}", marks=pytest.mark.slow) for bad in ("1,2,nan", "1,,2", "", "1,2,x", "1,2,1e999")),
    ],
)
def test_a_bad_address_is_ignored_with_a_message(fragment, visit):
    example = Example()
    opened = visit(example, fragment)
    assert "does not have 3 numbers" in opened.locator("#status").inner_text()
    first = page.choose_thumbnails(example.labels, page.generator(0, "draw").permutation(60))[0]
    assert shows(opened, example, example.posterior.mean[first])


@pytest.mark.slow
def test_a_number_that_is_rounded_to_zero_has_no_minus(visit):
    opened = visit(Example(), "#z=-0.001,-0.01,0")
    assert value_of(opened, 0) == "0.00"
    assert value_of(opened, 1) == "\u22120.01"


def test_sliders_are_in_the_order_of_variance_and_change_the_picture(visit):
    example = Example(latent_dim=4)
    opened = visit(example, "#z=0.1,0.2,0.3,0.4")
    in_use = opened.locator("#latents input").evaluate_all("(sliders) => sliders.map((slider) => slider.id)")
    variances = example.posterior.mean.var(axis=0)
    assert in_use == [f"latent-{index + 1}" for index in np.argsort(-variances)[:3]]
    assert opened.locator("#unused-summary").inner_text() == "1 latent not in use"
    assert not slider(opened, 3).is_visible()
    opened.locator("#unused-summary").click()
    # The page adds the slider when the browser reports the change, which comes some time after the click.
    slider(opened, 3).wait_for(state="visible")

    set_slider(slider(opened, 3), -2)
    assert shows(opened, example, [0.1, 0.2, 0.3, -2])
    slider(opened, 1).focus()
    opened.keyboard.press("ArrowRight")
    assert shows(opened, example, [0.1, 0.21, 0.3, -2])
    assert value_of(opened, 1) == "0.21"
    # A number that a slider does not reach is kept.
    opened.evaluate("location.hash = '#z=9,0.2,0.3,0.4'")
    assert shows(opened, example, [9, 0.2, 0.3, 0.4])
    assert value_of(opened, 0) == "9.00"


def test_strips_follow_the_point_once_it_rests(visit):
    example = Example()
    opened = visit(example)
    reach = page.slider_reach(example.posterior.mean)
    for z in ([0.5, -1, 0.2], [-1, 0.7, 0]):
        opened.evaluate(f"location.hash = '#z={','.join(map(str, z))}'")
        opened.wait_for_function("(z) => rest.join() === z.join()", arg=z)
        settle(opened)
        strip = canvas_bytes(opened, "canvas.strip:has(+ #latent-2)")
        along = np.repeat([z], 7, axis=0).astype(float)
        along[:, 1] = np.linspace(-reach, reach, 7)
        expected = np.concatenate(example.bytes_of(along), axis=1)
        assert strip.shape == expected.shape and np.abs(strip - expected).max() <= ONE_BYTE

    # A click on the sixth image moves the point there.
    canvas = opened.locator("canvas.strip:has(+ #latent-2)")
    box = canvas.bounding_box()
    canvas.click(position={"x": box["width"] * 5.5 / 7, "y": 5})
    assert np.allclose(point(opened), [-1, reach * 2 / 3, 0], atol=1e-4)


@pytest.mark.parametrize(
    "latent_dim", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(5, marks=pytest.mark.slow)]
)
def test_the_pointer_over_the_map_decodes_the_point_under_it(latent_dim, visit):
    example = Example(latent_dim=latent_dim)
    opened = visit(example)
    box = opened.locator("#map").bounding_box()
    at_rest = picture(opened)

    def place(across, up):
        return box["x"] + across * box["width"], box["y"] + (1 - up) * box["height"]

    opened.mouse.move(*place(0.2, 0.3))
    hovered = picture(opened)
    assert not np.array_equal(hovered, at_rest)
    opened.mouse.move(*place(0.8, 0.3))
    assert not np.array_equal(picture(opened), hovered)
    opened.mouse.move(box["x"] - 20, box["y"] - 20)
    assert np.array_equal(picture(opened), at_rest)

    points = []
    for across, up in ((0.3, 0.4), (0.7, 0.4), (0.3, 0.6)):
        opened.mouse.click(*place(across, up))
        points.append(point(opened))
        opened.mouse.move(box["x"] - 20, box["y"] - 20)
        assert shows(opened, example, points[-1])
    axes = latent.map_axes(example.posterior.mean)
    start, right, above = axes.project(np.array(points))
    assert np.allclose(axes.origin + axes.project(np.array(points)) @ axes.directions, points, atol=2e-4)  # on the map
    step = right[0] - start[0]
    assert step > 0
    if latent_dim == 1:
        assert np.allclose(above, start, atol=2e-4)
    else:
        # Both axes have the same scale.
        expected = start + np.array([0, step * (0.2 * box["height"]) / (0.4 * box["width"])])
        assert np.allclose(above, expected, atol=1e-3)


def test_the_point_is_marked_where_the_map_was_clicked(visit):
    opened = visit(Example(latent_dim=2, num_classes=0))
    canvas = opened.locator("#map")
    box = canvas.bounding_box()
    clicked = np.floor([box["x"] + 0.3 * box["width"], box["y"] + 0.6 * box["height"]])
    opened.mouse.click(*clicked)
    opened.mouse.move(0, 0)
    next_frame(opened)
    accent = opened.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--accent').trim()")
    is_ring = (canvas_bytes(opened, "#map") == list(bytes.fromhex(accent[1:]))).all(axis=-1)
    rows, columns = np.nonzero(is_ring)
    assert len(rows) > 20
    # The middle of the ring. The canvas has a border of one pixel, which belongs to its box.
    middle = (box["x"] + 1 + columns.mean() + 0.5, box["y"] + 1 + rows.mean() + 0.5)
    np.testing.assert_allclose(middle, clicked, atol=0.3)


def test_the_arrow_keys_move_the_point_on_the_map(visit):
    example = Example(latent_dim=5)
    opened = visit(example)
    opened.locator("#zero").click()
    opened.locator("#map").focus()
    for key in ("ArrowRight", "Shift+ArrowUp", "ArrowLeft", "ArrowRight"):
        opened.keyboard.press(key)
    axes = latent.map_axes(example.posterior.mean)
    expected = axes.project(np.zeros((1, 5))) + np.array([0.1, 0.5])
    z = point(opened)
    assert np.allclose(axes.project(z[None]), expected, atol=1e-3)
    assert shows(opened, example, z)


@pytest.mark.slow
def test_a_finger_on_the_map_moves_the_point(visit):
    example = Example(latent_dim=2)
    opened = visit(example, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    before = picture(opened)
    strip = "canvas.strip:has(+ #latent-1)"
    settle(opened)
    strip_before = canvas_bytes(opened, strip)
    opened.locator("#map").tap(position={"x": 120, "y": 90})
    assert shows(opened, example, point(opened))
    assert not np.array_equal(picture(opened), before)
    settle(opened)
    assert not np.array_equal(canvas_bytes(opened, strip), strip_before)


def test_the_buttons_move_the_point(visit):
    example = Example()
    opened = visit(example)
    opened.locator("#zero").click()
    assert np.array_equal(point(opened), [0, 0, 0]) and shows(opened, example, [0, 0, 0])
    draws = []
    for _ in range(2):
        opened.locator("#random").click()
        draws.append(point(opened))
        assert shows(opened, example, draws[-1])
    assert not np.array_equal(*draws) and np.abs(draws).max() < 8


def test_new_points_are_drawn_from_the_prior(visit):
    draws = visit(Example()).evaluate("() => Array.from({ length: 20000 }, randomNormal)")
    assert abs(np.mean(draws)) < 0.03 and abs(np.std(draws) - 1) < 0.02 and abs(np.mean(np.power(draws, 4)) - 3) < 0.25


def test_a_test_image_is_shown_beside_its_reconstruction(visit):
    example = Example()
    opened = visit(example)
    thumbnails = opened.locator("#thumbnails button")
    assert thumbnails.count() == 20
    rows = page.choose_thumbnails(example.labels, page.generator(0, "draw").permutation(60))
    row = rows[7]
    thumbnails.nth(7).click()
    mean = example.posterior.mean[row]
    assert np.allclose(point(opened), mean, atol=1e-4) and shows(opened, example, mean)
    assert np.array_equal(canvas_bytes(opened, "#original"), np.broadcast_to(example.images[row], (8, 8, 3)))
    assert np.array_equal(canvas_bytes(opened, "#reconstruction"), picture(opened))
    caption = f"test image {row}, class {example.class_names[example.labels[row]]}"
    assert opened.locator("#original-caption").inner_text() == caption
    assert thumbnails.nth(7).get_attribute("aria-pressed") == "true"

    opened.locator("#pick-sample").check()
    samples = []
    for _ in range(2):
        thumbnails.nth(7).click()
        samples.append(point(opened))
    distances = np.abs(samples - mean)  # the standard deviations are 0.01
    assert not np.array_equal(*samples) and 1e-4 < distances.max() < 0.06


def test_the_slider_from_a_to_b_shows_the_points_between_them(visit):
    example = Example()
    opened = visit(example, "#z=1,-1,0.5")
    opened.locator("#set-a").click()
    opened.evaluate("location.hash = '#z=-1,2,0'")
    opened.locator("#set-b").click()
    set_slider(opened.locator("#between"), 0.25)
    assert np.allclose(point(opened), [0.5, -0.25, 0.375])
    assert shows(opened, example, [0.5, -0.25, 0.375])
    settle(opened)
    strip = canvas_bytes(opened, "#between-strip")
    share = np.linspace(0, 1, 7)[:, None]
    expected = example.bytes_of((1 - share) * [1, -1, 0.5] + share * [-1, 2, 0])
    assert np.abs(strip - np.concatenate(expected, axis=1)).max() <= ONE_BYTE


def test_play_moves_from_a_to_b_until_it_is_stopped(visit):
    example = Example()
    opened = visit(example)
    # The clock of the page stands still except where the test moves it.
    opened.clock.install(time=0)
    opened.clock.pause_at(1000)
    opened.locator("#play").click()
    assert opened.locator("#play").inner_text() == "Stop"
    shares = []
    for _ in range(7):
        opened.clock.run_for(1000)
        shares.append(opened.locator("#between").evaluate("(slider) => slider.valueAsNumber"))
    # From A to B and back takes 6 seconds.
    np.testing.assert_allclose(shares, [1 / 3, 2 / 3, 1, 2 / 3, 1 / 3, 0, 1 / 3], atol=0.02)
    opened.clock.resume()
    set_slider(slider(opened, 0), 1)
    assert opened.locator("#play").inner_text() == "Play"
    assert point(opened)[0] == 1


@pytest.mark.slow
def test_play_jumps_once_where_motion_is_reduced(visit):
    opened = visit(Example(), reduced_motion="reduce")
    opened.clock.install(time=0)
    opened.clock.pause_at(1000)
    opened.evaluate("document.getElementById('play').click()")
    shares = []
    for _ in range(20):
        shares.append(opened.locator("#between").evaluate("(slider) => slider.valueAsNumber"))
        opened.clock.run_for(200)
    assert shares == sorted(shares) and len(set(shares)) == 9 and shares[-1] == 1
    assert opened.locator("#play").inner_text() == "Play"


def test_the_point_is_copied_as_a_numpy_array(visit):
    opened = visit(Example(), "#z=1,-0.5,0.25", permissions=["clipboard-read", "clipboard-write"])
    opened.locator("#copy").click()
    opened.locator("#status:has-text('Copied')").wait_for()
    text = opened.evaluate("navigator.clipboard.readText()")
    z = eval(text, {"np": np})
    assert z.dtype == np.float32 and np.array_equal(z, np.array([1, -0.5, 0.25], np.float32))


@pytest.mark.slow
def test_where_copying_is_not_allowed_the_text_is_shown(visit):
    opened = visit(Example(), "#z=1,-0.5,0.25")
    opened.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('no')); }")
    opened.locator("#copy").click()
    copied = opened.locator("#copied")
    copied.wait_for()
    assert copied.input_value() == "np.array([1, -0.5, 0.25], dtype=np.float32)"

    # The text is hidden as soon as it is that of an earlier point.
    set_slider(opened.locator("#between"), 0.5)
    assert not copied.is_visible() and opened.locator("#status").inner_text() == ""
    opened.locator("#copy").click()
    copied.wait_for()
    opened.locator("#zero").click()
    assert not copied.is_visible()
    opened.locator("#copy").click()
    copied.wait_for()
    opened.evaluate("() => { navigator.clipboard.writeText = () => Promise.resolve(); }")
    opened.locator("#copy").click()
    opened.locator("#status:has-text('Copied')").wait_for()
    assert not copied.is_visible()


def test_a_class_can_be_emphasised(visit):
    opened = visit(Example())
    buttons = opened.locator("#legend button")
    assert buttons.all_inner_texts() == ["name 0", "name 1", "name 2"]
    before = canvas_bytes(opened, "#map")
    buttons.nth(1).click()
    next_frame(opened)
    assert buttons.nth(1).get_attribute("aria-pressed") == "true"
    emphasised = canvas_bytes(opened, "#map")
    buttons.nth(1).click()
    next_frame(opened)
    assert not np.array_equal(emphasised, before)
    assert np.array_equal(canvas_bytes(opened, "#map"), before)


def test_pictures_in_no_order_have_their_names_and_one_colour(visit):
    example = Example(num_classes=0)
    opened = visit(example)
    assert opened.locator("#scale").is_visible()
    by_place = canvas_bytes(opened, "#map")
    example.names = [f"cats/{i}.png" for i in range(60)]
    example.is_sequence = False
    opened = visit(example)
    assert not opened.locator("#scale").is_visible()
    assert not np.array_equal(canvas_bytes(opened, "#map"), by_place)
    opened.locator("#thumbnails button").nth(7).click()
    row = page.choose_thumbnails(None, page.generator(0, "draw").permutation(60))[7]
    assert opened.locator("#original-caption").inner_text() == f"cats/{row}.png"


def test_the_page_says_what_it_shows(visit):
    example = Example(vae_type="flat_cont_logit")
    example.summary = example.summary._replace(data_verified=False)
    text = visit(example).locator("header").inner_text()
    for part in (
        "digits, 3 latents",
        "a_run",
        "epoch 7",
        "\N{MINUS SIGN}12.34 nats",
        "unverified data",
        "median of p(x|z)",
    ):
        assert part in text


def test_hostile_names_stay_text(visit):
    example = Example()
    example.summary = page.RunSummary(HOSTILE, HOSTILE_END, HOSTILE, data_verified=True)
    example.class_names = [HOSTILE, HOSTILE_END, "'\"&"]
    opened = visit(example)
    assert opened.title() == f"{HOSTILE_END}: the latent space"
    assert opened.locator("h1").inner_text() == f"{HOSTILE_END}, 3 latents"
    assert HOSTILE in opened.locator("#summary").inner_text()
    assert opened.locator("#legend button").all_inner_texts() == example.class_names
    assert opened.locator("img").count() == 0


def test_the_policy_refuses_requests_and_other_code(running_chromium, tmp_path):
    """Without `visit`, because the browser reports each refusal on the console."""
    path = tmp_path / "explorer.html"
    path.write_text(Example().render(), encoding="utf-8", newline="")
    context = running_chromium.new_context()
    opened = chromium.open_page(context, path)
    assert opened.evaluate("fetch('data:,x').then(() => 'loaded', () => 'refused')") == "refused"
    code = """() => new Promise((done) => {
        document.addEventListener("securitypolicyviolation", (event) => done(event.effectiveDirective));
        const script = document.createElement("script");
        script.textContent = "globalThis.hasRun = true";
        document.body.append(script);
    })"""
    assert opened.evaluate(code) == "script-src-elem"
    assert opened.evaluate("globalThis.hasRun") is None
    context.close()


def long_names():
    example = Example(latent_dim=20)
    example.summary = page.RunSummary("a" * 120, "b" * 80, "-1234.56 nats (1.234 bits/dim) at epoch 123", False)
    example.class_names = ["c" * 60, "a class of several words " * 4, ""]
    return example


NARROW_AND_WIDE = {
    "long names": long_names,
    "one latent": lambda: Example(latent_dim=1, num_classes=10),
    "two latents": lambda: Example((28, 28, 1), latent_dim=2, num_classes=20),
    "no labels": lambda: Example((28, 20, 1), num_classes=0, latent_dim=20),
    "many classes": lambda: Example((97, 61, 3), num_classes=40),
    "wide images": lambda: Example((5, 40, 1)),
    "large images": lambda: Example((300, 200, 1), num_images=5),
    "two test images": lambda: Example(num_images=2),
}


@pytest.mark.parametrize(
    "name", [name if name == "long names" else pytest.param(name, marks=pytest.mark.slow) for name in NARROW_AND_WIDE]
)
def test_nothing_is_wider_than_the_screen(name, visit):
    code = """() => Array.from(document.querySelectorAll("body *"))
        .filter((each) => each.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5)
        .map((each) => each.outerHTML.slice(0, 100))"""
    opened = visit(NARROW_AND_WIDE[name]())
    for width in (1440, 1180, 768, 390, 320):
        opened.set_viewport_size({"width": width, "height": 844})
        next_frame(opened)
        assert opened.evaluate("document.documentElement.scrollWidth") <= width, width
        assert opened.evaluate(code) == [], width


@pytest.mark.slow
def test_light_and_dark_follow_the_system(visit):
    opened = visit(Example(), color_scheme="light")
    background = "getComputedStyle(document.body).backgroundColor"
    light = opened.evaluate(background), canvas_bytes(opened, "#map").mean()
    opened.emulate_media(color_scheme="dark")
    opened.wait_for_function("(light) => getComputedStyle(document.body).backgroundColor !== light", arg=light[0])
    next_frame(opened)
    dark = opened.evaluate(background), canvas_bytes(opened, "#map").mean()
    assert light[0] != dark[0] and light[1] != dark[1]
