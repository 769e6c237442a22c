"""Shares the images of a step of conv3 among the cores, and chooses TensorFlow's threads to match.

oneDNN's gradients of the filters hardly gain from a second thread, and some lose. So each core computes a step for its
own share of the images, with one thread for each operation.
"""

import contextlib
import os

import tensorflow as tf

from vae.networks import NETWORKS

# A guess for the least share that pays. On two cores, 10 parts of 10 images were no slower than one part that both
# cores shared. Smaller parts, and more than two cores, were not tried.
MIN_IMAGES_PER_CORE = 8


def split_evenly(num_images: int, num_parts: int) -> list[int]:
    """The sizes of num_parts parts, which differ by 1 at most. num_images must be at least num_parts."""
    size, rest = divmod(num_images, num_parts)
    return [size + 1] * rest + [size] * (num_parts - rest)


def sizes_per_core(num_images: int) -> list[int]:
    """The sizes of the parts of a step of conv3 on num_images: one part for each core, or a single part.

    There is a single part on a GPU, with too few images per core, or if the user has set the number of TensorFlow's
    threads.
    """
    num_cores = count_cores()
    has_gpu = bool(tf.config.list_physical_devices("GPU"))
    are_threads_set_by_user = "TF_NUM_INTRAOP_THREADS" in os.environ or "TF_NUM_INTEROP_THREADS" in os.environ
    if has_gpu or are_threads_set_by_user or num_images < num_cores * MIN_IMAGES_PER_CORE:
        return [num_images]
    return split_evenly(num_images, num_cores)


def count_cores() -> int:
    """The number of (logical) cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def set_threads(network: str, num_images: int) -> None:
    """Gives each operation one thread if a step of this network on this many images has a part for each core.

    TensorFlow creates its threads when it is used for the first time. After that, this function changes nothing.
    """
    has_parts = not NETWORKS[network].jit_compile and len(sizes_per_core(num_images)) > 1
    # 0 stands for as many threads as cores.
    num_threads = 1 if has_parts else 0
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(num_threads)


def has_one_thread_per_operation() -> bool:
    """Whether each operation has one thread. See set_threads."""
    return tf.config.threading.get_intra_op_parallelism_threads() == 1
