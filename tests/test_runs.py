import dataclasses
import shutil

import numpy as np
import pytest
import tensorflow as tf

from config import Config
from vae import checkpoints, runs, training

CONFIG = Config(dataset="digits", latent_dim=3, hidden_size=8)
SHAPE = (4, 4, 1)


def state_at(epoch, seed=0):
    state = training.create_state(runs.build(dataclasses.replace(CONFIG, seed=seed), SHAPE), 1e-3)
    state.epoch.assign(epoch)
    return state


def row(epoch):
    return dict(zip(training.HISTORY, (epoch, -1.5, -1.0, 0.5, float("nan"), 0.25), strict=True))


def save(folder, epoch, seed=0, overwrite=False):
    with runs.Run(folder, overwrite) as run:
        run.history = [row(e) for e in range(1, epoch + 1)]
        run.save(state_at(epoch, seed), CONFIG, SHAPE, verified=True)


def first_weight(folder):
    return runs.restore(folder).trainable_variables[0].numpy()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs" / CONFIG.run_name


def test_a_saved_run_is_restored_whole(folder):
    save(folder, 3)
    model = runs.restore(folder)
    assert model.image_shape == SHAPE and model.latent_dim == 3
    assert np.array_equal(model.trainable_variables[0], state_at(3).model.trainable_variables[0])
    facts = runs.read_facts(folder)
    assert facts["config"] == CONFIG and facts["data_verified"] is True
    assert {"python", "tensorflow", "keras", "numpy"} == set(facts["versions"])
    assert runs.saved_epoch(folder) == 3 and runs.trained(folder.parent) == [folder]
    assert f"{CONFIG.run_name}  (epoch 3)" in runs.listing(folder.parent)


def test_history_survives_the_round_trip_exactly(folder):
    rows = [row(1) | {"train_elbo": 1 / 3, "test_elbo": -1e-17}]
    with runs.Run(folder) as run:
        run.history = rows
        run.save(state_at(1), CONFIG, SHAPE, verified=True)
    assert runs.read_history(folder) == rows


def test_rows_beyond_the_checkpoint_are_dropped_when_resuming(folder):
    """A kill between history.csv and the checkpoint leaves such rows; they come again."""
    save(folder, 3)
    with (folder / "history.csv").open("a") as file:
        file.write("4,-1,-1,0,nan,1\n")
    with runs.Run(folder) as run:
        state = state_at(0, seed=5)
        run.restore(state, CONFIG)
        assert int(state.epoch) == 3 and [r["epoch"] for r in run.history] == [1, 2, 3]


def test_saves_are_due_by_epochs_or_seconds(folder, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(runs.time, "monotonic", lambda: now[0])
    with runs.Run(folder) as run:
        assert not run.due(9) and run.due(10)
        now[0] = 60.0
        assert run.due(1)
        run.history = [row(1)]
        run.save(state_at(1), CONFIG, SHAPE, verified=True)
        assert not run.due(10) and run.due(11)


def test_overwrite_keeps_the_old_model_until_the_new_one_is_saved(folder):
    save(folder, 7)
    old = first_weight(folder)
    with runs.Run(folder, overwrite=True) as run:
        assert runs.saved_epoch(folder) == 7 and np.array_equal(first_weight(folder), old)
        run.history = [row(1)]
        run.save(state_at(1, seed=1), CONFIG, SHAPE, verified=True)
        assert runs.saved_epoch(folder) == 1 and not np.array_equal(first_weight(folder), old)
        with pytest.raises(runs.RunError, match="another process"):
            runs.Run(folder)
        run.history = [row(1), row(2)]
        run.save(state_at(2, seed=1), CONFIG, SHAPE, verified=True)
    assert runs.saved_epoch(folder) == 2
    assert [path.name for path in folder.parent.iterdir() if path.suffix != ".lock"] == [folder.name]


@pytest.mark.parametrize("by", ["list", "restore"])
@pytest.mark.parametrize("renames_done", [1, 2])
def test_a_swap_that_was_killed_is_ended_by_whoever_comes_next(folder, renames_done, by):
    save(folder, 7)
    new, old = (folder.with_name(f".{folder.name}.{kind}") for kind in ("new", "old"))
    save(folder.with_name("made"), 1, seed=1)
    folder.with_name("made").rename(new)
    folder.rename(old)
    if renames_done == 2:
        new.rename(folder)
    if by == "list":
        assert runs.trained(folder.parent) == [folder]
    else:
        assert runs.restore(folder)
    assert runs.saved_epoch(folder) == 1
    assert [path.name for path in folder.parent.iterdir() if path.suffix != ".lock"] == [folder.name]


def test_a_reader_or_a_second_trainer_leaves_a_swap_alone_that_is_under_way(folder):
    save(folder, 7)
    old = folder.with_name(f".{folder.name}.old")
    with runs.Run(folder):
        folder.rename(old)
        runs.recover(folder)
        assert old.exists() and not folder.exists()
        with pytest.raises(runs.RunError, match="another process"):
            runs.Run(folder)
        assert runs.saved_epoch(old) == 7
        folder.rmdir()
        old.rename(folder)


@pytest.mark.parametrize("empty", [True, False])
def test_an_old_model_without_a_new_one_comes_back(folder, empty):
    save(folder, 7)
    folder.rename(folder.with_name(f".{folder.name}.old"))
    if empty:
        folder.mkdir()
    assert runs.trained(folder.parent) == [folder] and runs.saved_epoch(folder) == 7


def test_overwriting_through_a_link_replaces_what_it_points_to(folder, tmp_path):
    save(tmp_path / "elsewhere", 7)
    folder.parent.mkdir()
    folder.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    for epoch in (1, 2):
        save(folder, epoch, overwrite=True)
        assert folder.is_symlink() and runs.saved_epoch(folder) == epoch


def test_a_folder_that_holds_another_model_is_not_carried_on(folder):
    save(folder, 2)
    with runs.Run(folder) as run, pytest.raises(runs.RunError, match="holds another model"):
        run.restore(state_at(0), dataclasses.replace(CONFIG, seed=1))


def test_the_columns_are_those_that_training_gives():
    assert runs.COLUMNS == training.HISTORY


def test_two_at_once_are_refused_and_the_lock_goes_with_the_run(folder):
    with runs.Run(folder), pytest.raises(runs.RunError, match="another process is training in"):
        runs.Run(folder)
    runs.Run(folder).__exit__()


def test_no_model_is_an_error_that_names_the_folder(folder):
    with pytest.raises(runs.RunError, match=f"no trained model in .*{CONFIG.run_name}"):
        runs.restore(folder)
    assert runs.trained(folder.parent) == [] and runs.listing(folder.parent).startswith("no trained runs")


def test_a_folder_whose_name_is_a_pattern_is_a_folder_like_any_other(tmp_path):
    folder = tmp_path / "runs[1]*" / CONFIG.run_name
    for epoch in range(1, 6):
        save(folder, epoch)
    assert runs.saved_epoch(folder) == 5 and runs.trained(folder.parent) == [folder]
    assert checkpoints.epochs(folder) == [3, 4, 5] and len(list(folder.iterdir())) == 2 * 3 + 2
    assert runs.restore(folder).latent_dim == 3


def test_an_index_without_its_data_is_no_checkpoint(folder):
    """What a kill can leave is data without its index; either way round the one before holds."""
    save(folder, 2)
    save(folder, 3)
    (folder / "epoch-3.data-00000-of-00001").unlink()
    (folder / "epoch-4.data-00000-of-00001").write_bytes(b"")
    assert runs.saved_epoch(folder) == 2 and runs.restore(folder)


def test_leftovers_of_a_killed_process_go_when_training_begins(folder):
    save(folder, 1)
    (folder / ".history.csv.1.tmp").write_text("half")
    (folder / ".epoch-2.1.tmp").mkdir()
    (folder / ".epoch-2.1.tmp" / "epoch-2.data-00000-of-00001").write_text("half")
    runs.Run(folder).__exit__()
    assert not list(folder.glob(".*")) and runs.saved_epoch(folder) == 1


def test_unverified_data_is_remembered_when_resuming_with_verified(folder):
    with runs.Run(folder) as run:
        run.history = [row(1)]
        run.save(state_at(1), CONFIG, SHAPE, verified=False)
    with runs.Run(folder) as run:
        run.restore(state_at(0), CONFIG)
        run.history.append(row(2))
        run.save(state_at(2), CONFIG, SHAPE, verified=True)
    assert runs.read_facts(folder)["data_verified"] is False


@pytest.mark.parametrize(
    "content", [b"", b"epoch,a\n1,2,3\n", b"epoch,train_elbo\n1,2\n", b"epoch\nx\n", b"\xff\xfe\x00", None]
)
def test_a_damaged_history_is_refused_by_name(folder, content):
    save(folder, 3)
    path = folder / "history.csv"
    path.unlink() if content is None else path.write_bytes(content)
    with runs.Run(folder) as run, pytest.raises(runs.RunError, match=r"history\.csv"):
        run.restore(state_at(0), CONFIG)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"config": {"vae_type": "x"}}', b"\xff", None])
def test_a_damaged_config_is_refused_by_name(folder, content):
    save(folder, 3)
    path = folder / "config.json"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(runs.RunError, match=r"config\.json"):
        runs.restore(folder)


DATA = "epoch-{}.data-00000-of-00001"


def truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def emptied(path):
    path.write_bytes(b"")


DAMAGES = [(damage, name) for damage in (truncated, flipped, emptied) for name in ("epoch-{}.index", DATA)]


@pytest.mark.parametrize(("damage", "name"), DAMAGES)
def test_of_a_damaged_newest_checkpoint_the_one_before_is_taken(folder, damage, name, capsys):
    """Readers leave the damaged one where it is; training, which holds the lock, sets it aside and goes on."""
    save(folder, 2)
    save(folder, 3)
    damage(folder / name.format(3))
    with runs.Run(folder) as run:
        state = state_at(0, seed=5)
        run.restore(state, CONFIG)
        assert "epoch-3 cannot be read (" in (said := capsys.readouterr().out) and "epoch 2 is taken instead" in said
        assert int(state.epoch) == 2 and [r["epoch"] for r in run.history] == [1, 2]
        assert len(list(folder.glob("damaged-epoch-3.*"))) == 2 and runs.saved_epoch(folder) == 2
        assert np.array_equal(state.model.trainable_variables[0], state_at(2).model.trainable_variables[0])


def test_a_reader_takes_the_newest_good_checkpoint_and_leaves_the_damaged_alone(folder, capsys):
    for epoch in (2, 3, 4):
        save(folder, epoch)
    truncated(folder / DATA.format(4))
    flipped(folder / "epoch-3.index")
    before = sorted(path.name for path in folder.iterdir())
    assert runs.restore(folder).epoch == 2 and capsys.readouterr().out.count("epoch 2 is taken instead") == 2
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize(("damage", "name"), DAMAGES)
def test_where_no_checkpoint_can_be_read_each_is_named(folder, damage, name):
    for epoch in (2, 3):
        save(folder, epoch)
        damage(folder / name.format(epoch))
    with pytest.raises(runs.RunError, match=r"(?s)epoch-3 cannot be read: .*epoch-2 cannot be read: .*--overwrite"):
        runs.restore(folder)


def test_a_checkpoint_that_may_not_be_read_is_not_taken_for_damaged(folder, monkeypatch):
    for epoch in (2, 3):
        save(folder, epoch)

    def forbidden(*args):
        raise tf.errors.PermissionDeniedError(None, None, "epoch-3.index; Permission denied")

    monkeypatch.setattr(checkpoints, "_read", forbidden)
    with runs.Run(folder) as run, pytest.raises(runs.RunError, match=r"epoch-3 cannot be read: .*Permission denied"):
        run.restore(state_at(0), CONFIG)
    assert checkpoints.epochs(folder) == [2, 3]


def test_no_bit_that_is_flipped_in_a_checkpoint_goes_unnoticed(folder):
    """Any bit: what is restored is an error or the very same weights (a bit of Adam's moments, or of padding)."""
    save(folder, 3)
    want = [v.numpy() for v in runs.restore(folder).trainable_variables]
    rng, refused = np.random.default_rng(0), 0
    for path in (folder / "epoch-3.index", folder / DATA.format(3)):
        whole = path.read_bytes()
        for place in rng.choice(8 * len(whole), 60, replace=False):
            content = bytearray(whole)
            content[place // 8] ^= 1 << (place % 8)
            path.write_bytes(content)
            try:
                got = runs.restore(folder).trainable_variables
            except runs.RunError:
                refused += 1
            else:
                assert all(np.array_equal(a, b) for a, b in zip(got, want, strict=True))
        path.write_bytes(whole)
    assert refused > 60


def test_a_checkpoint_that_is_pruned_under_a_reader_is_no_damage(folder, monkeypatch, capsys):
    save(folder, 3)
    read = checkpoints._read

    def pruned(state, folder, epoch, partial):
        if epoch == 3:
            for later in range(4, 4 + checkpoints.KEPT):
                save(folder, later)
        read(state, folder, epoch, partial)

    monkeypatch.setattr(checkpoints, "_read", pruned)
    assert runs.restore(folder).epoch == 3 + checkpoints.KEPT and capsys.readouterr().out == ""


def test_a_checkpoint_of_another_program_is_refused(folder):
    save(folder, 3)
    tf.train.Checkpoint(weights=tf.Variable([1.0])).write(str(folder / "epoch-3"))
    with pytest.raises(runs.RunError, match="epoch-3 cannot be read"):
        runs.restore(folder)


def test_a_checkpoint_of_another_shape_is_refused(folder, tmp_path):
    save(folder, 3)
    other = dataclasses.replace(CONFIG, hidden_size=9)
    elsewhere = tmp_path / "other"
    with runs.Run(elsewhere) as run:
        run.history = [row(1)]
        run.save(training.create_state(runs.build(other, SHAPE), 1e-3), other, SHAPE, verified=True)
    shutil.copy(elsewhere / "config.json", folder / "config.json")
    with pytest.raises(runs.RunError, match="cannot be read"):
        runs.restore(folder)


def test_replacing_leaves_the_old_file_where_the_write_fails(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(OSError, match="full"), runs.replacing(path) as temporary:
        temporary.write_text("ne")
        raise OSError("disk full")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
