import subprocess
import sys
from pathlib import Path

import pytest

import config
import datasets
from config import Config
from vae.likelihoods import LIKELIHOODS
from vae.networks import NETWORKS

ROOT = Path(config.__file__).parent
SCRIPTS = ("train", "evaluate", "make_pictures", "plots_latent_space", "plots_latent_space_2d", "plot_singular_values")


def parse(*argv, flags=config.TRAIN_FLAGS):
    return config.parse_args(list(argv), "", flags)


def test_the_names_are_those_of_the_tables():
    assert set(config.DATASETS) == set(datasets.LOADERS)
    assert set(config.LIKELIHOODS) == set(LIKELIHOODS)
    assert {network for network, _ in config.VAE_TYPES.values()} == set(NETWORKS)
    assert {likelihood for _, likelihood in config.VAE_TYPES.values()} == set(LIKELIHOODS)


def test_the_defaults_are_the_reports():
    c = parse().config
    assert (c.dataset, c.vae_type, c.latent_dim, c.num_epochs) == ("mnist", "flat_binarized", 20, 500)
    assert (c.learning_rate, c.batch_size, c.hidden_size, parse().restore) == (0.001, 100, 200, False)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "mnist_flat_binarized_z20_h200_lr0.001_b100"),
        ({"num_epochs": 7}, "mnist_flat_binarized_z20_h200_lr0.001_b100"),
        ({"activation": "tanh", "seed": 3}, "mnist_flat_binarized_z20_h200_lr0.001_b100_tanh_seed3"),
        ({"vae_type": "conv3", "learning_rate": 1e-5}, "mnist_conv3_z20_lr1e-05_b100"),
        ({"vae_type": "conv3", "likelihood": "normal"}, "mnist_conv3_z20_lr0.001_b100_normal"),
    ],
)
def test_run_name(options, name):
    assert Config(**options).run_name == name


@pytest.mark.parametrize(
    ("argv", "restore"),
    [((), False), (("--restore",), True), (("--restore", "True"), True), (("--restore", "False"), False)],
)
def test_restore(argv, restore):
    assert parse(*argv).restore is restore


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("--restore maybe", ("--restore", "True or False", "'maybe'")),
        ("--restore true", ("--restore", "True or False", "'true'")),
        ("--latent_dim 0", ("--latent_dim", "1 to", "'0'")),
        ("--latent_dim 2.5", ("--latent_dim", "1 to", "'2.5'")),
        ("--batch_size 99999999999", ("--batch_size", "2147483647", "'99999999999'")),
        ("--learning_rate nan", ("--learning_rate", "finite number above 0", "'nan'")),
        ("--learning_rate inf", ("--learning_rate", "finite", "'inf'")),
        ("--learning_rate -1", ("--learning_rate",)),
        ("--seed -1", ("--seed",)),
        ("--seed=-1", ("--seed", "from 0", "'-1'")),
        ("--dataset mnits", ("--dataset", "frey_faces", "'mnits'")),
        ("--latent_dmi 3", ("--latent_dmi", "did you mean --latent_dim?")),
        ("--latent 3", ("--latent", "did you mean")),
        ("mnist", ("'mnist'", "--dataset")),
        ("--draw_seed 3", ("--draw_seed", "this script has no use for it")),
        ("--likelihood normal", ("--likelihood", "bernoulli only", "'normal'")),
        ("--restore --overwrite", ("--overwrite", "--restore True")),
    ],
)
def test_a_bad_argument_is_code_2_and_one_helpful_last_line(argv, words, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(*argv.split())
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert caught.value.code == 2
    assert all(word in last for word in words), last


NUMBERS = {"latent_dim", "num_epochs", "batch_size", "hidden_size", "num_samples", "learning_rate", "epochs_scale"}
SEEDS = {"seed", "draw_seed"}
CHOICES = {"dataset", "vae_type", "activation", "likelihood", "restore"}
SWITCHES = {"overwrite", "allow_unverified", "list"}
BAD = [(flag, value) for flag in NUMBERS | SEEDS for value in ("x", "", "-1", "nan", "inf", "-inf", "1e999", "0x10")]
BAD += [(flag, "0") for flag in NUMBERS - {"epochs_scale"}]
BAD += [(flag, "9" * 400) for flag in NUMBERS | SEEDS] + [
    (flag, "1.5") for flag in (NUMBERS | SEEDS) - {"learning_rate"}
]
BAD += [(flag, value) for flag in CHOICES for value in ("", "x", "0", "nan", "MNIST")]
BAD += [(flag, "True") for flag in SWITCHES]
BAD += [(flag, f"{__file__}/below") for flag in config.PATHS] + [(flag, __file__) for flag in config.PATHS]


@pytest.mark.parametrize(("flag", "value"), sorted(BAD))
def test_every_flag_answers_every_bad_value_with_code_2_and_a_line_that_names_it(flag, value, capsys):
    flags = {*config.TRAIN_FLAGS, *config.DRAW_FLAGS, *config.EVALUATE_FLAGS, *config.REPORT_FLAGS}
    assert flags == NUMBERS | SEEDS | CHOICES | SWITCHES | set(config.PATHS) | {"only"}
    with pytest.raises(SystemExit) as caught:
        parse(f"--{flag}={value}", flags=sorted(flags))
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert caught.value.code == 2 and f"--{flag}" in last


def test_hidden_size_without_effect_is_said(capsys):
    assert parse("--vae_type", "conv3", "--hidden_size", "10").config.network == "conv3"
    assert capsys.readouterr().err == "--hidden_size has no effect with conv3\n"


def test_paths_argument_before_environment_before_default(monkeypatch):
    assert parse().data_dir == Path("data")
    monkeypatch.setenv("VAE_DATA_DIR", "elsewhere")
    assert parse().data_dir == Path("elsewhere")
    assert parse("--data_dir", "here").data_dir == Path("here")


def test_a_printed_command_leaves_out_defaults_and_the_environment(monkeypatch):
    monkeypatch.setenv("VAE_DATA_DIR", "elsewhere")
    argv = ["--vae_type", "conv3", "--likelihood", "normal", "--seed", "2", "--pictures_dir", "my pictures"]
    line = "python train.py --vae_type conv3 --likelihood normal --seed 2 --pictures_dir 'my pictures'"
    args = parse(*argv)
    assert config.command("train.py", args.config, args) == line
    args = parse(*argv, "--data_dir", "elsewhere")
    assert config.command("train.py", args.config, args) == line


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_imports_nothing_heavy(script):
    code = f"import sys, {script}\ntry: {script}.main(['--help'])\nfinally: print(sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert "--hidden_size" in done.stdout and "(default: 200)" in done.stdout
    assert not any(f"'{name}'" in done.stderr for name in ("tensorflow", "numpy", "matplotlib", "scipy"))


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (OSError("no such thing"), 1, "error: no such thing"),
        (FloatingPointError("nan"), 1, "error: nan"),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
)
def test_script_turns_what_users_meet_into_a_line(error, code, words, capsys):
    @config.script
    def main(argv=None):
        raise error

    assert main() == code
    assert words in capsys.readouterr().err
