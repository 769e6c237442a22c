"""The user's own images, at any path: a folder of pictures, an .npz file of arrays, or a folder of arrays.

Pictures are PNG, JPEG, BMP, GIF (the first frame), WebP and TIFF files. They are in the folders train and test, or, if
the folder has neither, in the folder itself; then a fixed random tenth of them is the test set. Folders in train and
test, or in the folder itself, are classes, as in torchvision's ImageFolder and Keras's image_dataset_from_directory.
The labels number the sorted names of the classes.

An .npz file holds train_images and test_images, or images, which are split in the same way: uint8 [n, h, w] or
[n, h, w, c] with c = 1 or 3. It may hold labels, integers [n], as train_labels and test_labels, or as labels.

A folder of arrays holds train_images.npy and test_images.npy, and may hold train_labels.npy and test_labels.npy. These
images stay on disk and are mapped into memory, so they can be larger than memory.
"""

import contextlib
import hashlib
import io
import os
import stat
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tqdm
from PIL import Image, ImageOps, UnidentifiedImageError

from config import MIN_IMAGE_SIZE, name_of_path
from datasets.base import DataError, Dataset, sha256_of_arrays, split

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff")
# Pillow tries only these formats, whatever a file is called.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")
# Pillow's modes of pictures that are as they should be: grey, or in colour, with 8 bits per channel.
FINAL_MODES = ("L", "RGB")
# Its modes of other grey pictures. Those with 16 bits per pixel have modes that begin with I;16.
OTHER_GREY_MODES = ("1", "LA", "La")
# Its modes of pictures with 32 bits per pixel, integers and floats. Their scale is unknown.
UNSCALED_MODES = ("I", "F")
# Usual names, in lower case, of folders that hold a part of the data set, and would be taken for a class.
PART_NAMES = ("train", "training", "test", "testing", "val", "validation")
# The names of arrays that are split already, and of those that are not. The images come before their labels.
SPLIT_NAMES = ("train_images", "test_images", "train_labels", "test_labels")
WHOLE_NAMES = ("images", "labels")

# If the images are not split already, one in this many is a test image.
TEST_INTERVAL = 10
# How many rows of a mapped array enter its digest.
NUM_SAMPLED_ROWS = 1000
# How many of the ignored files are named.
NUM_NAMED = 3


def load(path: Path, image_size: int | None = None) -> Dataset:
    """The images at a path. The data set has the name of the folder, or the name of the file without .npz.

    With image_size N, images are scaled (Pillow, LANCZOS) until the shorter side is N, and the middle N x N is cut out.
    Without it, all of them must have one size. Raises DataError if the path does not hold images in one of the ways
    described above; the message names the file.
    """
    if path.suffix == ".npz" and not path.is_dir():
        return load_npz(path, image_size)
    if not path.is_dir():
        raise DataError(f"there is no folder or .npz file at {path}")
    if any((path / name).exists() for name in ("train_images.npy", "test_images.npy")):
        return load_mapped(path, image_size)
    return load_pictures(path, image_size)


def _split(path: Path, num_images: int) -> tuple[np.ndarray, np.ndarray]:
    """The indices of the training and test images. Raises DataError if there are not enough for both."""
    if num_images < 2:
        raise DataError(f"{path} holds only 1 image: at least 2 are needed, one to train on and one to test on")
    return split(num_images, num_images - max(1, num_images // TEST_INTERVAL))


class Labels(NamedTuple):
    """The labels of training and test images, integers from 0, [n] each, and the name of each label."""

    train_labels: np.ndarray | None = None
    test_labels: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None


def _number_classes(
    path: Path, train_classes: Sequence | np.ndarray | None, test_classes: Sequence | np.ndarray | None
) -> Labels:
    """The labels of images whose classes are names or numbers. Raises DataError if only one part has classes."""
    if train_classes is None and test_classes is None:
        return Labels()
    if train_classes is None or test_classes is None:
        raise DataError(
            f"{path}: only one of train and test has classes: put both in class folders (or give both labels), or none"
        )
    classes = sorted({*train_classes, *test_classes})
    numbers = {name: number for number, name in enumerate(classes)}
    return Labels(
        train_labels=np.array([numbers[name] for name in train_classes]),
        test_labels=np.array([numbers[name] for name in test_classes]),
        class_names=tuple(_as_text(name) for name in classes),
    )


def _as_text(name: object) -> str:
    """A name with backslashes for bytes that are not text, which neither figures nor terminals can show."""
    return str(name).encode(errors="backslashreplace").decode()


def _make_dataset(
    path: Path,
    train_images: np.ndarray,
    test_images: np.ndarray,
    labels: Labels,
    digest: str,
    test_names: tuple[str, ...] | None = None,
) -> Dataset:
    """The Dataset of images uint8 [n, h, w, c]. Raises DataError if they are too small, or differ in size."""
    if train_images.shape[1:] != test_images.shape[1:]:
        raise DataError(f"{path}: train_images {train_images.shape} and test_images {test_images.shape} differ in size")
    if min(train_images.shape[1:3]) < MIN_IMAGE_SIZE:
        raise DataError(
            f"{path} has images of {_size_of(train_images)} pixels: "
            f"at least {MIN_IMAGE_SIZE}x{MIN_IMAGE_SIZE} are needed"
        )
    return Dataset(
        name_of_path(path),
        train_images=train_images,
        test_images=test_images,
        verified=None,
        test_names=test_names,
        digest=digest,
        path=os.path.abspath(path),
        **labels._asdict(),
    )


def _size_of(pixels: np.ndarray) -> str:
    """The size of pictures [..., h, w, c] as people write it, the width first."""
    height, width = pixels.shape[-3:-1]
    return f"{width}x{height}"


def _report_ignored(path: Path, names: Sequence[str]) -> None:
    """Tells the user which files or arrays were ignored, if any."""
    if names:
        print(f"{path}: ignored: {_name_some(names)}", file=sys.stderr)


def _name_some(names: Sequence[str]) -> str:
    """How many names there are, and the first of them."""
    some = [*names[:NUM_NAMED], "..."] if len(names) > NUM_NAMED else names
    return f"{len(names)} ({', '.join(some)})"


# ---- Finding pictures ----------------------------------------------------------------------------------------------


class PictureFile(NamedTuple):
    """The path of a picture, and the name of the class folder that it is in, or None without class folders."""

    path: Path
    class_name: str | None


class FoundPictures(NamedTuple):
    """The training and the test pictures below a folder, and the names of what is ignored there."""

    train: list[PictureFile]
    test: list[PictureFile]
    ignored: list[str]


def find_parts(folder: Path) -> FoundPictures:
    """The pictures below a folder. Raises DataError if a part of the data set is missing, or has another name."""
    names = sorted(os.listdir(folder))
    if "train" in names and "test" in names:
        train, ignored_in_train = find_pictures(folder / "train")
        test, ignored_in_test = find_pictures(folder / "test")
        beside = [name for name in names if name not in ("train", "test")]
        return FoundPictures(train, test, [*beside, *ignored_in_train, *ignored_in_test])
    for name in names:
        # It would silently become a class.
        if name.lower() in PART_NAMES and (folder / name).is_dir():
            raise DataError(
                f"{folder} has a folder {name}, but not both train and test: call the parts train and test, or put all "
                f"pictures directly into {folder}, or give {name} another name if it is a class"
            )
    pictures, ignored = find_pictures(folder)
    train_indices, test_indices = _split(folder, len(pictures))
    return FoundPictures(
        train=[pictures[index] for index in train_indices],
        test=[pictures[index] for index in test_indices],
        ignored=ignored,
    )


def find_pictures(folder: Path) -> tuple[list[PictureFile], list[str]]:
    """The pictures below a folder, in sorted order, and the names of what is ignored.

    The folders in it are classes; folders inside these make no difference. Hidden files and folders are ignored, and
    so are files without one of the SUFFIXES. Raises DataError if there are no pictures, or if only some of them are in
    class folders.
    """
    pictures = []
    ignored = []
    for path in _walk(folder):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            *folders, _ = path.relative_to(folder).parts
            pictures.append(PictureFile(path, class_name=folders[0] if folders else None))
        else:
            ignored.append(path.name)
    if not pictures:
        raise DataError(
            f"no pictures in {folder}: pictures end in {', '.join(SUFFIXES)}, and a folder of arrays holds "
            f"train_images.npy and test_images.npy; other files: {_name_some(ignored)}"
        )
    loose = [file.path for file in pictures if file.class_name is None]
    in_classes = [file.path for file in pictures if file.class_name is not None]
    if loose and in_classes:
        raise DataError(
            f"{folder} holds pictures, such as {loose[0]}, beside folders of pictures, such as {in_classes[0]}: "
            "folders are classes, so put all pictures into folders, or none"
        )
    return pictures, ignored


def _walk(folder: Path) -> Iterator[Path]:
    """Yields the files below a folder, in sorted order, and its hidden folders, which are not entered."""
    for name in sorted(os.listdir(folder)):
        path = folder / name
        # stat fails for a broken link, and, once the path is too long, for a link back to a folder that it is in.
        if not name.startswith(".") and stat.S_ISDIR(path.stat().st_mode):
            yield from _walk(path)
        else:
            yield path


# ---- Reading pictures ----------------------------------------------------------------------------------------------


class Picture(NamedTuple):
    """A picture as bytes [h, w, c] with c = 1 or 3, what was done to it, and the size and sha256 of its file."""

    pixels: np.ndarray
    changes: list[str]
    num_bytes: int
    sha256: bytes


def load_pictures(folder: Path, image_size: int | None) -> Dataset:
    """The pictures below a folder. Tells the user which files were ignored, and what was changed in others."""
    train, test, ignored = find_parts(folder)
    _report_ignored(folder, ignored)
    labels = _number_classes(folder, _classes_of(train), _classes_of(test))
    images, digest = read_pictures(folder, [file.path for file in (*train, *test)], image_size)
    test_names = tuple(_as_text(file.path.relative_to(folder)) for file in test)
    return _make_dataset(folder, images[: len(train)], images[len(train) :], labels, digest, test_names)


def _classes_of(pictures: Sequence[PictureFile]) -> list | None:
    """The class of each picture; None without class folders."""
    # Either all pictures are in class folders, or none: see find_pictures.
    if pictures[0].class_name is None:
        return None
    return [file.class_name for file in pictures]


def read_pictures(folder: Path, paths: Sequence[Path], image_size: int | None) -> tuple[np.ndarray, str]:
    """The pictures at paths below a folder, uint8 [n, h, w, c], and the digest of their names and bytes.

    c is 1 if all of them are grey, and 3 otherwise. Raises DataError if they differ in size.
    """
    images = np.empty((0, 0, 0, 0), np.uint8)
    digest = hashlib.sha256()
    changes: Counter[str] = Counter()
    for index, picture in enumerate(_read_all(paths, image_size)):
        if index == 0:
            images = np.empty((len(paths), *picture.pixels.shape), np.uint8)
        if picture.pixels.shape[:2] != images.shape[1:3]:
            raise DataError(
                f"the pictures differ in size: {paths[0]} has {_size_of(images)} pixels, and "
                f"{paths[index]} has {_size_of(picture.pixels)}; "
                "--image_size N scales all of them, and cuts out the middle N x N"
            )
        if picture.pixels.shape[2] > images.shape[3]:
            # This is the first picture in colour. All before it were grey.
            images = np.repeat(images, 3, axis=3)
        # If the array is in colour, NumPy repeats the one channel of a grey picture.
        images[index] = picture.pixels
        name = f"/{paths[index].relative_to(folder)}"
        digest.update(os.fsencode(f"{name}\0{picture.num_bytes}\0"))
        digest.update(picture.sha256)
        changes.update(picture.changes)
    for change, count in changes.items():
        print(f"{folder}: {change} in {count} of the pictures", file=sys.stderr)
    return images, f"sha256:{digest.hexdigest()}"


def _read_all(paths: Sequence[Path], image_size: int | None) -> Iterator[Picture]:
    """Yields the pictures at paths, in order. Pillow's warnings, about damaged EXIF blocks and the like, are not shown.

    They are read by threads, because Pillow decodes outside Python's lock.
    """
    threads = ThreadPoolExecutor()
    try:
        with warnings.catch_warnings(action="ignore"):
            pictures = threads.map(partial(read_picture, image_size=image_size), paths)
            yield from tqdm.tqdm(pictures, "reading pictures", len(paths), unit="picture", disable=None)
    finally:
        # After an error or Ctrl-C, no thread reads another picture.
        threads.shutdown(cancel_futures=True)


def read_picture(path: Path, image_size: int | None) -> Picture:
    """The picture in a file: its first frame, turned by its EXIF orientation, with transparent parts on black.

    Raises DataError if it cannot be read.
    """
    content = path.read_bytes()
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            image.load()
            final, changes = _convert(image)
            if image_size is not None:
                final = scale(final, image_size)
            pixels = np.asarray(final).reshape(final.height, final.width, -1)
    except UnidentifiedImageError:
        raise DataError(
            f"{path} is not a picture that Pillow can read as {', '.join(FORMATS)}: remove it, or replace it"
        ) from None
    except Exception as error:
        # Pillow raises errors of many kinds when it reads a damaged file.
        raise DataError(f"{path} cannot be read as a picture: {error}") from None
    return Picture(pixels, changes, num_bytes=len(content), sha256=hashlib.sha256(content).digest())


def _convert(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """A loaded picture, upright and opaque, in one of the FINAL_MODES, and what was done to it.

    Raises ValueError for 32-bit pixels.
    """
    if image.mode in FINAL_MODES and not image.info:
        # Without further information, it has no EXIF orientation and no transparent colour.
        return image, []
    if image.mode in UNSCALED_MODES:
        raise ValueError("it has 32 bits per pixel, and the value of white is unknown: save it with 8 or 16 bits")
    with contextlib.suppress(Exception):
        # Pillow turns the picture before it writes the EXIF block again, which fails if the block is damaged.
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I;16"):
        return _convert_16_bits(image)
    changes = []
    final_mode = "L" if image.mode in ("L", *OTHER_GREY_MODES) else "RGB"
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if np.asarray(image.getchannel("A")).min() < 255:
            changes.append("transparent parts became black")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image)
    return image.convert(final_mode), changes


def _convert_16_bits(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """A picture in 16-bit grey with 8 bits, and what was done to it.

    It is divided by 257, which turns 65535 into 255: Pillow's own conversion would make every value above 255 white. A
    PNG file can have one grey value that is transparent, which Pillow would forget.
    """
    changes = ["16-bit grey was divided by 257"]
    values = np.asarray(image)
    # No value of a picture is -1.
    is_transparent = values == image.info.get("transparency", -1)
    if is_transparent.any():
        changes.append("transparent parts became black")
    opaque = np.where(is_transparent, 0, values)
    return Image.fromarray(np.rint(opaque / 257).astype(np.uint8)), changes


def scale(image: Image.Image, size: int) -> Image.Image:
    """The middle size x size of a picture, scaled until its shorter side is `size`.

    Not Pillow's ImageOps.fit: it cuts out the middle first, at fractions of a pixel, so its pixels differ.
    """
    shorter = min(image.size)
    width, height = (round(side * size / shorter) for side in image.size)
    left = (width - size) // 2
    top = (height - size) // 2
    scaled = image.resize((width, height), Image.Resampling.LANCZOS)
    return scaled.crop((left, top, left + size, top + size))


# ---- Arrays --------------------------------------------------------------------------------------------------------


def load_npz(path: Path, image_size: int | None) -> Dataset:
    """The images in an .npz file."""
    arrays = _read_npz(path)
    _check_arrays(path, arrays)
    digest = f"sha256:{sha256_of_arrays(arrays)}"
    if "images" in arrays:
        train, test = _split(path, len(arrays["images"]))
        train_arrays = {f"train_{name}": array[train] for name, array in arrays.items()}
        test_arrays = {f"test_{name}": array[test] for name, array in arrays.items()}
        arrays = train_arrays | test_arrays
    if image_size is not None:
        for name in ("train_images", "test_images"):
            arrays[name] = _scale_all(arrays[name], image_size)
    return _dataset_of(path, arrays, digest)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of SPLIT_NAMES that an .npz file has, or else those of WHOLE_NAMES.

    Tells the user which other arrays were ignored.
    """
    try:
        # Opened here, because np.load leaves a damaged file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            present = list(content)
            is_split = "train_images" in present or "test_images" in present
            names = SPLIT_NAMES if is_split else WHOLE_NAMES
            # An entry that is not an array is given as bytes.
            arrays = {name: np.asarray(content[name]) for name in names if name in present}
    except Exception as error:
        # NumPy and zipfile raise errors of many kinds when they read a damaged file.
        raise DataError(f"{path} cannot be read as an .npz file: {error}") from None
    for name in names:
        if name.endswith("images") and name not in arrays:
            raise DataError(
                f"{path} has no array {name}: it takes train_images and test_images, or images, and holds "
                f"{', '.join(present)}"
            )
    _report_ignored(path, [name for name in present if name not in arrays])
    return arrays


def _scale_all(images: np.ndarray, image_size: int) -> np.ndarray:
    """Images [n, h, w] or [n, h, w, c] scaled and cropped, [n, image_size, image_size] or with c at the end."""
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    return np.stack([np.asarray(scale(Image.fromarray(image), image_size)) for image in images])


def load_mapped(folder: Path, image_size: int | None) -> Dataset:
    """The images in a folder of arrays. They stay on disk: memory holds only what is read of them."""
    arrays = {}
    for name in SPLIT_NAMES:
        path = folder / f"{name}.npy"
        if name.endswith("images") or path.exists():
            arrays[name] = _map(path)
    _report_ignored(folder, [name for name in sorted(os.listdir(folder)) if name.removesuffix(".npy") not in arrays])
    _check_arrays(folder, arrays)
    digest = f"sample-sha256:{sha256_of_arrays(arrays, max_rows=NUM_SAMPLED_ROWS)}"
    dataset = _dataset_of(folder, arrays, digest)
    if image_size is not None and dataset.train_images.shape[1:3] != (image_size, image_size):
        raise DataError(
            f"{folder} has images of {_size_of(dataset.train_images)} pixels, not {image_size}x{image_size}: arrays "
            "in a folder are not scaled, so leave out --image_size"
        )
    return dataset


def _map(path: Path) -> np.ndarray:
    """The array in an .npy file, mapped into memory."""
    try:
        # Not np.load: it does not map a file that is really an .npz file.
        array = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:
        # NumPy raises errors of many kinds when it reads a damaged file.
        raise DataError(f"{path} cannot be read as an .npy file: {error}") from None
    if not array.flags.c_contiguous:
        raise DataError(f"{path} is in Fortran order: save it in C order, so that each image is in one piece")
    return array


def _check_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Raises DataError if arrays of images or labels are not what the top of this file says."""
    for name, array in arrays.items():
        if name.endswith("images"):
            is_shaped_like_images = array.ndim == 3 or (array.ndim == 4 and array.shape[3] in (1, 3))
            if array.dtype != np.uint8 or not is_shaped_like_images or not array.size:
                raise DataError(
                    f"{path}: {name} is {array.dtype} {array.shape}: it takes uint8 (n, h, w), (n, h, w, 1) or "
                    "(n, h, w, 3), from 0 for black to 255 for white"
                )
        else:
            num_images = len(arrays[name.replace("labels", "images")])
            if array.dtype.kind not in "iu" or array.shape != (num_images,):
                raise DataError(
                    f"{path}: {name} is {array.dtype} {array.shape}: it takes integers ({num_images},), one for each "
                    "image"
                )


def _dataset_of(path: Path, arrays: dict[str, np.ndarray], digest: str) -> Dataset:
    """The Dataset of the arrays of SPLIT_NAMES."""
    labels = _number_classes(path, arrays.get("train_labels"), arrays.get("test_labels"))
    train_images = _with_channels(arrays["train_images"])
    test_images = _with_channels(arrays["test_images"])
    return _make_dataset(path, train_images, test_images, labels, digest)


def _with_channels(images: np.ndarray) -> np.ndarray:
    """Images [n, h, w] or [n, h, w, c] as [n, h, w, c]. Mapped images are not copied."""
    return np.ascontiguousarray(images).reshape(*images.shape[:3], -1)
