import io

import numpy as np
import pytest
import scipy.stats

from vae import figures, latent


def pixels(figure):
    """The figure as it is drawn: uint8 [height, width, 3]."""
    from PIL import Image

    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return np.asarray(Image.open(file).convert("RGB"))


@pytest.mark.parametrize("channels", [1, 3])
def test_image_grid_shows_each_pixel_where_it_belongs(channels):
    images = np.random.default_rng(0).random((2, 3, 4, 5, channels))
    shown = pixels(figures.image_grid(images, zoom=3))
    assert shown.shape == (2 * 4 * 3, 3 * 5 * 3, 3)
    for row, column, y, x in np.ndindex(2, 3, 4, 5):
        middle = shown[(row * 4 + y) * 3 + 1, (column * 5 + x) * 3 + 1]
        np.testing.assert_allclose(middle, np.broadcast_to(images[row, column, y, x] * 255, 3), atol=1.01)


def test_image_grid_draws_a_red_line_after_the_originals():
    shown = pixels(figures.image_grid(np.zeros((2, 3, 10, 10, 1)), line_after=1, zoom=3))
    red = (shown == [255, 0, 0]).all(-1)
    assert red[:, 30].all() and not red[:, :27].any() and not red[:, 33:].any()


def test_figures_are_the_same_bytes_each_time():
    rng = np.random.default_rng(0)
    points, labels = rng.normal(size=(50, 2)), rng.integers(0, 10, 50)
    history = [
        {"epoch": e, "train_elbo": -e, "test_elbo": float("nan") if e % 2 else -e, "train_kl": e} for e in (1, 2)
    ]
    makers = (
        lambda: figures.latent_maps([(points, labels, "a", ("x", "y")), (points, None, "b", ("x", "y"))]),
        lambda: figures.singular_values(*latent.singular_values(points)),
        lambda: figures.learning_curves(history),
    )
    for maker in makers:
        assert np.array_equal(pixels(maker()), pixels(maker()))


def test_latent_maps_colours_by_label_or_by_place():
    points = np.arange(20.0).reshape(10, 2)
    figure = figures.latent_maps([(points, np.arange(10), "a", ("x", "y")), (points, None, "b", ("x", "y"))])
    maps = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in maps] == ["a", "b"]
    np.testing.assert_array_equal(maps[0].collections[0].get_offsets(), points)
    assert len({tuple(colour) for colour in maps[0].collections[0].to_rgba(np.arange(10))}) == 10
    assert any("no labels" in axes.get_ylabel() for axes in figure.axes)


def test_singular_values_has_a_value_on_each_bar():
    figure = figures.singular_values(np.array([3.0, 1.0]), np.array([0.75, 1.0]))
    top, bottom = figure.axes
    assert [bar.get_height() for bar in top.patches] == [3.0, 1.0]
    assert {text.get_text() for text in top.texts} == {"3.0", "1.0"}
    assert {text.get_text() for text in bottom.texts} == {"0.750", "1.000"}


def test_singular_values_are_those_of_the_gram_matrix():
    means = np.random.default_rng(0).normal(size=(100, 4)) * [4, 3, 2, 1] + 0.5
    values, shares = latent.singular_values(means)
    np.testing.assert_allclose(values, np.sqrt(np.linalg.eigvalsh(means.T @ means)[::-1]), rtol=1e-9)
    np.testing.assert_allclose(shares, [values[: i + 1].sum() / values.sum() for i in range(4)])


def test_principal_components_are_the_projection_on_the_leading_eigenvectors():
    means = np.random.default_rng(0).normal(size=(200, 4)) * [4, 3, 0.2, 0.1]
    _, vectors = np.linalg.eigh(np.cov(means.T))
    want = (means - means.mean(0)) @ vectors[:, [-1, -2]]
    np.testing.assert_allclose(np.abs(latent.principal_components(means)), np.abs(want), atol=1e-9)


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
