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
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import filelock
import tensorflow as tf

from config import Config
from vae import checkpoints
from vae import model as vae_model
from vae.checkpoints import RunError
from vae.files import replacing
from vae.model import VAE
from vae.training import HistoryRow, is_tested

# A save is due after the first epoch that reaches either limit.
SAVE_SECONDS = 60
SAVE_EPOCHS = 10

# The folder, beside the runs, that --overwrite moves earlier runs to.
REPLACED = "replaced"


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

        Raises RunError if the folder holds another model than `config`, or if its files cannot be read.
        """
        if saved_epoch(self.folder) == 0:
            return
        saved = read_config(self.folder)
        if dataclasses.replace(saved.config, num_epochs=config.num_epochs) != config:
            raise RunError(f"{self.folder} holds another model, according to its config.json: {saved.config}")
        epoch = checkpoints.restore(state, self.folder)
        self.history = self._read_history(epoch)
        checkpoints.set_damaged_aside(self.folder, epoch)
        self._data_verified = saved.data_verified
        self._last_save_epoch = epoch
        self._last_save_time = time.monotonic()

    def _read_history(self, epoch: int) -> list[HistoryRow]:
        """Returns the rows up to an epoch, as uninterrupted training would have written them.

        A kill between history.csv and the checkpoint leaves rows beyond the epoch. And the last row of a run that was
        stopped has a test ELBO in any case.
        """
        history = [without_extra_test(row) for row in read_history(self.folder)[:epoch]]
        if [row.epoch for row in history] != list(range(1, epoch + 1)):
            raise RunError(f"{self.folder / 'history.csv'} does not have the {epoch} epochs of the checkpoint")
        return history

    def move_to_replaced(self) -> None:
        """Moves an earlier model, if there is one, to <checkpoints_dir>/replaced/<run name>.<n>, and says so.

        If the run's folder is a symbolic link, its target moves to a folder `replaced` beside the target.
        """
        if saved_epoch(self.folder) == 0:
            return
        destination = next_free_folder(self.folder.parent / REPLACED, self.folder.name)
        destination.parent.mkdir(exist_ok=True)
        self.folder.rename(destination)
        # A second trainer may make the folder in between, before it finds the lock taken.
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
    """Yields the Run of a folder, and holds its lock meanwhile. Raises RunError if another process trains in it."""
    # If the folder is a symbolic link, its target is used, so that moving the folder leaves the link in place.
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder):
        remove_temporary_files(folder)
        yield Run(folder)


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
    """Returns what a run's config.json holds. Raises RunError if it cannot be read."""
    path = Path(folder) / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return SavedConfig(
            config=Config(**content["config"]),
            image_shape=tuple(int(size) for size in content["image_shape"]),
            data_verified=None if content["data_verified"] is None else bool(content["data_verified"]),
            versions=content.get("versions", {}),
            data_digest=content.get("data_digest"),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} cannot be read: {error!r}") from None


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
    """Returns the rows of a run's history.csv. Raises RunError if it cannot be read."""
    path = Path(folder) / "history.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = [line for line in csv.reader(file) if line]
        header = ",".join(lines[0]) if lines else ""
        if header != ",".join(HistoryRow._fields):
            raise ValueError(f"its first line is {header!r}, not {','.join(HistoryRow._fields)!r}")
        return [parse_history_row(line) for line in lines[1:]]
    except (OSError, ValueError, csv.Error) as error:
        raise RunError(f"{path} cannot be read: {error}") from None


def parse_history_row(cells: list[str]) -> HistoryRow:
    """Returns a row of history.csv. Raises ValueError if it does not have one number for each column."""
    if len(cells) != len(HistoryRow._fields):
        raise ValueError(f"the row {','.join(cells)!r} has {len(cells)} cells, not {len(HistoryRow._fields)}")
    epoch, *numbers = cells
    return HistoryRow(int(epoch), *map(float, numbers))


def without_extra_test(row: HistoryRow) -> HistoryRow:
    """Returns a row without its test ELBO, if its epoch is not one of those that are always tested."""
    if is_tested(row.epoch):
        return row
    return row._replace(test_elbo=math.nan)


def last_tested(folder: str | os.PathLike) -> HistoryRow | None:
    """Returns the last row of a run's history that has a test ELBO, or None. Raises RunError if it cannot be read."""
    tested = [row for row in read_history(folder) if math.isfinite(row.test_elbo)]
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
    )


def restore(folder: str | os.PathLike) -> VAE:
    """Returns the trained model of a run's folder, e.g. restore("checkpoints/mnist_flat_binarized_z20_h200_...").

    Its `epoch` is that of the checkpoint. Raises RunError if there is no trained model, or if it cannot be read.
    """
    folder = Path(folder)
    if saved_epoch(folder) == 0:
        raise RunError(f"no trained model in {folder}")
    saved = read_config(folder)
    try:
        model = build(saved.config, saved.image_shape)
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder / 'config.json'} describes no model: {error!r}") from None
    model.epoch = checkpoints.restore(tf.train.Checkpoint(model=model), folder, partial=True)
    return model


def saved_epoch(folder: str | os.PathLike) -> int:
    """Returns the epoch of a run's newest checkpoint, or 0 if there is none."""
    return max(checkpoints.epochs(folder), default=0)


def trained(checkpoints_dir: str | os.PathLike) -> list[Path]:
    """Returns the folders of the trained runs in checkpoints_dir, sorted by name."""
    folders = sorted(Path(checkpoints_dir).glob("[!.]*"))
    return [folder for folder in folders if saved_epoch(folder) > 0]
