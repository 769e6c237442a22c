"""Tests of the command line: flags, errors as one line, and what Ctrl-C does."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

import cli

ROOT = Path(cli.__file__).parent
SCRIPTS = ("train", "evaluate", "make_pictures", "plots_latent_space", "plots_latent_space_2d", "plot_singular_values")


def parse(*argv, flags=cli.TRAINING_FLAGS):
    return cli.parse_args(list(argv), "", flags)


def exit_code_and_last_line(capsys, *argv, flags=cli.TRAINING_FLAGS):
    """Returns the exit code that a bad command line gives, and the last line of its error output."""
    with pytest.raises(SystemExit) as caught:
        parse(*argv, flags=flags)
    return caught.value.code, capsys.readouterr().err.strip().splitlines()[-1]


# ---- Flags ---------------------------------------------------------------------------------------------------------


def test_the_defaults_are_those_of_the_report():
    config = parse().config
    assert (config.dataset, config.vae_type, config.latent_dim, config.num_epochs) == (
        "mnist",
        "flat_binarized",
        20,
        500,
    )
    assert (config.learning_rate, config.batch_size, config.hidden_size) == (0.001, 100, 200)
    assert parse().restore is False


@pytest.mark.parametrize(
    ("argv", "restore"),
    [((), False), (("--restore",), True), (("--restore", "True"), True), (("--restore", "False"), False)],
)
def test_restore(argv, restore):
    assert parse(*argv).restore is restore


@pytest.mark.parametrize(
    "argv",
    [
        ("--restore", "--overwrite"),
        ("--overwrite", "--restore"),
        ("--restore", "True", "--overwrite"),
        ("--overwrite", "--restore", "True"),
    ],
)
def test_restore_and_overwrite_exclude_each_other(argv, capsys):
    code, last_line = exit_code_and_last_line(capsys, *argv)
    assert code == 2
    assert "--overwrite" in last_line and "--restore True" in last_line


@pytest.mark.parametrize("argv", [("--restore", "False", "--overwrite"), ("--overwrite", "--restore", "False")])
def test_restore_false_goes_with_overwrite(argv):
    args = parse(*argv)
    assert args.restore is False and args.overwrite is True


@pytest.mark.parametrize(
    ("argv", "expected_texts"),
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
        ("dataset", ("'dataset'", "did you mean --dataset?")),
        ("--draw_seed 3", ("--draw_seed", "this script does not use it")),
        ("--likelihood normal", ("--likelihood", "bernoulli only", "'normal'")),
    ],
)
def test_a_bad_argument_gives_exit_code_2_and_a_helpful_last_line(argv, expected_texts, capsys):
    code, last_line = exit_code_and_last_line(capsys, *argv.split())
    assert code == 2
    for text in expected_texts:
        assert text in last_line


NUMBERS = {"latent_dim", "num_epochs", "batch_size", "hidden_size", "num_samples", "learning_rate", "epochs_scale"}
NUMBERS |= {"worker_timeout"}
SEEDS = {"seed", "draw_seed"}
CHOICES = {"dataset", "vae_type", "activation", "likelihood", "restore", "precision", "learning_rate_schedule"}
SWITCHES = {"overwrite", "allow_unverified", "list"}
BAD_VALUES = [
    *((flag, value) for flag in NUMBERS | SEEDS for value in ("x", "", "-1", "nan", "inf", "-inf", "1e999", "0x10")),
    *((flag, "9" * 400) for flag in NUMBERS | SEEDS),
    *((flag, "0") for flag in NUMBERS - {"epochs_scale"}),
    *((flag, "1.5") for flag in NUMBERS | SEEDS if flag != "learning_rate"),
    *((flag, value) for flag in CHOICES for value in ("", "x", "0", "nan", "MNIST")),
    *((flag, "True") for flag in SWITCHES),
    *((flag, value) for flag in cli.PATH_FLAGS for value in (__file__, f"{__file__}/below")),
]


def test_every_flag_is_among_those_with_bad_values():
    flags = {*cli.TRAINING_FLAGS, *cli.DRAWING_FLAGS, *cli.EVALUATION_FLAGS, *cli.REPORT_FLAGS}
    assert flags == NUMBERS | SEEDS | CHOICES | SWITCHES | set(cli.PATH_FLAGS) | {"only"}


@pytest.mark.parametrize(("flag", "value"), sorted(BAD_VALUES))
def test_every_bad_value_gives_exit_code_2_and_a_line_that_names_the_flag(flag, value, capsys):
    flags = {*cli.TRAINING_FLAGS, *cli.DRAWING_FLAGS, *cli.EVALUATION_FLAGS, *cli.REPORT_FLAGS}
    code, last_line = exit_code_and_last_line(capsys, f"--{flag}={value}", flags=sorted(flags))
    assert code == 2
    assert f"--{flag}" in last_line


def test_a_hidden_size_without_effect_is_reported(capsys):
    assert parse("--vae_type", "conv3", "--hidden_size", "10").config.network == "conv3"
    assert capsys.readouterr().err == "--hidden_size has no effect with conv3\n"


def test_a_folder_is_taken_from_the_argument_then_the_environment_then_the_default(monkeypatch):
    assert parse().data_dir == Path("data")
    monkeypatch.setenv("VAE_DATA_DIR", "elsewhere")
    assert parse().data_dir == Path("elsewhere")
    assert parse("--data_dir", "here").data_dir == Path("here")


def test_a_printed_command_leaves_out_defaults_and_the_environment(monkeypatch):
    monkeypatch.setenv("VAE_DATA_DIR", "elsewhere")
    argv = ["--vae_type", "conv3", "--likelihood", "normal", "--seed", "2", "--pictures_dir", "my pictures"]
    expected = "python train.py --vae_type conv3 --likelihood normal --seed 2 --pictures_dir 'my pictures'"
    args = parse(*argv)
    assert cli.command("train.py", args.config, args) == expected
    args = parse(*argv, "--data_dir", "elsewhere")
    assert cli.command("train.py", args.config, args) == expected


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_imports_nothing_heavy(script):
    code = f"import sys, {script}\ntry: {script}.main(['--help'])\nfinally: print(sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert "--hidden_size" in done.stdout and "(default: 200)" in done.stdout
    for module in ("tensorflow", "numpy", "matplotlib", "scipy"):
        assert f"'{module}'" not in done.stderr


# ---- Errors --------------------------------------------------------------------------------------------------------


def script_that_raises(error, module=__name__):
    """Returns the main of a script that raises `error`, as if `module` defined it."""

    def main(argv=None):
        raise error

    main.__module__ = module
    return cli.script(main)


@pytest.mark.parametrize(
    ("error", "code", "expected_text"),
    [
        (OSError("no such thing"), 1, "error: no such thing"),
        (FloatingPointError("nan"), 1, "error: nan"),
        (MemoryError(), 1, "error: not enough memory"),
        (cli.UsageError("argument --only: takes a, got b"), 2, "error: argument --only: takes a, got b"),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
)
def test_a_script_turns_the_errors_that_users_meet_into_one_line(error, code, expected_text, capsys):
    assert script_that_raises(error)() == code
    error_output = capsys.readouterr().err.strip()
    assert expected_text in error_output and "\n" not in error_output


def test_a_script_lets_other_errors_through():
    with pytest.raises(ZeroDivisionError):
        script_that_raises(ZeroDivisionError())()


# ---- Ctrl-C --------------------------------------------------------------------------------------------------------


@pytest.fixture
def handler():
    """A handler of SIGINT other than Python's own, in place during the test."""

    def handle(number, frame):
        raise AssertionError("no test sends a signal to it")

    previous = signal.signal(signal.SIGINT, handle)
    yield handle
    signal.signal(signal.SIGINT, previous)


def test_ctrl_c_has_its_earlier_handler_again_after_a_script_that_was_called_from_python(handler):
    assert script_that_raises(KeyboardInterrupt())() == 130
    assert signal.getsignal(signal.SIGINT) is handler


def test_ctrl_c_is_ignored_after_a_script_that_runs_as_a_program(handler):
    assert script_that_raises(KeyboardInterrupt(), module="__main__")() == 130
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_further_ctrl_cs_change_nothing_while_a_program_ends():
    code = """\
import atexit, os, signal, sys
import cli

@cli.script
def main(argv=None):
    raise KeyboardInterrupt

for _ in range(3):
    atexit.register(os.kill, os.getpid(), signal.SIGINT)
sys.exit(main())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 130
    assert done.stderr == "\nstopped\n"
