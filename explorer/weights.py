"""A decoder as entries of the page's JSON, which decoder.js runs.

Only the first decoder output of each pixel is kept, because every picture is made from it alone: see
Likelihood.image_squeeze.
"""

import base64
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from vae.model import VAE

# The weights are stored as float16 if no pixel changes by more than this. It is half of 1/255, the least difference
# between two colours on a screen, because only some points of the latent space are tried.
MAX_CHANGE = 0.5 / 255

# How many points are decoded at once while the two precisions are compared.
CHUNK_SIZE = 64


def export(model: VAE, z: np.ndarray) -> dict[str, Any]:
    """The entries of a model's decoder: the layers, and how their outputs become a picture.

    The weights are float16 if that changes no pixel of the pictures of z, [n, L], by more than MAX_CHANGE. Otherwise
    they are float32. Raises ValueError if decoder.js does not know a layer of the decoder.
    """
    decoder = copy_in_float32(model.decoder)
    in_float16 = copy_in_float32(model.decoder)
    # A weight that is too large becomes infinite, and then the pictures differ.
    with np.errstate(over="ignore"):
        in_float16.set_weights([weights.astype(np.float16) for weights in decoder.get_weights()])
    has_float16 = max_change(model, decoder, in_float16, z) <= MAX_CHANGE
    dtype = "float16" if has_float16 else "float32"
    return {
        "dtype": dtype,
        "layers": describe_layers(decoder, dtype),
        "squeeze": model.likelihood.image_squeeze,
    }


def copy_in_float32(decoder: keras.Model) -> keras.Model:
    """A copy of a decoder that computes in float32, whatever precision the model was trained in."""

    def copy_layer(layer: layers.Layer) -> layers.Layer:
        return type(layer).from_config({**layer.get_config(), "dtype": "float32"})

    copy = keras.models.clone_model(decoder, clone_function=copy_layer)
    copy.set_weights(decoder.get_weights())
    return copy


def max_change(model: VAE, decoder: keras.Model, other: keras.Model, z: np.ndarray) -> float:
    """The largest difference between the pixels of two decoders' pictures of z, [n, L]; NaN if one has NaNs."""
    changes = []
    for first in range(0, len(z), CHUNK_SIZE):
        chunk = z[first : first + CHUNK_SIZE]
        images = model.likelihood.image(decoder(chunk)).numpy()
        other_images = model.likelihood.image(other(chunk)).numpy()
        changes.append(np.abs(images - other_images).max())
    return float(np.max(changes))


def describe_layers(decoder: keras.Model, dtype: str) -> list[dict[str, Any]]:
    """The entries of the layers that have weights. Raises ValueError if decoder.js does not know one."""
    last = max(place for place, layer in enumerate(decoder.layers) if layer.weights)
    # Reshape leaves the numbers in their order, and decoder.js has no shapes between its layers.
    hidden = [layer for layer in decoder.layers[:last] if not isinstance(layer, layers.Reshape)]
    entries = [describe_layer(layer, dtype) for layer in hidden]
    kept = kept_outputs(decoder.layers[last], decoder.layers[last + 1 :])
    entries.append(describe_layer(decoder.layers[last], dtype, kept))
    return entries


def kept_outputs(last: layers.Layer, movers: Sequence[layers.Layer]) -> np.ndarray:
    """Which units or feature maps of the last layer with weights hold the first output of each pixel.

    `movers` are the layers after it. They only move its outputs, so it is enough to move their numbers.
    """
    shape = last.output.shape[1:]
    moved = np.arange(math.prod(shape), dtype=np.int32).reshape(1, *shape)
    for layer in movers:
        if not isinstance(layer, layers.Reshape | layers.Permute):
            raise unknown_layer(layer)
        moved = layer(moved)
    numbers = np.asarray(moved)[0, :, 0]
    return np.unique(numbers % shape[-1])


def describe_layer(layer: layers.Layer, dtype: str, kept: np.ndarray | slice = slice(None)) -> dict[str, Any]:
    """The entry of a layer, with the `kept` ones of its units or feature maps."""
    entry: dict[str, Any]
    if isinstance(layer, layers.Dense):
        # [units, inputs]
        kernel = layer.kernel.numpy()[:, kept].T
        entry = {"type": "dense", "kernel": encode(kernel, dtype)}
    elif isinstance(layer, layers.Conv2DTranspose) and layer.padding == "same":
        # [kernel height, kernel width, feature maps, inputs]
        kernel = layer.kernel.numpy()[:, :, kept]
        entry = {
            "type": "transposed_convolution",
            "kernel": encode(kernel, dtype),
            "kernel_size": kernel.shape[:2],
            "strides": layer.strides,
            "input_shape": layer.input.shape[1:],
            "output_shape": (*layer.output.shape[1:3], kernel.shape[2]),
        }
    else:
        raise unknown_layer(layer)
    entry["bias"] = encode(layer.bias.numpy()[kept], dtype)
    entry["activation"] = layer.activation.__name__
    return entry


def unknown_layer(layer: layers.Layer) -> ValueError:
    """The error for a layer that decoder.js cannot run."""
    return ValueError(f"explorer/decoder.js has no layer {layer.name!r} ({type(layer).__name__})")


def encode(array: np.ndarray, dtype: str) -> str:
    """An array's values in base64: little-endian, row by row."""
    return base64.b64encode(array.astype(np.dtype(dtype).newbyteorder("<")).tobytes()).decode("ascii")
