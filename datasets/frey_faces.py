"""frey_faces: 1965 frames of Brendan Frey's face, 28x20 grey, from a video (S. Roweis, NYU; no licence stated).

The data set was introduced by Roweis & Saul 2000 and has been used for VAEs since Kingma & Welling 2014. Consecutive
frames are alike, so the random split that the literature uses puts near copies of the test frames into training.

The frames are published twice: as the MATLAB file frey_rawface.mat, and as the pickle freyfaces.pkl.
"""

import hashlib
import pickle
from pathlib import Path

import numpy as np

from datasets.base import (
    DataError,
    Dataset,
    DownloadError,
    RemoteFile,
    Source,
    cached,
    fetch,
    missing,
    read_mat_file,
    split,
)

NUM_FRAMES = 1965
HEIGHT = 28
WIDTH = 20
# The literature uses 1565 training, 200 validation and 200 test frames. Validation and test frames are joined here.
NUM_TRAIN = 1565


def load(data_dir: Path, allow_unverified: bool) -> Dataset:
    """1565 training and 400 test images, 28x20x1, each in the order of the video, without labels."""
    folder = data_dir / "frey_faces"
    return cached(data_dir / "frey_faces.npz", lambda: _decode(folder, allow_unverified), allow_unverified)


def _decode(folder: Path, allow_unverified: bool) -> tuple[Dataset, list[Source]]:
    """The Dataset, and the Source that it was read from."""
    source = _fetch(folder, allow_unverified)
    read = read_pkl if source.path.name == PKL.name else read_mat
    frames = read(source.path).reshape(NUM_FRAMES, HEIGHT, WIDTH, 1)
    train, test = split(NUM_FRAMES, NUM_TRAIN)
    dataset = Dataset("frey_faces", train_images=frames[train], test_images=frames[test], verified=source.verified)
    return dataset, [source]


def _fetch(folder: Path, allow_unverified: bool) -> Source:
    """The Source of the MATLAB file, or of the pickle if only the pickle is available."""
    # Any pickle is accepted here, since read_pkl refuses all but the published one.
    if (folder / PKL.name).is_file() and not (folder / MAT.name).is_file():
        return fetch(PKL, folder, allow_unverified=True)
    try:
        return fetch(MAT, folder, allow_unverified)
    except DownloadError as error:
        failure = error
    try:
        return fetch(PKL, folder, allow_unverified=True)
    except DownloadError as error:
        raise missing((MAT, PKL), folder, f"{failure}; {error}", conjunction="or") from None


def read_mat(path: Path) -> np.ndarray:
    """The frames in frey_rawface.mat, uint8 [1965, 560]. A frame is 28 rows of 20 pixels."""
    (columns,) = read_mat_file(path, ("ff",))
    return _check_frames(columns.T, path)


def read_pkl(path: Path) -> np.ndarray:
    """The frames in freyfaces.pkl, uint8 [1965, 560]. The file is a Python 2 pickle of a list of one array.

    A pickle can run any code when it is read. So any file except the published one raises DataError before it is read.
    """
    content = path.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != PKL.sha256:
        raise DataError(
            f"{path} is refused, even with --allow_unverified: a pickle can run code when it is read, so only the "
            f"published one is accepted (its sha256 is {PKL.sha256}, not {sha256}); "
            f"put {MAT.name} beside it, and that file is read instead"
        )
    (rows,) = pickle.loads(content, encoding="latin1")
    return _check_frames(rows, path)


def _check_frames(frames: np.ndarray, path: Path) -> np.ndarray:
    """The frames in C order. Raises DataError if they do not have the published type and shape."""
    shape = (NUM_FRAMES, HEIGHT * WIDTH)
    if frames.dtype != np.uint8 or frames.shape != shape:
        raise DataError(f"{path} holds {frames.dtype} {frames.shape}, not bytes {shape}")
    return np.ascontiguousarray(frames)


def sha256_of_frames(path: Path) -> str:
    """The sha256 of the bytes of the frames in frey_rawface.mat."""
    return hashlib.sha256(read_mat(path).data).hexdigest()


MAT = RemoteFile(
    "frey_rawface.mat",
    ("https://cs.nyu.edu/~roweis/data/", "https://cs.nyu.edu/home/people/in_memoriam/roweis/data/"),
    sha256="2438ba4f0d2a6bd8bac43de756141eaa33c8d248dd613d464bdb1210d9b7af78",
    size="1.1 MB",
    # No digest of the file itself is published.
    digest=sha256_of_frames,
    digest_name="the sha256 of its frames",
)
PKL = RemoteFile(
    "freyfaces.pkl",
    ("https://raw.githubusercontent.com/jmtomczak/vae_vampprior/master/datasets/Freyfaces/",),
    sha256="3b69410c6a5fd6e03f09012905168be3712373a094a776f7e58fcd0670d2138a",
    size="3.6 MB",
)
