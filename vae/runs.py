"""A run's folder: config.json, history.csv and checkpoints. A kill at any moment loses nothing that was saved.

TensorFlow is imported only by `restore`, so that listing runs, or refusing one, does not wait for it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import filelock

from config import Config
from vae import checkpoints, history
from vae.checkpoints import RETRAINING, RunError
from vae.files import replacing
from vae.history import HistoryRow

if TYPE_CHECKING:
    import tensorflow as tf

    from vae.model import VAE
    from vae.training import State

# A save is due after the first epoch that reaches either limit.
SAVE_SECONDS = 60
SAVE_EPOCHS = 10

# The folder, beside the runs, that --overwrite moves earlier runs to.
REPLACED = "replaced"

# The libraries that decide the numbers.
LIBRARIES = ("tensorflow", "keras", "numpy")

# What to do about a damaged config.json.
CONFIG_REMEDY = (
    "put back a copy of this file; or train with the same flags for one epoch into another --checkpoints_dir, "
    f"and copy config.json from there\n{RETRAINING}"
)


@dataclasses.dataclass(frozen=True)
class SavedConfig:
    """What config.json holds: the config, the images' shape (h, w, c), and what the model was trained with.

    data_verified: whether every data file had its published sha256, in every session that trained the model. None for
    the user's own images.
    versions: of Python and the LIBRARIES, at the last save.
    data_digest: the digest of the user's own images, or of a data set that was not verified in the last session. None
    for verified data.
    data_path: where the user's own images were. None for the other data sets.
    """

    config: Config
    image_shape: tuple[int, ...]
    data_verified: bool | None
    versions: dict[str, str]
    data_digest: str | None
    data_path: str | None = None


class Run:
    """One run's folder while it is trained. `training_run` makes it, and holds the folder's lock meanwhile."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.history: list[HistoryRow] = []
        self._data_verified: bool | None = True
        self._last_save_epoch = 0
        self._last_save_time = time.monotonic()

    def restore(self, state: State, config: Config, data_digest: str | None) -> None:
        """Fills `state` and the history from the newest checkpoint, if there is one.

        Raises RunError if the folder holds another model than `config`, or a model of other images, or if its files
        cannot be read.
        """
        if saved_epoch(self.folder) == 0:
            return
        saved = read_config(self.folder)
        check_config(self.folder, saved.config, config)
        check_data(self.folder, saved, state.model.image_shape, data_digest)
        state.epoch = fill(state.variables(), self.folder)
        self.history = history.read_up_to(self.folder, state.epoch)
        checkpoints.set_damaged_aside(self.folder, state.epoch)
        self._data_verified = saved.data_verified
        self._last_save_epoch = state.epoch
        self._last_save_time = time.monotonic()

    def move_to_replaced(self) -> None:
        """Moves an earlier model, if there is one, to <checkpoints_dir>/replaced/<run name>.<n>, and says so.

        If the run's folder is a symbolic link, its target moves to a folder `replaced` beside the target.
        """
        if saved_epoch(self.folder) == 0:
            return
        parent = self.folder.parent / REPLACED
        name = self.folder.name
        numbers = [0]
        for path in parent.glob("*"):
            match = re.fullmatch(rf"{re.escape(name)}\.(\d+)", path.name)
            if match:
                numbers.append(int(match[1]))
        destination = parent / f"{name}.{max(numbers) + 1}"
        parent.mkdir(exist_ok=True)
        self.folder.rename(destination)
        # Another program may make the folder in between.
        self.folder.mkdir(exist_ok=True)
        print(f"the earlier model is now in {destination}")

    def is_save_due(self, epoch: int) -> bool:
        """Whether the model should be saved after this epoch: after SAVE_EPOCHS or SAVE_SECONDS."""
        seconds = time.monotonic() - self._last_save_time
        return seconds >= SAVE_SECONDS or epoch - self._last_save_epoch >= SAVE_EPOCHS

    def save(
        self,
        state: State,
        config: Config,
        *,
        data_verified: bool | None,
        data_digest: str | None,
        data_path: str | None = None,
    ) -> None:
        """Writes config.json, history.csv and a checkpoint of `state`. See SavedConfig for the data's entries.

        Until every file is written, the previous checkpoint stays in use. A model that was ever trained on unverified
        data stays unverified.
        """
        self._data_verified = self._data_verified and data_verified
        saved = SavedConfig(
            config=config,
            image_shape=state.model.image_shape,
            data_verified=self._data_verified,
            versions=library_versions(),
            data_digest=data_digest,
            data_path=data_path,
        )
        with replacing(self.folder / "config.json") as path:
            path.write_text(json.dumps(dataclasses.asdict(saved), indent=2) + "\n", encoding="utf-8")
        history.write(self.folder, self.history)
        # The checkpoint comes last, so a kill before this line leaves the previous one in use.
        arrays = {name: variable.numpy() for name, variable in state.variables().items()}
        checkpoints.write(self.folder, state.epoch, arrays)
        self._last_save_epoch = state.epoch
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
    # The lock file is next to the folder, because --overwrite moves the folder.
    lock = filelock.FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise RunError(f"another process is training in {folder}; wait for it, or stop it") from None
    try:
        was_empty = folder.is_dir() and not any(folder.iterdir())
        folder.mkdir(exist_ok=True)
        # A killed process leaves half-written files.
        for temporary in folder.glob(".*.tmp"):
            temporary.unlink()
        try:
            yield Run(folder)
        finally:
            if not was_empty:
                # A folder that holds something stays.
                with contextlib.suppress(OSError):
                    folder.rmdir()
    finally:
        lock.release()


def library_versions() -> dict[str, str]:
    """The versions of Python and of the LIBRARIES, as they are imported."""
    versions = {"python": platform.python_version()}
    for library in LIBRARIES:
        versions[library] = getattr(sys.modules.get(library), "__version__", "unknown")
    return versions


def read_config(folder: str | os.PathLike) -> SavedConfig:
    """What a run's config.json holds. Raises RunError if it cannot be read, and says what to do."""
    path = Path(folder) / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        config = Config(**content.pop("config"))
        image_shape = tuple(content.pop("image_shape"))
        return SavedConfig(config, image_shape, **content)
    except KeyError as error:
        problem = f"it has no entry {error}"
    except (FileNotFoundError, AttributeError, TypeError, ValueError) as error:
        problem = str(error)
    raise RunError(f"{path} cannot be read: {problem}\n{CONFIG_REMEDY}")


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


def check_data(folder: Path, saved: SavedConfig, image_shape: tuple[int, ...], data_digest: str | None) -> None:
    """Raises RunError if a run was trained on images of another shape (h, w, c), or on other images with the same name.

    A run is named after the images' folder, and two folders can have the same name.
    """
    # A built-in data set that is not verified is loaded only if the user allows it, or if it has the run's digest.
    is_own = saved.data_verified is None
    if is_own and saved.data_digest != data_digest:
        raise RunError(
            f"{folder} was trained on other images with the same name, {saved.config.dataset}\n"
            f"digest of the images it was trained on: {saved.data_digest}\n"
            f"digest of the images given now:         {data_digest}\n"
            "give the path of the images that it was trained on; or rename the folder or file of the images given now, "
            "and train another model on them; or replace this model with train.py --overwrite"
        )
    if saved.image_shape != tuple(image_shape):
        raise RunError(
            f"{folder} holds a model of {format_shape(saved.image_shape)} images, but the data set has "
            f"{format_shape(image_shape)}: it was trained on another data set, or its config.json was edited\n"
            f"if config.json was edited, undo that\n{RETRAINING}"
        )


def format_shape(image_shape: tuple[int, ...]) -> str:
    """An image's shape as text, e.g. 28x28x1."""
    return "x".join(str(size) for size in image_shape)


def restore(folder: str | os.PathLike, config: Config | None = None) -> VAE:
    """The trained model of a run's folder, e.g. restore("checkpoints/mnist_flat_binarized_z20_h200_lr0.001_b100").

    Its `epoch` is the checkpoint's. Raises RunError if there is no trained model, if it cannot be read, or if `config`
    is given and the folder holds another model.
    """
    folder = Path(folder)
    if saved_epoch(folder) == 0:
        raise RunError(f"no trained model in {folder}")
    saved = read_config(folder)
    if config is not None:
        check_config(folder, saved.config, config)
    # Imported here, because it imports TensorFlow: see the top of this file.
    from vae import model

    vae = model.create(saved.config, saved.image_shape)
    vae.epoch = fill(vae.named_weights(), folder)
    return vae


def fill(variables: dict[str, tf.Variable], folder: Path) -> int:
    """Fills variables from the newest checkpoint that can be read, and returns its epoch. See checkpoints.read."""
    shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
    epoch, arrays = checkpoints.read(folder, shapes)
    for name, variable in variables.items():
        variable.assign(arrays[name])
    return epoch


def saved_epoch(folder: str | os.PathLike) -> int:
    """The epoch of a run's newest checkpoint, or 0 if there is none."""
    return max(checkpoints.epochs(folder), default=0)


def trained_folders(checkpoints_dir: str | os.PathLike) -> list[Path]:
    """The folders of the trained runs in checkpoints_dir, sorted by name."""
    folders = sorted(Path(checkpoints_dir).glob("[!.]*"))
    return [folder for folder in folders if saved_epoch(folder) > 0]
