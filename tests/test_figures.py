"""The figures, pixel by pixel or by their parts, and the arrays of vae.latent that they show."""

import io
import warnings

import matplotlib.colors
import numpy as np
import pytest
import scipy.stats
from colours import VISIONS, smallest_distance
from PIL import Image

import cli
from vae import figures, files, latent
from vae.latent import LatentPlane


def draw(figure):
    """A figure as it is drawn: uint8 [height, width, 3]."""
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def make_planes(points):
    """Two planes with the same points, called a and b."""
    return [LatentPlane(points, title, "x", "y") for title in ("a", "b")]


@pytest.mark.parametrize("channels", [1, 3])
def test_image_grid_shows_each_pixel_at_its_place(channels):
    images = np.random.default_rng(0).random((2, 3, 4, 5, channels))
    drawn = draw(figures.image_grid(images))
    # 43 brings 3 * 5 pixels nearest to 640.
    assert drawn.shape == (2 * 4 * 43, 3 * 5 * 43, 3)
    for row, column, y, x in np.ndindex(2, 3, 4, 5):
        top = (row * 4 + y) * 43
        left = (column * 5 + x) * 43
        drawn_pixel = drawn[top : top + 43, left : left + 43]
        expected = np.broadcast_to(images[row, column, y, x] * 255, drawn_pixel.shape)
        np.testing.assert_allclose(drawn_pixel, expected, atol=1.01)


@pytest.mark.parametrize(
    ("columns", "height", "width", "zoom"),
    [(10, 28, 28, 2), (10, 32, 32, 2), (10, 28, 20, 3), (10, 8, 8, 8), (20, 8, 8, 4), (4, 5000, 40, 2)],
)
def test_sheets_are_enlarged_by_2_or_until_they_are_about_640_pixels_wide(columns, height, width, zoom):
    figure = figures.image_grid(np.zeros((1, columns, height, width, 1)))
    np.testing.assert_allclose(figure.get_size_inches() * figures.DPI, [columns * width * zoom, height * zoom])


def test_image_grid_draws_a_red_line_after_the_originals():
    drawn = draw(figures.image_grid(np.zeros((2, 30, 10, 10, 1)), line_after=1))
    is_red = (drawn == [255, 0, 0]).all(-1)
    assert is_red[:, 20].all()
    assert not is_red[:, :17].any()
    assert not is_red[:, 23:].any()


POINTS = np.random.default_rng(0).normal(size=(50, 2))
LABELS = np.random.default_rng(1).integers(0, 10, 50)
MAKERS = {
    "labelled maps": lambda: figures.latent_maps(make_planes(POINTS), LABELS),
    "unlabelled maps": lambda: figures.latent_maps(make_planes(POINTS), None),
    "singular values": lambda: figures.singular_values(*latent.singular_values(POINTS)),
    "learning curves": lambda: figures.learning_curves([1, 2], [-1, -2], [float("nan"), -2], [1, 2]),
}


@pytest.mark.parametrize(
    "name", ["labelled maps", *(pytest.param(name, marks=pytest.mark.slow) for name in list(MAKERS)[1:])]
)
def test_figures_have_the_same_pixels_each_time(name):
    make = MAKERS[name]
    assert np.array_equal(draw(make()), draw(make()))


def test_learning_curves_show_the_test_elbo_where_it_was_measured():
    figure = figures.learning_curves(
        epochs=[1, 2, 3], train_elbo=[-9.0, -8.0, -7.0], test_elbo=[-9.5, float("nan"), -7.5], train_kl=[1.0, 2.0, 3.0]
    )
    elbos, kls = figure.axes
    train, test = elbos.lines
    np.testing.assert_array_equal(train.get_xydata(), [(1, -9), (2, -8), (3, -7)])
    np.testing.assert_array_equal(test.get_xydata(), [(1, -9.5), (3, -7.5)])
    np.testing.assert_array_equal(kls.lines[0].get_xydata(), [(1, 1), (2, 2), (3, 3)])
    assert train.get_marker() == kls.lines[0].get_marker() == "None"
    low, high = elbos.get_ylim()
    assert low < -9.5
    assert high > -7


def test_the_learning_curves_of_one_epoch_are_points_at_a_whole_epoch():
    figure = figures.learning_curves(epochs=[1], train_elbo=[-9.0], test_elbo=[-9.5], train_kl=[1.0])
    figure.canvas.draw()
    elbos, kls = figure.axes
    assert [line.get_marker() for line in (*elbos.lines, *kls.lines)] == [".", ".", "."]
    for axes in figure.axes:
        ticks = axes.get_xticks()
        assert 1 in ticks
        np.testing.assert_array_equal(ticks, np.round(ticks))


def test_the_limits_of_a_long_curve_leave_out_its_first_epochs():
    epochs = np.arange(1, 101)
    elbos = np.array([*np.linspace(-1e6, -1e5, 9), *np.linspace(-120, -100, 91)])
    low, high = figures.elbo_limits(epochs, elbos)
    assert -122 < low < -120 and -100 < high < -98


def test_the_limits_of_a_long_curve_show_all_of_a_test_elbo_that_soon_falls():
    """The test ELBO of a model that overfits falls."""
    epochs = np.array([*range(1, 101), 5, 100])
    elbos = np.array([*np.linspace(-120, -100, 100), -90, -130])
    low, high = figures.elbo_limits(epochs, elbos)
    assert low < -130 and high > -90


def test_latent_maps_with_labels_have_a_colour_for_each_label():
    points = np.arange(20.0).reshape(10, 2)
    figure = figures.latent_maps(make_planes(points), np.arange(10))
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == ["a", "b"]
    assert [(axes.get_xlabel(), axes.get_ylabel()) for axes in panels] == [("x", "y"), ("x", "y")]
    for axes in panels:
        (dots,) = axes.collections
        np.testing.assert_array_equal(dots.get_offsets(), points)
        assert len({tuple(colour) for colour in dots.to_rgba(np.arange(10))}) == 10


def test_latent_maps_without_labels_are_coloured_by_the_place_in_the_test_set():
    points = np.arange(20.0).reshape(10, 2)
    figure = figures.latent_maps(make_planes(points), None)
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == ["a", "b"]
    for axes in panels:
        (dots,) = axes.collections
        np.testing.assert_array_equal(dots.get_offsets(), points)
        np.testing.assert_array_equal(dots.get_array(), np.arange(10))
    assert any("no labels" in axes.get_ylabel() for axes in figure.axes)


def test_latent_maps_of_images_in_no_order_have_one_colour():
    figure = figures.latent_maps(make_planes(POINTS), None, is_sequence=False)
    assert len(figure.axes) == 2
    for axes in figure.axes:
        (dots,) = axes.collections
        assert dots.get_array() is None


def test_latent_maps_show_the_names_of_the_users_classes():
    """A dollar sign is no formula, an underscore in front hides nothing, and a long name is cut."""
    names = ["cat", "_dog", "$a$ $b", "x" * 40]
    points = np.arange(16.0).reshape(8, 2)
    labels = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    figure = figures.latent_maps(make_planes(points), labels, names)
    panels = [axes for axes in figure.axes if axes.get_title()]
    bars = [axes for axes in figure.axes if not axes.get_title()]
    draw(figure)
    for axes, bar in zip(panels, bars, strict=True):
        (dots,) = axes.collections
        drawn = {tuple(point): label for point, label in zip(dots.get_offsets(), dots.get_array(), strict=True)}
        assert drawn == {tuple(point): label for point, label in zip(points, labels, strict=True)}
        shown = [text.get_text().replace(r"\$", "$") for text in bar.get_yticklabels()]
        assert shown == ["cat", "_dog", "$a$ $b", "x" * 21 + "..."]


def test_a_class_without_test_images_has_its_colour_too():
    few = figures.latent_maps(make_planes(np.zeros((1, 2))), np.array([2]), ["a", "b", "c"])
    (dots,) = few.axes[0].collections
    expected = matplotlib.colors.to_rgba(figures.CLASS_COLOURS[2])
    assert tuple(dots.to_rgba(2)) == expected


def test_more_classes_than_colours_are_drawn_in_one_colour():
    num_classes = len(figures.CLASS_COLOURS) + 1
    points = np.arange(2.0 * num_classes).reshape(-1, 2)
    names = [str(number) for number in range(num_classes)]
    figure = figures.latent_maps(make_planes(points), np.arange(num_classes), names)
    assert len(figure.axes) == 2
    (dots,) = figure.axes[0].collections
    assert len(dots.get_facecolors()) == 1
    np.testing.assert_array_equal(dots.get_offsets(), points)


@pytest.mark.parametrize("vision", VISIONS)
def test_the_colours_of_classes_differ_for_every_vision(vision):
    assert len(figures.CLASS_COLOURS) == 20
    assert smallest_distance(figures.CLASS_COLOURS, vision) > 0.08
    assert smallest_distance(figures.CLASS_COLOURS[:5], vision) > 0.14
    if vision == "protanopia":
        assert smallest_distance([f"C{number}" for number in range(10)], vision) < 0.03


def test_a_sheet_of_large_pictures_is_drawn_smaller(monkeypatch):
    monkeypatch.setattr(figures, "MAX_SIDE", 60)
    images = np.random.default_rng(0).random((2, 3, 8, 10, 3))
    assert draw(figures.image_grid(images)).shape == (32, 60, 3)
    assert draw(figures.image_grid(np.tile(images, (1, 2, 1, 1, 1)))).shape == (16, 60, 3)


def test_singular_values_has_a_value_on_each_bar():
    figure = figures.singular_values(np.array([3.0, 1.0]), np.array([0.75, 1.0]))
    upper, lower = figure.axes
    assert [bar.get_height() for bar in upper.patches] == [3.0, 1.0]
    assert {text.get_text() for text in upper.texts} == {"3.0", "1.0"}
    assert {text.get_text() for text in lower.texts} == {"0.750", "1.000"}


def test_the_singular_values_of_many_latents_fit_into_a_figure():
    values = np.linspace(2, 1, 200)
    figure = figures.singular_values(values, np.cumsum(values) / values.sum())
    assert figure.get_figwidth() * figure.dpi == figures.MAX_SIDE


def test_singular_values_are_those_of_the_gram_matrix():
    means = np.random.default_rng(0).normal(size=(100, 4)) * [4, 3, 2, 1] + 0.5
    values, shares = latent.singular_values(means)
    np.testing.assert_allclose(values, np.sqrt(np.linalg.eigvalsh(means.T @ means)[::-1]), rtol=1e-9)
    np.testing.assert_allclose(shares, [values[: i + 1].sum() / values.sum() for i in range(4)])


def test_many_latents_are_projected_on_the_leading_eigenvectors():
    means = np.random.default_rng(0).normal(size=(200, 4)) * [4, 3, 0.2, 0.1]
    _, vectors = np.linalg.eigh(np.cov(means.T))
    expected = (means - means.mean(0)) @ vectors[:, [-1, -2]]
    plane = latent.project_to_plane(means)
    np.testing.assert_allclose(np.abs(plane.points), np.abs(expected), atol=1e-9)
    assert plane[1:] == ("PCA of the means of q(z|x), 4 latents", "component 1", "component 2")


def test_two_latents_are_drawn_in_their_own_plane():
    means = np.random.default_rng(0).normal(size=(10, 2))
    plane = latent.project_to_plane(means)
    np.testing.assert_array_equal(plane.points, means)
    assert plane[1:] == ("Means of q(z|x), 2 latents", "z[0]", "z[1]")


@pytest.mark.parametrize(("class_name", "is_lacking"), [("猫", True), ("Löwe", False)])
def test_characters_that_the_font_lacks_are_reported_once(class_name, is_lacking, tmp_path, capsys):
    figure = figures.latent_maps(make_planes(POINTS), LABELS % 2, [class_name, "b"])
    cli.save_picture(figure, tmp_path / "a.png")
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path / 'a.png'}\n"
    expected = "the figure's font lacks some characters of the class names\n"
    assert printed.err == (expected if is_lacking else "")


def test_other_warnings_are_shown_as_they_are(tmp_path, monkeypatch, capsys):
    def save_figure(figure, path):
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("another one", stacklevel=1)

    monkeypatch.setattr(files, "save_figure", save_figure)
    with pytest.warns(UserWarning, match="another one"):
        cli.save_picture(None, tmp_path / "a.png")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("latent_dim", [1, 2, 3, 20])
def test_the_axes_of_the_map_are_orthonormal_and_hold_the_points(latent_dim):
    means = np.random.default_rng(2).normal(0.3, np.linspace(1, 2, latent_dim), (200, latent_dim))
    axes = latent.map_axes(means)
    assert len(axes.labels) == len(axes.directions) == min(latent_dim, 2)
    np.testing.assert_allclose(axes.directions @ axes.directions.T, np.eye(len(axes.directions)), atol=1e-9)
    points = axes.project(means)
    np.testing.assert_allclose(points, axes.points, atol=1e-9)
    # Whatever is on the map stays where it is.
    np.testing.assert_allclose(axes.project(axes.origin + points @ axes.directions), points, atol=1e-9)


def test_interpolations_go_from_z2_to_z1_in_equal_steps():
    z1, z2 = np.random.default_rng(0).normal(size=(2, 3, 4))
    path = latent.interpolations(z1, z2, 5)
    assert path.shape == (3, 5, 4)
    np.testing.assert_allclose(path[:, 0], z2, atol=1e-7)
    np.testing.assert_allclose(path[:, -1], z1, atol=1e-7)
    np.testing.assert_allclose(path[:, 1], 0.25 * z1 + 0.75 * z2, atol=1e-7)


def test_quantile_grid_has_equal_probability_between_its_lines():
    grid = latent.quantile_grid(4)
    np.testing.assert_allclose(scipy.stats.norm.cdf(grid[0, :, 0]), [0.125, 0.375, 0.625, 0.875], atol=1e-6)
    np.testing.assert_allclose(grid[:, 0, 1], -grid[::-1, 0, 1], atol=1e-6)
    assert (np.diff(grid[:, 0, 1]) < 0).all()
