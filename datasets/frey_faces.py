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
    how_to_point_to,
    sha256_of_array,
    split,
)
from datasets.matlab import read_mat_file

NUM_FRAMES = 1965
HEIGHT = 28
WIDTH = 20
# The literature uses 1565 training, 200 validation and 200 test frames. Validation and test frames are joined here.
NUM_TRAIN = 1565


def load(data_dir: Path, allow_unverified: bool) -> Dataset:
    """Returns 1565 training and 400 test images, 28x20x1, each in the order of the video, without labels."""
    folder = data_dir / "frey_faces"
    return cached(
        "frey_faces",
        data_dir / "frey_faces.npz",
        lambda: _decode(folder, allow_unverified),
        allow_unverified,
        image_shape=(HEIGHT, WIDTH, 1),
        is_published=_is_published,
    )


def _is_published(dataset: Dataset) -> bool:
    """Returns whether the images are the published frames, which are the same in both files."""
    train, test = split(NUM_FRAMES, NUM_TRAIN)
    if (len(dataset.train_images), len(dataset.test_images)) != (len(train), len(test)):
        return False
    frames = np.empty((NUM_FRAMES, HEIGHT, WIDTH, 1), np.uint8)
    frames[train] = dataset.train_images
    frames[test] = dataset.test_images
    return sha256_of_array(frames) == MAT.sha256


def _decode(folder: Path, allow_unverified: bool) -> tuple[Dataset, list[Source]]:
    """Returns the Dataset and the Source that it was read from."""
    source = _fetch(folder, allow_unverified)
    frames = READERS[source.path.name](source.path).reshape(NUM_FRAMES, HEIGHT, WIDTH, 1)
    train, test = split(NUM_FRAMES, NUM_TRAIN)
    dataset = Dataset("frey_faces", train_images=frames[train], test_images=frames[test], verified=source.verified)
    return dataset, [source]


def _fetch(folder: Path, allow_unverified: bool) -> Source:
    """Returns the Source of the MATLAB file, or of the pickle if only the pickle is available."""
    if (folder / PKL.name).is_file() and not (folder / MAT.name).is_file():
        return _fetch_pkl(folder)
    try:
        return fetch(MAT, folder, allow_unverified)
    except DownloadError as error:
        mat_failure = str(error)
    try:
        return _fetch_pkl(folder)
    except DownloadError as error:
        raise DownloadError(f"{mat_failure}\n{error}\n{_how_to_provide(folder)}") from None


def _fetch_pkl(folder: Path) -> Source:
    """Returns the Source of the pickle. Accepts any existing one, since read_pkl refuses all but the published one."""
    return fetch(PKL, folder, allow_unverified=True)


def _how_to_provide(folder: Path) -> str:
    """Returns the end of an error message, which says what to put into `folder` if no file can be downloaded."""
    return (
        f"to provide the data yourself, put {MAT.name} or {PKL.name} into {folder.resolve()}; one of them is enough\n"
        f"  {PKL.name}: its sha256, as sha256sum prints it, is {PKL.sha256}\n"
        f"  {MAT.name}: the published sha256 is that of its decoded frames, not that of the file, and is checked when "
        f"the file is read; it is {MAT.sha256}\n"
        f"{how_to_point_to(folder.name)}"
    )


def read_mat(path: Path) -> np.ndarray:
    """Returns the frames of frey_rawface.mat, uint8 [1965, 560]. A frame is 28 rows of 20 pixels."""
    (columns,) = read_mat_file(path, ("ff",))
    return _check_frames(columns.T, path)


def read_pkl(path: Path) -> np.ndarray:
    """Returns the frames of freyfaces.pkl, uint8 [1965, 560]. The file is a Python 2 pickle of a list of one array.

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
    """Returns the frames in C order. Raises DataError if they do not have the published type and shape."""
    shape = (NUM_FRAMES, HEIGHT * WIDTH)
    if frames.dtype != np.uint8 or frames.shape != shape:
        raise DataError(f"{path} holds {frames.dtype} {frames.shape}, not bytes {shape}")
    return np.ascontiguousarray(frames)


def sha256_of_frames(path: Path) -> str:
    """Returns the sha256 of the bytes of the frames in frey_rawface.mat."""
    return sha256_of_array(read_mat(path))


MAT = RemoteFile(
    "frey_rawface.mat",
    (
        "https://cs.nyu.edu/~roweis/data/frey_rawface.mat",
        "https://cs.nyu.edu/home/people/in_memoriam/roweis/data/frey_rawface.mat",
    ),
    sha256="2438ba4f0d2a6bd8bac43de756141eaa33c8d248dd613d464bdb1210d9b7af78",
    # No digest of the file itself is published.
    digest=sha256_of_frames,
    digest_name="the sha256 of its frames",
)
PKL = RemoteFile(
    "freyfaces.pkl",
    ("https://raw.githubusercontent.com/jmtomczak/vae_vampprior/master/datasets/Freyfaces/freyfaces.pkl",),
    sha256="3b69410c6a5fd6e03f09012905168be3712373a094a776f7e58fcd0670d2138a",
)
READERS = {MAT.name: read_mat, PKL.name: read_pkl}
