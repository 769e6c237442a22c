"""The user's own images: pictures in folders, .npz files and memory-mapped arrays, good ones and bad ones."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

import datasets
from datasets import DataError, base, own

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


def read(path, image_size=None):
    """The pixels of the picture at a path."""
    return own.read_picture(path, image_size).pixels


def message_of(path, **options):
    """The message of the DataError that a path gives. It is one line."""
    with pytest.raises(DataError) as caught:
        datasets.load(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def photos(tmp_path):
    """A folder with three grey pictures of 6 x 5 pixels, the width first, called a.png, b.png and c.png."""
    folder = tmp_path / "photos"
    for name in "abc":
        save(folder / f"{name}.png", pixels(5, 6))
    return folder


# ---- Folders of pictures -------------------------------------------------------------------------------------------


def test_pictures_in_train_and_test_are_read_in_the_order_of_their_names(tmp_path):
    train = [save(tmp_path / "photos" / "train" / f"{number}.png", pixels(5, 6, 3)) for number in range(120)]
    test = [save(tmp_path / "photos" / "test" / f"{number}.png", pixels(5, 6, 3)) for number in range(3)]
    data = datasets.load(str(tmp_path / "photos"))
    assert np.array_equal(data.train_images, [train[number] for number in sorted(range(120), key=str)])
    assert np.array_equal(data.test_images, test)
    assert data.name == "photos" and data.train_labels is data.test_labels is data.class_names is None
    assert data.verified is None and data.digest.startswith("sha256:")


@pytest.mark.parametrize(("num_images", "num_train"), [(2, 1), (25, 23)])
def test_a_fixed_random_tenth_of_the_pictures_is_the_test_set(num_images, num_train, tmp_path):
    pictures = [save(tmp_path / f"{number:02}.png", pixels(4, 4)) for number in range(num_images)]
    data = datasets.load(tmp_path)
    train, test = base.split(num_images, num_train)
    assert np.array_equal(data.train_images[..., 0], [pictures[index] for index in train])
    assert np.array_equal(data.test_images[..., 0], [pictures[index] for index in test])
    assert data.test_names == tuple(f"{index:02}.png" for index in test)


@pytest.mark.parametrize("parts", [("train", "test"), ("",)])
def test_folders_are_classes_and_labels_number_their_sorted_names(parts, tmp_path):
    for part in parts:
        for class_number, name in enumerate(("Zebra", "a cat", "dog", "élan")):
            for number in range(5):
                save(tmp_path / part / name / "deeper" / f"{number}.png", np.full((4, 4), class_number * 10, np.uint8))
    data = datasets.load(tmp_path)
    assert data.class_names == ("Zebra", "a cat", "dog", "élan")
    assert len(data.train_labels) + len(data.test_labels) == len(parts) * 20
    assert np.array_equal(data.train_images[:, 0, 0, 0], data.train_labels * 10)
    assert np.array_equal(data.test_images[:, 0, 0, 0], data.test_labels * 10)


def test_a_part_may_lack_a_class_and_there_can_be_more_than_256(tmp_path):
    for number in range(300):
        save(tmp_path / "train" / f"{number:03}" / "a.png", np.zeros((4, 4), np.uint8))
    for name in ("299", "new"):
        save(tmp_path / "test" / name / "a.png", np.zeros((4, 4), np.uint8))
    data = datasets.load(tmp_path)
    assert data.train_labels.tolist() == list(range(300)) and data.test_labels.tolist() == [299, 300]
    assert len(data.class_names) == 301


def test_the_name_of_a_class_can_hold_bytes_that_are_no_text(tmp_path):
    for name in (b"caf\xe9", b"tea"):
        folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
        try:
            save(folder / "a.png", pixels(4, 4))
        except OSError:
            pytest.skip("this file system takes text only")
    assert datasets.load(tmp_path).class_names == ("caf\\udce9", "tea")


def test_what_is_ignored_is_counted_and_named_once(photos, capsys):
    before = datasets.load(photos)
    for name in (".DS_Store", ".a.png", "notes.txt", "movie.mp4", "z.heic"):
        (photos / name).write_text("no picture")
    save(photos / ".thumbnails" / "a.png", pixels(9, 9))
    (photos / "empty folder").mkdir()
    (photos / ".#lock").symlink_to("nowhere")
    data = datasets.load(photos)
    assert "7 (.#lock, .DS_Store, .a.png, ...)" in capsys.readouterr().err
    assert np.array_equal(data.train_images, before.train_images) and data.digest == before.digest
    for part in ("train", "test"):
        save(photos / part / "a.png", pixels(4, 4))
    assert len(datasets.load(photos).train_images) == 1
    assert "11 (.#lock, .DS_Store, .a.png, ...)" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["Train", "TEST", "training", "testing", "val", "Validation", "train", "test"])
def test_a_part_of_the_data_set_with_another_name_or_alone_is_refused(name, tmp_path):
    """It would silently become a class."""
    save(tmp_path / "cats" / "a.png", pixels(4, 4))
    save(tmp_path / name / "a.png", pixels(4, 4))
    assert f"{tmp_path} has a folder {name}, " in message_of(tmp_path)


def test_links_to_files_and_folders_are_followed(photos, tmp_path):
    folder = tmp_path / "linked"
    (folder / "one").mkdir(parents=True)
    (folder / "one" / "a.png").symlink_to(photos / "a.png")
    (folder / "two").symlink_to(photos, target_is_directory=True)
    data = datasets.load(folder)
    assert data.class_names == ("one", "two") and len(data.train_images) + len(data.test_images) == 4


def test_a_broken_link_and_a_loop_are_named(photos):
    for name, target in (("z.png", "nowhere.png"), ("y.png", "y.png"), ("again", ".")):
        (photos / name).symlink_to(target)
        with pytest.raises(OSError, match=name):
            datasets.load(photos)
        (photos / name).unlink()


def test_the_digest_is_that_of_names_and_bytes(photos, tmp_path):
    first = datasets.load(photos).digest
    assert datasets.load(photos, image_size=4).digest == first
    moved = tmp_path / "elsewhere"
    photos.rename(moved)
    os.utime(moved / "a.png", (0, 0))
    assert datasets.load(moved).digest == first
    (moved / "a.png").rename(moved / "aa.png")
    renamed = datasets.load(moved).digest
    save(moved / "b.png", pixels(5, 6))
    assert len({first, renamed, datasets.load(moved).digest}) == 3


@pytest.mark.parametrize("parts", [("train", "test"), ("",), ("cats", "dogs")])
def test_the_digest_does_not_depend_on_how_the_folder_is_written(parts, tmp_path, monkeypatch):
    for part in parts:
        for name in "ab":
            save(tmp_path / "photos" / part / f"{name}.png", pixels(4, 4))
    digests = {datasets.load(tmp_path / "photos").digest}
    monkeypatch.chdir(tmp_path)
    digests |= {datasets.load(path).digest for path in ("photos", "./photos/")}
    monkeypatch.chdir("photos")
    digests |= {datasets.load(path).digest for path in (".", "./", "../photos")}
    assert len(digests) == 1


def test_the_digest_never_changes(tmp_path):
    """It is in the config.json of a run: another one would refuse the model."""
    for part in ("train", "test"):
        # A BMP file has the same bytes with every version of Pillow.
        save(tmp_path / part / "a.bmp", np.full((4, 4), 7, np.uint8))
    np.savez(tmp_path / "a.npz", images=np.full((2, 4, 4), 7, np.uint8), labels=np.arange(2, dtype="<i8"))
    for name in ("train_images", "test_images"):
        (tmp_path / "mapped").mkdir(exist_ok=True)
        np.save(tmp_path / "mapped" / f"{name}.npy", np.full((2, 4, 4), 7, np.uint8))
    assert [datasets.load(tmp_path / name).digest for name in ("", "a.npz", "mapped")] == [
        "sha256:a22423ce80cfc68c37bcf8a6c4c0377a29d4117a1ed2bc1b1310189937aaca49",
        "sha256:7cd4ad6128aa7266bf8387d5fa50e44d7e6129bff992dc6a2487f8a300129a67",
        "sample-sha256:be599db5ea5136a03d9170597ec031a1fd2056bef1a25ac899f91402d4f3923f",
    ]


# ---- Pictures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "webp", "tif", "tiff", "PNG"])
@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 3)])
def test_every_lossless_format_gives_the_bytes_that_were_saved(suffix, shape, tmp_path):
    # GIF has at most 256 colours, and WebP none but colour.
    array = np.repeat(pixels(5, 6)[..., None], 3, axis=-1) if suffix == "gif" else pixels(*shape)
    save(tmp_path / f"a.{suffix}", array, lossless=True)
    picture = own.read_picture(tmp_path / f"a.{suffix}", None)
    assert np.array_equal(
        np.broadcast_to(picture.pixels, (5, 6, 3)), np.broadcast_to(array.reshape(5, 6, -1), (5, 6, 3))
    )
    assert not picture.changes


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "JPG"])
def test_jpeg_files_are_read(suffix, tmp_path):
    save(tmp_path / f"a.{suffix}", np.full((8, 8, 3), (10, 200, 30), np.uint8), quality=95)
    np.testing.assert_allclose(read(tmp_path / f"a.{suffix}")[0, 0], (10, 200, 30), atol=4)


def test_the_first_frame_of_an_animation_is_read(tmp_path):
    frames = [Image.fromarray(np.full((4, 4), value, np.uint8)) for value in (10, 20, 30)]
    for suffix in ("gif", "webp", "png", "tif"):
        options = {"lossless": True} if suffix == "webp" else {}
        frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], **options)
        assert np.unique(read(tmp_path / f"a.{suffix}")).tolist() == [10]


def test_grey_pictures_have_one_channel_and_a_coloured_one_gives_all_three(photos):
    assert datasets.load(photos).train_images.shape == (2, 5, 6, 1)
    coloured = save(photos / "d.png", pixels(5, 6, 3))
    images, _ = own.read_pictures(photos, [photos / f"{name}.png" for name in "adb"], None)
    assert images.shape == (3, 5, 6, 3)
    assert np.array_equal(images[0], np.repeat(read(photos / "a.png"), 3, axis=-1))
    assert np.array_equal(images[1], coloured)


def test_transparent_parts_become_black_and_the_user_is_told(tmp_path, capsys):
    rgba = np.full((4, 4, 4), (200, 100, 50, 128), np.uint8)
    save(tmp_path / "a.png", rgba)
    Image.merge("LA", [Image.new("L", (4, 4), 200), Image.new("L", (4, 4), 51)]).save(tmp_path / "b.png")
    rgba[..., 3] = 255
    save(tmp_path / "opaque.png", rgba)
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([9, 9, 9, 200, 100, 50])
    palette.save(tmp_path / "d.png", transparency=1)
    # 16-bit grey in which one value is transparent, and in which that value does not occur.
    values = np.full((4, 4), 65535, np.uint16)
    values[0] = 300
    save(tmp_path / "e.png", values, transparency=300)
    save(tmp_path / "opaque16.png", values, transparency=301)
    expected = {"a": [100, 50, 25], "b": [40], "opaque": [200, 100, 50], "d": [0, 0, 0], "e": [0], "opaque16": [1]}
    for name, first_pixel in expected.items():
        assert read(tmp_path / f"{name}.png")[0, 0].tolist() == first_pixel
    assert read(tmp_path / "e.png")[1:].min() == 255
    datasets.load(tmp_path)
    assert f"{tmp_path}: transparent parts became black in 4 of the pictures\n" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_divided_by_257_and_the_user_is_told(suffix, tmp_path, capsys):
    values = np.array([0, 128, 129, 257, 32768, 65406, 65407, 65535], np.uint16).reshape(2, 4)
    save(tmp_path / f"a.{suffix}", np.repeat(values, 2, axis=0))
    save(tmp_path / "b.bmp", pixels(4, 4))
    assert read(tmp_path / f"a.{suffix}")[::2].ravel().tolist() == [0, 0, 1, 1, 128, 254, 255, 255]
    datasets.load(tmp_path)
    assert capsys.readouterr().err == f"{tmp_path}: 16-bit grey was divided by 257 in 1 of the pictures\n"


def test_cmyk_and_palettes_become_rgb_and_black_and_white_becomes_grey(tmp_path):
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "cmyk.tif")
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([9, 9, 9, 200, 100, 50])
    palette.save(tmp_path / "palette.png")
    Image.new("1", (4, 4), 1).save(tmp_path / "white.png")
    for name, pixel in (("cmyk.tif", [255, 0, 0]), ("palette.png", [200, 100, 50]), ("white.png", [255])):
        assert read(tmp_path / name)[0, 0].tolist() == pixel


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(orientation, suffix, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(tmp_path / f"a.{suffix}", pixels(8, 16, 3), exif=exif)
    with Image.open(tmp_path / f"a.{suffix}") as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    assert upright.shape[:2] == ((8, 16) if orientation < 5 else (16, 8))
    assert np.array_equal(read(tmp_path / f"a.{suffix}"), upright)


def test_a_damaged_exif_block_makes_no_picture_unreadable(tmp_path):
    """If the orientation can be read, it is applied, whatever else is damaged."""
    array = pixels(5, 6)
    save(tmp_path / "a.png", array, exif=b"Exif\0\0no such block")
    assert np.array_equal(read(tmp_path / "a.png")[..., 0], array)

    # Two entries: the orientation, and a width that is text, which Pillow can read and not write.
    entries = struct.pack(">HHII", 0x0100, 2, 3, 0x61620000) + struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)
    block = b"MM\0\x2a" + struct.pack(">IH", 8, 2) + entries + struct.pack(">I", 0)
    save(tmp_path / "b.png", array, exif=b"Exif\0\0" + block)
    with Image.open(tmp_path / "b.png") as image, pytest.raises(struct.error):
        ImageOps.exif_transpose(image)
    assert np.array_equal(read(tmp_path / "b.png")[..., 0], np.rot90(array, -1))


@pytest.mark.parametrize(("width", "height"), [(40, 30), (30, 41), (16, 16), (5, 4), (300, 10)])
def test_image_size_scales_the_shorter_side_and_cuts_out_the_middle(width, height, tmp_path):
    image = Image.fromarray(save(tmp_path / "a.png", pixels(height, width, 3)))
    factor = 16 / min(width, height)
    scaled = image.resize((round(width * factor), round(height * factor)), Image.LANCZOS)
    top = (scaled.height - 16) // 2
    left = (scaled.width - 16) // 2
    assert np.array_equal(read(tmp_path / "a.png", 16), np.asarray(scaled)[top : top + 16, left : left + 16])


def test_pictures_of_different_sizes_need_image_size(photos):
    save(photos / "d.png", pixels(7, 8))
    message = message_of(photos)
    assert "6x5" in message and "8x7" in message and str(photos / "d.png") in message and "--image_size" in message
    assert datasets.load(photos, image_size=4).train_images.shape == (3, 4, 4, 1)


# ---- Bad pictures --------------------------------------------------------------------------------------------------


def empty_png(width, height):
    """A PNG file that promises a size and holds no pixels."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("file_format", own.FORMATS)
@pytest.mark.parametrize("share", [0, 0.02, 0.5, 0.9])
def test_a_picture_that_is_cut_off_is_refused(file_format, share, photos):
    file = io.BytesIO()
    Image.fromarray(pixels(32, 32, 3)).save(file, file_format)
    whole = file.getvalue()
    # Whatever the file is called.
    (photos / "z.png").write_bytes(whole[: int(share * len(whole))])
    assert f"{photos / 'z.png'} " in message_of(photos, image_size=4)


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0), (100_000, 100_000), (10_000, 10_000), (100_000, 1)])
@pytest.mark.parametrize("image_size", [None, 16])
def test_a_picture_of_an_impossible_size_is_refused(size, image_size, photos):
    (photos / "z.png").write_bytes(empty_png(*size))
    assert "z.png" in message_of(photos, image_size=image_size)


def test_a_picture_with_32_bits_per_pixel_is_refused(photos):
    save(photos / "z.tif", RNG.random((5, 6)).astype(np.float32))
    message = message_of(photos)
    assert "z.tif" in message and "32 bits" in message


def test_images_below_4x4_are_refused(tmp_path):
    for name in "ab":
        save(tmp_path / f"{name}.png", pixels(3, 5))
    np.savez(tmp_path / "a.npz", images=pixels(3, 3, 5))
    for path in (tmp_path, tmp_path / "a.npz"):
        assert f"{path} has images of 5x3 pixels" in message_of(path)
        assert datasets.load(path, image_size=8).train_images.shape[1:] == (8, 8, 1)


def test_a_folder_with_one_picture_or_none_is_refused(tmp_path):
    (tmp_path / "a.heic").write_bytes(b"")
    message = message_of(tmp_path)
    assert f"no pictures in {tmp_path}: " in message and ".png" in message and "train_images.npy" in message
    assert "1 (a.heic)" in message
    save(tmp_path / "a.png", pixels(4, 4))
    assert f"{tmp_path} holds only 1 image" in message_of(tmp_path)
    np.savez(tmp_path / "a.npz", images=pixels(1, 4, 4))
    assert "a.npz holds only 1 image" in message_of(tmp_path / "a.npz")
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
    assert f"no pictures in {tmp_path / 'train'}: " in message_of(tmp_path)


def test_pictures_beside_folders_of_pictures_are_refused(photos):
    save(photos / "cats" / "a.png", pixels(5, 6))
    message = message_of(photos)
    assert str(photos / "a.png") in message and str(photos / "cats" / "a.png") in message


@pytest.mark.parametrize(("with_classes", "without"), [("train", "test"), ("test", "train")])
def test_classes_in_only_one_part_are_refused(with_classes, without, tmp_path):
    save(tmp_path / with_classes / "cat" / "a.png", pixels(4, 4))
    save(tmp_path / without / "a.png", pixels(4, 4))
    np.savez(
        tmp_path / "a.npz",
        **{"train_images": pixels(2, 4, 4), "test_images": pixels(2, 4, 4), f"{with_classes}_labels": np.arange(2)},
    )
    for path in (tmp_path, tmp_path / "a.npz"):
        assert f"{path}: only one of train and test has classes" in message_of(path)


def test_a_file_that_vanishes_or_cannot_be_read_is_named(photos):
    with pytest.raises(OSError, match=r"gone\.png"):
        own.read_pictures(photos, [photos / "gone.png"], None)


@pytest.mark.parametrize("name", ["nothing.npz", "nothing", "photos.zip"])
def test_a_path_that_is_neither_a_folder_nor_an_npz_file_is_refused(name, tmp_path):
    (tmp_path / "photos.zip").write_bytes(b"")
    assert str(tmp_path / name) in message_of(tmp_path / name)


# ---- Arrays --------------------------------------------------------------------------------------------------------


def arrays_of(num_train=6, num_test=3, shape=(5, 6, 3), labelled=True):
    """The arrays of a data set by name."""
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
@pytest.mark.parametrize("labelled", [False, True])
def test_arrays_are_read_as_they_are(kind, shape, labelled, tmp_path):
    arrays = arrays_of(shape=shape, labelled=labelled)
    data = datasets.load(write_arrays(kind, tmp_path, arrays))
    assert data.name == "photos" and data.verified is None
    for name in ("train_images", "test_images"):
        images = getattr(data, name)
        assert images.dtype == np.uint8 and images.ndim == 4 and images.flags.c_contiguous
        assert np.array_equal(images, arrays[name].reshape(-1, 5, 6, 1 if len(shape) == 2 else shape[2]))
    if labelled:
        assert data.class_names == ("-100", "0", "100", "200", "300", "400")
        assert data.train_labels.tolist() == [0, 1, 2, 3, 4, 5] and data.test_labels.tolist() == [0, 2, 4]
    else:
        assert data.train_labels is data.test_labels is data.class_names is None


@KINDS
def test_labels_of_different_types_stay_apart(kind, tmp_path):
    """NumPy would make floats of them, which do not tell large labels apart."""
    arrays = arrays_of()
    arrays["train_labels"] = np.arange(6, dtype=np.uint64) + 2**60
    arrays["test_labels"] = np.array([-1, 2**60, 2**60 + 1])
    data = datasets.load(write_arrays(kind, tmp_path, arrays))
    assert data.class_names == ("-1", *(str(2**60 + number) for number in range(6)))
    assert data.test_labels.tolist() == [0, 1, 2]


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
    assert np.array_equal(data.test_images[2], read(tmp_path / "a.png", 10))


def test_arrays_in_a_folder_are_mapped_and_never_copied(tmp_path):
    data = datasets.load(write_arrays("folder", tmp_path, arrays_of()))
    for images in (data.train_images, data.train_images.reshape(6, -1)):
        owner = images
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        assert isinstance(owner, np.memmap)


def test_the_digest_of_mapped_arrays_is_that_of_a_sample(tmp_path, monkeypatch):
    monkeypatch.setattr(own, "NUM_SAMPLED_ROWS", 5)
    arrays = arrays_of(num_train=50, labelled=False)
    first = datasets.load(write_arrays("folder", tmp_path, arrays)).digest
    arrays["train_images"][7] += 1
    assert datasets.load(write_arrays("folder", tmp_path, arrays)).digest == first
    arrays["train_images"][49] += 1
    changed = datasets.load(write_arrays("folder", tmp_path, arrays)).digest
    fewer = {name: array[:40] for name, array in arrays.items()}
    assert len({first, changed, datasets.load(write_arrays("folder", tmp_path, fewer)).digest}) == 3


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
    ("name", "array", "found"),
    [
        ("train_images", np.zeros((6, 5, 6, 3), np.float32), "train_images is float32 (6, 5, 6, 3)"),
        ("test_images", np.zeros((3, 5, 6, 2), np.uint8), "test_images is uint8 (3, 5, 6, 2)"),
        ("test_images", np.zeros((3, 30), np.uint8), "test_images is uint8 (3, 30)"),
        ("test_images", np.zeros((0, 5, 6, 3), np.uint8), "test_images is uint8 (0, 5, 6, 3)"),
        ("test_images", np.zeros((3, 8, 8, 3), np.uint8), "test_images (3, 8, 8, 3)"),
        ("train_labels", np.zeros(5, np.int64), "train_labels is int64 (5,)"),
        ("train_labels", np.zeros((6, 1), np.int64), "train_labels is int64 (6, 1)"),
        ("train_labels", np.zeros(6), "train_labels is float64 (6,)"),
        ("test_labels", np.array([{}, {}, {}]), "bject"),
    ],
)
def test_arrays_of_other_types_and_shapes_are_refused(kind, name, array, found, tmp_path):
    message = message_of(write_arrays(kind, tmp_path, {**arrays_of(), name: array}))
    assert found in message and "photos" in message


@KINDS
@pytest.mark.parametrize("name", ["train_images", "test_images"])
def test_a_missing_array_is_named(kind, name, tmp_path):
    arrays = arrays_of()
    del arrays[name]
    message = message_of(write_arrays(kind, tmp_path, arrays))
    assert name in message and str(tmp_path / "photos") in message


def test_the_arrays_that_an_npz_file_has_instead_are_named(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=pixels(3, 4, 4), x_test=pixels(3, 4, 4))
    message = message_of(tmp_path / "a.npz")
    assert "train_images and test_images, or images" in message and "x_train, x_test" in message


def test_other_arrays_are_ignored_and_reported(tmp_path, capsys):
    datasets.load(write_arrays("npz", tmp_path, arrays_of(labelled=False) | {"y_train": np.arange(6)}))
    assert "1 (y_train)" in capsys.readouterr().err
    datasets.load(write_arrays("folder", tmp_path, arrays_of(labelled=False) | {"labels_train": np.arange(6)}))
    assert "1 (labels_train.npy)" in capsys.readouterr().err
    datasets.load(write_arrays("npz", tmp_path, arrays_of()))
    assert capsys.readouterr().err == ""


def test_damaged_arrays_are_refused(tmp_path):
    """Also an array that is called .npz, and an .npz file that is called .npy."""
    npz = write_arrays("npz", tmp_path, arrays_of())
    folder = write_arrays("folder", tmp_path, arrays_of())
    npy = folder / "train_images.npy"
    whole_npz = npz.read_bytes()
    whole_npy = npy.read_bytes()
    flipped = bytearray(whole_npz)
    flipped[300] ^= 1
    for content in (b"", b"hello", b"PK\x03\x04", whole_npz[:-1], flipped, whole_npy):
        npz.write_bytes(content)
        assert str(npz) in message_of(npz)
    for content in (b"", b"hello", whole_npy[:20], whole_npy[:-1], whole_npz):
        npy.write_bytes(content)
        assert str(npy) in message_of(folder)


def test_mapped_arrays_in_fortran_order_are_refused(tmp_path):
    """They would be copied into memory."""
    arrays = arrays_of()
    arrays["test_images"] = np.asfortranarray(arrays["test_images"])
    assert "test_images.npy is in Fortran order" in message_of(write_arrays("folder", tmp_path, arrays))


def test_mapped_arrays_are_not_scaled(tmp_path):
    path = write_arrays("folder", tmp_path, arrays_of(shape=(8, 8)))
    assert datasets.load(path, image_size=8).train_images.shape == (6, 8, 8, 1)
    message = message_of(path, image_size=4)
    assert str(path) in message and "--image_size" in message
