"""Tests of a run's folder: what is saved is restored whole, damage is found, and no earlier model is lost."""

import dataclasses
import gc
import json
import logging
import math
import re
import shutil

import filelock
import numpy as np
import pytest
import tensorflow as tf

import cli
from config import Config
from vae import checkpoints, runs, training
from vae.training import HistoryRow

CONFIG = Config(dataset="digits", latent_dim=3, hidden_size=8)
SHAPE = (4, 4, 1)
INDEX = "epoch-{}.index"
DATA = "epoch-{}.data-00000-of-00001"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs" / CONFIG.run_name


def state_at(epoch, seed=0):
    """Returns the state of a model with fresh weights, as if it had been trained to `epoch`."""
    model = runs.build(dataclasses.replace(CONFIG, seed=seed), SHAPE)
    state = training.create_state(model, learning_rate=1e-3)
    state.epoch.assign(epoch)
    return state


def row_of(epoch):
    return HistoryRow(
        epoch,
        train_elbo=-1.5,
        train_log_likelihood=-1.0,
        train_kl=0.5,
        test_elbo=math.nan,
        seconds=0.25,
        learning_rate=0.001,
    )


def history_up_to(epoch):
    return [row_of(number) for number in range(1, epoch + 1)]


def save(folder, epoch, seed=0, data_verified=True):
    """Saves a model that was trained to `epoch` in one session."""
    with runs.training_run(folder) as run:
        run.history = history_up_to(epoch)
        run.save(state_at(epoch, seed), CONFIG, data_verified=data_verified)


def overwrite(folder, epoch, seed=0):
    """Saves a model the way train.py --overwrite does."""
    with runs.training_run(folder) as run:
        run.move_to_replaced()
        run.history = history_up_to(epoch)
        run.save(state_at(epoch, seed), CONFIG, data_verified=True)


def contents(folder):
    """Returns the bytes of every file in a folder, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def edit_config(folder, **changes):
    """Changes entries of a run's config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def first_weight(model):
    return model.trainable_variables[0].numpy()


def epochs_of(run):
    return [row.epoch for row in run.history]


# ---- Saving and restoring ------------------------------------------------------------------------------------------


def test_a_saved_run_is_restored_whole(folder):
    save(folder, 3)
    model = runs.restore(folder)
    assert model.image_shape == SHAPE and model.latent_dim == 3 and model.epoch == 3
    assert np.array_equal(first_weight(model), first_weight(state_at(3).model))
    saved = runs.read_config(folder)
    assert saved.config == CONFIG and saved.image_shape == SHAPE and saved.data_verified is True
    assert set(saved.versions) == {"python", "tensorflow", "keras", "numpy"}
    assert runs.saved_epoch(folder) == 3 and runs.trained(folder.parent) == [folder]
    assert f"{CONFIG.run_name}  (epoch 3)" in cli.describe_runs(folder.parent)


def test_a_history_is_read_back_exactly(folder):
    rows = [row_of(1)._replace(train_elbo=1 / 3, test_elbo=-1e-17)]
    with runs.training_run(folder) as run:
        run.history = rows
        run.save(state_at(1), CONFIG, data_verified=True)
    assert runs.read_history(folder) == rows


def test_a_history_without_learning_rates_is_carried_on_with_those_of_the_config(folder):
    """Runs that were saved before the column existed had a constant rate."""
    save(folder, 2)
    path = folder / "history.csv"
    lines = [line.rpartition(",")[0] for line in path.read_text().splitlines()]
    path.write_text("\n".join(lines) + "\n")
    assert all(math.isnan(row.learning_rate) for row in runs.read_history(folder))
    with runs.training_run(folder) as run:
        run.restore(state_at(0), CONFIG)
        assert [row.learning_rate for row in run.history] == [CONFIG.learning_rate] * 2


def test_rows_beyond_the_checkpoint_are_dropped_when_training_continues(folder):
    """A kill between history.csv and the checkpoint leaves such rows. Training writes them again."""
    save(folder, 3)
    with (folder / "history.csv").open("a") as file:
        file.write("4,-1,-1,0,nan,1,0.001\n")
    with runs.training_run(folder) as run:
        state = state_at(0, seed=5)
        run.restore(state, CONFIG)
        assert int(state.epoch) == 3 and epochs_of(run) == [1, 2, 3]


def test_a_save_is_due_after_some_epochs_or_seconds(folder, monkeypatch):
    now = 0.0
    monkeypatch.setattr(runs.time, "monotonic", lambda: now)
    with runs.training_run(folder) as run:
        assert not run.is_save_due(9) and run.is_save_due(10)
        now = 60.0
        assert run.is_save_due(1)
        run.history = [row_of(1)]
        run.save(state_at(1), CONFIG, data_verified=True)
        assert not run.is_save_due(10) and run.is_save_due(11)


def test_a_folder_that_holds_another_model_is_not_continued(folder):
    save(folder, 2)
    with runs.training_run(folder) as run, pytest.raises(runs.RunError, match="holds another model"):
        run.restore(state_at(0), dataclasses.replace(CONFIG, seed=1))


def test_a_model_of_another_config_is_refused_and_the_message_has_both_values(folder):
    save(folder, 2)
    other = dataclasses.replace(CONFIG, activation="tanh", latent_dim=4, num_epochs=7)
    with pytest.raises(runs.RunError) as caught:
        runs.restore(folder, other)
    assert str(caught.value).splitlines() == [
        f"{folder} holds another model than the one that the flags name:",
        "  latent_dim: 3 in config.json, 4 in the flags",
        "  activation: relu in config.json, tanh in the flags",
        f"if the folder was renamed, its name was {CONFIG.run_name}; if config.json was edited, undo that",
    ]
    assert runs.restore(folder, dataclasses.replace(CONFIG, num_epochs=7)).epoch == 2


def test_training_does_not_continue_with_images_of_another_shape(folder):
    save(folder, 2)
    edit_config(folder, image_shape=[2, 8, 1])
    with runs.training_run(folder) as run, pytest.raises(runs.RunError, match=r"2x8x1 images, .* has 4x4x1: "):
        run.restore(state_at(0), CONFIG)


def test_a_missing_model_is_an_error_that_names_the_folder(folder):
    with pytest.raises(runs.RunError, match=f"no trained model in .*{CONFIG.run_name}"):
        runs.restore(folder)
    assert runs.trained(folder.parent) == []
    assert cli.describe_runs(folder.parent).startswith("no trained runs")


def test_a_folder_whose_name_is_a_glob_pattern_works_like_any_other(tmp_path):
    folder = tmp_path / "runs[1]*" / CONFIG.run_name
    for epoch in range(1, 6):
        save(folder, epoch)
    assert runs.saved_epoch(folder) == 5 and runs.trained(folder.parent) == [folder]
    assert checkpoints.epochs(folder) == [3, 4, 5] and len(list(folder.iterdir())) == 2 * 3 + 2
    assert runs.restore(folder).latent_dim == 3
    overwrite(folder, 1)
    overwrite(folder, 2)
    replaced = folder.parent / "replaced"
    assert runs.trained(replaced) == [replaced / f"{CONFIG.run_name}.1", replaced / f"{CONFIG.run_name}.2"]


def save_with_digest(folder, digest):
    """Saves a model that was trained on the user's own images."""
    with runs.training_run(folder) as run:
        run.history = history_up_to(1)
        run.save(state_at(1), CONFIG, data_verified=None, data_digest=digest)


def test_a_run_on_own_images_keeps_their_digest_and_is_neither_verified_nor_unverified(folder):
    save_with_digest(folder, "sha256:abc")
    saved = runs.read_config(folder)
    assert saved.data_digest == "sha256:abc" and saved.data_verified is None
    assert json.loads((folder / "config.json").read_text())["data_verified"] is None
    assert cli.describe_run(folder).endswith("(epoch 1)")
    with runs.training_run(folder) as run:
        run.restore(state_at(0), CONFIG)
        run.history.append(row_of(2))
        run.save(state_at(2), CONFIG, data_verified=None, data_digest="sha256:abc")
    assert runs.read_config(folder).data_verified is None


def test_other_images_of_the_same_name_are_refused_with_both_digests(folder):
    runs.check_digest(folder, "sha256:abc")  # nothing is saved yet
    save_with_digest(folder, "sha256:abc")
    runs.check_digest(folder, "sha256:abc")
    for other in ("sha256:def", None):
        with pytest.raises(runs.RunError, match=rf"(?s)sha256:abc\n.*{other}\n.*rename.*--overwrite"):
            runs.check_digest(folder, other)


def test_a_run_from_before_there_were_digests_is_read(folder):
    save(folder, 1)
    path = folder / "config.json"
    content = json.loads(path.read_text())
    assert content.pop("data_digest") is None and content["config"].pop("image_size") is None
    path.write_text(json.dumps(content))
    assert runs.read_config(folder).config == CONFIG
    runs.check_digest(folder, None)


def test_unverified_data_is_remembered_when_training_continues_with_verified_data(folder):
    save(folder, 1, data_verified=False)
    with runs.training_run(folder) as run:
        run.restore(state_at(0), CONFIG)
        run.history.append(row_of(2))
        run.save(state_at(2), CONFIG, data_verified=True)
    assert runs.read_config(folder).data_verified is False


# ---- The lock ------------------------------------------------------------------------------------------------------


def test_a_second_trainer_is_refused_and_the_lock_is_released_at_the_end(folder):
    with runs.training_run(folder), pytest.raises(runs.RunError, match="another process is training in"):
        with runs.training_run(folder):
            pass
    with runs.training_run(folder):
        pass


def test_a_second_trainer_is_refused_after_the_folder_was_replaced(folder):
    save(folder, 7)
    with runs.training_run(folder) as run:
        run.move_to_replaced()
        with pytest.raises(runs.RunError, match="another process"), runs.training_run(folder):
            pass


@pytest.fixture
def kept_locks(monkeypatch):
    """Keeps every lock that is made: one that nothing refers to any more is released by Python."""
    locks = []
    make_lock = filelock.FileLock

    def make_and_keep_lock(path):
        locks.append(make_lock(path))
        return locks[-1]

    monkeypatch.setattr(filelock, "FileLock", make_and_keep_lock)
    return locks


# The two tests keep the locks, and the errors with all frames that they passed: only the code releases a lock.


def test_the_lock_is_released_if_the_preparation_fails(folder, monkeypatch, kept_locks):
    def fail(folder):
        raise PermissionError("a temporary file cannot be removed")

    with monkeypatch.context() as patch:
        patch.setattr(runs, "remove_temporary_files", fail)
        with pytest.raises(PermissionError) as caught, runs.training_run(folder):
            pass
    with runs.training_run(folder) as run:
        assert run.history == []
    assert len(kept_locks) == 2 and "temporary file" in str(caught.value)


def test_the_lock_is_released_if_the_training_fails(folder, kept_locks):
    with pytest.raises(FloatingPointError) as caught, runs.training_run(folder):
        raise FloatingPointError("diverged")
    with runs.training_run(folder) as run:
        assert run.history == []
    assert len(kept_locks) == 2 and "diverged" in str(caught.value)


def test_a_new_run_that_saved_nothing_leaves_no_folder(folder):
    with pytest.raises(KeyboardInterrupt), runs.training_run(folder):
        assert folder.is_dir()
        raise KeyboardInterrupt
    assert not folder.exists()


def test_an_overwriting_run_that_saved_nothing_leaves_no_folder(folder):
    save(folder, epoch=1)
    with pytest.raises(KeyboardInterrupt), runs.training_run(folder) as run:
        run.move_to_replaced()
        raise KeyboardInterrupt
    assert not folder.exists()
    assert runs.saved_epoch(folder.parent / runs.REPLACED / f"{folder.name}.1") == 1


def test_a_refused_trainer_makes_no_folder(folder):
    with runs.training_run(folder):
        folder.rmdir()
        with pytest.raises(runs.RunError, match="another process"), runs.training_run(folder):
            pass
        assert not folder.exists()


def test_an_empty_folder_of_the_user_stays(folder, tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    folder.parent.mkdir(exist_ok=True)
    folder.symlink_to(target)
    with runs.training_run(folder):
        pass
    assert target.is_dir() and folder.is_symlink()


def test_temporary_files_of_a_killed_process_are_removed_when_training_begins(folder):
    save(folder, 1)
    (folder / ".history.csv.1.tmp").write_text("half")
    (folder / ".epoch-2.1.tmp").mkdir()
    (folder / ".epoch-2.1.tmp" / "epoch-2.data-00000-of-00001").write_text("half")
    with runs.training_run(folder):
        pass
    assert not list(folder.glob(".*")) and runs.saved_epoch(folder) == 1


# ---- Replaced runs -------------------------------------------------------------------------------------------------


def test_a_replaced_run_is_kept_whole_and_the_message_names_its_folder(folder, capsys):
    replaced = [folder.parent / "replaced" / f"{CONFIG.run_name}.{number}" for number in (1, 2)]
    save(folder, 7)
    first = contents(folder)
    overwrite(folder, 1, seed=1)
    assert capsys.readouterr().out == f"the earlier model is now in {replaced[0]}\n"
    second = contents(folder)
    overwrite(folder, 2, seed=2)
    assert capsys.readouterr().out == f"the earlier model is now in {replaced[1]}\n"

    assert [contents(path) for path in replaced] == [first, second]
    for path, epoch, seed in ((replaced[0], 7, 0), (replaced[1], 1, 1), (folder, 2, 2)):
        model = runs.restore(path)
        assert model.epoch == epoch
        assert np.array_equal(first_weight(model), first_weight(state_at(epoch, seed).model))


def test_a_replaced_run_never_takes_the_place_of_another(folder):
    """The number is above all that are there, also where a user has removed or renamed some."""
    replaced = folder.parent / "replaced"
    (replaced / f"{CONFIG.run_name}.9").mkdir(parents=True)
    (replaced / f"{CONFIG.run_name}.12.backup").mkdir()
    (replaced / f"{CONFIG.run_name}_seed3.20").mkdir()
    save(folder, 7)
    overwrite(folder, 1)
    assert runs.trained(replaced) == [replaced / f"{CONFIG.run_name}.10"]


def test_without_an_earlier_model_nothing_is_moved(folder, capsys):
    overwrite(folder, 1)
    assert not (folder.parent / "replaced").exists()
    assert capsys.readouterr().out == ""
    assert runs.trained(folder.parent) == [folder]


def test_replaced_runs_are_listed_under_a_heading_of_their_own(folder):
    save(folder, 7)
    overwrite(folder, 1)
    assert cli.describe_runs(folder.parent).splitlines() == [
        f"trained runs in {folder.parent}",
        f"  {CONFIG.run_name}  (epoch 1)",
        f"replaced runs in {folder.parent / 'replaced'}",
        f"  {CONFIG.run_name}.1  (epoch 7)",
    ]
    assert runs.trained(folder.parent) == [folder]
    shutil.rmtree(folder)
    assert cli.describe_runs(folder.parent).splitlines()[0] == f"no trained runs in {folder.parent}"


def test_through_a_link_the_folder_that_it_points_to_is_moved(folder, tmp_path):
    target = tmp_path / "elsewhere"
    save(target, 7)
    folder.parent.mkdir()
    folder.symlink_to(target, target_is_directory=True)
    for epoch, number, replaced_epoch in ((1, 1, 7), (2, 2, 1)):
        overwrite(folder, epoch)
        assert folder.is_symlink() and runs.saved_epoch(folder) == runs.saved_epoch(target) == epoch
        assert runs.restore(tmp_path / "replaced" / f"elsewhere.{number}").epoch == replaced_epoch


def test_a_program_that_makes_the_folder_again_is_no_obstacle(folder, monkeypatch):
    """An earlier version of train.py made it before it asked for the lock: just after the old one was moved, maybe."""
    save(folder, 7)
    rename = type(folder).rename

    def rename_and_make_again(path, target):
        rename(path, target)
        path.mkdir()

    monkeypatch.setattr(type(folder), "rename", rename_and_make_again)
    overwrite(folder, 1)
    assert runs.saved_epoch(folder) == 1


# ---- Damage --------------------------------------------------------------------------------------------------------


def test_an_index_without_its_data_is_no_checkpoint(folder):
    """A kill can leave data without an index. Either way the checkpoint before it counts."""
    save(folder, 2)
    save(folder, 3)
    (folder / DATA.format(3)).unlink()
    (folder / DATA.format(4)).write_bytes(b"")
    assert runs.saved_epoch(folder) == 2 and runs.restore(folder).epoch == 2


def put(path, content):
    """Writes the content of a damaged file; None stands for a missing one."""
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)


@pytest.mark.parametrize(
    "content", [b"", b"epoch,a\n1,2,3\n", b"epoch,train_elbo\n1,2\n", b"epoch\nx\n", b"\xff\xfe\x00", None]
)
def test_a_damaged_history_is_refused_by_name(folder, content):
    save(folder, 3)
    put(folder / "history.csv", content)
    with runs.training_run(folder) as run, pytest.raises(runs.RunError, match=r"history\.csv"):
        run.restore(state_at(0), CONFIG)


@pytest.mark.parametrize(
    "line",
    [
        *("4", "4,1,2,3,4,5", "4,1,2,3,4,5,6,7", "x,1,2,3,4,5,6", "4,x,2,3,4,5,6"),
        *("4,inf,2,3,4,5,6", "4,1,nan,3,4,5,6", "4,1,2,-inf,4,5,6", "4,1,2,3,inf,5,6", "4,1,2,3,nan,nan,6"),
        *(
            "4,1,2,3,4,5,nan",
            "4,1e999,2,3,4,5,6",
            "-4,1,2,3,4,5,6",
            "3,1,2,3,4,5,6",
            "5,1,2,3,4,5,6",
            "4.0,1,2,3,4,5,6",
        ),
    ],
)
def test_a_damaged_line_of_a_history_is_refused_by_name_and_the_message_says_what_to_do(folder, line):
    save(folder, 3)
    with (folder / "history.csv").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(runs.RunError, match=r"(?s)history\.csv cannot be read: .*evaluate\.py.* copy .*--overwrite"):
        runs.read_history(folder)
    assert runs.restore(folder).epoch == 3


def test_a_history_that_is_shorter_than_the_training_is_refused_and_the_message_says_what_to_do(folder):
    save(folder, 3)
    runs.write_history(folder, history_up_to(2))
    with runs.training_run(folder) as run:
        with pytest.raises(runs.RunError, match=r"(?s)history\.csv ends at epoch 2, .* at epoch 3\n.*--overwrite"):
            run.restore(state_at(0), CONFIG)


@pytest.mark.parametrize("name", ["config.json", "history.csv"])
def test_a_file_that_cannot_be_opened_is_refused_without_advice_for_a_damaged_one(folder, name):
    """A folder is in its place."""
    save(folder, 3)
    (folder / name).unlink()
    (folder / name).mkdir()
    with runs.training_run(folder) as run, pytest.raises(runs.RunError) as caught:
        run.restore(state_at(0), CONFIG)
    assert str(caught.value) == f"{folder / name} cannot be read: Is a directory"


def test_an_empty_line_of_a_history_is_skipped(folder):
    save(folder, 3)
    with (folder / "history.csv").open("a") as file:
        file.write("\n")
    assert [row.epoch for row in runs.read_history(folder)] == [1, 2, 3]


def test_a_config_without_versions_is_read(folder):
    """They are for the reader of the file. No number depends on them."""
    save(folder, 3)
    content = json.loads((folder / "config.json").read_text())
    del content["versions"]
    (folder / "config.json").write_text(json.dumps(content))
    assert runs.read_config(folder).versions == {} and runs.restore(folder).epoch == 3


NESTED = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"config": {"vae_type": "x"}}', b"\xff", NESTED, None], ids=lambda content: ""
)
def test_a_damaged_config_is_refused_by_name_and_the_message_says_what_to_do(folder, content):
    save(folder, 3)
    put(folder / "config.json", content)
    with pytest.raises(runs.RunError, match=r"(?s)config\.json cannot be read: .* copy .*--overwrite"):
        runs.restore(folder)
    assert "config.json cannot be read: " in cli.describe_runs(folder.parent)
    assert cli.describe_runs(folder.parent).count("\n") == 1


@pytest.mark.parametrize(
    ("entry", "values"),
    [
        ("image_shape", (None, 8, "8x8", [8, 8], [4, 4, 1, 1], [-4, -4, 1], [0, 4, 1], [4.0, 4.0, 1.0], [True, 4, 4])),
        ("image_shape", ([math.inf, 4, 1], [math.nan, 4, 1], ["4", "4", "1"])),
        ("data_verified", (1, "no", [])),
        ("versions", (None, 3, "3.11")),
        ("config", (None, [], "digits", {})),
    ],
)
def test_a_wrong_entry_of_a_config_is_refused_by_name(folder, entry, values):
    save(folder, 3)
    for value in values:
        edit_config(folder, **{entry: value})
        with pytest.raises(runs.RunError, match=rf"config\.json cannot be read: {entry} "):
            runs.restore(folder)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("num_epochs", (-3, 0, 2.5, "2", None)),
        ("latent_dim", (-3, "3", True, [])),
        ("learning_rate", (None, -1, math.inf)),
        ("likelihood", ([], "normal", "x")),
        ("dataset", (1, None)),
    ],
)
def test_a_wrong_field_of_a_saved_config_is_refused_by_name(folder, field, values):
    save(folder, 3)
    fields = dataclasses.asdict(CONFIG)
    for value in values:
        edit_config(folder, config=fields | {field: value})
        with pytest.raises(runs.RunError, match=rf"config\.json cannot be read: .*{re.escape(repr(value))}"):
            runs.restore(folder)


def test_a_saved_config_with_a_field_too_few_or_too_many_is_refused(folder):
    save(folder, 3)
    fields = dataclasses.asdict(CONFIG)
    edit_config(folder, config=fields | {"colour": "red"})
    with pytest.raises(runs.RunError, match="config has unknown entries: colour"):
        runs.restore(folder)
    for field in runs.REQUIRED_FIELDS:
        edit_config(folder, config={name: value for name, value in fields.items() if name != field})
        with pytest.raises(runs.RunError, match=f"config has no entry '{field}'"):
            runs.restore(folder)


def test_a_field_that_was_added_after_a_run_was_saved_has_its_default(folder, monkeypatch):
    save(folder, 3)
    monkeypatch.setattr(runs, "REQUIRED_FIELDS", [field for field in runs.REQUIRED_FIELDS if field != "activation"])
    edit_config(folder, config={field: getattr(CONFIG, field) for field in runs.REQUIRED_FIELDS})
    assert runs.read_config(folder).config == CONFIG


def truncate(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


DAMAGES = [(damage, name) for damage in (truncate, flip_a_bit, empty) for name in (INDEX, DATA)]


@pytest.mark.parametrize(("damage", "name"), DAMAGES)
def test_training_continues_from_the_checkpoint_before_a_damaged_one(folder, damage, name, capsys):
    """Readers leave the damaged one where it is. Training, which holds the lock, sets it aside."""
    save(folder, 2)
    save(folder, 3)
    damage(folder / name.format(3))
    with runs.training_run(folder) as run:
        state = state_at(0, seed=5)
        run.restore(state, CONFIG)
        output = capsys.readouterr().out
        assert "epoch-3 cannot be read (" in output and "epoch 2 is restored instead" in output
        assert int(state.epoch) == 2 and epochs_of(run) == [1, 2]
        assert len(list(folder.glob("damaged-epoch-3.*"))) == 2 and runs.saved_epoch(folder) == 2
        assert np.array_equal(first_weight(state.model), first_weight(state_at(2).model))


def test_a_reader_restores_the_newest_good_checkpoint_and_leaves_damaged_ones_alone(folder, capsys):
    for epoch in (2, 3, 4):
        save(folder, epoch)
    truncate(folder / DATA.format(4))
    flip_a_bit(folder / INDEX.format(3))
    before = contents(folder)
    assert runs.restore(folder).epoch == 2
    assert capsys.readouterr().out.count("epoch 2 is restored instead") == 2
    assert contents(folder) == before


@pytest.mark.parametrize(("damage", "name"), DAMAGES)
def test_if_no_checkpoint_can_be_read_each_is_named(folder, damage, name):
    for epoch in (2, 3):
        save(folder, epoch)
        damage(folder / name.format(epoch))
    with pytest.raises(runs.RunError, match=r"(?s)epoch-3 cannot be read: .*epoch-2 cannot be read: .*--overwrite"):
        runs.restore(folder)


def test_a_damaged_run_is_replaced_like_any_other(folder):
    """Its last message is to use --overwrite."""
    save(folder, 3)
    empty(folder / INDEX.format(3))
    before = contents(folder)
    overwrite(folder, 1)
    assert contents(folder.parent / "replaced" / f"{CONFIG.run_name}.1") == before
    assert runs.restore(folder).epoch == 1


# What TensorFlow and Python raise for whole checkpoints that cannot be read now.
NO_DAMAGE = [
    # TensorFlow has this plain class for a file of mode 0, and also for most damage.
    tf.errors.OpError(None, None, "/tmp/x/run/epoch-3.index; Permission denied", tf.errors.UNKNOWN),
    tf.errors.OpError(None, None, "/tmp/x/run/epoch-3.data-00000-of-00001; Too many open files", tf.errors.UNKNOWN),
    tf.errors.OpError(None, None, "/tmp/x/run/epoch-3.data-00000-of-00001; Input/output error", tf.errors.UNKNOWN),
    tf.errors.PermissionDeniedError(None, None, "epoch-3.index; Permission denied"),
    tf.errors.NotFoundError(None, None, "{{function_node x}} /tmp/x/epoch-3.index; No such file or directory [Op:x]"),
    tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor"),
    PermissionError(13, "Permission denied", "epoch-3.index"),
    OSError(5, "Input/output error", "epoch-3.index"),
    MemoryError(),
    RuntimeError("can't start new thread"),
]


@pytest.mark.parametrize("error", NO_DAMAGE, ids=lambda error: type(error).__name__)
def test_an_error_that_is_not_known_to_be_damage_is_refused_and_nothing_is_renamed(folder, error, monkeypatch):
    for epoch in (2, 3):
        save(folder, epoch)
    before = contents(folder)

    def refuse(*args):
        raise error

    monkeypatch.setattr(tf.train.Checkpoint, "read", refuse)
    with runs.training_run(folder) as run:
        with pytest.raises(runs.RunError, match=r"epoch-3 cannot be read: \S+"):
            run.restore(state_at(0), CONFIG)
    with pytest.raises(runs.RunError, match=r"epoch-3 cannot be read: \S+"):
        runs.restore(folder)
    assert contents(folder) == before


@pytest.mark.parametrize("name", [INDEX, DATA])
def test_a_checkpoint_that_is_a_link_to_nowhere_is_refused_and_not_renamed(folder, name):
    """The disk that it leads to may be mounted again."""
    for epoch in (2, 3):
        save(folder, epoch)
    path = folder / name.format(3)
    path.unlink()
    path.symlink_to(folder / "elsewhere")
    with runs.training_run(folder) as run:
        with pytest.raises(runs.RunError, match=rf"epoch-3 cannot be read: .*No such file .*{path.name}"):
            run.restore(state_at(0), CONFIG)
    assert checkpoints.epochs(folder) == [2, 3]


@pytest.mark.parametrize(
    ("error", "expected_text"),
    [
        (
            tf.errors.ResourceExhaustedError(
                None,
                None,
                "{{function_node __wrapped__SaveV2_dtypes_40_device_/job:localhost/replica:0/task:0/device:CPU:0}} "
                "/runs/.epoch-1.5.tmp/epoch-1_temp/part-0.data.tempstate50; No space left on device [Op:SaveV2]",
            ),
            "No space left on device",
        ),
        (
            tf.errors.DataLossError(
                None,
                None,
                "{{function_node __wrapped__RestoreV2_device_/job:localhost/replica:0/task:0/device:CPU:0}} "
                f"TensorBundle at /tmp/x1/{checkpoints.LINK_NAME}/epoch-3 shard 0 (9 bytes): Checksum does not match "
                "[Op:RestoreV2] name: ",
            ),
            "TensorBundle at epoch-3 shard 0 (9 bytes): Checksum does not match",
        ),
        (ValueError("{{a}} b; c"), "b; c"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_the_reason_of_an_error_has_no_names_of_tensorflows_functions_and_temporary_files(error, expected_text):
    assert checkpoints.describe_error(error) == expected_text


def test_a_checkpoint_of_another_epoch_counts_as_damaged(folder, capsys):
    """A user has copied the files of epoch 2 over those of epoch 3."""
    for epoch in (2, 3):
        save(folder, epoch)
    for name in (INDEX, DATA):
        shutil.copy(folder / name.format(2), folder / name.format(3))
    expected = (
        "epoch-3 cannot be read (it is the checkpoint of epoch 2, under another name): epoch 2 is restored instead"
    )
    assert runs.restore(folder).epoch == 2
    assert expected in capsys.readouterr().out
    with runs.training_run(folder) as run:
        state = state_at(0)
        run.restore(state, CONFIG)
        assert expected in capsys.readouterr().out
        assert int(state.epoch) == 2 and epochs_of(run) == [1, 2]
    assert checkpoints.epochs(folder) == [2] and len(list(folder.glob("damaged-epoch-3.*"))) == 2


@pytest.mark.parametrize("name", [INDEX, DATA])
def test_tensorflow_warns_of_nothing_when_a_reader_passes_over_a_damaged_checkpoint(folder, name):
    for epoch in (2, 3):
        save(folder, epoch)
    flip_a_bit(folder / name.format(3))
    warnings = []
    handler = logging.Handler()
    handler.emit = warnings.append
    logger = logging.getLogger("tensorflow")
    logger.addHandler(handler)
    try:
        assert runs.restore(folder).epoch == 2
        # TensorFlow would warn when Python collects what was not restored.
        gc.collect()
    finally:
        logger.removeHandler(handler)
    assert warnings == []


@pytest.mark.parametrize("num_bits", [15, pytest.param(60, marks=pytest.mark.slow)])
def test_no_flipped_bit_of_a_checkpoint_changes_a_weight_unnoticed(num_bits, folder):
    """Either an error is raised, or the weights are the same: the bit was one of Adam's moments, or of padding."""
    save(folder, 3)
    expected = [variable.numpy() for variable in runs.restore(folder).trainable_variables]
    rng = np.random.default_rng(0)
    num_refused = 0
    for path in (folder / INDEX.format(3), folder / DATA.format(3)):
        whole = path.read_bytes()
        for bit in rng.choice(8 * len(whole), num_bits, replace=False):
            content = bytearray(whole)
            content[bit // 8] ^= 1 << (bit % 8)
            path.write_bytes(content)
            try:
                restored = runs.restore(folder).trainable_variables
            except runs.RunError:
                num_refused += 1
                continue
            for variable, weight in zip(restored, expected, strict=True):
                assert np.array_equal(variable, weight)
        path.write_bytes(whole)
    # More than half of them
    assert num_refused > num_bits


def test_a_checkpoint_that_is_removed_while_it_is_read_does_not_count_as_damaged(folder, monkeypatch, capsys):
    save(folder, 3)
    read = checkpoints.read

    def read_too_late(state, folder, epoch, partial):
        if epoch == 3:
            for later in range(4, 4 + checkpoints.NUM_KEPT):
                save(folder, later)
        read(state, folder, epoch, partial)

    monkeypatch.setattr(checkpoints, "read", read_too_late)
    assert runs.restore(folder).epoch == 3 + checkpoints.NUM_KEPT
    assert capsys.readouterr().out == ""


def test_a_checkpoint_of_another_program_is_refused(folder):
    save(folder, 3)
    tf.train.Checkpoint(weights=tf.Variable([1.0])).write(str(folder / "epoch-3"))
    with pytest.raises(runs.RunError, match="epoch-3 cannot be read"):
        runs.restore(folder)


def test_a_checkpoint_of_another_shape_is_refused(folder, tmp_path):
    save(folder, 3)
    wider = dataclasses.replace(CONFIG, hidden_size=9)
    elsewhere = tmp_path / "wider"
    with runs.training_run(elsewhere) as run:
        run.history = [row_of(1)]
        state = training.create_state(runs.build(wider, SHAPE), learning_rate=1e-3)
        run.save(state, wider, data_verified=True)
    shutil.copy(elsewhere / "config.json", folder / "config.json")
    with pytest.raises(runs.RunError, match="cannot be read"):
        runs.restore(folder)
