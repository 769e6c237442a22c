"""A run's folder: what is saved is restored whole, damage is found, and no earlier model is lost."""

import dataclasses
import importlib.metadata
import json
import math
import re
import shlex
import sys
import types

import numpy as np
import pytest
from conftest import contents

import cli
from config import Config
from vae import checkpoints, history, runs
from vae.history import HistoryRow
from vae.runs import RunError

CONFIG = Config(dataset="digits", latent_dim=3, hidden_size=8)
SHAPE = (4, 4, 1)


class Variable:
    """What a run's folder needs of a TensorFlow variable."""

    def __init__(self, value):
        self.value = np.asarray(value, np.float32)
        self.shape = self.value.shape

    def numpy(self):
        return self.value

    def assign(self, value):
        self.value = value


class State:
    """What a run's folder needs of a training.State: here with two weights, which show its epoch and its seed."""

    def __init__(self, epoch, seed=0):
        self.epoch = epoch
        self.model = types.SimpleNamespace(image_shape=SHAPE)
        self.weights = {"kernel": Variable(np.full((3, 2), 100 * seed + epoch)), "bias": Variable([epoch])}

    def variables(self):
        return self.weights

    def is_like(self, epoch, seed=0):
        expected = State(epoch, seed).weights.items()
        are_equal = all(np.array_equal(self.weights[name].value, variable.value) for name, variable in expected)
        return self.epoch == epoch and are_equal


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs[1]*" / CONFIG.run_name


def row_of(epoch):
    test_elbo = -1.25 if history.is_tested(epoch) else math.nan
    return HistoryRow(epoch, -1.5, -1.0, 0.5, test_elbo, seconds=0.25, learning_rate=0.001)


def save(folder, epoch, seed=0, overwrite=False, data_verified=True, data_digest=None):
    """Saves a model that was trained to `epoch`, the way train.py does; with `overwrite`, from scratch."""
    with runs.training_run(folder) as run:
        if overwrite:
            run.move_to_replaced()
        run.history = [row_of(number) for number in range(1, epoch + 1)]
        run.save(State(epoch, seed), CONFIG, data_verified=data_verified, data_digest=data_digest)


def restored(folder, config=CONFIG, data_digest=None):
    """The State and the Run that training continues from."""
    state = State(0, seed=9)
    with runs.training_run(folder) as run:
        run.restore(state, config, data_digest)
    return state, run


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# ---- Saving and restoring ------------------------------------------------------------------------------------------


def test_a_saved_run_is_restored_whole(folder):
    assert runs.saved_epoch(folder) == 0 and runs.trained_folders(folder.parent) == []
    assert restored(folder)[0].is_like(0, seed=9)  # nothing is saved yet
    save(folder, 12)
    state, run = restored(folder)
    assert state.is_like(12)
    assert [repr(row) for row in run.history] == [repr(row_of(number)) for number in range(1, 13)]
    saved = runs.read_config(folder)
    assert saved.config == CONFIG and saved.image_shape == SHAPE and saved.data_verified is True
    assert runs.saved_epoch(folder) == 12 and runs.trained_folders(folder.parent) == [folder]
    assert set(contents(folder)) == {"config.json", "history.csv", "epoch-12.npz"}


def test_versions_are_those_of_what_is_imported_and_need_no_metadata(folder, monkeypatch):
    def refuse(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", refuse)
    monkeypatch.setitem(sys.modules, "tensorflow", types.SimpleNamespace(__version__="2.99"))
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    save(folder, 1)
    versions = runs.read_config(folder).versions
    assert versions.pop("python") and versions == {"tensorflow": "2.99", "keras": "unknown", "numpy": np.__version__}


def test_numbers_of_a_history_are_read_back_exactly(tmp_path):
    rows = [row_of(1)._replace(train_elbo=1 / 3, test_elbo=-1e-17), row_of(2)]
    history.write(tmp_path, rows)
    assert history.read(tmp_path) == rows
    header, first, _ = history.path_of(tmp_path).read_text().splitlines()
    assert header == "epoch,train_elbo,train_log_likelihood,train_kl,test_elbo,seconds,learning_rate"
    assert first == "1,0.3333333333333333,-1.0,0.5,-1e-17,0.25,0.001"


def test_a_history_continues_as_if_training_had_not_been_interrupted(folder):
    """A kill before the checkpoint leaves a row too many, and a stop between tests an ELBO that is not due."""
    rows = [row_of(number) for number in range(1, 13)]
    rows[10:] = [row._replace(test_elbo=-1.0) for row in rows[10:]]
    save(folder, 11)
    history.write(folder, rows)
    _, run = restored(folder)
    assert [row.epoch for row in run.history] == list(range(1, 12)) and math.isnan(run.history[-1].test_elbo)
    assert history.last_tested(folder, 11) == rows[10] and history.last_tested(folder, 9) == rows[8]
    history.write(folder, [row_of(11)._replace(epoch=1)])
    assert history.last_tested(folder, 1) is None


def test_a_save_is_due_after_10_epochs_or_60_seconds(folder, monkeypatch):
    now = 0.0
    monkeypatch.setattr(runs.time, "monotonic", lambda: now)
    with runs.training_run(folder) as run:
        assert not run.is_save_due(9) and run.is_save_due(10)
        now = 60.0
        assert run.is_save_due(1)
        run.history = [row_of(1)]
        run.save(State(1), CONFIG, data_verified=True, data_digest=None)
        assert not run.is_save_due(10) and run.is_save_due(11)


def test_a_model_of_another_config_is_refused_and_the_message_has_both_values(folder):
    save(folder, 2)
    assert restored(folder, dataclasses.replace(CONFIG, num_epochs=7))[0].is_like(2)
    with pytest.raises(RunError) as caught:
        restored(folder, dataclasses.replace(CONFIG, activation="tanh", latent_dim=4, num_epochs=7))
    message = str(caught.value)
    assert str(folder) in message and CONFIG.run_name in message and "num_epochs" not in message
    assert "latent_dim: 3 in config.json, 4 in" in message and "activation: relu in config.json, tanh in" in message


def test_images_of_another_shape_or_with_another_digest_are_refused(folder):
    save(folder, 2, data_verified=None, data_digest="sha256:abc")
    assert restored(folder, data_digest="sha256:abc")[0].is_like(2)
    for other in ("sha256:def", None):
        with pytest.raises(RunError, match=rf"(?s)sha256:abc\n.*{other}\n.*rename.*--overwrite"):
            restored(folder, data_digest=other)
    edit_config(folder, image_shape=[2, 8, 1])
    with pytest.raises(RunError, match=r"2x8x1 images, .* has 4x4x1: "):
        restored(folder, data_digest="sha256:abc")


@pytest.mark.parametrize(("first", "second"), [(False, True), (True, False), (None, None), (True, True)])
def test_a_model_that_was_ever_trained_on_unverified_data_stays_unverified(first, second, folder):
    save(folder, 1, data_verified=first)
    with runs.training_run(folder) as run:
        run.restore(State(0), CONFIG, data_digest=None)
        run.history.append(row_of(2))
        run.save(State(2), CONFIG, data_verified=second, data_digest=None)
    assert runs.read_config(folder).data_verified is (first and second)
    assert cli.describe_run(folder).endswith("unverified data)") is (False in (first, second))


def test_runs_are_listed_with_their_epoch_and_last_test_elbo(folder):
    assert cli.describe_runs(folder.parent) == f"no trained runs in {folder.parent}"
    save(folder, 7)
    save(folder, 11, overwrite=True)
    damaged = folder.with_name("other")
    save(damaged, 3)
    (damaged / "config.json").write_text("{}")
    dated = re.sub(r"\(\d{4}-\d\d-\d\d \d\d:\d\d, ", "(date, ", cli.describe_runs(folder.parent))
    assert dated.splitlines() == [
        f"trained runs in {folder.parent}",
        f"  {folder}  (date, epoch 11, test ELBO -1.25 nats at epoch 10)",
        f"  {damaged}  (date, epoch 3; {damaged / 'config.json'} cannot be read: it has no entry 'config')",
        f"to draw one, for example: {shlex.join(['python', 'make_pictures.py', str(damaged)])}",
        f"replaced runs in {folder.parent / 'replaced'}",
        f"  {folder.parent / 'replaced' / CONFIG.run_name}.1  (date, epoch 7, test ELBO -1.25 nats)",
    ]


# ---- The lock ------------------------------------------------------------------------------------------------------


def test_a_second_trainer_is_refused_and_makes_no_folder(folder):
    save(folder, 7)
    with runs.training_run(folder) as run:
        with pytest.raises(RunError, match="another process is training in"), runs.training_run(folder):
            pass
        run.move_to_replaced()
        folder.rmdir()
        with pytest.raises(RunError, match="another process"), runs.training_run(folder):
            pass
        assert not folder.exists()


@pytest.mark.parametrize("place", ["preparation", "training"])
def test_the_lock_is_released_after_an_error(place, folder, monkeypatch):
    """The error is kept, with all frames that it passed and the lock: only the code releases it."""
    with monkeypatch.context() as patch:
        if place == "preparation":
            patch.setattr(type(folder), "glob", lambda path, pattern: 1 / 0)
        with pytest.raises(ZeroDivisionError) as caught, runs.training_run(folder):
            raise ZeroDivisionError
    with runs.training_run(folder) as run:
        assert run.history == []
    assert caught.value is not None


def test_a_run_that_saved_nothing_leaves_no_folder_but_an_empty_one_of_the_user_stays(folder, tmp_path):
    save(folder, 1)
    with pytest.raises(KeyboardInterrupt), runs.training_run(folder) as run:
        run.move_to_replaced()
        raise KeyboardInterrupt
    assert not folder.exists()
    assert runs.saved_epoch(folder.parent / "replaced" / f"{folder.name}.1") == 1

    target = tmp_path / "target"
    target.mkdir()
    folder.symlink_to(target)
    with runs.training_run(folder):
        pass
    assert target.is_dir() and folder.is_symlink()


def test_half_written_files_of_a_killed_process_are_removed_when_training_begins(folder):
    save(folder, 1)
    before = contents(folder)
    for name in (".history.csv.1.tmp", ".epoch-2.npz.1.tmp"):
        (folder / name).write_text("half")
    with runs.training_run(folder):
        assert contents(folder) == before


# ---- Replaced runs -------------------------------------------------------------------------------------------------


def test_a_replaced_run_is_kept_whole_under_a_number_of_its_own(folder, capsys):
    """The number is above all that are there, also where a user has removed or renamed some."""
    save(folder, 3, overwrite=True)
    assert capsys.readouterr().out == "" and not (folder.parent / "replaced").exists()
    first = contents(folder)
    save(folder, 1, seed=1, overwrite=True)
    replaced = folder.parent / "replaced"
    assert capsys.readouterr().out == f"the earlier model is now in {replaced / CONFIG.run_name}.1\n"
    (replaced / f"{CONFIG.run_name}.9").mkdir()
    (replaced / f"{CONFIG.run_name}.12.backup").mkdir()
    (replaced / f"{CONFIG.run_name}_seed3.20").mkdir()
    second = contents(folder)
    # Nothing in it can be read, and its last message is to use --overwrite.
    (folder / "epoch-1.npz").write_bytes(b"")
    save(folder, 2, seed=2, overwrite=True)
    assert runs.trained_folders(replaced) == [replaced / f"{CONFIG.run_name}.1", replaced / f"{CONFIG.run_name}.10"]
    assert contents(replaced / f"{CONFIG.run_name}.1") == first
    assert contents(replaced / f"{CONFIG.run_name}.10") == {**second, "epoch-1.npz": b""}
    assert restored(folder)[0].is_like(2, seed=2)


def test_through_a_link_the_folder_that_it_points_to_is_moved(folder, tmp_path):
    target = tmp_path / "elsewhere" / "my run"
    save(target, 7)
    folder.parent.mkdir()
    folder.symlink_to(target, target_is_directory=True)
    save(folder, 1, overwrite=True)
    assert folder.is_symlink() and runs.saved_epoch(folder) == runs.saved_epoch(target) == 1
    assert runs.saved_epoch(tmp_path / "elsewhere" / "replaced" / "my run.1") == 7


# ---- Damage --------------------------------------------------------------------------------------------------------


def put(path, content):
    """Writes the content of a damaged file; None stands for a missing one."""
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)


HEADER = ",".join(HistoryRow._fields).encode()
ROW = b"\n1,-1.5,-1,0.5,-1.25,0.25,0.001"
BAD_HISTORIES = [None, b"", b"epoch,train_elbo\n1,2\n", b"\xff\xfe\x00", HEADER + ROW + ROW, HEADER + ROW + b",9"]
BAD_HISTORIES += [HEADER + ROW + b"\n" + row for row in (b"2", b"2,x,2,3,4,5,6", b"3,1,2,3,4,5,6", b"2.0,1,2,3,4,5,6")]


@pytest.mark.parametrize("content", BAD_HISTORIES)
def test_a_damaged_history_is_refused_by_name_and_the_message_says_what_to_do(content, folder):
    save(folder, 2)
    put(folder / "history.csv", content)
    with pytest.raises(RunError, match=r"(?s)history\.csv cannot be read: .*evaluate\.py.* copy .*--overwrite"):
        restored(folder)


def test_a_history_that_is_shorter_than_the_training_is_refused(folder):
    save(folder, 3)
    history.write(folder, [row_of(1), row_of(2)])
    with pytest.raises(RunError, match=r"(?s)history\.csv ends at epoch 2, .* at epoch 3\n.*--overwrite"):
        restored(folder)


@pytest.mark.parametrize("content", [None, b"", b"[]", b"{}", b'{"config": {"vae_type": "x"}}', b"\xff"])
def test_a_damaged_config_is_refused_by_name_and_the_message_says_what_to_do(content, folder):
    save(folder, 3)
    put(folder / "config.json", content)
    with pytest.raises(RunError, match=r"(?s)config\.json cannot be read: .* copy .*--overwrite"):
        restored(folder)


@pytest.mark.parametrize(
    "changes",
    [{"latent_dim": -3}, {"latent_dim": "3"}, {"learning_rate": math.inf}, {"dataset": None}, {"colour": "red"}],
)
def test_a_wrong_field_of_a_saved_config_is_refused_by_name(changes, folder):
    save(folder, 3)
    edit_config(folder, config=dataclasses.asdict(CONFIG) | changes)
    with pytest.raises(RunError, match=rf"config\.json cannot be read: .*{next(iter(changes))}"):
        restored(folder)


def test_training_continues_from_the_checkpoint_before_a_damaged_one(folder, capsys):
    """Training, which holds the lock, sets the damaged one aside, so that it saves the same epoch again."""
    save(folder, 2)
    save(folder, 3)
    (folder / "epoch-3.npz").write_bytes(b"")
    state, run = restored(folder)
    assert state.is_like(2) and [row.epoch for row in run.history] == [1, 2]
    assert checkpoints.epochs(folder) == [2] and (folder / "damaged-epoch-3.npz").exists()
    assert "epoch 2 is restored instead" in capsys.readouterr().out


def test_a_missing_model_is_an_error_that_names_the_folder(folder):
    with pytest.raises(RunError, match=f"no trained model in .*{CONFIG.run_name}"):
        runs.restore(folder)
