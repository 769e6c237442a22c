"""A run's folder: config.json, history.csv and checkpoints. A kill at any moment loses nothing that was saved."""

import contextlib
import csv
import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import re
import reprlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import tensorflow as tf

from config import Config
from vae import checkpoints
from vae import model as vae_model
from vae.checkpoints import RETRAINING, RunError
from vae.files import replacing
from vae.model import VAE
from vae.training import HistoryRow, is_tested

# A save is due after the first epoch that reaches either limit.
SAVE_SECONDS = 60
SAVE_EPOCHS = 10

# The columns of a history.csv that was written before there was a schedule of the learning rate.
FIRST_HISTORY_FIELDS = HistoryRow._fields[:-1]

# The folder, beside the runs, that --overwrite moves earlier runs to.
REPLACED = "replaced"

# The fields of Config that every config.json has. A field that was added later has its default if it is missing.
REQUIRED_FIELDS = (
    "dataset",
    "vae_type",
    "latent_dim",
    "num_epochs",
    "learning_rate",
    "batch_size",
    "hidden_size",
    "activation",
    "likelihood",
    "seed",
)

# What to do about a damaged file of a run.
CONFIG_REMEDY = (
    "put back a copy of this file; or train with the same flags for one epoch into another --checkpoints_dir, "
    f"and copy config.json from there\n{RETRAINING}"
)
HISTORY_REMEDY = (
    "the model does not depend on this file: evaluate.py and the drawing scripts work without it\n"
    f"to train the model further, correct this file or put back a copy of it\n{RETRAINING}"
)


@dataclasses.dataclass(frozen=True)
class SavedConfig:
    """What config.json holds: the config, the images' shape (h, w, c), and what the model was trained with.

    data_verified: whether every data file had its published sha256, in every session that trained the model. None for
    the user's own images.
    versions: those of Python and the libraries at the last save.
    data_digest: the digest of the user's own images. None for the other data sets.
    """

    config: Config
    image_shape: tuple[int, ...]
    data_verified: bool | None
    versions: dict[str, str]
    data_digest: str | None = None


class Run:
    """One run's folder while it is trained. `training_run` makes it, and holds the folder's lock meanwhile."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.history: list[HistoryRow] = []
        self._data_verified: bool | None = True
        self._last_save_epoch = 0
        self._last_save_time = time.monotonic()

    def restore(self, state: tf.train.Checkpoint, config: Config) -> None:
        """Fills `state` and the history from the newest checkpoint, if there is one.

        Raises RunError if the folder holds another model than `config`, or a model of images of another shape, or if
        its files cannot be read.
        """
        if saved_epoch(self.folder) == 0:
            return
        saved = read_config(self.folder)
        check_config(self.folder, saved.config, config)
        check_image_shape(self.folder, saved.image_shape, state.model.image_shape)
        epoch = checkpoints.restore(state, self.folder)
        self.history = self._read_history(epoch, config.learning_rate)
        checkpoints.set_damaged_aside(self.folder, epoch)
        self._data_verified = saved.data_verified
        self._last_save_epoch = epoch
        self._last_save_time = time.monotonic()

    def _read_history(self, epoch: int, learning_rate: float) -> list[HistoryRow]:
        """Returns the rows up to an epoch, as uninterrupted training would have written them.

        A kill between history.csv and the checkpoint leaves rows beyond the epoch. And the last row of a run that was
        stopped has a test ELBO in any case. Rows without a learning rate are from before there was a schedule.
        """
        history = read_history(self.folder)
        if len(history) < epoch:
            path = self.folder / "history.csv"
            raise RunError(f"{path} ends at epoch {len(history)}, and the model is at epoch {epoch}\n{HISTORY_REMEDY}")
        history = [without_extra_test(row) for row in history[:epoch]]
        return [with_learning_rate(row, learning_rate) for row in history]

    def move_to_replaced(self) -> None:
        """Moves an earlier model, if there is one, to <checkpoints_dir>/replaced/<run name>.<n>, and says so.

        If the run's folder is a symbolic link, its target moves to a folder `replaced` beside the target.
        """
        if saved_epoch(self.folder) == 0:
            return
        destination = next_free_folder(self.folder.parent / REPLACED, self.folder.name)
        destination.parent.mkdir(exist_ok=True)
        self.folder.rename(destination)
        # Another program may make the folder in between.
        self.folder.mkdir(exist_ok=True)
        print(f"the earlier model is now in {destination}")

    def is_save_due(self, epoch: int) -> bool:
        """Returns whether the model should be saved after this epoch: after SAVE_EPOCHS or SAVE_SECONDS."""
        seconds = time.monotonic() - self._last_save_time
        return seconds >= SAVE_SECONDS or epoch - self._last_save_epoch >= SAVE_EPOCHS

    def save(
        self, state: tf.train.Checkpoint, config: Config, data_verified: bool | None, data_digest: str | None = None
    ) -> None:
        """Writes config.json, history.csv and a checkpoint of `state`.

        Until every file is written, the previous checkpoint stays in use. A model that was ever trained on unverified
        data stays unverified. data_digest is that of the user's own images.
        """
        self._data_verified = self._data_verified and data_verified
        saved = SavedConfig(
            config=config,
            image_shape=state.model.image_shape,
            data_verified=self._data_verified,
            versions=library_versions(),
            data_digest=data_digest,
        )
        write_config(self.folder, saved)
        write_history(self.folder, self.history)
        epoch = int(state.epoch)
        checkpoints.write(state, self.folder, epoch)
        self._last_save_epoch = epoch
        self._last_save_time = time.monotonic()


@contextlib.contextmanager
def training_run(folder: str | os.PathLike) -> Iterator[Run]:
    """Yields the Run of a folder, and holds its lock meanwhile. Raises RunError if another process trains in it.

    The folder is created if there is none. If nothing is in it at the end, it is removed, unless it was there and empty
    before.
    """
    # If the folder is a symbolic link, its target is used, so that moving the folder leaves the link in place.
    folder = Path(folder).resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with lock(folder):
        was_empty = folder.is_dir() and not any(folder.iterdir())
        folder.mkdir(exist_ok=True)
        try:
            remove_temporary_files(folder)
            yield Run(folder)
        finally:
            if not was_empty:
                remove_if_empty(folder)


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Holds the lock of a run's folder. The lock file is next to the folder, because --overwrite moves the folder."""
    file_lock = filelock.FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        file_lock.acquire(timeout=0)
    except filelock.Timeout:
        raise RunError(f"another process is training in {folder}; wait for it, or stop it") from None
    try:
        yield
    finally:
        file_lock.release()


def remove_if_empty(folder: Path) -> None:
    """Removes a folder that holds nothing. A folder that cannot be removed stays."""
    with contextlib.suppress(OSError):
        folder.rmdir()


def remove_temporary_files(folder: Path) -> None:
    """Removes half-written files that a killed process left."""
    for path in folder.glob(".*.tmp"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def next_free_folder(parent: Path, name: str) -> Path:
    """Returns parent/<name>.<n>, where n is one more than the highest number in use."""
    numbers = [0]
    for path in parent.glob("*"):
        match = re.fullmatch(rf"{re.escape(name)}\.(\d+)", path.name)
        if match:
            numbers.append(int(match[1]))
    return parent / f"{name}.{max(numbers) + 1}"


def library_versions() -> dict[str, str]:
    """Returns the versions of Python and of the libraries that decide the numbers."""
    versions = {"python": platform.python_version()}
    for package in ("tensorflow", "keras", "numpy"):
        versions[package] = importlib.metadata.version(package)
    return versions


def write_config(folder: Path, saved: SavedConfig) -> None:
    """Writes config.json."""
    content = dataclasses.asdict(saved)
    with replacing(folder / "config.json") as path:
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_config(folder: str | os.PathLike) -> SavedConfig:
    """Returns what a run's config.json holds. Raises RunError if it cannot be read, and says what to do."""
    path = Path(folder) / "config.json"
    try:
        return parse_config(json.loads(read_text(path)))
    except RecursionError:
        problem = "it is nested too deeply"
    except ValueError as error:
        problem = str(error)
    raise RunError(f"{path} cannot be read: {problem}\n{CONFIG_REMEDY}")


def read_text(path: Path) -> str:
    """Returns the text of a run's file. Raises ValueError if it is missing or not text, RunError for any other reason.

    Permissions, for example, are such a reason: the file may be whole.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError("there is no such file") from None
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from None


def parse_config(content: Any) -> SavedConfig:
    """Returns what the content of a config.json says. Raises ValueError if an entry is missing or has a wrong value."""
    check_entries(content, "the file", ("config", "image_shape", "data_verified"))
    fields = content["config"]
    check_entries(fields, "config", REQUIRED_FIELDS)
    unknown_fields = set(fields) - {field.name for field in dataclasses.fields(Config)}
    if unknown_fields:
        raise ValueError(f"config has unknown entries: {', '.join(sorted(unknown_fields))}")
    data_verified = content["data_verified"]
    if not isinstance(data_verified, bool | None):
        raise ValueError(f"data_verified takes true, false or null, got {reprlib.repr(data_verified)}")
    # Nothing depends on the versions. They are for the reader of the file.
    versions = content.get("versions", {})
    if not isinstance(versions, dict):
        raise ValueError(f"versions takes an object, got {reprlib.repr(versions)}")
    # Only runs on the user's own images have a digest.
    data_digest = content.get("data_digest")
    if not isinstance(data_digest, str | None):
        raise ValueError(f"data_digest takes a text or null, got {reprlib.repr(data_digest)}")
    return SavedConfig(
        config=Config(**fields),
        image_shape=parse_image_shape(content["image_shape"]),
        data_verified=data_verified,
        versions=versions,
        data_digest=data_digest,
    )


def check_entries(content: Any, name: str, needed: tuple[str, ...]) -> None:
    """Raises ValueError if a part of a config.json is not an object with the entries that it needs."""
    if not isinstance(content, dict):
        raise ValueError(f"{name} takes an object, got {reprlib.repr(content)}")
    for entry in needed:
        if entry not in content:
            raise ValueError(f"{name} has no entry {entry!r}")


def parse_image_shape(sizes: Any) -> tuple[int, ...]:
    """Returns an image_shape (h, w, c) of a config.json. Raises ValueError if it is not three sizes."""
    if not isinstance(sizes, list) or len(sizes) != 3 or not all(type(size) is int and size > 0 for size in sizes):
        raise ValueError(
            f"image_shape takes height, width and channels, each a whole number above 0, got {reprlib.repr(sizes)}"
        )
    return tuple(sizes)


def check_config(folder: Path, saved: Config, wanted: Config) -> None:
    """Raises RunError if a run's config.json holds another Config than the wanted one, apart from the final epoch.

    The message names the fields that differ, with both values.
    """
    differences = []
    for field in dataclasses.fields(Config):
        saved_value = getattr(saved, field.name)
        wanted_value = getattr(wanted, field.name)
        if field.name != "num_epochs" and saved_value != wanted_value:
            differences.append(f"\n  {field.name}: {saved_value} in config.json, {wanted_value} in the flags")
    if differences:
        raise RunError(
            f"{folder} holds another model than the one that the flags name:{''.join(differences)}\n"
            f"if the folder was renamed, its name was {saved.run_name}; if config.json was edited, undo that"
        )


def check_image_shape(folder: Path, saved: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """Raises RunError if a run's model is one of images of another shape (h, w, c) than the data set's."""
    if saved != wanted:
        raise RunError(
            f"{folder} holds a model of {format_shape(saved)} images, but the data set has {format_shape(wanted)}: "
            "it was trained on another data set, or its config.json was edited\n"
            f"if config.json was edited, undo that\n{RETRAINING}"
        )


def format_shape(image_shape: tuple[int, ...]) -> str:
    """Returns an image's shape as text, e.g. 28x28x1."""
    return "x".join(str(size) for size in image_shape)


def check_digest(folder: str | os.PathLike, data_digest: str | None) -> None:
    """Raises RunError if a run was trained on other images of the user than those with this digest.

    Runs are called by the name of the images' folder, and images in another folder can have the same name.
    """
    if saved_epoch(folder) == 0:
        return
    saved = read_config(folder)
    if saved.data_digest != data_digest:
        raise RunError(
            f"{folder} was trained on other images with the same name, {saved.config.dataset}\n"
            f"digest of the images it was trained on: {saved.data_digest}\n"
            f"digest of the images given now:         {data_digest}\n"
            "give the path of the images that it was trained on; or rename the folder or file of the images given now, "
            "and train another model on them; or replace this model with train.py --overwrite"
        )


def write_history(folder: Path, history: list[HistoryRow]) -> None:
    """Writes history.csv."""
    with replacing(folder / "history.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(HistoryRow._fields)
        writer.writerows(history)


def read_history(folder: str | os.PathLike) -> list[HistoryRow]:
    """Returns the rows of a run's history.csv: one for each epoch, from 1 on.

    Raises RunError if it cannot be read, and says what to do.
    """
    path = Path(folder) / "history.csv"
    try:
        lines = [line for line in csv.reader(read_text(path).splitlines()) if line]
        columns = tuple(lines[0]) if lines else ()
        if columns not in (HistoryRow._fields, FIRST_HISTORY_FIELDS):
            raise ValueError(f"its first line is {','.join(columns)!r}, not {','.join(HistoryRow._fields)!r}")
        return [parse_history_row(line, columns, epoch) for epoch, line in enumerate(lines[1:], start=1)]
    except (ValueError, csv.Error) as error:
        raise RunError(f"{path} cannot be read: {error}\n{HISTORY_REMEDY}") from None


def parse_history_row(cells: list[str], columns: tuple[str, ...], epoch: int) -> HistoryRow:
    """Returns the row of an epoch in history.csv. Raises ValueError unless it has that epoch and finite numbers.

    The test ELBO may be NaN, which means that it was not measured.
    """
    text = ",".join(cells)
    if len(cells) != len(columns):
        raise ValueError(f"the row {text!r} has {len(cells)} cells, not {len(columns)}")
    if cells[0] != str(epoch):
        raise ValueError(f"the row {text!r} is in the place of epoch {epoch}")
    row = HistoryRow(epoch, *map(float, cells[1:]))
    for name in columns:
        value = getattr(row, name)
        is_missing = name == "test_elbo" and math.isnan(value)
        if not math.isfinite(value) and not is_missing:
            raise ValueError(f"in the row {text!r}, {name} is not a finite number")
    return row


def without_extra_test(row: HistoryRow) -> HistoryRow:
    """Returns a row without its test ELBO, if its epoch is not one of those that are always tested."""
    if is_tested(row.epoch):
        return row
    return row._replace(test_elbo=math.nan)


def with_learning_rate(row: HistoryRow, learning_rate: float) -> HistoryRow:
    """Returns a row with this learning rate, if it has none of its own."""
    if math.isnan(row.learning_rate):
        return row._replace(learning_rate=learning_rate)
    return row


def last_tested(folder: str | os.PathLike, epoch: int) -> HistoryRow | None:
    """Returns the last row of a run's history that has a test ELBO and is not after `epoch`, or None.

    If training was killed or still goes on, the history can have rows after the epoch of the model. Raises RunError if
    the history cannot be read.
    """
    tested = [row for row in read_history(folder) if row.epoch <= epoch and math.isfinite(row.test_elbo)]
    if not tested:
        return None
    return tested[-1]


def build(config: Config, image_shape: tuple[int, ...]) -> VAE:
    """Returns a VAE with fresh weights, for a Config and images of image_shape (h, w, c)."""
    return vae_model.create(
        network=config.network,
        likelihood=config.likelihood,
        image_shape=image_shape,
        latent_dim=config.latent_dim,
        hidden_size=config.hidden_size,
        activation=config.activation,
        seed=config.seed,
        precision=config.precision,
    )


def restore(folder: str | os.PathLike, config: Config | None = None) -> VAE:
    """Returns the trained model of a run's folder, e.g. restore("checkpoints/mnist_flat_binarized_z20_h200_...").

    Its `epoch` is that of the checkpoint. Raises RunError if there is no trained model, if it cannot be read, or if
    `config` is given and the folder holds another model.
    """
    folder = Path(folder)
    if saved_epoch(folder) == 0:
        raise RunError(f"no trained model in {folder}")
    saved = read_config(folder)
    if config is not None:
        check_config(folder, saved.config, config)
    try:
        model = build(saved.config, saved.image_shape)
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder / 'config.json'} describes no model: {error!r}") from None
    state = tf.train.Checkpoint(model=model, epoch=tf.Variable(0, dtype=tf.int64))
    model.epoch = checkpoints.restore(state, folder, partial=True)
    return model


def saved_epoch(folder: str | os.PathLike) -> int:
    """Returns the epoch of a run's newest checkpoint, or 0 if there is none."""
    return max(checkpoints.epochs(folder), default=0)


def trained(checkpoints_dir: str | os.PathLike) -> list[Path]:
    """Returns the folders of the trained runs in checkpoints_dir, sorted by name."""
    folders = sorted(Path(checkpoints_dir).glob("[!.]*"))
    return [folder for folder in folders if saved_epoch(folder) > 0]
