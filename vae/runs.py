"""A run's folder: config.json, history.csv and checkpoints, written so that a kill at any moment loses nothing."""

import contextlib
import csv
import dataclasses
import importlib.metadata
import json
import math
import platform
import shutil
import time
from pathlib import Path

import filelock
import tensorflow as tf

from config import Config, command
from vae import checkpoints
from vae import model as vae_model
from vae.checkpoints import RunError, replacing

COLUMNS = ("epoch", "train_elbo", "train_log_likelihood", "train_kl", "test_elbo", "seconds")  # of history.csv
SAVE_SECONDS, SAVE_EPOCHS = 60, 10  # a save is due at the first epoch's end after either


class Run:
    """One run's folder while it is trained, locked: RunError where another process trains in it.

    With `overwrite`, a new folder beside it, which takes the old one's place as soon as something is saved.
    """

    def __init__(self, folder, overwrite=False):
        self.folder = Path(folder).resolve()  # of a link, the folder itself: renaming the link would lose it
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self.folder)
        _end_swap(self.folder)
        for leftover in self.folder.glob(".*.tmp"):  # of a process that was killed
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        self._work = self.folder  # where this process writes
        if overwrite and saved_epoch(self.folder):
            self._work = _sibling(self.folder, "new")
            for path in (self._work, _sibling(self.folder, "old")):
                if path.exists():
                    shutil.rmtree(path)  # what cannot be removed now would stop the swap after training
            self._work.mkdir()
        self._last_save, self._verified, self.history = (time.monotonic(), 0), True, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._lock.release()

    @property
    def replaces(self):
        """Whether an older model will go with the next save."""
        return self._work != self.folder

    def restore(self, state, config):
        """Fills `state` from the newest checkpoint, if there is one, and takes up its history."""
        if saved_epoch(self._work):
            facts = read_facts(self._work)
            if dataclasses.replace(facts["config"], num_epochs=config.num_epochs) != config:
                raise RunError(f"{self._work} holds another model, by its config.json: {facts['config']}")
            self._verified = facts["data_verified"]
            epoch = checkpoints.restore(state, self._work)
            self.history = read_history(self._work)[:epoch]
            if [row["epoch"] for row in self.history] != list(range(1, epoch + 1)):
                raise RunError(f"{self._work / 'history.csv'} does not have the {epoch} epochs of the checkpoint")
            checkpoints.set_aside(self._work, epoch)
            self._last_save = (time.monotonic(), epoch)

    def due(self, epoch):
        since, last = self._last_save
        return time.monotonic() - since >= SAVE_SECONDS or epoch - last >= SAVE_EPOCHS

    def save(self, state, config, image_shape, verified):
        """Writes config.json, history.csv and a checkpoint of `state`; until all are there, the older ones hold."""
        self._verified = self._verified and verified  # once unverified data was in it, the model stays unverified
        facts = {"config": dataclasses.asdict(config), "image_shape": list(image_shape)}
        facts |= {"data_verified": self._verified, "versions": _versions()}
        with replacing(self._work / "config.json") as path:
            path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        with replacing(self._work / "history.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self.history)
        epoch = int(state.epoch)
        checkpoints.write(state, self._work, epoch)
        if self.replaces:
            _swap(self._work, self.folder)
            self._work = self.folder
        self._last_save = (time.monotonic(), epoch)


def _sibling(folder, kind):
    return folder.with_name(f".{folder.name}.{kind}")


def _swap(new, folder):
    """Puts `new` in the place of `folder`. A kill between the two renames is what `_end_swap` is for."""
    old = _sibling(folder, "old")
    folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _end_swap(folder):
    """Ends a swap that was cut off; only under the lock. Whatever is whole stays: the new run, else the old one."""
    old, new = _sibling(folder, "old"), _sibling(folder, "new")
    if old.exists():
        if not saved_epoch(folder):
            shutil.rmtree(folder, ignore_errors=True)
            (new if saved_epoch(new) else old).rename(folder)
        shutil.rmtree(old, ignore_errors=True)


def recover(folder):
    """Ends a swap that was cut off in `folder`; leaves one alone that is under way."""
    folder = Path(folder).resolve()
    if _sibling(folder, "old").exists():
        with contextlib.suppress(RunError), _lock(folder):
            _end_swap(folder)


def _lock(folder):
    """Held by the process that trains in `folder`; beside it, since the folder itself is renamed when replaced."""
    lock = filelock.FileLock(_sibling(folder, "lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise RunError(f"another process is training in {folder}; wait for it, or stop it") from None
    return lock


def _versions():
    packages = ("tensorflow", "keras", "numpy")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}


def read_history(folder):
    """The rows of history.csv, as numbers (nan where there is no test ELBO)."""
    path = Path(folder) / "history.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(f"its columns are {reader.fieldnames}, not {COLUMNS}")
        return [{name: int(value) if name == "epoch" else float(value) for name, value in row.items()} for row in rows]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise RunError(f"{path} cannot be read: {error}") from None


def read_facts(folder):
    """A run's config.json: config (as a Config), image_shape, data_verified and versions."""
    path = Path(folder) / "config.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        facts["config"] = Config(**facts["config"])
        facts["image_shape"] = tuple(int(size) for size in facts["image_shape"])
        facts["data_verified"] = bool(facts["data_verified"])
        return facts
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} cannot be read: {error!r}") from None


def build(config, image_shape):
    """A VAE with fresh weights for a Config and images of image_shape (h, w, c)."""
    c = config
    return vae_model.create(c.network, c.likelihood, image_shape, c.latent_dim, c.hidden_size, c.activation, c.seed)


def restore(folder):
    """The trained vae.model.VAE of a run's folder, e.g. `restore("checkpoints/mnist_flat_binarized_z20_...")`.

    Its `epoch` is the checkpoint's. Raises RunError where there is no trained model, or what there is cannot be read.
    """
    folder = Path(folder)
    recover(folder)
    if not saved_epoch(folder):
        raise RunError(f"no trained model in {folder}")
    facts = read_facts(folder)
    try:
        model = build(facts["config"], facts["image_shape"])
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder / 'config.json'} describes no model: {error!r}") from None
    model.epoch = checkpoints.restore(tf.train.Checkpoint(model=model), folder, partial=True)
    return model


def saved_epoch(folder):
    """The epoch of a run's newest checkpoint; 0 where there is none."""
    return max(checkpoints.epochs(folder), default=0)


def trained(checkpoints_dir):
    """The folders of the trained runs below checkpoints_dir, sorted by name."""
    for old in Path(checkpoints_dir).glob(".*.old"):
        recover(old.with_name(old.name[1 : -len(".old")]))
    return [folder for folder in sorted(Path(checkpoints_dir).glob("[!.]*")) if saved_epoch(folder)]


def listing(checkpoints_dir):
    """The trained runs, a line each, for a person to read."""
    lines = [f"  {folder.name}  (epoch {saved_epoch(folder)})" for folder in trained(checkpoints_dir)]
    return "\n".join([f"{'' if lines else 'no '}trained runs in {checkpoints_dir}", *lines])


def wants_training(args, folder):
    """Whether train.py has anything to do, said to the user; RunError where a trained model would be lost."""
    config, epoch = args.config, saved_epoch(folder)
    if epoch and not args.restore and not args.overwrite:
        longer = dataclasses.replace(config, num_epochs=max(config.num_epochs, 2 * epoch))
        raise RunError(
            f"{folder} holds a model trained to epoch {epoch}\n"
            f"to carry it on:  {command('train.py', longer, args)} --restore True\n"
            f"to start anew:   {command('train.py', config, args)} --overwrite"
        )
    if args.restore and not epoch:
        print(f"nothing saved yet in {folder}: starting at epoch 0")
    if args.restore and epoch >= config.num_epochs and restore(folder).epoch >= config.num_epochs:
        print(f"{folder} is at epoch {epoch} already, and --num_epochs {config.num_epochs} is the final epoch")
        for row in [row for row in read_history(folder) if math.isfinite(row["test_elbo"])][-1:]:
            print(f"its test ELBO was {row['test_elbo']:.2f} nats at epoch {row['epoch']}")
        return False
    return True


def restore_for(args):
    """The model that a script's arguments name; RunError tells the runs there are and how to train this one."""
    config, folder = args.config, args.checkpoints_dir / args.config.run_name
    recover(folder)
    if not saved_epoch(folder):
        train = command("train.py", config, args)
        raise RunError(f"no trained model in {folder}\n{listing(args.checkpoints_dir)}\nto train it: {train}")
    model = restore(folder)
    if "num_epochs" in args.given and config.num_epochs != model.epoch:
        print(f"the model is taken as it is saved, at epoch {model.epoch}")
    return model


def save_picture(figure, path):
    """Saves a Matplotlib Figure as PNG, the same bytes for the same figure, and says where."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
    print(path)
