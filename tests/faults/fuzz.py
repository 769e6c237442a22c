"""One of the project's parsers under the coverage-guided fuzzer atheris: python tests/faults/fuzz.py NAME RUNS FOLDER.

Whatever comes, an array or the project's own DataError. Atheris ends the process itself: main never returns.
"""

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))
# Only what is first imported here is followed: the project's parsers, and the libraries whose branches matter to them.
with atheris.instrument_imports(include=["datasets", "gzip", "pickle", "tarfile", "zipfile"]):
    import gzip
    import io
    import tarfile

    import numpy as np
    from conftest import idx
    from test_datasets import python2_pickle

    from datasets import DataError, base, cifar10, frey_faces, mnist

FOLDER = Path(sys.argv[3])


def file(content, name):
    path = FOLDER / name
    path.write_bytes(content)
    return path


def read_idx(content, name="a"):
    assert mnist.read_idx(file(content, name)).dtype == np.uint8


def read_gzipped_idx(content):
    read_idx(content, "a.gz")


def parse_batch(content):
    images, labels = cifar10.parse_batch(content, "here")
    assert images.shape[1:] == (32, 32, 3) and labels.max() <= 9


def read_archive(content):
    assert len(cifar10._read_archive(file(gzip.compress(content, 0), "a.tar.gz"))) == len(cifar10.BATCHES)


def read_pickle(content):
    assert frey_faces.read_pkl(file(content, "a.pkl")).shape == (2, 560)


def read_cache(content):
    got = base._read_cache("x", file(content, "a.npz"), False)
    assert got is None or isinstance(got, base.Dataset)


def archive():
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for batch in cifar10.BATCHES:
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{batch.name}")
            member.size = 3
            tar.addfile(member, io.BytesIO(b"abc"))
    return packed.getvalue()[: 12 * 512 + 1024]  # without the padding at its end


def cache():
    whole = io.BytesIO()
    facts = '{"verified": true, "sources": {}, "arrays": ["train_images", "test_images"]}'
    np.savez(whole, facts=facts, train_images=np.zeros((2, 2, 2, 1), np.uint8), test_images=np.zeros((1, 2, 2, 1)))
    return whole.getvalue()


SMALL = idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
TARGETS = {  # name: (function of the bytes, a whole file to begin with)
    "idx": (read_idx, SMALL),
    "idx.gz": (read_gzipped_idx, gzip.compress(SMALL)),
    "cifar10_batch": (parse_batch, (bytes([7]) + bytes(3072)) * 2),
    "cifar10_archive": (read_archive, archive()),
    "pickle": (read_pickle, python2_pickle(np.zeros((2, 560), np.uint8))),
    "cache": (read_cache, cache()),
}


def main():
    target, whole = TARGETS[sys.argv[1]]
    frey_faces.NUM_FRAMES = 2

    def one(content):
        try:
            target(content)
        except DataError as error:
            assert str(error)

    target(whole)  # what is whole is read
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
    atheris.Setup([sys.argv[0], *options, str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
