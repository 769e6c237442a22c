"""Runs one of the project's parsers under the coverage-guided fuzzer atheris.

Usage: PYTHONPATH=.:tests python tests/faults/fuzz.py NAME RUNS FOLDER, where FOLDER is empty. Whatever the input, a
parser must return what it promises or raise DataError. Atheris ends the process itself, so main never returns.
"""

import sys
import warnings
from pathlib import Path

import atheris

# Atheris follows only what is first imported here: the parsers, and the libraries whose branches matter to them.
with atheris.instrument_imports(include=["datasets", "gzip", "tarfile", "zipfile"]):
    import gzip
    import io
    import tarfile

    import numpy as np
    from data_files import idx
    from PIL import Image

    from datasets import DataError, base, cifar10, mnist, own

FOLDER = Path(sys.argv[3])


def written(content, name):
    """Writes the input into a file and returns its path."""
    path = FOLDER / name
    path.write_bytes(content)
    return path


def read_idx(content, name="a"):
    assert mnist.read_idx(written(content, name)).dtype == np.uint8


def read_gzipped_idx(content):
    read_idx(content, "a.gz")


def parse_batch(content):
    images, labels = cifar10.parse_batch(content, "here")
    assert images.shape[1:] == (32, 32, 3) and labels.max() <= 9


def read_archive(content):
    path = written(gzip.compress(content, 0), "a.tar.gz")
    assert len(cifar10._read_batches([base.Source(path, False)])) == len(cifar10.BATCHES)


def read_cache(content):
    dataset = base._read_cache(written(content, "a.npz"), False)
    assert dataset is None or isinstance(dataset, base.Dataset)


def read_picture(content):
    pixels = own.read_picture(written(content, "a.png"), None).pixels
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] in (1, 3) and pixels.size


def read_npz(content):
    check_dataset(own.load(written(content, "a.npz")))


def read_mapped(content):
    folder = FOLDER / "mapped"
    folder.mkdir(exist_ok=True)
    np.save(folder / "test_images.npy", np.zeros((2, 4, 4), np.uint8))
    written(content, "mapped/train_images.npy")
    check_dataset(own.load(folder))


def check_dataset(dataset):
    for images in (dataset.train_images, dataset.test_images):
        assert images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] in (1, 3)


def picture(picture_format):
    """A function that gives a small picture in one of Pillow's formats."""

    def save():
        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
        file = io.BytesIO()
        image.save(file, picture_format)
        return file.getvalue()

    return save


def saved_by(save, **arrays):
    """What a function of NumPy saves."""
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


def archive():
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for batch in cifar10.BATCHES:
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{batch.name}")
            member.size = 3
            tar.addfile(member, io.BytesIO(b"abc"))
    # The padding at the end is left out.
    return packed.getvalue()[: 12 * 512 + 1024]


def cache():
    path = FOLDER / "cache.npz"
    images = np.zeros((2, 2, 2, 1), np.uint8)
    base._write_cache(path, base.Dataset("x", images, images[:1]), [])
    assert base._read_cache(path, False) is not None
    return path.read_bytes()


SMALL_IDX = idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
# Each name's parser, and a function that returns the whole file that the fuzzer begins with.
TARGETS = {
    "idx": (read_idx, lambda: SMALL_IDX),
    "idx.gz": (read_gzipped_idx, lambda: gzip.compress(SMALL_IDX)),
    "cifar10_batch": (parse_batch, lambda: (bytes([7]) + bytes(3072)) * 2),
    "cifar10_archive": (read_archive, archive),
    "cache": (read_cache, cache),
    "npz": (read_npz, lambda: saved_by(np.savez, images=np.zeros((2, 4, 4), np.uint8), labels=np.arange(2))),
    "npy": (read_mapped, lambda: saved_by(np.save, arr=np.zeros((2, 4, 4), np.uint8))),
}
TARGETS |= {name.lower(): (read_picture, picture(name)) for name in own.FORMATS}


def main():
    # As while own.py reads pictures.
    warnings.simplefilter("ignore")
    # A file can promise any size, and a large picture would only take time.
    Image.MAX_IMAGE_PIXELS = 10**6
    target, make_whole_file = TARGETS[sys.argv[1]]
    whole = make_whole_file()

    def check(content):
        try:
            target(content)
        except DataError as error:
            assert str(error)

    target(whole)
    corpus = FOLDER / "corpus"
    corpus.mkdir()
    (corpus / "whole").write_bytes(whole)
    options = [
        f"-runs={sys.argv[2]}",
        "-seed=1",
        f"-max_len={2 * len(whole)}",
        "-timeout=10",
        f"-artifact_prefix={FOLDER}/",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
