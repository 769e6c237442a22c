"""Replacing a file in one step."""

import errno
import io
import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from vae import files


def test_replacing_makes_the_folder_and_keeps_the_old_file_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "new" / "folder" / "file"
    for old, new in ((None, "first"), ("first", "second")):
        with files.replacing(path) as temporary:
            temporary.write_text(new)
            assert (path.read_text() if path.exists() else None) == old
        assert path.read_text() == new
        assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError("disk full"), ValueError("disk full"), KeyboardInterrupt("disk full")])
def test_replacing_leaves_the_old_file_if_the_write_fails(error, tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(type(error), match="full"), files.replacing(path) as temporary:
        temporary.write_text("ne")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_names_the_file(tmp_path):
    """That of write has no name. That of open may have another one: of a file that is copied, for example."""
    path = tmp_path / "file"
    expected = re.escape(f"could not write {path}: No space left on device")
    with pytest.raises(OSError, match=f"^{expected}$"), files.replacing(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    missing = tmp_path / "missing"
    with pytest.raises(FileNotFoundError) as caught, files.replacing(path):
        missing.read_bytes()
    assert caught.value.filename == str(missing)


def test_save_figure_writes_a_png_with_the_same_bytes_each_time(tmp_path):
    figure = Figure(figsize=(2, 1), dpi=50)
    figure.add_subplot().plot([1, 3, 2])
    paths = [tmp_path / "pictures" / name for name in ("first.png", "second.png")]
    for path in paths:
        files.save_figure(figure, path)
    first, second = [path.read_bytes() for path in paths]
    assert first == second
    with Image.open(io.BytesIO(first)) as image:
        assert image.format == "PNG" and image.size == (100, 50)
        assert np.ptp(np.asarray(image.convert("L"))) > 0
    assert sorted(paths[0].parent.iterdir()) == paths
