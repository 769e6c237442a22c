"""The latent space in NumPy: PCA, singular values, and the points that pictures are decoded from."""

import numpy as np
from scipy.stats import norm
from sklearn.decomposition import PCA


def principal_components(means):
    """The projection of means [n, L >= 2] onto their first two principal components, [n, 2] (figure 3)."""
    return PCA(2, svd_solver="full").fit_transform(means)


def singular_values(means):
    """The singular values of Z = means [n, L], falling, and the running share of their sum, each [L] (figure 4)."""
    values = np.linalg.svd(means, compute_uv=False)
    return values, np.cumsum(values) / values.sum()


def interpolations(z1, z2, num_steps):
    """alpha z1 + (1 - alpha) z2 with alpha from 0 to 1, [n, num_steps, L], for z1 and z2 [n, L] (figure 1c)."""
    alpha = np.linspace(0, 1, num_steps, dtype=np.float32)[:, None]
    return alpha * z1[:, None] + (1 - alpha) * z2[:, None]


def quantile_grid(size):
    """A size x size grid over the quantiles 1/(2 size), ... of N(0, I) in two dimensions, [size, size, 2].

    Equal steps of probability, as in Kingma & Welling 2014, figure 4; the second coordinate grows upwards.
    """
    quantiles = norm.ppf((np.arange(size) + 0.5) / size).astype(np.float32)
    first, second = np.meshgrid(quantiles, quantiles[::-1])
    return np.stack([first, second], axis=-1)
