"""A run's folder: config.json, history.csv and the checkpoints, written so that a kill at any moment loses nothing."""

import contextlib
import csv
import dataclasses
import importlib.metadata
import json
import os
import platform
import shutil
import time
from pathlib import Path

import filelock
import tensorflow as tf

from config import Config, command
from vae import model as vae_model

SAVE_SECONDS, SAVE_EPOCHS = 60, 10  # a save is due at the first epoch's end after either
KEPT_CHECKPOINTS = 3


class RunError(OSError):
    """A run that is missing, damaged, in use, or in the way; the message says what to do."""


@contextlib.contextmanager
def replacing(path):
    """Yields a path to write to, which takes `path`'s place in one step if the block ends well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class Run:
    """One run's folder while it is trained.

    With `overwrite`, a new folder beside it, which takes the old one's place as soon as something is saved. Raises
    RunError where another process trains in the folder.
    """

    def __init__(self, folder, overwrite=False):
        self.folder = Path(folder)
        recover(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._locks = [_lock(self.folder)]
        self._work = self.folder  # where this process writes
        if overwrite and latest_checkpoint(self.folder):
            self._work = _sibling(self.folder, "new")
            shutil.rmtree(self._work, ignore_errors=True)
            self._work.mkdir()
            self._locks.append(_lock(self._work))
        self._last_save = (time.monotonic(), 0)
        self.history = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for lock in self._locks:
            lock.release()

    def restore(self, state):
        """Fills `state` from the newest checkpoint, if there is one, and takes up its history."""
        path = latest_checkpoint(self._work)
        if path:
            _restore(state, path).assert_consumed()
            epoch = int(state.epoch)
            self.history = [row for row in read_history(self._work) if row["epoch"] <= epoch]
            self._last_save = (time.monotonic(), epoch)

    def due(self, epoch):
        since, last = self._last_save
        return time.monotonic() - since >= SAVE_SECONDS or epoch - last >= SAVE_EPOCHS

    def save(self, state, config, image_shape, verified):
        """Writes config.json, history.csv and a checkpoint of `state`; with none of them is an older one lost."""
        facts = {"config": dataclasses.asdict(config), "image_shape": list(image_shape), "data_verified": verified}
        with replacing(self._work / "config.json") as path:
            path.write_text(json.dumps(facts | {"versions": _versions()}, indent=2) + "\n", encoding="utf-8")
        with replacing(self._work / "history.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.history[0])
            writer.writeheader()
            writer.writerows(self.history)
        epoch = int(state.epoch)
        try:
            manager = tf.train.CheckpointManager(state, str(self._work), KEPT_CHECKPOINTS, checkpoint_name="epoch")
            manager.save(checkpoint_number=epoch)
        except tf.errors.OpError as error:
            raise RunError(f"could not write a checkpoint into {self._work}: {error.message}") from None
        if self._work != self.folder:
            _swap(self._work, self.folder)
            self._work = self.folder
        self._last_save = (time.monotonic(), epoch)


def _sibling(folder, kind):
    return folder.with_name(f".{folder.name}.{kind}")


def _swap(new, folder):
    """Puts `new` in the place of `folder`. A kill between the two renames is what `recover` is for."""
    old = _sibling(folder, "old")
    folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old)


def recover(folder):
    """Ends a swap that was cut off: the new run had been saved whole before the swap began."""
    old, new = _sibling(folder, "old"), _sibling(folder, "new")
    if old.exists():
        with contextlib.suppress(RunError), _lock(old):  # held as long as the process that swaps is alive
            if not folder.exists():
                new.rename(folder)
            shutil.rmtree(old)


def _lock(folder):
    lock = filelock.FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise RunError(f"another process is training in {folder}; wait for it, or stop it") from None
    return lock


def _versions():
    packages = ("tensorflow", "keras", "numpy")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}


def latest_checkpoint(folder):
    """The newest checkpoint's path prefix, or None."""
    return tf.train.latest_checkpoint(str(folder))


def _restore(state, path):
    try:
        return state.restore(path)
    except (tf.errors.OpError, ValueError, IndexError, RuntimeError) as error:
        raise RunError(f"the checkpoint {path} cannot be read: {error}") from None


def read_history(folder):
    """The rows of history.csv, as numbers (nan where there is no test ELBO)."""
    with (Path(folder) / "history.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{name: int(value) if name == "epoch" else float(value) for name, value in row.items()} for row in rows]


def read_facts(folder):
    """A run's config.json: config (as a Config), image_shape, data_verified and versions."""
    path = Path(folder) / "config.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        return facts | {"config": Config(**facts["config"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} cannot be read: {error!r}") from None


def build(config, image_shape):
    """A VAE with fresh weights for a Config and images of image_shape (h, w, c)."""
    c = config
    return vae_model.create(c.network, c.likelihood, image_shape, c.latent_dim, c.hidden_size, c.activation, c.seed)


def restore(folder):
    """The trained vae.model.VAE of a run's folder, e.g. `restore("checkpoints/mnist_flat_binarized_z20_...")`.

    Raises RunError where there is no trained model.
    """
    folder = Path(folder)
    recover(folder)
    path = latest_checkpoint(folder)
    if not path:
        raise RunError(f"no trained model in {folder}")
    facts = read_facts(folder)
    model = build(facts["config"], facts["image_shape"])
    _restore(tf.train.Checkpoint(model=model), path).expect_partial().assert_existing_objects_matched()
    return model


def saved_epoch(folder):
    """The epoch of a run's newest checkpoint; 0 where there is none."""
    path = latest_checkpoint(folder)
    return int(path.rsplit("-", 1)[1]) if path else 0


def trained(checkpoints_dir):
    """The folders of the trained runs below checkpoints_dir, sorted by name."""
    folders = sorted(path for path in Path(checkpoints_dir).glob("*/") if not path.name.startswith("."))
    return [folder for folder in folders if saved_epoch(folder)]


def listing(checkpoints_dir):
    """The trained runs, a line each, for a person to read."""
    lines = [f"  {folder.name}  (epoch {saved_epoch(folder)})" for folder in trained(checkpoints_dir)]
    return "\n".join([f"{'' if lines else 'no '}trained runs in {checkpoints_dir}", *lines])


def wants_training(args):
    """Whether train.py has anything to do, said to the user; RunError where a trained model would be lost."""
    config, folder = args.config, args.checkpoints_dir / args.config.run_name
    recover(folder)
    epoch = saved_epoch(folder)
    if epoch and not args.restore and not args.overwrite:
        train = command("train.py", config, args)
        carry_on = train if config.num_epochs > epoch else f"{train} --num_epochs {2 * epoch}"
        raise RunError(
            f"{folder} holds a model trained to epoch {epoch}\n"
            f"to carry it on:  {carry_on} --restore True\nto start anew:   {train} --overwrite"
        )
    if args.restore and not epoch:
        print(f"nothing saved yet in {folder}: starting at epoch 0")
    if args.restore and epoch >= config.num_epochs:
        print(f"{folder} is at epoch {epoch} already, and --num_epochs {config.num_epochs} is the final epoch")
        return False
    return True


def restore_for(args):
    """The model that a drawing script's arguments name; RunError tells the runs there are and how to train this one."""
    config, folder = args.config, args.checkpoints_dir / args.config.run_name
    recover(folder)
    epoch = saved_epoch(folder)
    if not epoch:
        train = command("train.py", config, args)
        raise RunError(f"no trained model in {folder}\n{listing(args.checkpoints_dir)}\nto train it: {train}")
    if "num_epochs" in args.given and config.num_epochs != epoch:
        print(f"drawing the model as it is saved, at epoch {epoch}")
    return restore(folder)


def save_picture(figure, path):
    """Saves a Matplotlib Figure as PNG, the same bytes for the same figure, and says where."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
    print(path)
