"""train.py: training, saving, stopping and continuing, through main([...]) or as a process."""

import math
import os
import re
import signal

import numpy as np
import pytest
from conftest import DIGITS, TIMEOUT, Workspace, contents, saved

from config import Config, UsageError
from vae import evaluation, files, history, runs, session, training


def folder_of(workspace):
    (folder,) = runs.trained_folders(workspace.checkpoints)
    return folder


def epochs_of(folder):
    return [row.epoch for row in history.read(folder)]


# ---- Continuing ----------------------------------------------------------------------------------------------------


def test_a_trained_model_is_never_lost_to_the_same_command_again(trained, pretended, capsys):
    folder = folder_of(trained)
    before = contents(folder)
    # What is suggested goes on: to 2 epochs, or to the 3 that the user asked for.
    for num_epochs, suggested in (("1", "2"), ("3", "3")):
        assert trained.run("train", *DIGITS, "--num_epochs", num_epochs) == 1
        message = capsys.readouterr().err
        assert "trained to epoch 1" in message and "--overwrite" in message
        assert re.search(rf"to continue it: .* --num_epochs {suggested} .*--restore True\n", message)
    for restore in (("--restore", "True"), ("--restore",)):
        assert trained.run("train", *DIGITS, "--num_epochs", "1", *restore) == 0
        output = capsys.readouterr().out
        assert "nothing to do" in output and "--num_epochs above 1" in output
    assert contents(folder) == before

    assert trained.run("train", *DIGITS, "--num_epochs", "3", "--restore") == 0
    assert "continuing after epoch 1" in capsys.readouterr().out
    assert epochs_of(folder) == [1, 2, 3] and runs.saved_epoch(folder) == 3
    # What was saved first is still there.
    assert contents(folder)["epoch-1.npz"] == before["epoch-1.npz"]


@pytest.mark.parametrize("restore", [("--restore",), ("--restore", "False"), ("--overwrite",)])
def test_without_a_trained_model_a_new_run_begins(restore, workspace, pretended, capsys):
    folder = workspace.train(*DIGITS, "--num_epochs", "2", *restore)
    output = capsys.readouterr().out
    assert f"new run: {folder.name} (1437 training and 360 test images)" in output
    assert "epoch 1/2" in output and str(folder) in output
    assert epochs_of(folder) == [1, 2] and not (workspace.checkpoints / "replaced").exists()


@pytest.mark.slow
def test_a_run_that_ends_between_tests_keeps_its_last_test_elbo_until_it_continues(workspace, capsys, tmp_path):
    """The ELBO is measured after every tenth epoch, and at the end. Continued, the run is the uninterrupted one."""
    folder = workspace.train(*DIGITS, "--num_epochs", "11")
    printed = re.search(r"epoch 11: test ELBO (\S+) nats", capsys.readouterr().out)[1]
    assert f"{history.read(folder)[-1].test_elbo:.2f}" == printed
    assert workspace.run("train", "--list") == 0
    assert f", epoch 11, test ELBO {printed} nats)" in capsys.readouterr().out
    workspace.train(*DIGITS, "--num_epochs", "12", "--restore")
    uninterrupted = Workspace(tmp_path / "uninterrupted", workspace.data_dir).train(*DIGITS, "--num_epochs", "12")
    assert saved(folder) == saved(uninterrupted)


@pytest.mark.slow
def test_a_run_whose_config_json_is_lost_can_be_used_again(workspace, tmp_path, capsys):
    """As the message says: with the config.json of a run that has the same flags and one epoch."""
    argv = ["--dataset", "digits", "--vae_type", "conv3"]
    folder = workspace.train(*argv, "--num_epochs", "3")
    (folder / "config.json").unlink()
    assert workspace.run("evaluate", *argv) == 1
    assert "train with the same flags for one epoch into another --checkpoints_dir" in capsys.readouterr().err
    other = Workspace(tmp_path / "other", workspace.data_dir).train(*argv, "--num_epochs", "1")
    (other / "config.json").rename(folder / "config.json")
    assert workspace.run("evaluate", *argv) == 0
    assert workspace.run("train", *argv, "--num_epochs", "4", "--restore") == 0
    assert epochs_of(folder) == [1, 2, 3, 4]


# ---- Saving and drawing --------------------------------------------------------------------------------------------


def test_saves_come_after_10_epochs_and_at_the_end_and_hold_the_model_of_their_epoch(workspace, pretended):
    folder = workspace.train(*DIGITS, "--num_epochs", "25")
    weights = {}
    for epoch in (10, 20, 25):
        with np.load(folder / f"epoch-{epoch}.npz") as content:
            weights[epoch] = content["encoder/dense_1/kernel"]
    np.testing.assert_allclose(weights[20] - weights[10], 0.1, atol=1e-6)
    np.testing.assert_allclose(weights[25] - weights[20], 0.05, atol=1e-6)
    model = runs.restore(folder)
    assert model.epoch == 25 and np.array_equal(model.trainable_variables[0], weights[25])
    assert epochs_of(folder) == list(range(1, 26))


@pytest.mark.parametrize(("seconds", "num_drawings"), [(0, 4), (session.DRAWING_SECONDS, 2)])
def test_the_learning_curves_are_drawn_with_a_save_unless_they_have_just_been(
    seconds, num_drawings, workspace, pretended, monkeypatch
):
    drawn = []
    monkeypatch.setattr(session, "DRAWING_SECONDS", seconds)
    monkeypatch.setattr(session.time, "monotonic", lambda: 1.0)
    monkeypatch.setattr(runs, "SAVE_EPOCHS", 1)
    draw = session.draw_learning_curves

    def watched_draw(rows, path, is_last):
        draw(rows, path, is_last)
        drawn.append(path.read_bytes())

    monkeypatch.setattr(session, "draw_learning_curves", watched_draw)
    workspace.train(*DIGITS, "--num_epochs", "4")
    assert len(drawn) == len(set(drawn)) == num_drawings


def test_a_picture_that_cannot_be_written_does_not_stop_training(workspace, pretended, monkeypatch, capsys):
    def refuse(figure, path):
        raise OSError(f"could not write {path}: Permission denied")

    monkeypatch.setattr(runs, "SAVE_EPOCHS", 1)
    monkeypatch.setattr(files, "save_figure", refuse)
    assert workspace.run("train", *DIGITS, "--num_epochs", "3") == 1
    assert runs.saved_epoch(folder_of(workspace)) == 3
    message = capsys.readouterr().err
    assert "training goes on without a picture" in message and "error: could not write" in message


def test_training_goes_on_if_its_progress_cannot_be_printed(workspace, pretended, monkeypatch):
    def refuse(*args, **options):
        raise OSError("the terminal is closed")

    monkeypatch.setattr("tqdm.tqdm.update", refuse)
    monkeypatch.setattr("tqdm.tqdm.set_postfix_str", refuse)
    monkeypatch.setattr("builtins.print", refuse)
    assert runs.saved_epoch(workspace.train(*DIGITS, "--num_epochs", "2")) == 2


def test_training_that_diverges_keeps_the_last_good_checkpoint(trained, capsys, monkeypatch):
    before = saved(folder_of(trained))
    monkeypatch.setattr(training, "compile_block", lambda state, batch_size: lambda block: np.zeros((14, 2)))
    monkeypatch.setattr(evaluation, "make_test_elbo", lambda model, images: lambda: -math.inf)
    assert trained.run("train", *DIGITS, "--num_epochs", "3", "--restore", "True") == 1
    message = capsys.readouterr().err
    assert "after epoch 2 is not a finite number; try a lower --learning_rate" in message
    assert saved(folder_of(trained)) == before


# ---- Overwriting ---------------------------------------------------------------------------------------------------


def test_overwrite_moves_the_earlier_run_to_replaced(trained, pretended, capsys):
    folder = folder_of(trained)
    before = contents(folder)
    assert trained.train(*DIGITS, "--num_epochs", "2", "--overwrite") == folder
    replaced = trained.checkpoints / "replaced" / f"{folder.name}.1"
    assert f"the earlier model is now in {replaced}\n" in capsys.readouterr().out
    assert contents(replaced) == before
    assert runs.restore(replaced).epoch == 1 and runs.restore(folder).epoch == 2
    assert trained.run("train", "--list") == 0
    output = capsys.readouterr().out
    assert re.search(rf"{folder.name}  \(.*, epoch 2, ", output)
    assert re.search(rf"{folder.name}.1  \(.*, epoch 1, ", output)


def test_overwrite_moves_nothing_if_the_data_cannot_be_used(workspace, pretended, tmp_path, capsys):
    path = tmp_path / "faces.npz"
    np.savez(path, images=np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8))
    argv = ["--dataset", str(path), "--hidden_size", "8", "--num_epochs", "1"]
    folder = workspace.train(*argv, "--batch_size", "36")
    before = contents(folder)
    # With fewer images, a batch would need more than there are.
    np.savez(path, images=np.zeros((20, 8, 8), np.uint8))
    assert workspace.run("train", *argv, "--batch_size", "36", "--overwrite") == 2
    assert "--batch_size" in capsys.readouterr().err
    path.write_bytes(b"damaged")
    assert workspace.run("train", *argv, "--batch_size", "36", "--overwrite") == 1
    assert str(path) in capsys.readouterr().err
    assert contents(folder) == before and not (workspace.checkpoints / "replaced").exists()


# ---- Stopping ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_the_running_epoch_and_ends_the_run(number, trained, pretended, capfd):
    folder = folder_of(trained)
    before = contents(folder)
    pretended[3] = [number]
    assert trained.run("train", *DIGITS, "--num_epochs", "500", "--overwrite") == 128 + number
    printed = capfd.readouterr()
    assert "stopping at the end of this epoch" in printed.err
    assert "to continue: python train.py --dataset digits" in printed.out and "--restore True" in printed.out
    assert runs.restore(folder).epoch == 3 and epochs_of(folder) == [1, 2, 3]
    assert runs.read_config(folder).config.num_epochs == 500
    assert contents(trained.checkpoints / "replaced" / f"{folder.name}.1") == before


def test_a_second_ctrl_c_stops_at_once_and_what_was_saved_is_kept(trained, pretended, capfd):
    folder = folder_of(trained)
    before = contents(folder)
    pretended[3] = [signal.SIGINT, signal.SIGINT]
    assert trained.run("train", *DIGITS, "--num_epochs", "500", "--restore") == 130
    assert capfd.readouterr().err.endswith("\nstopped\n")
    assert contents(folder) == before


def test_a_signal_in_the_last_epoch_changes_nothing(trained, pretended):
    pretended[2] = [signal.SIGTERM]
    assert trained.run("train", *DIGITS, "--num_epochs", "2", "--restore") == 0


@pytest.mark.slow
def test_a_process_that_is_stopped_continues_as_the_uninterrupted_run(workspace, tmp_path):
    """Its standard output takes ASCII only, and the path of its folder has other characters."""
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUNBUFFERED": "1"}
    process = workspace.start("train", *DIGITS, "--num_epochs", "100000", env=environment)
    while "epoch 2/" not in process.stdout.readline():
        assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGINT)
    output, error_output = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130, error_output
    assert "stopping at the end of this epoch" in error_output and "Traceback" not in error_output
    assert r"mod\xe8les" in output and "to continue: python train.py --dataset digits" in output

    folder = folder_of(workspace)
    epoch = runs.saved_epoch(folder)
    assert epochs_of(folder)[-1] == epoch < 100000
    argv = [*DIGITS, "--num_epochs", str(epoch + 2), "--restore", "True"]
    uninterrupted = Workspace(tmp_path / "uninterrupted", workspace.data_dir)
    assert saved(workspace.train(*argv)) == saved(uninterrupted.train(*argv))


# ---- The machine ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("vae_type", "network"), [("flat_binarized", "flat"), ("conv3", "conv3")])
def test_the_threads_are_chosen_for_the_network_and_its_batch(vae_type, network, workspace, pretended, monkeypatch):
    chosen = []
    monkeypatch.setattr("vae.cores.set_threads", lambda *arguments: chosen.append(arguments))
    workspace.train(*DIGITS, "--vae_type", vae_type, "--num_epochs", "1", "--batch_size", "200")
    assert chosen == [(network, 200)]


def test_a_step_that_does_not_fit_into_memory_gives_a_warning(capsys):
    session.check_memory(Config(vae_type="conv3"), (32, 32, 3), num_images=100)
    assert capsys.readouterr().err == ""
    session.check_memory(Config(vae_type="conv3"), (256, 256, 3), num_images=10**6)
    message = capsys.readouterr().err
    assert "a training step on 1000000 images of 256x256x3" in message and "--batch_size" in message


def test_a_model_that_does_not_fit_into_memory_is_refused_before_it_is_built():
    """The weights for these images would take 59 TB."""
    with pytest.raises(UsageError, match="a model of images of 300000x400000x3 needs about"):
        session.check_memory(Config(vae_type="conv3"), (300_000, 400_000, 3), num_images=1)


@pytest.mark.parametrize("vae_type", ["flat_binarized", "conv3"])
def test_bfloat16_is_answered_where_it_makes_training_slower(vae_type, tmp_path, capsys, monkeypatch):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags: avx512f")
    monkeypatch.setattr(session, "Path", lambda path: cpuinfo)
    session.warn_about_precision(Config(vae_type=vae_type))
    assert capsys.readouterr().err == ""
    session.warn_about_precision(Config(vae_type=vae_type, precision="mixed_bfloat16"))
    assert "--precision mixed_bfloat16" in capsys.readouterr().err
    cpuinfo.write_text("flags: avx512_bf16")
    session.warn_about_precision(Config(vae_type=vae_type, precision="mixed_bfloat16"))
    assert (capsys.readouterr().err == "") == (vae_type == "conv3")


@pytest.mark.parametrize(
    ("vae_type", "byte", "num_images", "advice"),
    [
        ("flat_binarized", 128, 1000, "try --vae_type"),
        ("flat_binarized", 128, 300, "--batch_size 30"),
        ("flat_binarized", 255, 1000, None),
        ("flat_cont_normal", 128, 1000, None),
    ],
)
def test_grey_pictures_and_few_pictures_are_told_what_suits_them(vae_type, byte, num_images, advice, capsys):
    session.warn_about_images(Config(vae_type=vae_type), np.full((num_images, 2, 2, 1), byte, np.uint8))
    message = capsys.readouterr().err
    assert message == "" if advice is None else advice in message


def test_without_network_and_data_there_is_one_message_and_exit_code_1(workspace, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"}
    unreachable = "http://127.0.0.1:9"
    environment |= {"http_proxy": unreachable, "https_proxy": unreachable}
    environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    workspace.data_dir = tmp_path / "data"
    process = workspace.start("train", env=environment)
    _, error_output = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 1 and "Traceback" not in error_output
    assert "train-images-idx3-ubyte.gz" in error_output and str(tmp_path / "data" / "mnist") in error_output
