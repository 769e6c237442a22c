"""The user's own images: pictures in folders, .npz files and memory-mapped arrays, good ones and bad ones."""

import io
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

import datasets
from datasets import DataError, base, own

ROOT = Path(datasets.__file__).parents[1]
RNG = np.random.default_rng(0)
FIRST_STATE = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def the_same_random_numbers_in_every_test():
    """Makes the data of a test independent of the tests that ran before it."""
    RNG.bit_generator.state = FIRST_STATE


def pixels(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def save(path, array, **options):
    """Writes an array as a picture, and returns it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return array


@pytest.fixture
def photos(tmp_path):
    """A folder with three grey pictures of 6 x 5 pixels, the width first, called a.png, b.png and c.png."""
    folder = tmp_path / "photos"
    for name in "abc":
        save(folder / f"{name}.png", pixels(5, 6))
    return folder


def one_pixel(path, image_size=None):
    """Returns the values of the first pixel of the picture at a path."""
    return own.read_picture(str(path), image_size).pixels[0, 0].tolist()


# ---- Folders of pictures -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("min_bytes_for_threads", [0, own.MIN_BYTES_FOR_THREADS])
def test_pictures_in_train_and_test_are_read_in_the_order_of_their_names(min_bytes_for_threads, tmp_path, monkeypatch):
    """By several threads, and by one: these files are small."""
    monkeypatch.setattr(own, "MIN_BYTES_FOR_THREADS", min_bytes_for_threads)
    train = [save(tmp_path / "photos" / "train" / f"{number}.png", pixels(5, 6, 3)) for number in range(120)]
    test = [save(tmp_path / "photos" / "test" / f"{number}.png", pixels(5, 6, 3)) for number in range(3)]
    data = datasets.load(str(tmp_path / "photos"))
    order = sorted(range(120), key=str)
    assert np.array_equal(data.train_images, [train[number] for number in order])
    assert np.array_equal(data.test_images, test)
    assert data.name == "photos" and data.train_labels is data.test_labels is data.class_names is None
    assert data.verified is None and data.digest.startswith("sha256:")


def test_a_fixed_random_tenth_of_the_pictures_is_the_test_set(tmp_path):
    pictures = [save(tmp_path / f"{number:02}.png", pixels(4, 4)) for number in range(25)]
    data = datasets.load(tmp_path)
    train, test = base.split(25, 23)
    assert np.array_equal(data.train_images[..., 0], [pictures[index] for index in train])
    assert np.array_equal(data.test_images[..., 0], [pictures[index] for index in test])


def test_two_pictures_are_enough(tmp_path):
    for name in "ab":
        save(tmp_path / f"{name}.png", pixels(4, 4))
    data = datasets.load(tmp_path)
    assert len(data.train_images) == len(data.test_images) == 1


@pytest.mark.parametrize("parts", [("train", "test"), ("",)])
def test_folders_are_classes_and_labels_number_their_sorted_names(parts, tmp_path):
    folder = tmp_path / "pets"
    for part in parts:
        for class_number, name in enumerate(("Zebra", "a cat", "dog", "élan")):
            for number in range(5):
                save(folder / part / name / "deeper" / f"{number}.png", np.full((4, 4), class_number * 10, np.uint8))
    data = datasets.load(str(folder))
    assert data.class_names == ("Zebra", "a cat", "dog", "élan")
    assert len(data.train_labels) + len(data.test_labels) == len(parts) * 20
    assert np.array_equal(data.train_images[:, 0, 0, 0], data.train_labels * 10)
    assert np.array_equal(data.test_images[:, 0, 0, 0], data.test_labels * 10)


def test_there_can_be_more_than_256_classes(tmp_path):
    for number in range(300):
        for part in ("train", "test"):
            save(tmp_path / part / f"{number:03}" / "a.png", np.zeros((4, 4), np.uint8))
    data = datasets.load(tmp_path)
    assert data.test_labels.tolist() == list(range(300)) and len(data.class_names) == 300


def test_the_name_of_a_class_can_hold_bytes_that_are_no_text(tmp_path):
    for name in (b"caf\xe9", b"tea"):
        folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
        try:
            save(folder / "a.png", pixels(4, 4))
        except OSError:
            pytest.skip("this file system takes text only")
    assert datasets.load(tmp_path).class_names == ("caf\\udce9", "tea")


def test_hidden_files_and_others_are_counted_and_named_once(photos, capsys):
    before = datasets.load(photos)
    for name in (".DS_Store", ".a.png", "notes.txt", "movie.mp4", "z.heic"):
        (photos / name).write_text("no picture")
    save(photos / ".thumbnails" / "a.png", pixels(9, 9))
    (photos / "empty folder").mkdir()
    os.mkfifo(photos / "pipe.png")
    data = datasets.load(photos)
    assert capsys.readouterr().err == f"{photos}: ignored files and folders: 7 (.DS_Store, .a.png, .thumbnails, ...)\n"
    assert np.array_equal(data.train_images, before.train_images) and data.digest == before.digest


def test_what_stands_beside_train_and_test_is_ignored(tmp_path, capsys):
    for part in ("train", "test", "val"):
        save(tmp_path / part / "a.png", pixels(4, 4))
    assert len(datasets.load(tmp_path).train_images) == 1
    assert capsys.readouterr().err == f"{tmp_path}: ignored files and folders: 1 (val)\n"


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("Train", "train"),
        ("TEST", "test"),
        ("training", "train"),
        ("testing", "test"),
        ("val", "test"),
        ("Validation", "test"),
    ],
)
@pytest.mark.parametrize("other", ["train", "cats"])
def test_a_part_of_the_data_set_with_another_name_is_refused(name, part, other, tmp_path):
    """It would silently become a class."""
    save(tmp_path / other / "a.png", pixels(4, 4))
    save(tmp_path / name / "a.png", pixels(4, 4))
    if (tmp_path / name.swapcase()).exists():
        pytest.skip("this file system does not tell the two names apart")
    expected = f"{tmp_path} holds a folder {name}: call it {part} (or give it another name if it is a class)"
    assert message_of(tmp_path) == expected


def test_links_to_files_and_folders_are_followed(photos, tmp_path):
    folder = tmp_path / "linked"
    (folder / "one").mkdir(parents=True)
    (folder / "one" / "a.png").symlink_to(photos / "a.png")
    (folder / "two").symlink_to(photos, target_is_directory=True)
    data = datasets.load(folder)
    assert data.class_names == ("one", "two") and len(data.train_images) + len(data.test_images) == 4


def test_the_digest_is_that_of_names_and_bytes(photos, tmp_path):
    first = datasets.load(photos).digest
    assert datasets.load(f"{photos}/").digest == datasets.load(photos, image_size=4).digest == first
    moved = tmp_path / "elsewhere"
    photos.rename(moved)
    assert datasets.load(moved).digest == first
    os.utime(moved / "a.png", (0, 0))
    assert datasets.load(moved).digest == first
    (moved / "a.png").rename(moved / "aa.png")
    renamed = datasets.load(moved).digest
    save(moved / "b.png", pixels(5, 6))
    assert len({first, renamed, datasets.load(moved).digest}) == 3


@pytest.mark.parametrize("parts", [("train", "test"), ("",), ("cats", "dogs")])
def test_the_digest_does_not_depend_on_how_the_folder_is_written(parts, tmp_path, monkeypatch):
    folder = tmp_path / "photos"
    for part in parts:
        for name in "ab":
            save(folder / part / f"{name}.png", pixels(4, 4))
    expected = datasets.load(folder).digest
    monkeypatch.chdir(tmp_path)
    assert datasets.load("photos").digest == datasets.load("./photos/").digest == expected
    monkeypatch.chdir(folder)
    for path in (".", "./", "../photos", "../photos/"):
        assert datasets.load(path).digest == expected


def test_the_digest_never_changes(tmp_path):
    """The digests in the config.json of earlier runs stay valid."""
    for part in ("train", "test"):
        folder = tmp_path / part
        folder.mkdir()
        # A BMP file has the same bytes with every version of Pillow.
        save(folder / "a.bmp", np.full((4, 4), 7, np.uint8))
    assert datasets.load(tmp_path).digest == "sha256:a22423ce80cfc68c37bcf8a6c4c0377a29d4117a1ed2bc1b1310189937aaca49"


def test_pictures_are_read_without_tensorflow(photos):
    code = f"import sys, datasets; datasets.load({str(photos)!r}); print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False\n" and done.stderr == ""


# ---- Pictures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "webp", "tif", "tiff", "PNG"])
@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 3)])
def test_every_lossless_format_gives_the_bytes_that_were_saved(suffix, shape, tmp_path):
    # GIF has at most 256 colours, and WebP none but colour.
    array = np.repeat(pixels(5, 6)[..., None], 3, axis=-1) if suffix == "gif" else pixels(*shape)
    save(tmp_path / f"a.{suffix}", array, lossless=True)
    picture = own.read_picture(str(tmp_path / f"a.{suffix}"), None)
    assert np.array_equal(
        np.broadcast_to(picture.pixels, (5, 6, 3)), np.broadcast_to(array.reshape(5, 6, -1), (5, 6, 3))
    )
    assert not picture.had_alpha and not picture.had_16_bits


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "JPG"])
def test_jpeg_files_are_read(suffix, tmp_path):
    save(tmp_path / f"a.{suffix}", np.full((8, 8, 3), (10, 200, 30), np.uint8), quality=95)
    np.testing.assert_allclose(one_pixel(tmp_path / f"a.{suffix}"), (10, 200, 30), atol=4)


def test_the_first_frame_of_an_animation_is_read(tmp_path):
    frames = [Image.fromarray(np.full((4, 4), value, np.uint8)) for value in (10, 20, 30)]
    for suffix in ("gif", "webp", "png", "tif"):
        options = {"lossless": True} if suffix == "webp" else {}
        frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], **options)
        assert set(one_pixel(tmp_path / f"a.{suffix}")) == {10}


def test_grey_pictures_have_one_channel_and_a_coloured_one_gives_all_three(photos):
    assert datasets.load(photos).train_images.shape == (2, 5, 6, 1)
    grey = own.read_pictures(photos, [str(photos / "a.png")], None)[0][0]
    coloured = save(photos / "d.png", pixels(5, 6, 3))
    images, _ = own.read_pictures(photos, [str(photos / f"{name}.png") for name in "adb"], None)
    assert images.shape == (3, 5, 6, 3)
    assert np.array_equal(images[0], np.repeat(grey, 3, axis=-1)) and np.array_equal(images[1], coloured)


def test_alpha_is_put_on_black_and_the_user_is_told(tmp_path, capsys):
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[..., :] = (200, 100, 50, 128)
    save(tmp_path / "a.png", rgba)
    grey_and_alpha = Image.merge("LA", [Image.new("L", (4, 4), 200), Image.new("L", (4, 4), 51)])
    grey_and_alpha.save(tmp_path / "b.png")
    opaque = rgba.copy()
    opaque[..., 3] = 255
    save(tmp_path / "c.png", opaque)
    # A palette with a transparent colour.
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([9, 9, 9, 200, 100, 50])
    palette.save(tmp_path / "d.png", transparency=1)
    assert one_pixel(tmp_path / "a.png") == [100, 50, 25]
    assert one_pixel(tmp_path / "b.png") == [40]
    assert one_pixel(tmp_path / "c.png") == [200, 100, 50]
    assert one_pixel(tmp_path / "d.png") == [0, 0, 0]
    datasets.load(tmp_path)
    assert capsys.readouterr().err == f"{tmp_path}: transparent parts became black in 3 of the pictures\n"


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_divided_by_257_and_the_user_is_told(suffix, tmp_path, capsys):
    values = np.array([0, 128, 129, 257, 32768, 65406, 65407, 65535], np.uint16).reshape(2, 4)
    save(tmp_path / f"a.{suffix}", np.repeat(values, 2, axis=0))
    save(tmp_path / "b.bmp", pixels(4, 4))
    picture = own.read_picture(str(tmp_path / f"a.{suffix}"), None)
    assert picture.pixels[::2].ravel().tolist() == [0, 0, 1, 1, 128, 254, 255, 255]
    datasets.load(tmp_path)
    assert capsys.readouterr().err == f"{tmp_path}: 16-bit grey was divided by 257 in 1 of the pictures\n"


def test_the_transparent_colour_of_16_bit_grey_becomes_black_and_the_user_is_told(tmp_path, capsys):
    values = np.full((4, 4), 65535, np.uint16)
    values[0] = 300
    save(tmp_path / "a.png", values, transparency=300)
    # No pixel has this colour.
    save(tmp_path / "b.png", values, transparency=301)
    assert one_pixel(tmp_path / "a.png") == [0]
    assert own.read_picture(str(tmp_path / "a.png"), None).pixels[1:].min() == 255
    assert one_pixel(tmp_path / "b.png") == [1]
    datasets.load(tmp_path)
    assert "transparent parts became black in 1 of the pictures\n" in capsys.readouterr().err


def test_16_bit_grey_with_an_alpha_channel_keeps_its_high_byte_and_becomes_rgb(tmp_path):
    """Pillow opens it so."""
    row = b"\0" + struct.pack(">8H", *(4 * (0x12FF, 0xFFFF)))
    (tmp_path / "a.png").write_bytes(png_file(4, 4, bit_depth=16, colour_type=4, rows=4 * row))
    picture = own.read_picture(str(tmp_path / "a.png"), None)
    assert picture.pixels[0, 0].tolist() == [0x12, 0x12, 0x12]
    assert not picture.had_16_bits and not picture.had_alpha


def test_cmyk_and_palettes_become_rgb_and_black_and_white_becomes_grey(tmp_path):
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "cmyk.tif")
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([9, 9, 9, 200, 100, 50])
    palette.save(tmp_path / "palette.png")
    Image.new("1", (4, 4), 1).save(tmp_path / "white.png")
    assert one_pixel(tmp_path / "cmyk.tif") == [255, 0, 0]
    assert one_pixel(tmp_path / "palette.png") == [200, 100, 50]
    assert one_pixel(tmp_path / "white.png") == [255]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_the_exif_orientation_is_applied(suffix, tmp_path):
    dark_left = np.zeros((8, 16), np.uint8)
    dark_left[:, 8:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # The camera was turned by a quarter: the left of the file is the top of the picture.
    save(tmp_path / f"a.{suffix}", dark_left, exif=exif)
    turned = own.read_picture(str(tmp_path / f"a.{suffix}"), None).pixels
    assert turned.shape[:2] == (16, 8)
    assert (turned[:7] < 30).all() and (turned[9:] > 225).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_exif_orientation_is_that_of_pillow(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(tmp_path / "a.png", pixels(5, 6), exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(own.read_picture(str(tmp_path / "a.png"), None).pixels[..., 0], upright)


def test_a_damaged_exif_block_makes_no_picture_unreadable(tmp_path):
    """If the orientation can be read, it is applied, whatever else is damaged."""
    array = pixels(5, 6)
    save(tmp_path / "a.png", array, exif=b"Exif\0\0no such block")
    assert np.array_equal(own.read_picture(str(tmp_path / "a.png"), None).pixels[..., 0], array)

    # Two entries: the orientation, and a width that is text, which Pillow can read and not write.
    entries = struct.pack(">HHII", 0x0100, 2, 3, 0x61620000) + struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)
    block = b"MM\0\x2a" + struct.pack(">IH", 8, 2) + entries + struct.pack(">I", 0)
    save(tmp_path / "b.png", array, exif=b"Exif\0\0" + block)
    with Image.open(tmp_path / "b.png") as image, pytest.raises(struct.error):
        ImageOps.exif_transpose(image)
    assert np.array_equal(own.read_picture(str(tmp_path / "b.png"), None).pixels[..., 0], np.rot90(array, -1))


@pytest.mark.parametrize(("width", "height"), [(40, 30), (30, 41), (16, 16), (5, 4), (300, 10)])
def test_image_size_scales_the_shorter_side_and_cuts_out_the_middle(width, height, tmp_path):
    image = Image.fromarray(save(tmp_path / "a.png", pixels(height, width, 3)))
    scaled = image.resize(
        (round(width * 16 / min(width, height)), round(height * 16 / min(width, height))), Image.LANCZOS
    )
    top = (scaled.height - 16) // 2
    left = (scaled.width - 16) // 2
    picture = own.read_picture(str(tmp_path / "a.png"), 16)
    assert np.array_equal(picture.pixels, np.asarray(scaled)[top : top + 16, left : left + 16])


def test_pictures_of_different_sizes_need_image_size(photos):
    save(photos / "bb.png", pixels(7, 8))
    with pytest.raises(DataError, match=r"a\.png has 6x5 pixels, and .*bb\.png has 8x7; --image_size N scales"):
        # All four in their order, and not in that of a split.
        own.read_pictures(photos, sorted(map(str, photos.iterdir())), None)
    with pytest.raises(DataError, match="differ in size"):
        datasets.load(photos)
    assert datasets.load(photos, image_size=4).train_images.shape == (3, 4, 4, 1)


# ---- Bad pictures --------------------------------------------------------------------------------------------------


def png_file(width, height, bit_depth=8, colour_type=0, rows=b""):
    """Returns a PNG file with these rows of pixels. Without any, it promises a size and holds no pixels."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def picture_bytes(suffix):
    """Returns a whole picture of noise in a format."""
    file = io.BytesIO()
    Image.fromarray(pixels(32, 32, 3)).save(file, format={"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix))
    return file.getvalue()


def message_of(path, **options):
    """Returns the message of the DataError that a path gives. It is one line."""
    with pytest.raises(DataError) as caught:
        datasets.load(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif", "webp", "tif"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_a_picture_that_is_cut_off_is_refused(suffix, share, photos):
    whole = picture_bytes(suffix)
    (photos / f"z.{suffix}").write_bytes(whole[: int(share * len(whole))])
    message = message_of(photos, image_size=4)
    assert (
        f"z.{suffix} cannot be read as a picture" in message
        or f"z.{suffix} is not a picture that Pillow can read" in message
    )


@pytest.mark.parametrize("content", [b"", b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_a_file_that_is_no_picture_is_refused(content, photos):
    (photos / "z.png").write_bytes(content)
    assert "z.png is not a picture that Pillow can read as PNG, JPEG, BMP, GIF, WEBP, TIFF" in message_of(photos)


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0), (100_000, 100_000), (10_000, 10_000), (100_000, 1)])
@pytest.mark.parametrize("image_size", [None, 16])
def test_a_picture_of_an_impossible_size_is_refused(size, image_size, photos):
    """Pillow would only warn of 10,000 x 10,000 pixels."""
    (photos / "z.png").write_bytes(png_file(*size))
    assert "z.png" in message_of(photos, image_size=image_size)


def test_a_picture_so_thin_that_its_scaled_size_is_a_bomb_is_refused(photos):
    save(photos / "z.png", pixels(1, 30_000))
    assert "z.png cannot be read as a picture: scaled to a shorter side of 64" in message_of(photos, image_size=64)


def test_an_array_so_thin_that_its_scaled_size_is_a_bomb_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 4, 400_000), np.uint8))
    assert "a.npz: an image cannot be scaled: scaled to a shorter side of 64" in message_of(
        tmp_path / "a.npz", image_size=64
    )


def test_a_picture_below_4x4_is_refused(tmp_path):
    for name in "ab":
        save(tmp_path / f"{name}.png", pixels(3, 4))
    assert "has 4x3 pixels: at least 4x4 are needed" in message_of(tmp_path)


def test_a_picture_with_32_bits_per_pixel_is_refused(photos):
    save(photos / "z.tif", RNG.random((5, 6)).astype(np.float32))
    assert "z.tif cannot be read as a picture: it has 32 bits per pixel" in message_of(photos)


def test_a_folder_without_pictures_is_refused(tmp_path):
    message = message_of(tmp_path)
    assert f"no pictures in {tmp_path}: it takes files that end in .png, " in message
    assert message.endswith(".tiff, or train_images.npy and test_images.npy")
    (tmp_path / "a.heic").write_bytes(b"")
    assert "other files: 1 (a.heic)" in message_of(tmp_path)


def test_a_folder_with_one_picture_is_refused(tmp_path):
    save(tmp_path / "a.png", pixels(4, 4))
    assert "holds only 1 image: at least 2 are needed" in message_of(tmp_path)


@pytest.mark.parametrize("missing", ["train", "test"])
def test_a_folder_with_train_or_test_alone_is_refused(missing, tmp_path):
    (present,) = {"train", "test"} - {missing}
    save(tmp_path / present / "a.png", pixels(4, 4))
    assert message_of(tmp_path) == (
        f"{tmp_path} has a folder {present}, but no folder {missing}: add it; or put the pictures directly into "
        f"{tmp_path}, and a tenth of them becomes the test set"
    )
    (tmp_path / missing).mkdir()
    message = message_of(tmp_path)
    assert f"no pictures in {tmp_path / missing}: it takes files that end in .png, " in message
    assert "npy" not in message


def test_pictures_beside_folders_of_pictures_are_refused(photos):
    save(photos / "cats" / "a.png", pixels(5, 6))
    message = message_of(photos)
    assert str(photos / "a.png") in message and str(photos / "cats" / "a.png") in message


def test_a_class_that_only_the_test_pictures_have_is_refused(tmp_path):
    save(tmp_path / "train" / "cat" / "a.png", pixels(4, 4))
    save(tmp_path / "test" / "dog" / "a.png", pixels(4, 4))
    assert message_of(tmp_path) == f"{tmp_path}: test images have a class that no training image has: dog"


@pytest.mark.parametrize(("with_classes", "without"), [("train", "test"), ("test", "train")])
def test_class_folders_in_only_one_part_are_refused(with_classes, without, tmp_path):
    save(tmp_path / with_classes / "cat" / "a.png", pixels(4, 4))
    save(tmp_path / without / "a.png", pixels(4, 4))
    assert message_of(tmp_path) == (
        f"{tmp_path}: the pictures in {with_classes} are in class folders, and those in {without} are not: "
        "use class folders in both, or in neither"
    )


def test_a_broken_link_is_refused(photos):
    (photos / "z.png").symlink_to("nowhere.png")
    assert "z.png is a broken link: nowhere.png does not exist" in message_of(photos)
    (photos / "z.png").unlink()
    (photos / "z.png").symlink_to("z.png")
    assert "z.png is a broken link" in message_of(photos)


def test_a_loop_of_folders_is_refused(tmp_path):
    save(tmp_path / "cats" / "a.png", pixels(4, 4))
    (tmp_path / "cats" / "again").symlink_to(tmp_path, target_is_directory=True)
    assert f"{tmp_path / 'cats' / 'again'} is a link to a folder that it is in" in message_of(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_or_folder_without_permission_is_named(photos):
    (photos / "b.png").chmod(0)
    with pytest.raises(OSError, match=r"Permission denied.*b\.png"):
        datasets.load(photos)
    (photos / "b.png").chmod(0o644)
    photos.chmod(0)
    with pytest.raises(OSError, match=r"Permission denied.*photos"):
        datasets.load(photos)
    photos.chmod(0o755)


def test_an_unreadable_file_is_named(photos, monkeypatch):
    """For root too: a file that vanishes or fails while it is read."""
    gone = own.PictureFile(str(photos / "gone.png"), "")
    monkeypatch.setattr(own, "find_parts", lambda folder: own.FoundPictures([gone, gone], [], []))
    with pytest.raises(OSError, match=r"gone\.png"):
        datasets.load(photos)


def test_pictures_that_do_not_fit_into_memory_are_refused(photos):
    with pytest.raises(DataError, match="do not fit into memory: --image_size makes them smaller"):
        own._allocate(photos, 10**9, (10**4, 10**4, 3))


@pytest.mark.parametrize("name", ["nothing.npz", "nothing", "photos.zip"])
def test_a_path_that_is_neither_a_folder_nor_an_npz_file_is_refused(name, tmp_path):
    (tmp_path / "photos.zip").write_bytes(b"")
    assert str(tmp_path / name) in message_of(tmp_path / name)


# ---- Arrays --------------------------------------------------------------------------------------------------------


def arrays_of(num_train=6, num_test=3, shape=(5, 6, 3), labelled=True):
    """Returns the arrays of a data set by name."""
    arrays = {"train_images": pixels(num_train, *shape), "test_images": pixels(num_test, *shape)}
    if labelled:
        arrays["train_labels"] = np.arange(num_train) * 100 - 100
        arrays["test_labels"] = np.arange(num_test) * 200 - 100
    return arrays


def write_arrays(kind, folder, arrays):
    """Writes arrays as an .npz file or as a folder, and returns the path."""
    if kind == "npz":
        path = folder / "photos.npz"
        np.savez(path, **arrays)
        return path
    path = folder / "photos"
    path.mkdir(exist_ok=True)
    for name, array in arrays.items():
        np.save(path / f"{name}.npy", array)
    return path


KINDS = pytest.mark.parametrize("kind", ["npz", "folder"])


@KINDS
@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 1), (5, 6, 3)])
def test_arrays_are_read_as_they_are(kind, shape, tmp_path):
    arrays = arrays_of(shape=shape)
    data = datasets.load(write_arrays(kind, tmp_path, arrays))
    assert data.name == "photos" and data.verified is None
    for name in ("train_images", "test_images"):
        images = getattr(data, name)
        assert images.dtype == np.uint8 and images.ndim == 4 and images.flags.c_contiguous
        assert np.array_equal(images, arrays[name].reshape(-1, 5, 6, 1 if len(shape) == 2 else shape[2]))
    assert data.class_names == ("-100", "0", "100", "200", "300", "400")
    assert data.train_labels.tolist() == [0, 1, 2, 3, 4, 5] and data.test_labels.tolist() == [0, 2, 4]
    prefix = {"npz": "sha256:", "folder": "sample-sha256:"}[kind]
    assert data.digest.startswith(prefix)


@KINDS
def test_arrays_may_have_no_labels(kind, tmp_path):
    data = datasets.load(write_arrays(kind, tmp_path, arrays_of(labelled=False)))
    assert data.train_labels is data.test_labels is data.class_names is None


def test_an_npz_file_of_images_is_split_as_a_folder_of_pictures_is(tmp_path):
    images = pixels(25, 4, 4)
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(25))
    data = datasets.load(tmp_path / "a.npz")
    train, test = base.split(25, 23)
    assert np.array_equal(data.train_images[..., 0], images[train]) and data.train_labels.tolist() == train.tolist()
    assert np.array_equal(data.test_images[..., 0], images[test]) and data.test_labels.tolist() == test.tolist()


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_the_images_of_an_npz_file_are_scaled_as_pictures_are(channels, tmp_path):
    arrays = arrays_of(shape=(5, 8, *channels))
    save(tmp_path / "a.png", arrays["test_images"][2].reshape((5, 8, 3) if channels == (3,) else (5, 8)))
    data = datasets.load(write_arrays("npz", tmp_path, arrays), image_size=10)
    assert data.train_images.shape == (6, 10, 10, *(channels or (1,)))
    assert np.array_equal(data.test_images[2], own.read_picture(str(tmp_path / "a.png"), 10).pixels)


def test_the_size_of_arrays_is_checked_after_they_are_scaled(tmp_path):
    path = write_arrays("npz", tmp_path, arrays_of(shape=(3, 5)))
    assert "train_images is (6, 3, 5): images of at least 4x4 pixels are needed" in message_of(path)
    assert datasets.load(path, image_size=8).train_images.shape == (6, 8, 8, 1)
    assert "train_images is (6, 3, 3): images of at least 4x4 pixels are needed" in message_of(path, image_size=3)


def test_arrays_in_a_folder_are_mapped_and_never_copied(tmp_path):
    data = datasets.load(write_arrays("folder", tmp_path, arrays_of()))
    for images in (data.train_images, data.train_images.reshape(6, -1)):
        owner = images
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        assert isinstance(owner, np.memmap)


def test_the_digest_of_mapped_arrays_is_that_of_a_sample(tmp_path, monkeypatch):
    arrays = arrays_of(num_train=50, labelled=False)
    first = datasets.load(write_arrays("folder", tmp_path, arrays)).digest
    arrays["train_images"][7] += 1
    assert datasets.load(write_arrays("folder", tmp_path, arrays)).digest != first
    monkeypatch.setattr(own, "NUM_SAMPLED_ROWS", 5)
    sampled = datasets.load(write_arrays("folder", tmp_path, arrays)).digest
    arrays["train_images"][7] += 1
    assert datasets.load(write_arrays("folder", tmp_path, arrays)).digest == sampled
    arrays["train_images"][49] += 1
    changed = datasets.load(write_arrays("folder", tmp_path, arrays)).digest
    fewer = {name: array[:40] for name, array in arrays.items()}
    assert len({sampled, changed, datasets.load(write_arrays("folder", tmp_path, fewer)).digest}) == 3


@KINDS
@pytest.mark.parametrize("name", ["train_images", "test_images", "train_labels", "test_labels"])
def test_the_digest_is_that_of_every_array(kind, name, tmp_path):
    arrays = arrays_of()
    first = datasets.load(write_arrays(kind, tmp_path, arrays)).digest
    assert datasets.load(write_arrays(kind, tmp_path, arrays)).digest == first
    arrays[name] = arrays[name][::-1]
    assert datasets.load(write_arrays(kind, tmp_path, arrays)).digest != first


# ---- Bad arrays ----------------------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize(
    ("name", "array", "expected_text"),
    [
        ("train_images", np.zeros((6, 5, 6, 3), np.float32), "train_images is float32 (6, 5, 6, 3): it takes uint8"),
        ("train_images", np.zeros((6, 5, 6, 3), np.int64), "train_images is int64"),
        ("test_images", np.zeros((3, 5, 6, 2), np.uint8), "test_images is uint8 (3, 5, 6, 2): it takes"),
        ("test_images", np.zeros((3, 30), np.uint8), "test_images is uint8 (3, 30): it takes"),
        ("test_images", np.zeros((3, 0, 6, 3), np.uint8), "test_images is uint8 (3, 0, 6, 3): it takes"),
        ("test_images", np.zeros((3, 3, 6, 3), np.uint8), "images of at least 4x4 pixels are needed"),
        (
            "test_images",
            np.zeros((3, 8, 8, 3), np.uint8),
            "train_images (6, 5, 6, 3) and test_images (3, 8, 8, 3) differ",
        ),
        (
            "train_labels",
            np.zeros(5, np.int64),
            "train_labels is int64 (5,): it takes integers (6,), one for each image",
        ),
        ("train_labels", np.zeros((6, 1), np.int64), "train_labels is int64 (6, 1): it takes"),
        ("train_labels", np.zeros(6), "train_labels is float64 (6,): it takes integers"),
        ("test_labels", np.array([0, 7, 8]), "test images have a class that no training image has: 7"),
        ("test_labels", np.array([{}, {}, {}]), "bject"),
    ],
)
def test_arrays_of_other_types_and_shapes_are_refused(kind, name, array, expected_text, tmp_path):
    message = message_of(write_arrays(kind, tmp_path, {**arrays_of(), name: array}))
    assert expected_text in message and "photos" in message


@KINDS
def test_a_missing_array_is_named(kind, tmp_path):
    for name in ("train_images", "test_images"):
        arrays = arrays_of()
        del arrays[name]
        folder = tmp_path / name
        folder.mkdir()
        message = message_of(write_arrays(kind, folder, arrays))
        assert name in message and ("photos.npz has no array" in message or ".npy is missing" in message)
    arrays = arrays_of()
    del arrays["test_labels"]
    assert message_of(write_arrays(kind, tmp_path, arrays)).endswith(
        "has labels for only one of train_images and test_images: give labels for both, or for neither"
    )


@KINDS
def test_labels_that_no_type_of_integers_holds_are_refused(kind, tmp_path):
    """NumPy would make floats of them, which do not tell large labels apart."""
    arrays = arrays_of()
    arrays["train_labels"] = np.arange(6, dtype=np.uint64)
    arrays["test_labels"] = np.arange(3, dtype=np.int64)
    path = write_arrays(kind, tmp_path, arrays)
    assert message_of(path).startswith(f"{path}: train_labels are uint64 and test_labels are int64, and no type")
    arrays["train_labels"] = np.arange(6, dtype=np.uint8)
    assert datasets.load(write_arrays(kind, tmp_path, arrays)).class_names == tuple("012345")


def test_other_arrays_are_ignored_and_reported(tmp_path, capsys):
    path = write_arrays("npz", tmp_path, arrays_of(labelled=False) | {"y_train": np.arange(6), "y_test": np.arange(3)})
    assert datasets.load(path).train_labels is None
    assert capsys.readouterr().err == f"{path}: ignored arrays: 2 (y_train, y_test)\n"
    path = write_arrays("folder", tmp_path, arrays_of(labelled=False) | {"labels_train": np.arange(6)})
    assert datasets.load(path).train_labels is None
    assert capsys.readouterr().err == f"{path}: ignored files and folders: 1 (labels_train.npy)\n"
    datasets.load(write_arrays("npz", tmp_path, arrays_of()))
    assert capsys.readouterr().err == ""


def test_the_arrays_that_an_npz_file_has_instead_are_named(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=pixels(3, 4, 4), x_test=pixels(3, 4, 4))
    assert "it takes train_images and test_images, or images, and holds x_train, x_test" in message_of(
        tmp_path / "a.npz"
    )


def test_an_npz_file_with_images_beside_test_images_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", images=pixels(3, 4, 4), test_images=pixels(3, 4, 4))
    assert "a.npz has no array train_images" in message_of(tmp_path / "a.npz")


def test_an_npz_file_with_one_image_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", images=pixels(1, 4, 4))
    assert "holds only 1 image" in message_of(tmp_path / "a.npz")


def test_an_empty_array_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", images=pixels(0, 4, 4))
    assert "images is uint8 (0, 4, 4): it takes" in message_of(tmp_path / "a.npz")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", b"\x93NUMPY\x01\x00"])
def test_a_damaged_npz_file_is_refused(content, tmp_path):
    (tmp_path / "a.npz").write_bytes(content)
    assert "a.npz cannot be read as an .npz file" in message_of(tmp_path / "a.npz")


def test_an_array_that_is_called_npz_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", pixels(3, 4, 4))
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    assert message_of(tmp_path / "a.npz").endswith(
        "a.npz cannot be read as an .npz file: it is not a zip file of arrays; np.savez writes one"
    )


def test_an_npz_file_with_another_file_in_it_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("images", b"hello")
    assert message_of(tmp_path / "a.npz").endswith("a.npz cannot be read as an .npz file: images is not an array")


def test_damaged_mapped_arrays_are_refused(tmp_path):
    path = write_arrays("folder", tmp_path, arrays_of())
    images = path / "train_images.npy"
    whole = images.read_bytes()
    npz_file = write_arrays("npz", tmp_path, arrays_of()).read_bytes()
    for content in (b"", b"hello", whole[:20], whole[:-1], npz_file):
        images.write_bytes(content)
        assert "train_images.npy cannot be read as an .npy file" in message_of(path)


def test_mapped_arrays_in_fortran_order_are_refused(tmp_path):
    arrays = arrays_of()
    arrays["test_images"] = np.asfortranarray(arrays["test_images"])
    assert "test_images.npy is in Fortran order" in message_of(write_arrays("folder", tmp_path, arrays))


def test_mapped_arrays_are_not_scaled(tmp_path):
    path = write_arrays("folder", tmp_path, arrays_of(shape=(8, 8)))
    assert datasets.load(path, image_size=8).train_images.shape == (6, 8, 8, 1)
    assert "has images of 8x8 pixels, not 4x4: arrays in a folder are not scaled" in message_of(path, image_size=4)
