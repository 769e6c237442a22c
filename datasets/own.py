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
import sys
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import tqdm
from PIL import ExifTags, Image, UnidentifiedImageError

from datasets.base import DataError, Dataset, split

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff")
# Pillow tries only these formats, whatever a file is called.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")
# Pillow's modes of pictures that are as they should be: grey, or in colour, with 8 bits per channel.
FINAL_MODES = ("L", "RGB")
# Its modes of other grey pictures. Those with 16 bits per pixel have modes that begin with I;16.
OTHER_GREY_MODES = ("1", "LA", "La")
# Its modes of pictures with 32 bits per pixel, integers and floats. Their scale is unknown.
UNSCALED_MODES = ("I", "F")
# What is done to a picture for each EXIF orientation, other than 1, to turn it upright.
TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# The least width and height of the images, after they are scaled. config.MIN_IMAGE_SIZE is the same number.
MIN_SIDE = 4
# Usual names of the folders of training and test pictures, in lower case, and what they are called here.
PARTS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "test",
    "validation": "test",
}

# If the images are not split already, one in this many is a test image.
TEST_INTERVAL = 10
# How many pictures a thread reads at a time, at most. Handing them over one by one would take as long as reading them.
MAX_PICTURES_PER_TASK = 20
# Smaller files are read by one thread. Most of that is Python, and threads that wait for its lock slow each other down.
MIN_BYTES_FOR_THREADS = 4096
# How many rows of a mapped array enter its digest.
NUM_SAMPLED_ROWS = 1000
# How many of the ignored files are named.
NUM_NAMED = 3


def load(path: Path, image_size: int | None = None) -> Dataset:
    """Returns the images at a path. The data set has the name of the folder, or that of the file without .npz.

    With image_size N, images are scaled (Pillow, LANCZOS) until the shorter side is N, and the middle N x N is cut out.
    Without it, all of them must have one size. Raises DataError if the path does not hold images in one of the ways
    described above; the message names the file.
    """
    if path.is_dir():
        if any((path / name).exists() for name in ("train_images.npy", "test_images.npy")):
            return load_mapped(path, image_size)
        return load_pictures(path, image_size)
    if not path.exists():
        raise DataError(f"there is no folder or file {path}")
    if path.suffix != ".npz":
        raise DataError(f"{path} is neither a folder nor an .npz file")
    return load_npz(path, image_size)


def _name_of(path: Path) -> str:
    """Returns the name of the data set at a path."""
    return os.path.basename(os.path.abspath(path)).removesuffix(".npz")


def _split(path: Path, num_images: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices of the training and test images. Raises DataError if there are not enough for both."""
    if num_images < 2:
        raise DataError(f"{path} holds only 1 image: at least 2 are needed, one to train on and one to test on")
    return split(num_images, num_images - max(1, num_images // TEST_INTERVAL))


class Labels(NamedTuple):
    """The labels of training and test images, integers from 0, [n] each, and the name of each label."""

    train: np.ndarray | None = None
    test: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None


def _number_classes(train_classes: Sequence | np.ndarray, test_classes: Sequence | np.ndarray) -> Labels:
    """Returns the labels of images whose classes are names or numbers. The labels number the sorted classes."""
    classes, labels = np.unique(np.concatenate([train_classes, test_classes]), return_inverse=True)
    # The name of a folder can hold bytes that are not text, which neither figures nor terminals can show.
    names = tuple(str(name).encode(errors="backslashreplace").decode() for name in classes)
    return Labels(labels[: len(train_classes)], labels[len(train_classes) :], names)


def _check_test_classes(path: Path, train_classes: Iterable, test_classes: Iterable) -> None:
    """Raises DataError if test images have a class that no training image has."""
    unknown = sorted(set(test_classes) - set(train_classes))
    if unknown:
        raise DataError(f"{path}: test images have a class that no training image has: {unknown[0]}")


# ---- Finding pictures ----------------------------------------------------------------------------------------------


class PictureFile(NamedTuple):
    """The path of a picture, and the name of the class folder that it is in. Without class folders it is empty."""

    path: str
    class_name: str


class FoundPictures(NamedTuple):
    """The training and the test pictures below a folder, and the paths of what is ignored there."""

    train: list[PictureFile]
    test: list[PictureFile]
    ignored: list[str]


def find_pictures(folder: str | os.PathLike[str]) -> tuple[list[PictureFile], list[str]]:
    """Returns the pictures below a folder, in sorted order, and the paths of what is ignored.

    The folders in it are classes; folders inside these make no difference. Hidden files and folders are ignored, and
    so are files without one of the SUFFIXES. Raises DataError if only some of the pictures are in class folders.
    """
    pictures = []
    ignored = []
    ancestors = (_identity(os.stat(folder)),)
    for top in _sorted_entries(folder):
        for entry in _walk(top, ancestors):
            if not _is_picture(entry):
                ignored.append(entry.path)
            elif entry is top:
                pictures.append(PictureFile(entry.path, ""))
            else:
                pictures.append(PictureFile(entry.path, top.name))
    loose = [picture.path for picture in pictures if not picture.class_name]
    in_classes = [picture.path for picture in pictures if picture.class_name]
    if loose and in_classes:
        raise DataError(
            f"{folder} holds pictures, such as {loose[0]}, beside folders of pictures, such as {in_classes[0]}: "
            "folders are classes, so put all pictures into folders, or none"
        )
    return pictures, ignored


def _sorted_entries(folder: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
    """Returns the entries of a folder, sorted by name."""
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _walk(entry: os.DirEntry[str], ancestors: tuple[tuple[int, int], ...]) -> Iterator[os.DirEntry[str]]:
    """Yields an entry itself, or the files below it if it is a folder, in sorted order. Hidden folders are not entered.

    `ancestors` are the identities of the folders that the entry is in. Raises DataError for a broken link, and for a
    link to a folder that it is in.
    """
    is_hidden = entry.name.startswith(".")
    if entry.is_symlink() and not is_hidden and not os.path.exists(entry.path):
        raise DataError(f"{entry.path} is a broken link: {os.readlink(entry.path)} does not exist")
    if is_hidden or not entry.is_dir():
        yield entry
        return
    identity = _identity(entry.stat())
    if identity in ancestors:
        raise DataError(f"{entry.path} is a link to a folder that it is in, so reading it would never end: remove it")
    for inner in _sorted_entries(entry.path):
        yield from _walk(inner, (*ancestors, identity))


def _identity(status: os.stat_result) -> tuple[int, int]:
    """Returns the device and inode of a folder, which are the same whatever path leads to it."""
    return status.st_dev, status.st_ino


def _is_picture(entry: os.DirEntry[str]) -> bool:
    """Returns whether an entry is a file with a picture's name."""
    is_hidden = entry.name.startswith(".")
    return not is_hidden and entry.name.lower().endswith(SUFFIXES) and entry.is_file()


def find_parts(folder: Path) -> FoundPictures:
    """Returns the pictures below a folder.

    Raises DataError if there are none, if the folder has only one of `train` and `test`, or if a part of the data set
    has another name.
    """
    present = [name for name in ("train", "test") if (folder / name).is_dir()]
    if len(present) == 2:
        return _find_train_and_test(folder)
    _check_names_of_parts(folder)
    if len(present) == 1:
        (missing,) = {"train", "test"} - set(present)
        raise DataError(
            f"{folder} has a folder {present[0]}, but no folder {missing}: add it; or put the pictures directly into "
            f"{folder}, and a tenth of them becomes the test set"
        )
    pictures, ignored = find_pictures(folder)
    _check_any(folder, pictures, ignored, other_files="train_images.npy and test_images.npy")
    train, test = _split(folder, len(pictures))
    return FoundPictures([pictures[index] for index in train], [pictures[index] for index in test], ignored)


def _check_names_of_parts(folder: Path) -> None:
    """Raises DataError if a folder holds one that looks like a part of the data set, and would become a class."""
    for entry in _sorted_entries(folder):
        part = PARTS.get(entry.name.lower())
        if part is not None and entry.name not in ("train", "test") and entry.is_dir():
            raise DataError(
                f"{folder} holds a folder {entry.name}: call it {part} (or give it another name if it is a class)"
            )


def _find_train_and_test(folder: Path) -> FoundPictures:
    """Returns what find_parts does, for a folder with the folders train and test."""
    # Not Path: it shortens ./train to train, and the digest has the part of a path that comes after the folder's.
    train_folder = os.path.join(folder, "train")
    test_folder = os.path.join(folder, "test")
    train, ignored_in_train = find_pictures(train_folder)
    test, ignored_in_test = find_pictures(test_folder)
    _check_any(train_folder, train, ignored_in_train)
    _check_any(test_folder, test, ignored_in_test)
    # find_pictures has checked that all pictures of a part are in class folders, or none.
    train_has_classes = bool(train[0].class_name)
    test_has_classes = bool(test[0].class_name)
    if train_has_classes != test_has_classes:
        with_classes = "train" if train_has_classes else "test"
        without_classes = "test" if train_has_classes else "train"
        raise DataError(
            f"{folder}: the pictures in {with_classes} are in class folders, and those in {without_classes} are not: "
            "use class folders in both, or in neither"
        )
    _check_test_classes(
        folder,
        train_classes=[picture.class_name for picture in train],
        test_classes=[picture.class_name for picture in test],
    )
    # The folder Train is the folder train if the file system does not tell them apart, as on macOS.
    parts = (_identity(os.stat(train_folder)), _identity(os.stat(test_folder)))
    beside = [
        entry.path for entry in _sorted_entries(folder) if not entry.is_dir() or _identity(entry.stat()) not in parts
    ]
    return FoundPictures(train, test, [*beside, *ignored_in_train, *ignored_in_test])


def _check_any(
    folder: str | os.PathLike[str], pictures: list[PictureFile], ignored: list[str], other_files: str = ""
) -> None:
    """Raises DataError if a folder has no pictures. The message also names the `other_files` that it may hold."""
    if pictures:
        return
    expected = f"files that end in {', '.join(SUFFIXES)}"
    if other_files:
        expected += f", or {other_files}"
    found = f"; other files: {_name_some(ignored)}" if ignored else ""
    raise DataError(f"no pictures in {folder}: it takes {expected}{found}")


def _report_ignored(folder: Path, ignored: Sequence[str]) -> None:
    """Tells the user which files and folders were ignored, if any."""
    if ignored:
        print(f"{folder}: ignored files and folders: {_name_some(ignored)}", file=sys.stderr)


def _name_some(paths: Sequence[str]) -> str:
    """Returns how many paths there are, and the names of the first."""
    names = [os.path.basename(path) for path in paths[:NUM_NAMED]]
    if len(paths) > NUM_NAMED:
        names.append("...")
    return f"{len(paths)} ({', '.join(names)})"


# ---- Reading pictures ----------------------------------------------------------------------------------------------


class Picture(NamedTuple):
    """A picture as bytes [h, w, c] with c = 1 or 3, what was changed in it, and the size and sha256 of its file."""

    pixels: np.ndarray
    had_alpha: bool
    had_16_bits: bool
    num_bytes: int
    sha256: bytes


def load_pictures(folder: Path, image_size: int | None) -> Dataset:
    """Returns the pictures below a folder. Tells the user which files were ignored, and what was changed in others."""
    train, test, ignored = find_parts(folder)
    _report_ignored(folder, ignored)
    labels = Labels()
    if train[0].class_name:
        labels = _number_classes([file.class_name for file in train], [file.class_name for file in test])
    images, digest = read_pictures(folder, [file.path for file in (*train, *test)], image_size)
    return Dataset(
        _name_of(folder),
        train_images=images[: len(train)],
        test_images=images[len(train) :],
        train_labels=labels.train,
        test_labels=labels.test,
        verified=None,
        class_names=labels.class_names,
        digest=digest,
    )


def read_pictures(folder: Path, paths: Sequence[str], image_size: int | None) -> tuple[np.ndarray, str]:
    """Returns the pictures at paths below a folder, uint8 [n, h, w, c], and the digest of their names and bytes.

    c is 1 if all of them are grey, and 3 otherwise. Raises DataError if they differ in size.
    """
    images = np.empty((0, 0, 0, 0), np.uint8)
    digest = hashlib.sha256()
    num_with_alpha = 0
    num_with_16_bits = 0
    with contextlib.closing(_read_all(paths, image_size)) as pictures:
        for index, picture in enumerate(pictures):
            if index == 0:
                images = _allocate(folder, len(paths), picture.pixels.shape)
            if picture.pixels.shape[:2] != images.shape[1:3]:
                raise DataError(
                    f"the pictures differ in size: {paths[0]} has {_describe_size(images[0])} pixels, and "
                    f"{paths[index]} has {_describe_size(picture.pixels)}; "
                    "--image_size N scales all of them, and cuts out the middle N x N"
                )
            if picture.pixels.shape[2] > images.shape[3]:
                # This is the first picture in colour. All before it were grey.
                images = np.repeat(images, 3, axis=3)
            # If the array is in colour, NumPy repeats the one channel of a grey picture.
            images[index] = picture.pixels
            # The name begins with a slash, as it always has, so that the digests of earlier versions stay valid.
            name = "/" + paths[index].removeprefix(os.path.join(folder, ""))
            digest.update(os.fsencode(f"{name}\0{picture.num_bytes}\0"))
            digest.update(picture.sha256)
            num_with_alpha += picture.had_alpha
            num_with_16_bits += picture.had_16_bits
    if num_with_alpha:
        print(f"{folder}: transparent parts became black in {num_with_alpha} of the pictures", file=sys.stderr)
    if num_with_16_bits:
        print(f"{folder}: 16-bit grey was divided by 257 in {num_with_16_bits} of the pictures", file=sys.stderr)
    return images, f"sha256:{digest.hexdigest()}"


def _allocate(folder: Path, num_pictures: int, shape: tuple[int, ...]) -> np.ndarray:
    """Returns an array for pictures of a shape. Raises DataError if they do not fit into memory."""
    try:
        return np.empty((num_pictures, *shape), np.uint8)
    except MemoryError:
        size = "x".join(map(str, shape))
        raise DataError(
            f"{folder}: {num_pictures} pictures of {size} bytes do not fit into memory: --image_size makes them smaller"
        ) from None


def _describe_size(pixels: np.ndarray) -> str:
    """Returns the size of a picture [h, w, c] as people write it, the width first."""
    height, width = pixels.shape[:2]
    return f"{width}x{height}"


def _read_all(paths: Sequence[str], image_size: int | None) -> Generator[Picture, None, None]:
    """Yields the pictures at paths, in order.

    Meanwhile a warning of Pillow about a decompression bomb is an error, and its other warnings are not shown.
    """
    num_threads = os.cpu_count() or 1
    task_size = min(MAX_PICTURES_PER_TASK, len(paths) // (8 * num_threads) + 1)

    def read_task(first: int) -> list[Picture]:
        return [read_picture(path, image_size) for path in paths[first : first + task_size]]

    bar = tqdm.tqdm(total=len(paths), desc="reading pictures", unit="picture", disable=not sys.stderr.isatty())
    with warnings.catch_warnings(), _task_mapper(paths, num_threads) as map_tasks, bar:
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for pictures in map_tasks(read_task, range(0, len(paths), task_size)):
            bar.update(len(pictures))
            yield from pictures


@contextlib.contextmanager
def _task_mapper(paths: Sequence[str], num_threads: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """Yields a function that does what `map` does, for tasks that read the files at these paths.

    Unless the files are small, threads do several tasks at once, since Pillow decodes outside Python's lock.
    """
    if _mean_size(paths) < MIN_BYTES_FOR_THREADS:
        yield map
        return
    threads = ThreadPoolExecutor(num_threads)
    try:
        yield threads.map
    finally:
        # After an error or Ctrl-C, no thread begins another task.
        threads.shutdown(cancel_futures=True)


def _mean_size(paths: Sequence[str]) -> float:
    """Returns the mean size in bytes of about 100 of the files."""
    sample = paths[:: len(paths) // 100 + 1]
    return sum(os.path.getsize(path) for path in sample) / len(sample)


def read_picture(path: str, image_size: int | None) -> Picture:
    """Returns the picture in a file: its first frame, turned by its EXIF orientation, with transparent parts on black.

    Raises DataError if it cannot be read.
    """
    # The file is read in one go. A buffer would only take time, which counts with many small files.
    with open(path, "rb", buffering=0) as file:
        content = file.read()
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            image.load()
            final: Image.Image = image
            had_alpha = False
            # Without further information, a picture has no EXIF orientation and no transparent colour.
            if image.info or image.mode not in FINAL_MODES:
                final, had_alpha = _convert(image)
            if image_size is not None:
                final = scale(final, image_size)
            pixels = np.frombuffer(final.tobytes(), np.uint8).reshape(final.height, final.width, -1)
    except UnidentifiedImageError:
        raise DataError(
            f"{path} is not a picture that Pillow can read as {', '.join(FORMATS)}: remove it, or replace it"
        ) from None
    except Exception as error:
        # Pillow raises errors of many kinds when it reads a damaged file.
        raise DataError(f"{path} cannot be read as a picture: {error}") from None
    if min(pixels.shape[:2]) < MIN_SIDE:
        raise DataError(f"{path} has {_describe_size(pixels)} pixels: at least {MIN_SIDE}x{MIN_SIDE} are needed")
    return Picture(
        pixels=pixels,
        had_alpha=had_alpha,
        had_16_bits=image.mode.startswith("I;16"),
        num_bytes=len(content),
        sha256=hashlib.sha256(content).digest(),
    )


def _convert(image: Image.Image) -> tuple[Image.Image, bool]:
    """Returns a loaded picture, upright and opaque, in one of the FINAL_MODES, and whether any part was transparent.

    Raises ValueError for 32-bit pixels.
    """
    if image.mode in UNSCALED_MODES:
        raise ValueError("it has 32 bits per pixel, and the value of white is unknown: save it with 8 or 16 bits")
    upright = _turn_upright(image)
    if image.mode.startswith("I;16"):
        return _convert_16_bits(upright)
    opaque, had_alpha = _without_alpha(upright)
    is_grey = image.mode in ("L", *OTHER_GREY_MODES)
    return opaque.convert("L" if is_grey else "RGB"), had_alpha


def _turn_upright(image: Image.Image) -> Image.Image:
    """Returns a picture turned by its EXIF orientation. If the EXIF block is damaged, it stays as it is stored.

    Pillow's exif_transpose also writes the block again, which fails if any other entry of it is damaged.
    """
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        # Pillow raises errors of many kinds when it reads a damaged block. The picture itself is whole.
        return image
    if orientation not in TRANSPOSITIONS:
        return image
    return image.transpose(TRANSPOSITIONS[orientation])


def _convert_16_bits(image: Image.Image) -> tuple[Image.Image, bool]:
    """Returns a picture in 16-bit grey with 8 bits, and whether any part was transparent.

    It is divided by 257, which turns 65535 into 255: Pillow's own conversion would make every value above 255 white. A
    PNG file can have one grey value that is transparent, which Pillow would forget.
    """
    values = np.asarray(image)
    # No value of a picture is -1.
    is_transparent = values == image.info.get("transparency", -1)
    opaque = np.where(is_transparent, 0, values)
    return Image.fromarray(np.rint(opaque / 257).astype(np.uint8)), bool(is_transparent.any())


def _without_alpha(image: Image.Image) -> tuple[Image.Image, bool]:
    """Returns a picture on a black background, and whether any part of it was transparent."""
    if not image.has_transparency_data:
        return image, False
    image = image.convert("RGBA")
    has_alpha = bool(np.asarray(image.getchannel("A")).min() < 255)
    black = Image.new("RGBA", image.size, (0, 0, 0, 255))
    return Image.alpha_composite(black, image), has_alpha


def scale(image: Image.Image, size: int) -> Image.Image:
    """Returns the middle size x size of a picture, scaled until its shorter side is `size`.

    Raises ValueError if the scaled picture would be as large as those that Pillow refuses.
    """
    shorter = min(image.size)
    width, height = (round(side * size / shorter) for side in image.size)
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise ValueError(f"scaled to a shorter side of {size}, it would have {width}x{height} pixels")
    left = (width - size) // 2
    top = (height - size) // 2
    scaled = image.resize((width, height), Image.Resampling.LANCZOS)
    return scaled.crop((left, top, left + size, top + size))


# ---- Arrays --------------------------------------------------------------------------------------------------------

# The names of arrays that are split already, and of those that are not. The images come before their labels.
SPLIT_NAMES = ("train_images", "test_images", "train_labels", "test_labels")
WHOLE_NAMES = ("images", "labels")
IMAGE_NAMES = ("train_images", "test_images")


def load_npz(path: Path, image_size: int | None) -> Dataset:
    """Returns the images in an .npz file."""
    arrays = _read_npz(path)
    _check_arrays(path, arrays)
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(_describe_array(name, array))
        digest.update(np.ascontiguousarray(array).data)
    if "images" in arrays:
        arrays = _split_arrays(path, arrays)
    if image_size is not None:
        for name in IMAGE_NAMES:
            arrays[name] = _scale_arrays(path, arrays[name], image_size)
    return _make_dataset(path, arrays, f"sha256:{digest.hexdigest()}")


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of SPLIT_NAMES that an .npz file has, or else those of WHOLE_NAMES.

    Tells the user which other arrays were ignored.
    """
    try:
        with path.open("rb") as file, _open_npz(file) as content:
            all_names = list(content)
            names: tuple[str, ...] = SPLIT_NAMES
            if "images" in all_names and not set(IMAGE_NAMES) & set(all_names):
                names = WHOLE_NAMES
            arrays = {name: _read_array(content, name) for name in names if name in all_names}
    except Exception as error:
        # NumPy and zipfile raise errors of many kinds when they read a damaged file.
        raise DataError(f"{path} cannot be read as an .npz file: {error}") from None
    for name in names:
        if name.endswith("images") and name not in arrays:
            raise DataError(
                f"{path} has no array {name}: it takes train_images and test_images, or images, and holds "
                f"{', '.join(all_names)}"
            )
    ignored = [name for name in all_names if name not in arrays]
    if ignored:
        print(f"{path}: ignored arrays: {_name_some(ignored)}", file=sys.stderr)
    return arrays


def _open_npz(file: BinaryIO) -> np.lib.npyio.NpzFile:
    """Returns the arrays in an open .npz file. Raises ValueError if it is a file of another kind."""
    content = np.load(file, allow_pickle=False)
    if not isinstance(content, np.lib.npyio.NpzFile):
        raise ValueError("it is not a zip file of arrays; np.savez writes one")
    return content


def _read_array(content: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    """Returns an array of an .npz file. Raises ValueError if its entry is another file, which NumPy gives as bytes."""
    array = content[name]
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{name} is not an array")
    return array


def _split_arrays(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays of WHOLE_NAMES as those of SPLIT_NAMES."""
    train, test = _split(path, len(arrays["images"]))
    split_arrays = {}
    for name, array in arrays.items():
        split_arrays[f"train_{name}"] = array[train]
        split_arrays[f"test_{name}"] = array[test]
    return split_arrays


def _scale_arrays(path: Path, images: np.ndarray, image_size: int) -> np.ndarray:
    """Returns images [n, h, w] or [n, h, w, c] scaled and cropped, [n, image_size, image_size, c]."""
    if images.shape[-1] == 1:
        images = images[..., 0]
    try:
        scaled = [np.asarray(scale(Image.fromarray(image), image_size)) for image in images]
    except ValueError as error:
        raise DataError(f"{path}: an image cannot be scaled: {error}") from None
    return np.stack(scaled)


def load_mapped(folder: Path, image_size: int | None) -> Dataset:
    """Returns the images in a folder of arrays. They stay on disk: memory holds only what is read of them."""
    arrays = {}
    for name in SPLIT_NAMES:
        path = folder / f"{name}.npy"
        if path.exists():
            arrays[name] = _map(path)
        elif name.endswith("images"):
            raise DataError(f"{path} is missing: a folder of arrays holds train_images.npy and test_images.npy")
    files = [f"{name}.npy" for name in SPLIT_NAMES]
    _report_ignored(folder, [entry.path for entry in _sorted_entries(folder) if entry.name not in files])
    _check_arrays(folder, arrays)
    for name in IMAGE_NAMES:
        if image_size is not None and arrays[name].shape[1:3] != (image_size, image_size):
            raise DataError(
                f"{folder / name}.npy has images of {_describe_size(arrays[name][0])} pixels, not "
                f"{image_size}x{image_size}: arrays in a folder are not scaled, so leave out --image_size"
            )
    return _make_dataset(folder, arrays, _digest_of_sample(arrays))


def _map(path: Path) -> np.ndarray:
    """Returns the array in an .npy file, mapped into memory."""
    try:
        # Not np.load: it does not map a file that is really an .npz file.
        array = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:
        # NumPy raises errors of many kinds when it reads a damaged file.
        raise DataError(f"{path} cannot be read as an .npy file: {error}") from None
    if not array.flags.c_contiguous:
        raise DataError(f"{path} is in Fortran order, so its images are not in one piece: save it in C order")
    # A plain array on the same memory: operations on np.memmap return np.memmap again, which nothing here needs.
    return np.asarray(array)


def _digest_of_sample(arrays: dict[str, np.ndarray]) -> str:
    """Returns a digest of the headers of arrays, and of rows in equal steps from the first to the last.

    It begins with "sample-sha256", because changes in other rows leave it as it is.
    """
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(_describe_array(name, array))
        rows = np.linspace(0, len(array) - 1, NUM_SAMPLED_ROWS).astype(np.int64)
        for row in np.unique(rows):
            digest.update(array[row : row + 1].data)
    return f"sample-sha256:{digest.hexdigest()}"


def _describe_array(name: str, array: np.ndarray) -> bytes:
    """Returns the name, type and shape of an array."""
    return f"{name} {array.dtype.str} {array.shape}\n".encode()


def _check_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Raises DataError if arrays of images or labels are not what the top of this file says."""
    for name, array in arrays.items():
        if name.endswith("images"):
            _check_images(f"{path}: {name}", array)
        else:
            _check_labels(f"{path}: {name}", array, num_images=len(arrays[name.replace("labels", "images")]))
    if ("train_labels" in arrays) != ("test_labels" in arrays):
        raise DataError(
            f"{path} has labels for only one of train_images and test_images: give labels for both, or for neither"
        )
    if "train_labels" in arrays:
        _check_types_of_labels(path, arrays["train_labels"].dtype, arrays["test_labels"].dtype)
        train_classes = np.unique(arrays["train_labels"]).tolist()
        test_classes = np.unique(arrays["test_labels"]).tolist()
        _check_test_classes(path, train_classes, test_classes)


def _check_images(name: str, array: np.ndarray) -> None:
    """Raises DataError if an array does not hold images."""
    is_shaped_like_images = array.ndim == 3 or (array.ndim == 4 and array.shape[3] in (1, 3))
    if array.dtype != np.uint8 or not is_shaped_like_images or not array.size:
        raise DataError(
            f"{name} is {array.dtype} {array.shape}: it takes uint8 (n, h, w), (n, h, w, 1) or (n, h, w, 3), from 0 "
            "for black to 255 for white"
        )


def _check_labels(name: str, array: np.ndarray, num_images: int) -> None:
    """Raises DataError if an array does not hold a label for each image."""
    if array.dtype.kind not in "iu" or array.shape != (num_images,):
        raise DataError(f"{name} is {array.dtype} {array.shape}: it takes integers ({num_images},), one for each image")


def _check_types_of_labels(path: Path, train_type: np.dtype, test_type: np.dtype) -> None:
    """Raises DataError if no type of integers holds both the training and the test labels."""
    if np.result_type(train_type, test_type).kind not in "iu":
        raise DataError(
            f"{path}: train_labels are {train_type} and test_labels are {test_type}, and no type of integers holds "
            "both: save them with the same type"
        )


def _make_dataset(path: Path, arrays: dict[str, np.ndarray], digest: str) -> Dataset:
    """Returns the Dataset of the arrays of SPLIT_NAMES. Raises DataError if the images are small or differ in shape."""
    for name in IMAGE_NAMES:
        shape = arrays[name].shape
        if min(shape[1:3]) < MIN_SIDE:
            raise DataError(f"{path}: {name} is {shape}: images of at least {MIN_SIDE}x{MIN_SIDE} pixels are needed")
    train_images = _with_channels(arrays["train_images"])
    test_images = _with_channels(arrays["test_images"])
    if train_images.shape[1:] != test_images.shape[1:]:
        raise DataError(f"{path}: train_images {train_images.shape} and test_images {test_images.shape} differ in size")
    labels = Labels()
    if "train_labels" in arrays:
        labels = _number_classes(arrays["train_labels"], arrays["test_labels"])
    return Dataset(
        _name_of(path),
        train_images=train_images,
        test_images=test_images,
        train_labels=labels.train,
        test_labels=labels.test,
        verified=None,
        class_names=labels.class_names,
        digest=digest,
    )


def _with_channels(images: np.ndarray) -> np.ndarray:
    """Returns images [n, h, w] or [n, h, w, c] as [n, h, w, c], in C order. Mapped images are not copied."""
    return np.ascontiguousarray(images).reshape(*images.shape[:3], -1)
