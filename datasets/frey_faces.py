"""frey_faces: 1965 frames of Brendan Frey's face, 28x20 grey, from a video (S. Roweis, NYU; no licence stated).

Introduced by Roweis & Saul 2000 and a VAE's data set since Kingma & Welling 2014. The frames are neighbours in time,
so a random split, which is what the literature uses, puts near twins of the test frames into training.
"""

import hashlib

import numpy as np

from datasets import pickles
from datasets.base import DataError, Dataset, DownloadError, RemoteFile, cached, fetch, read_mat_file, split

NUM_FRAMES, HEIGHT, WIDTH = 1965, 28, 20
MAX_BYTES = 10**7  # of freyfaces.pkl, whose strings may be escaped
NUM_TRAIN = 1565  # the literature's 1565/200/200, validation and test joined
FRAMES_SHA256 = "2438ba4f0d2a6bd8bac43de756141eaa33c8d248dd613d464bdb1210d9b7af78"  # of the frames' bytes, in order


def load(data_dir, allow_unverified):
    """1565 training and 400 test images, 28x20x1, each in the order of the video; no labels."""
    folder, cache = data_dir / "frey_faces", data_dir / "frey_faces.npz"
    return cached("frey_faces", cache, lambda: _decode(folder, allow_unverified), allow_unverified)


def _decode(folder, allow_unverified):
    file = PKL if (folder / PKL.name).is_file() and not (folder / MAT.name).is_file() else MAT
    try:
        source = fetch(file, folder, allow_unverified)
    except DownloadError as error:
        try:
            source = fetch(PKL, folder, allow_unverified)
        except DownloadError as second:
            raise DownloadError(f"{error}\n{second}") from None
    frames = READERS[source.path.name](source.path).reshape(NUM_FRAMES, HEIGHT, WIDTH, 1)
    train, test = split(NUM_FRAMES, NUM_TRAIN)
    return Dataset("frey_faces", frames[train], frames[test], verified=source.verified), [source]


def read_mat(path):
    """The frames of frey_rawface.mat, uint8 [1965, 560]; a frame is 28 rows of 20."""
    (columns,) = read_mat_file(path, ("ff",))
    return _frames(columns.T, path)


def read_pkl(path):
    """The frames of freyfaces.pkl (a Python 2 pickle, a list of one array), uint8 [1965, 560]."""
    try:
        with path.open("rb") as file:
            (rows,) = pickles.load(file.read(MAX_BYTES))
            return _frames(rows.array(), path)
    except DataError:
        raise
    except Exception as error:  # the unpickler answers damage with whatever its reading runs into
        raise DataError(f"{path} is no pickle of one array: {error!r}") from None


def _frames(rows, path):
    shape = (NUM_FRAMES, HEIGHT * WIDTH)
    if rows.dtype != np.uint8 or rows.shape != shape:
        raise DataError(f"{path} holds {rows.dtype} {rows.shape}, not bytes {shape}")
    return np.ascontiguousarray(rows)


MAT = RemoteFile(
    "frey_rawface.mat",
    (
        "https://cs.nyu.edu/~roweis/data/frey_rawface.mat",
        "https://cs.nyu.edu/home/people/in_memoriam/roweis/data/frey_rawface.mat",
    ),
    FRAMES_SHA256,
    content_sha256=lambda path: hashlib.sha256(read_mat(path)).hexdigest(),
)
PKL = RemoteFile(
    "freyfaces.pkl",
    ("https://raw.githubusercontent.com/jmtomczak/vae_vampprior/master/datasets/Freyfaces/freyfaces.pkl",),
    "3b69410c6a5fd6e03f09012905168be3712373a094a776f7e58fcd0670d2138a",
)
READERS = {MAT.name: read_mat, PKL.name: read_pkl}
