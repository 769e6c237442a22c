"""How the cores share the images of conv3, which XLA does not compile, and TensorFlow's threads for it.

A second core hardly speeds up most of oneDNN's convolutions. So each core computes a step for its own share of the
images, with one thread per operation.
"""

import os

import tensorflow as tf

from vae.networks import NETWORKS

# With fewer images per core, the parts cost more than they gain. On two cores, 10 parts of 10 images were still no
# slower than one part that both cores shared, and more cores have not been tried.
MIN_IMAGES_PER_CORE = 8


def split_evenly(num_images: int, num_parts: int) -> list[int]:
    """Returns the numbers of images in num_parts parts, which differ by 1 at most. There is an image for each part."""
    size, rest = divmod(num_images, num_parts)
    return [size + 1] * rest + [size] * (num_parts - rest)


def part_sizes(num_images: int) -> list[int]:
    """Returns the number of images of each core, or num_images alone if it takes all cores, or a GPU, to compute them.

    That is the case if there are few images per core, or if the user has set one of TensorFlow's numbers of threads.
    """
    num_cores = count_cores()
    has_gpu = bool(tf.config.list_physical_devices("GPU"))
    has_user_set_threads = "TF_NUM_INTRAOP_THREADS" in os.environ or "TF_NUM_INTEROP_THREADS" in os.environ
    if has_gpu or has_user_set_threads or num_images < num_cores * MIN_IMAGES_PER_CORE:
        return [num_images]
    return split_evenly(num_images, num_cores)


def count_cores() -> int:
    """Returns the number of (logical) cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def set_threads(network: str, num_images: int) -> None:
    """Gives each operation one thread if a step of this network on this many images has a part for each core.

    TensorFlow creates its threads when it is used for the first time. After that, this function changes nothing.
    """
    has_parts = not NETWORKS[network].jit_compile and len(part_sizes(num_images)) > 1
    # 0 stands for as many threads as cores.
    num_threads = 1 if has_parts else 0
    try:
        tf.config.threading.set_intra_op_parallelism_threads(num_threads)
    except RuntimeError:
        # TensorFlow has its threads already.
        return
