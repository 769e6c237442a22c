"""How the cores share a training step of a network that XLA does not compile (conv3), and TensorFlow's threads for it.

A second core makes most of oneDNN's convolutions little faster. So each core gets images of its own, and computes their
part of the step alone, with one thread for each operation.
"""

import contextlib
import os

import tensorflow as tf

from vae.networks import NETWORKS

# With fewer images for each core, the parts cost more than they gain.
MIN_IMAGES_OF_A_CORE = 8


def count_parts(num_images: int) -> int:
    """Returns the number of parts in a step on this many images: one for each core, or one that all cores share."""
    num_cores = count_cores()
    # A GPU takes all images at once.
    has_gpu = bool(tf.config.list_physical_devices("GPU"))
    if has_gpu or num_images < num_cores * MIN_IMAGES_OF_A_CORE:
        return 1
    return num_cores


def count_cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def set_threads(network: str, num_images: int) -> None:
    """Gives each operation one thread if a step of this network on this many images has a part for each core.

    TensorFlow creates its threads when it is used for the first time. After that, this function changes nothing.
    """
    if NETWORKS[network].jit_compile or count_parts(num_images) == 1:
        return
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(1)
