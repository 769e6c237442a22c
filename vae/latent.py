"""The latent space in NumPy: PCA, singular values, and the points that pictures are decoded from."""

from typing import NamedTuple

import numpy as np
from scipy.stats import norm
from sklearn.decomposition import PCA


class MapAxes(NamedTuple):
    """A line or a plane of the latent space: its points are origin + a directions[0] + b directions[1].

    origin is [L], directions is [1 or 2, L] with orthonormal rows. `labels` has a name for each axis. `points`,
    [n, 1 or 2], are the means that the axes were made for.
    """

    origin: np.ndarray
    directions: np.ndarray
    labels: tuple[str, ...]
    points: np.ndarray

    def project(self, z: np.ndarray) -> np.ndarray:
        """The coordinates of z, [n, L], on the axes: [n, 1 or 2]."""
        return (z - self.origin) @ self.directions.T


def map_axes(means: np.ndarray) -> MapAxes:
    """The axes to map means [n, L] on: the latents themselves for L up to 2, else two principal components.

    The origin of the principal components is the average of the means, as in figure 3.
    """
    latent_dim = means.shape[1]
    if latent_dim <= 2:
        labels = tuple(f"z[{index}]" for index in range(latent_dim))
        return MapAxes(np.zeros(latent_dim), np.eye(latent_dim), labels, points=means)
    pca = PCA(2, svd_solver="full")
    points = pca.fit_transform(means)
    shares = enumerate(pca.explained_variance_ratio_, start=1)
    labels = tuple(f"component {number} ({share:.0%} of the variance)" for number, share in shares)
    return MapAxes(pca.mean_, pca.components_, labels, points)


class LatentPlane(NamedTuple):
    """Points in a plane of the latent space, [n, 2], and what the plane and its axes are called."""

    points: np.ndarray
    title: str
    x_label: str
    y_label: str


def project_to_plane(means: np.ndarray) -> LatentPlane:
    """Means [n, L >= 2] in the plane of `map_axes` (figures 2 and 3)."""
    latent_dim = means.shape[1]
    axes = map_axes(means)
    if latent_dim == 2:
        return LatentPlane(axes.points, "Means of q(z|x), 2 latents", *axes.labels)
    return LatentPlane(axes.points, f"PCA of the means of q(z|x), {latent_dim} latents", "component 1", "component 2")


def singular_values(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The singular values of Z = means [n, L], in decreasing order, and their running share (figure 4).

    Both are [min(n, L)]. The running share is the sum of the singular values so far over the sum of all.
    """
    values = np.linalg.svd(means, compute_uv=False)
    return values, np.cumsum(values) / values.sum()


def interpolations(z1: np.ndarray, z2: np.ndarray, num_steps: int) -> np.ndarray:
    """alpha z1 + (1 - alpha) z2 for alpha from 0 to 1, [n, num_steps, L], with z1 and z2 [n, L] (figure 1c).

    Each path begins at z2 and ends at z1.
    """
    alpha = np.linspace(0, 1, num_steps, dtype=np.float32)[:, None]
    return alpha * z1[:, None] + (1 - alpha) * z2[:, None]


def quantile_grid(size: int) -> np.ndarray:
    """A grid of points in two dimensions, [size, size, 2], in equal steps of probability under N(0, I).

    Its lines are at the quantiles 1/(2 size), 3/(2 size), ... (Kingma & Welling 2014, figure 4). The second coordinate
    grows upwards.
    """
    quantiles = norm.ppf((np.arange(size) + 0.5) / size).astype(np.float32)
    first, second = np.meshgrid(quantiles, quantiles[::-1])
    return np.stack([first, second], axis=-1)
