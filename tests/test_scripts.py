"""The scripts that use a trained model, through main([...]), and the commands and code of the pages."""

import importlib
import itertools
import json
import re
import shlex
import shutil
import webbrowser
from pathlib import Path

import numpy as np
import pytest
from conftest import DIGITS, DIGITS_20, NO_FILES, ROOT, Workspace, contents, pretend_training, saved
from data_files import idx
from PIL import Image
from scipy.io import savemat

import cli
import config
import datasets
import explore
from vae import figures, history, runs

# The files that each drawing script writes for a model with two latents.
DRAWN_FILES = {
    "make_pictures": ("generated.png", "reconstructions.png", "reconstruction_pairs.png", "interpolations.png"),
    "plots_latent_space": ("latent_space_2d.png",),
    "plots_latent_space_2d": ("latent_space_2d.png", "latent_manifold_2d.png"),
    "plot_singular_values": ("singular_values.png", "singular_values.csv"),
    "explore": ("explorer.html",),
}
READING_SCRIPTS = ("evaluate", *DRAWN_FILES)
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

CONV3 = ("--dataset", "digits", "--vae_type", "conv3", "--latent_dim", "2")


@pytest.fixture(scope="module")
def original_set(original, tmp_path_factory):
    """A Workspace with three runs of the digits: of 2 latents and of 20, and of conv3, whose evaluation is quick.

    Their training was pretended.
    """
    workspace = Workspace(tmp_path_factory.mktemp("three runs"), original.data_dir)
    shutil.copytree(original.checkpoints, workspace.checkpoints)
    with pytest.MonkeyPatch.context() as monkeypatch:
        pretend_training(monkeypatch)
        for argv in (DIGITS_20, CONV3):
            assert workspace.run("train", *argv, "--num_epochs", "1") == 0
    return workspace


@pytest.fixture
def three(workspace, original_set):
    """A copy of original_set."""
    shutil.copytree(original_set.checkpoints, workspace.checkpoints)
    return workspace


def folder_of(workspace, argv):
    """The run's folder that these flags name."""
    parser = cli.make_parser("")
    cli.add_model_flags(parser)
    cli.add_folder_flags(parser)
    return workspace.checkpoints / cli.parse_args(parser, argv).config.run_name


def for_script(script, argv):
    """The flags without --latent_dim for the script that does not take it."""
    argv = list(argv)
    if script == "plots_latent_space_2d":
        place = argv.index("--latent_dim")
        del argv[place : place + 2]
    return argv


def draw_all(workspace, *argv):
    """Runs evaluate.py and every drawing script for a model with two latents, and returns the pictures by name."""
    for script in READING_SCRIPTS:
        more = ("--num_samples", "2", "--num_images", "20") if script == "evaluate" else ()
        assert workspace.run(script, *for_script(script, argv), *more) == 0
    (folder,) = workspace.pictures.iterdir()
    return {path.name: read_picture(path) for path in folder.glob("*.png")}


def read_picture(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def size_of_grid(name, height, width):
    """The height and the width of a picture of GRIDS with images of this size."""
    rows, columns = GRIDS[name]
    zoom = max(2, round(640 / (columns * width)))
    scale = min(zoom, figures.MAX_SIDE / max(rows * height, columns * width))
    return round(rows * height * scale), round(columns * width * scale)


def read_metrics(folder):
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def edit_config(folder, old, new):
    """Replaces a text in a run's config.json, and returns the whole text as it was."""
    path = folder / "config.json"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    return text


# ---- All data sets and models --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("dataset", "vae_type"), list(itertools.product(config.DATASETS, config.VAE_TYPES)))
def test_every_combination_trains_and_every_script_draws_it(dataset, vae_type, workspace):
    argv = ["--dataset", dataset, "--vae_type", vae_type, "--latent_dim", "2", "--allow_unverified"]
    folder = workspace.train(*argv, "--num_epochs", "1")
    saved_config = runs.read_config(folder)
    assert saved_config.data_verified is (dataset in NO_FILES)
    assert np.isfinite([row.test_elbo for row in history.read(folder)]).all()

    height, width, _ = saved_config.image_shape
    for script, names in DRAWN_FILES.items():
        assert workspace.run(script, *for_script(script, argv)) == 0
        for name in names:
            path = workspace.pictures / folder.name / name
            if path.suffix == ".html":
                assert f"<title>{dataset}: " in path.read_text(encoding="utf-8")
            elif path.suffix == ".csv":
                table = np.loadtxt(path, delimiter=",", skiprows=1)
                assert table.shape == (2, 3) and table[-1, 2] == 1
            else:
                picture = read_picture(path)
                assert name in DECODED_ONLY or np.ptp(picture) > 0
                if name in GRIDS:
                    assert picture.shape[:2] == size_of_grid(name, height, width)


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


def test_a_folder_of_photos_is_trained_on_evaluated_and_drawn(workspace, tmp_path, capsys):
    photos = tmp_path / "some" / "photos"
    write_photos(photos)
    argv = ["--dataset", str(photos), "--vae_type", "conv3", "--image_size", "8", "--latent_dim", "2"]
    folder = workspace.train(*argv, "--num_epochs", "1")
    assert folder.name == "photos_conv3_z2_lr0.001_b100_size8"
    saved_config = runs.read_config(folder)
    data = datasets.load(photos, image_size=8)
    assert saved_config.config.dataset == data.name == "photos" and saved_config.image_shape == (8, 8, 3)
    assert saved_config.data_verified is None and saved_config.data_digest == data.digest
    assert workspace.run("make_pictures", *argv) == workspace.run("evaluate", *argv) == 0
    path = workspace.pictures / folder.name / "reconstructions.png"
    assert f"{path}  (left of the red line: test images; on the right: 9 rec" in capsys.readouterr().out
    reconstructions = read_picture(path)
    metrics = read_metrics(folder)
    assert metrics["elbo"]["mean"] == pytest.approx(history.read(folder)[0].test_elbo, rel=1e-6)
    assert metrics["model"]["data_verified"] is None
    # All but the row's end, which is under the red line. A pixel has 8 a side, so that the sheet has 640.
    originals = reconstructions[::8, :56:8].reshape(10, 8, 7, 3)
    test_images = {image[:, :7].tobytes() for image in data.test_images}
    assert {image.tobytes() for image in originals} <= test_images


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "vae_type"),
    [
        # A flat network sees the number of pixels only, so one flat type for each size is enough.
        ((4, 4), "flat_binarized"),
        ((64, 64, 1), "flat_cont_normal"),
        ((97, 61, 3), "flat_cont_logit"),
        ((4, 4), "conv3"),
        ((64, 64, 1), "conv3"),
        ((97, 61, 3), "conv3"),
    ],
)
def test_images_of_any_size_are_trained_on_evaluated_and_drawn(shape, vae_type, workspace, tmp_path):
    rng = np.random.default_rng(0)
    arrays = {"train_images": rng.integers(0, 256, (20, *shape), dtype=np.uint8)}
    arrays |= {"test_images": rng.integers(0, 256, (20, *shape), dtype=np.uint8)}
    np.savez(tmp_path / "images.npz", **arrays, train_labels=np.arange(20) * 50, test_labels=np.arange(20) * 50)
    argv = ["--dataset", str(tmp_path / "images.npz"), "--vae_type", vae_type, "--batch_size", "10"]
    argv += ["--latent_dim", "2"]
    if vae_type != "conv3":
        argv += ["--hidden_size", "16"]
    workspace.train(*argv, "--num_epochs", "1")
    pictures = draw_all(workspace, *argv)
    for name in GRIDS:
        assert pictures[name].shape[:2] == size_of_grid(name, *shape[:2])


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
def test_few_images_work_or_the_script_says_why_not(workspace, tmp_path, capsys):
    write_pictures(tmp_path / "two", np.zeros((2, 8, 8, 1), np.uint8))
    argv = ["--dataset", str(tmp_path / "two"), "--hidden_size", "8"]
    assert workspace.run("train", *argv) == 2
    message = capsys.readouterr().err
    assert "--batch_size" in message and "got 100" in message
    argv += ["--batch_size", "1"]
    assert workspace.run("train", *argv, "--num_epochs", "1") == 0
    assert workspace.run("plot_singular_values", *argv) == 0
    capsys.readouterr()
    for script in ("evaluate", "make_pictures", "plots_latent_space", "explore"):
        assert workspace.run(script, *argv) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "test images" in line and "two has" in line


def test_bad_images_give_one_line_and_exit_code_1(workspace, tmp_path, capsys):
    write_pictures(tmp_path / "photos", np.zeros((20, 8, 8, 1), np.uint8))
    (tmp_path / "photos" / "z.png").write_text("no picture")
    assert workspace.run("train", "--dataset", str(tmp_path / "photos")) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "z.png" in line


# ---- A model that does not match -----------------------------------------------------------------------------------


def test_a_script_that_finds_no_model_lists_the_runs_and_says_how_to_train_it(trained, capsys):
    for script in READING_SCRIPTS:
        assert trained.run(script, "--dataset", "digits", "--seed", "3") == 1
        message = capsys.readouterr().err
        assert re.search(r"digits_flat_binarized_z2_h16_lr0.001_b100  \(.*, epoch 1, test ELBO -", message)
        assert re.search("python train.py --dataset digits .*--seed 3 ", message)


@pytest.mark.parametrize("script", ["train", *READING_SCRIPTS])
def test_every_script_lists_the_trained_runs(script, trained, capsys):
    assert trained.run(script, "--list") == 0
    heading, line, command = capsys.readouterr().out.splitlines()
    assert heading == f"trained runs in {trained.checkpoints}"
    folder = folder_of(trained, DIGITS)
    assert line.startswith(f"  {folder}  (") and "epoch 1, test ELBO -" in line
    assert command.endswith(shlex.join(["python", "make_pictures.py", str(folder)]))


def test_the_folder_of_a_run_takes_the_place_of_its_flags(trained, capsys):
    folder = folder_of(trained, DIGITS)
    assert trained.run("plot_singular_values", *DIGITS) == 0
    (picture,) = trained.pictures.rglob("singular_values.png")
    expected = picture.read_bytes()
    picture.unlink()
    renamed = folder.rename(folder.with_name("renamed"))
    assert trained.run("plot_singular_values", str(renamed)) == 0
    assert (trained.pictures / "renamed" / "singular_values.png").read_bytes() == expected

    assert trained.run("plot_singular_values", str(renamed), "--latent_dim", "2") == 2
    assert "argument --latent_dim: cannot be given together" in capsys.readouterr().err
    assert trained.run("plot_singular_values", str(folder)) == 2
    assert f"there is no folder {str(folder)!r}" in capsys.readouterr().err


@pytest.mark.parametrize("script", ["train", *READING_SCRIPTS])
def test_a_model_that_is_not_the_one_that_the_flags_name_is_refused(script, trained, capsys):
    """First its config.json is edited, then its folder is renamed, and then it takes the place of an mnist model."""
    folder = folder_of(trained, DIGITS)
    argv = for_script(script, DIGITS)
    more = ("--restore",) if script == "train" else ()
    whole = edit_config(folder, '"relu"', '"tanh"')
    before = contents(folder)
    assert trained.run(script, *argv, *more) == 1
    message = capsys.readouterr().err
    assert str(folder) in message and "activation: tanh in config.json, relu in the flags" in message
    assert contents(folder) == before

    (folder / "config.json").write_text(whole, encoding="utf-8")
    renamed = folder.rename(f"{folder}_tanh")
    assert trained.run(script, *argv, "--activation", "tanh", *more) == 1
    message = capsys.readouterr().err
    assert "activation: relu in config.json, tanh in the flags" in message and folder.name in message

    edit_config(renamed, '"digits"', '"mnist"')
    renamed.rename(folder.with_name(folder.name.replace("digits", "mnist")))
    assert trained.run(script, "--allow_unverified", *argv[2:], *more) == 1
    message = capsys.readouterr().err
    assert "8x8x1" in message and "28x28x1" in message
    assert [path.name for path in trained.pictures.iterdir()] == [folder.name]


def test_other_images_of_the_same_name_are_refused_until_the_model_is_replaced(workspace, pretended, tmp_path, capsys):
    rng = np.random.default_rng(0)
    paths = []
    for place, side in (("here", 8), ("there", 8), ("elsewhere", 9)):
        (tmp_path / place).mkdir()
        images = rng.integers(0, 256, (2, 20, side, side), dtype=np.uint8)
        np.savez(tmp_path / place / "faces.npz", train_images=images[0], test_images=images[1])
        paths.append(str(tmp_path / place / "faces.npz"))
    options = ["--hidden_size", "8", "--latent_dim", "2", "--batch_size", "20"]
    folder = workspace.train("--dataset", paths[0], *options, "--num_epochs", "1")
    digests = [datasets.load(path).digest for path in paths]
    before = contents(folder)
    for path, digest in zip(paths[1:], digests[1:], strict=True):
        argv = ["--dataset", path, *options]
        commands = [("train", "--restore", "--num_epochs", "2"), ("train", "--restore", "--num_epochs", "1")]
        for script, *more in (*commands, *((script,) for script in READING_SCRIPTS)):
            capsys.readouterr()
            assert workspace.run(script, *for_script(script, argv), *more) == 1
            message = capsys.readouterr().err
            assert digests[0] in message and digest in message and "--overwrite" in message
    assert contents(folder) == before

    # The same images at another place are the same data set.
    moved = tmp_path / "moved" / "faces.npz"
    moved.parent.mkdir()
    Path(paths[0]).rename(moved)
    assert workspace.run("train", "--dataset", str(moved), *options, "--restore", "--num_epochs", "1") == 0
    assert workspace.run("train", "--dataset", paths[2], *options, "--overwrite", "--num_epochs", "1") == 0
    assert runs.read_config(folder).data_digest == digests[2] and runs.read_config(folder).image_shape == (9, 9, 1)

    # plots_latent_space.py draws the runs with 2 and with 20 latents side by side.
    argv = ["--dataset", str(moved), "--hidden_size", "8", "--batch_size", "20", "--num_epochs", "1"]
    assert workspace.run("train", *argv) == 0
    capsys.readouterr()
    assert workspace.run("plots_latent_space", *argv) == 1
    assert f"{folder} was trained on other images" in capsys.readouterr().err
    assert not list(workspace.pictures.rglob("latent_space_2_and_20.png"))


def test_unverified_data_needs_no_flag_again_while_it_is_what_the_run_was_trained_on(
    workspace, pretended, small_data, tmp_path, capsys
):
    workspace.data_dir = tmp_path / "data"
    shutil.copytree(small_data / "mnist", workspace.data_dir / "mnist")
    options = ["--hidden_size", "8", "--latent_dim", "2"]
    folder = workspace.train(*options, "--num_epochs", "1", "--allow_unverified")
    commands = [("train", *options, "--restore", "--num_epochs", "2"), ("explore", *options)]
    for command in commands:
        assert workspace.run(*command) == 0
    digest = runs.read_config(folder).data_digest
    assert digest == datasets.load("mnist", workspace.data_dir, allow_unverified=True).digest
    edit_config(folder, f'"{digest}"', "null")
    assert workspace.run(*commands[1]) == 1
    edit_config(folder, '"data_digest": null', f'"data_digest": "{digest}"')
    assert workspace.run(*commands[1]) == 0

    labels = workspace.data_dir / "mnist" / "t10k-labels-idx1-ubyte"
    labels.write_bytes(idx(np.full(100, 5, np.uint8)))
    # This model with 20 latents is trained on the new data. Its twin with 2 latents was trained on the old.
    of_new_data = ["--hidden_size", "8"]
    assert workspace.run("train", *of_new_data, "--num_epochs", "1", "--allow_unverified") == 0
    for command in (*commands, ("plots_latent_space", *of_new_data)):
        capsys.readouterr()
        assert workspace.run(*command) == 1
        message = capsys.readouterr().err
        assert "is not the published file" in message and "--allow_unverified" in message
    assert not list(workspace.pictures.rglob("latent_space_2_and_20.png"))
    assert workspace.run(*commands[1], "--allow_unverified") == 0


# ---- Evaluating ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "num_samples"),
    [(DIGITS, 7), pytest.param((*CONV3, "--likelihood", "normal"), 51, marks=pytest.mark.slow)],
)
def test_evaluate_writes_the_nlls_that_it_prints(argv, num_samples, workspace, original, capsys):
    shutil.copytree(original.checkpoints, workspace.checkpoints)
    folder = folder_of(workspace, argv)
    if not folder.exists():
        assert workspace.run("train", *argv, "--num_epochs", "1") == 0
        capsys.readouterr()
    assert workspace.run("evaluate", *argv, "--num_samples", str(num_samples), "--num_images", "30") == 0
    metrics = read_metrics(folder)
    output = capsys.readouterr().out
    assert metrics["num_images"] == 30 and metrics["num_samples"] == num_samples and metrics["epoch"] == 1
    for name in ("elbo", "log_likelihood", "kl", "nll", "nll_of_q"):
        assert f"{metrics[name]['mean']:.2f} +- {metrics[name]['standard_error']:.2f} nats" in output
    assert f"{metrics['nll']['estimator_error']:.3f} nats" in output
    assert set(metrics["active_units"]) <= {0, 1}


def test_evaluate_without_a_likelihood_has_no_nll_and_tells_the_models_data_from_its_own(three, capsys):
    """As if the model had been trained on unverified data, some time ago."""
    folder = folder_of(three, CONV3)
    edit_config(folder, '"data_verified": true', '"data_verified": false')
    edit_config(folder, f'"{np.__version__}"', '"1.99"')
    assert three.run("evaluate", *CONV3) == 0
    metrics = read_metrics(folder)
    output = capsys.readouterr().out
    assert metrics["nll"] is None and metrics["nll_of_q"] is None and "not a likelihood" in output
    assert metrics["elbo"]["mean"] == pytest.approx(metrics["log_likelihood"]["mean"] - metrics["kl"]["mean"], rel=1e-5)
    versions = runs.library_versions()
    assert metrics["model"] == {"data_verified": False, "versions": versions | {"numpy": "1.99"}}
    assert metrics["evaluation"] == {"data_verified": True, "versions": versions}

    before = (folder / "metrics.json").read_bytes()
    assert three.run("evaluate", *CONV3) == 0
    assert (folder / "metrics.json").read_bytes() == before


@pytest.mark.parametrize(
    ("script", "argv", "name", "expected_text"),
    [
        ("evaluate", CONV3, "metrics.json", "\nactive units"),
        ("plot_singular_values", DIGITS, "singular_values.png", "\trunning_share\n1\t"),
        ("plot_singular_values", DIGITS, "singular_values.csv", "\trunning_share\n1\t"),
    ],
)
def test_results_are_printed_even_if_their_file_cannot_be_written(script, argv, name, expected_text, three, capsys):
    """A folder is in the place of the file."""
    folder = folder_of(three, argv)
    parent = folder if script == "evaluate" else three.pictures / folder.name
    (parent / name).mkdir(parents=True)
    assert three.run(script, *argv) == 1
    printed = capsys.readouterr()
    assert expected_text in printed.out and name in printed.err


# ---- Drawing -------------------------------------------------------------------------------------------------------


def test_pictures_are_the_same_bytes_each_time_and_the_draw_seed_decides_which_images_are_drawn(trained):
    folder = trained.pictures / folder_of(trained, DIGITS).name

    def draw(script, *more):
        assert trained.run(script, *for_script(script, DIGITS), *more) == 0
        pictures = {name: (folder / name).read_bytes() for name in DRAWN_FILES[script]}
        for name in pictures:
            (folder / name).unlink()
        return pictures

    by_script = {script: draw(script) for script in DRAWN_FILES}
    for script, pictures in by_script.items():
        assert draw(script) == pictures
    for script in ("make_pictures", "explore"):
        other = draw(script, "--draw_seed", "1")
        assert not set(other.values()) & set(by_script[script].values())
    # A latent space of 2 is drawn as it is, by both scripts.
    assert by_script["plots_latent_space"].items() <= by_script["plots_latent_space_2d"].items()


def test_latent_spaces_of_2_and_20_are_drawn_side_by_side_if_both_exist(three, capsys, monkeypatch):
    titles = []
    latent_maps = figures.latent_maps

    def draw(planes, *labels):
        titles.append([plane.title for plane in planes])
        return latent_maps(planes, *labels)

    monkeypatch.setattr(figures, "latent_maps", draw)
    assert three.run("plots_latent_space", *DIGITS_20) == 0
    # They may have been trained for different times.
    assert [title.partition(", ")[2] for title in titles[1]] == ["2 latents, epoch 1", "20 latents, epoch 1"]
    folder = three.pictures / folder_of(three, DIGITS_20).name
    assert set(contents(folder)) == {"latent_space_pca.png", "latent_space_2_and_20.png"}
    both, alone = read_picture(folder / "latent_space_2_and_20.png"), read_picture(folder / "latent_space_pca.png")
    assert both.shape[1] == 2 * alone.shape[1]
    before = contents(folder)
    assert three.run("plots_latent_space", *DIGITS_20) == 0
    assert contents(folder) == before

    # The other model is the one that its folder names.
    edit_config(folder_of(three, DIGITS), '"relu"', '"tanh"')
    shutil.rmtree(folder)
    assert three.run("plots_latent_space", *DIGITS_20) == 1
    assert "activation: tanh in config.json, relu in the flags" in capsys.readouterr().err
    assert not (folder / "latent_space_2_and_20.png").exists()

    shutil.rmtree(folder_of(three, DIGITS))
    assert three.run("plots_latent_space", *DIGITS_20) == 0
    assert set(contents(folder)) == {"latent_space_pca.png"}


@pytest.mark.slow
def test_one_latent_works_or_the_script_says_why_not(workspace, capsys):
    argv = ["--dataset", "digits", "--latent_dim", "1", "--hidden_size", "16"]
    for script in ("train", "make_pictures", "plot_singular_values", "explore"):
        assert workspace.run(script, *argv, "--num_epochs", "1") == 0
    assert workspace.run("plots_latent_space", *argv) == 2
    assert "--latent_dim" in capsys.readouterr().err


def test_num_epochs_changes_nothing_in_a_script_that_uses_a_model_but_is_answered(trained, capsys):
    assert trained.run("plot_singular_values", *DIGITS) == 0
    folder = trained.pictures / folder_of(trained, DIGITS).name
    before = contents(folder)
    capsys.readouterr()
    assert trained.run("plot_singular_values", *DIGITS, "--num_epochs", "7") == 0
    assert "at epoch 1" in capsys.readouterr().out and contents(folder) == before


def test_explore_writes_a_page_with_the_test_elbo_of_its_epoch_or_says_why_not(trained, capsys):
    folder = folder_of(trained, DIGITS)
    path = trained.pictures / folder.name / "explorer.html"
    row = history.last_tested(folder, epoch=1)
    # After a kill, or while training goes on, the history is ahead of the model.
    history.write(folder, [row, row._replace(epoch=2, test_elbo=-1.0)])
    assert trained.run("explore", *DIGITS) == 0
    assert capsys.readouterr().out == f"{path}\n"
    page = path.read_text(encoding="utf-8")
    assert folder.name in page and f"{row.test_elbo:.2f} nats" in page

    (folder / "history.csv").write_text("damaged")
    assert trained.run("explore", *DIGITS) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "the page has no test ELBO" in line and str(folder / "history.csv") in line
    assert f"{row.test_elbo:.2f} nats" not in path.read_text(encoding="utf-8")


def test_explore_says_that_a_page_is_large_and_opens_it_if_it_is_asked_to(trained, capsys, monkeypatch):
    monkeypatch.setattr(explore, "LARGE_PAGE", 1e4)
    addresses = []
    monkeypatch.setattr(webbrowser, "open", addresses.append)
    assert trained.run("explore", *DIGITS) == 0 and addresses == []
    assert "the page is large" in capsys.readouterr().err
    assert trained.run("explore", *DIGITS, "--open") == 0
    path = trained.pictures / folder_of(trained, DIGITS).name / "explorer.html"
    assert addresses == [path.as_uri()] and "no browser was found" in capsys.readouterr().err


# ---- The pages -----------------------------------------------------------------------------------------------------

# The folders of images that commands of the pages name.
FOLDERS_OF_PAGES = ("photos", "tiles")


def blocks_of_pages(languages):
    """The blocks of code in these languages, of the README and of docs/usage.md."""
    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "docs/usage.md"))
    return re.findall(rf"```(?:{languages})\n(.*?)```", text, re.DOTALL)


def commands_of_pages():
    """The name of the script and the arguments, for each command of the pages that runs one."""
    commands = []
    for line in "".join(blocks_of_pages("bash|sh")).splitlines():
        if re.match(r"python \w+\.py", line):
            _, script, *argv = shlex.split(line, comments=True)
            commands.append((script.removesuffix(".py"), argv))
    return commands


@pytest.fixture
def understood(monkeypatch):
    """A function of a command that returns its parsed arguments. The script stops where it has read them."""
    parse_args = cli.Parser.parse_args

    def understand(script, argv):
        parsed = []
        with monkeypatch.context() as patch:
            patch.setattr(cli.Parser, "parse_args", lambda *args: parsed.append(parse_args(*args)) or parsed[0])
            # A script with model flags loads its data next, and reproduce.py the module that writes RESULTS.md.
            for name in ("open_trained_run", "load_data", "tensorflow_messages_held_back", "read_flags_from_run"):
                patch.setattr(cli, name, stop)
            try:
                importlib.import_module(script).main(argv)
            except (StopIteration, SystemExit) as ending:
                assert not getattr(ending, "code", 0), (script, argv)
        return parsed[0]

    def stop(*args):
        raise StopIteration

    return understand


def test_the_commands_of_the_pages_are_understood(understood, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in FOLDERS_OF_PAGES:
        Path(folder).mkdir(parents=True)
    commands = commands_of_pages()
    assert {script for script, _ in commands} == {"train", "reproduce", *READING_SCRIPTS}
    for script, argv in commands:
        understood(script, argv)


@pytest.mark.slow
def test_the_commands_of_the_pages_run(understood, workspace, tmp_path, monkeypatch):
    """They run with one epoch and small data. A model that a command draws and that is not there is trained first."""
    monkeypatch.chdir(tmp_path)  # reproduce.py writes docs/ and RESULTS.md
    for folder in FOLDERS_OF_PAGES:
        write_photos(Path(folder))
    short = ["--num_epochs", "1", "--allow_unverified"]
    for script, argv in commands_of_pages():
        if script == "reproduce":
            # Without --only it is the whole table, which test_results.py runs.
            if "--only" in argv:
                assert workspace.run(script, *argv, "--epochs_scale", "0.002", "--allow_unverified") == 0
            continue

        args = understood(script, argv)
        if args.list:
            assert workspace.run(script, *argv) == 0
            continue
        if not hasattr(args, "config"):
            # The folder of a run, in place of the flags: test_the_folder_of_a_run_takes_the_place_of_its_flags
            continue
        is_trained = runs.saved_epoch(workspace.checkpoints / args.config.run_name) > 0
        more = list(short)
        if script == "evaluate":
            more += ["--num_samples", "3"]
        if script == "train" and is_trained and not args.restore:
            more.append("--overwrite")
        if script != "train" and not is_trained:
            assert workspace.run("train", *args.config.arguments(), *short) == 0
        assert workspace.run(script, *argv, *more) == 0, (script, argv)


@pytest.mark.slow
def test_the_notebook_of_the_pages_runs(workspace):
    """A run of one epoch takes the place of the default one, and small data that of MNIST."""
    (block,) = [block for block in blocks_of_pages("python") if "model.images" in block]
    workspace.train("--allow_unverified", "--num_epochs", "1")
    block = block.replace("checkpoints/mnist", f"{workspace.checkpoints}/mnist")
    block = block.replace('load("mnist")', f'load("mnist", {str(workspace.data_dir)!r}, allow_unverified=True)')
    variables = {}
    exec(block, variables)
    assert variables["z"].shape == (100, 20) and variables["images"].shape == (1, 28, 28, 1)


@pytest.mark.slow
def test_the_training_of_the_pages_runs(tmp_path, monkeypatch):
    (block,) = [block for block in blocks_of_pages("python") if "training_run" in block]
    monkeypatch.chdir(tmp_path)
    variables = {}
    exec(block, variables)
    assert variables["model"].epoch == 1


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
