"""How different colours look, with full colour vision and with each colour blindness."""

import matplotlib.colors
import numpy as np

# What someone sees with full colour vision, and without one of the three kinds of cones: matrices on linear RGB
# (Machado et al. 2009, "A Physiologically-based Model for Simulation of Color Vision Deficiency", severity 1).
VISIONS = {
    "full": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}

# From linear RGB to the cones, and from the cube roots of their responses to OKLab (Ottosson 2020).
TO_CONES = [
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
]
TO_OKLAB = [
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
]


def smallest_distance(colours, vision):
    """The distance in OKLab of the two colours that are nearest to each other for a vision.

    colours: any that Matplotlib knows. Black and white are 1 apart.
    """
    rgb = np.array([matplotlib.colors.to_rgb(colour) for colour in colours])
    seen = np.clip(linear_rgb(rgb) @ np.transpose(VISIONS[vision]), 0, 1)
    lab = oklab(seen)
    distances = np.linalg.norm(lab[:, None] - lab, axis=-1)
    return distances[np.triu_indices(len(colours), k=1)].min()


def linear_rgb(rgb):
    """Colours in linear RGB, [n, 3] in [0, 1], for sRGB, [n, 3] in [0, 1]."""
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def oklab(linear):
    """Colours in OKLab, [n, 3], for linear RGB, [n, 3]."""
    cones = linear @ np.transpose(TO_CONES)
    return np.cbrt(cones) @ np.transpose(TO_OKLAB)
