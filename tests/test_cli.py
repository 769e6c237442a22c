"""The command line: flags, errors as one line, Ctrl-C, and streams that cannot be written. None needs TensorFlow."""

import errno
import importlib
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import cli
from config import CHOICES, Config, UsageError

SCRIPTS = (
    *("train", "evaluate", "make_pictures", "explore", "reproduce"),
    *("plots_latent_space", "plots_latent_space_2d", "plot_singular_values"),
)


def parse(*argv):
    """The parsed arguments of a script with the flags of train.py, but --restore and --overwrite."""
    parser = cli.make_parser("")
    cli.add_model_flags(parser)
    cli.add_folder_flags(parser)
    return cli.parse_args(parser, argv)


def refused(capsys, *argv, script="train"):
    """The line on standard error with which a script refuses a command line, with exit code 2."""
    try:
        code = importlib.import_module(script).main(argv)
    except SystemExit as ending:
        code = ending.code
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def flags_of(script, capsys):
    """The flags of a script, from its --help."""
    with pytest.raises(SystemExit) as ending:
        importlib.import_module(script).main(["--help"])
    assert ending.value.code == 0
    return set(re.findall(r"^  --(\w+)", capsys.readouterr().out, re.MULTILINE))


# ---- Flags ---------------------------------------------------------------------------------------------------------


def test_the_defaults_are_those_of_the_report():
    args = parse()
    assert args.config == Config("mnist", "flat_binarized", 20, 500, 0.001, 100, 200)
    assert args.data_dir == Path("data")


NUMBERS = {"latent_dim", "num_epochs", "batch_size", "hidden_size", "learning_rate", "image_size"}
NUMBERS |= {"epochs_scale", "num_samples", "num_images", "worker_timeout"}
SEEDS = {"seed", "draw_seed"}
SWITCHES = {"overwrite", "allow_unverified", "open", "list"}
FREE_TEXT = {"only", *cli.FOLDER_FLAGS}
BAD_VALUES = {
    **dict.fromkeys(NUMBERS, ("x", "", "-1", "nan", "inf", "1e999", "0x10", "9" * 400)),
    **dict.fromkeys(SEEDS, ("x", "", "-1", "nan", "1.5", "9" * 400)),
    # An empty likelihood is that of the type.
    **dict.fromkeys([*CHOICES, "dataset", "restore"], ("x", "0", "MNIST", "true")),
    **dict.fromkeys(SWITCHES, ("True",)),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_bad_value_of_each_flag_gives_exit_code_2_and_a_line_that_names_the_flag(script, capsys):
    flags = flags_of(script, capsys)
    flags_of_train = flags_of("train", capsys)
    for flag in flags - FREE_TEXT:
        # All scripts make the flags that they share with train.py with the same function.
        is_new = script == "train" or flag not in flags_of_train
        for value in BAD_VALUES[flag] if is_new else BAD_VALUES[flag][-1:]:
            assert f"--{flag}" in refused(capsys, f"--{flag}={value}", script=script)
    if script == "reproduce":
        assert flags == {"epochs_scale", "only", "allow_unverified", *cli.FOLDER_FLAGS}
        assert "--only" in refused(capsys, "--only", "nothing", script=script)
    else:
        assert ("latent_dim" in flags) == (script != "plots_latent_space_2d")
        assert ("draw_seed" in flags) == (script in ("make_pictures", "explore"))


@pytest.mark.parametrize(
    ("argv", "expected_texts"),
    [
        ("--restore maybe", ("--restore", "True or False", "'maybe'")),
        ("--latent_dim 0", ("--latent_dim", "1 to", "0")),
        ("--latent_dim 2.5", ("--latent_dim", "whole number", "'2.5'")),
        ("--learning_rate nan", ("--learning_rate", "finite number above 0", "nan")),
        ("--dataset mnits", ("--dataset", "frey_faces", "'mnits'", "did you mean mnist?")),
        ("--latent_dmi 3", ("--latent_dmi", "did you mean --latent_dim?")),
        ("--latent 3", ("--latent", "did you mean")),
        ("mnist", ("'mnist'",)),
        ("--lr 0.1", ("'--lr'", "did you mean --learning_rate?")),
        ("--lr=0.1", ("--lr", "did you mean --learning_rate?")),
        ("--epochs 3", ("--epochs", "did you mean --num_epochs?")),
        ("--batch 3", ("--batch", "did you mean --batch_size?")),
        ("--hidden 3", ("--hidden", "did you mean --hidden_size?")),
        ("--z_dim 3", ("--z_dim", "did you mean --latent_dim?")),
        ("--data mnist", ("--data", "did you mean --dataset?")),
        ("--model conv3", ("--model", "did you mean --vae_type?")),
        ("--gpu 0", ("--gpu", "GPUs that it finds")),
        ("--draw_seed 3", ("--draw_seed",)),
        ("--likelihood normal", ("--likelihood", "bernoulli only", "'normal'")),
        ("--dataset svhn --image_size 16", ("--image_size", "your own images", "svhn")),
        ("--restore --overwrite", ("--overwrite", "--restore True")),
        ("--overwrite --restore True", ("--overwrite", "--restore True")),
    ],
)
def test_the_line_on_a_bad_argument_says_what_it_takes_or_what_was_probably_meant(argv, expected_texts, capsys):
    line = refused(capsys, *argv.split())
    for text in (*expected_texts, "error: "):
        assert text in line


def test_a_hint_is_a_flag_that_the_script_has(capsys):
    for name, flag in cli.OTHER_NAMES.items():
        assert flag in flags_of("train", capsys)
        assert f"did you mean --{flag}?" in refused(capsys, f"--{name}", "1")
    for name in ("z_dim", "latent_dim"):
        assert "did you mean" not in refused(capsys, f"--{name}", "2", script="plots_latent_space_2d")


def test_a_hidden_size_without_effect_is_reported(capsys):
    assert parse("--vae_type", "conv3", "--hidden_size", "10").config.network == "conv3"
    assert capsys.readouterr().err == "--hidden_size has no effect with conv3\n"


def test_a_folder_is_taken_from_the_argument_then_the_environment_then_the_default(monkeypatch):
    for flag, (variable, default) in cli.FOLDER_FLAGS.items():
        assert getattr(parse(), flag) == Path(default)
        monkeypatch.setenv(variable, "elsewhere")
        assert getattr(parse(), flag) == Path("elsewhere")
        assert getattr(parse(f"--{flag}", "here"), flag) == Path("here")


# ---- The user's own images -----------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of the user's own images, some/photos below the current folder, and an .npz file beside it."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "some" / "photos"
    folder.mkdir(parents=True)
    folder.with_name("faces.npz").write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("some/photos", "photos"),
        ("some/photos/", "photos"),
        ("./some/../some/photos/.", "photos"),
        ("some/faces.npz", "faces"),
        ("./some", "some"),
    ],
)
def test_a_path_to_images_gives_the_run_its_last_name(path, name, photos):
    args = parse("--dataset", path, "--image_size", "32")
    assert args.dataset == path and args.config.dataset == name


def test_a_printed_command_can_be_copied_and_leaves_out_defaults_and_the_environment(photos, monkeypatch):
    monkeypatch.setenv("VAE_DATA_DIR", "elsewhere")
    argv = ["--dataset", "some/photos", "--vae_type", "conv3", "--image_size", "32", "--pictures_dir", "my pictures"]
    for more in ([], ["--data_dir", "elsewhere", "--seed", "0"]):
        args = parse(*argv, *more)
        printed = cli.command("train.py", args.config, args)
        assert shlex.split(printed) == ["python", "train.py", *argv]
    args = parse(*argv, "--allow_unverified", "--data_dir", "there")
    assert cli.command("train.py", args.config, args) == f"{printed} --data_dir there --allow_unverified".replace(
        "--pictures_dir 'my pictures' --data_dir there", "--data_dir there --pictures_dir 'my pictures'"
    )


@pytest.mark.parametrize(
    ("value", "expected_text"),
    [
        ("some/photso", "'some/photso'; did you mean photos?"),
        ("some/face.npz", "'some/face.npz'; did you mean faces.npz?"),
        ("some/zzzzzz", "no folder or file 'some/zzzzzz'"),
        ("nowhere/photos", "no folder or file 'nowhere/photos'"),
        ("smoe/", "'smoe/'; did you mean some?"),
        ("some", "got 'some'; did you mean --dataset ./some?"),
        ("minst", "got 'minst'; did you mean mnist?"),
        ("some/été", "got 'été': rename 'some/été'"),
        ("some/mnist", "'some/mnist' has the name of the built-in data set mnist: rename"),
    ],
)
def test_a_bad_name_or_path_gives_a_helpful_line(value, expected_text, photos, capsys):
    line = refused(capsys, "--dataset", value)
    assert "argument --dataset: " in line and expected_text in line


# ---- Without TensorFlow --------------------------------------------------------------------------------------------

# Runs scripts in one fresh process. None of them imports what takes long.
FRESH_PROCESS = """
import contextlib, importlib, io, pathlib, sys

def run(script, *argv):
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(output):
        try:
            code = importlib.import_module(script).main(argv)
        except SystemExit as ending:
            code = ending.code
    return code, output.getvalue()

import config
assert "numpy" not in sys.modules
for script in {scripts}:
    code, output = run(script, "--help")
    assert code == 0 and "--data_dir" in output
    assert run(script, "--latent_dim", "x")[0] == 2
    assert run(script, "--dataset", "some/nowhere")[0] == 2
assert not {{"tensorflow", "keras", "numpy", "matplotlib", "scipy"}} & set(sys.modules)

folder = pathlib.Path({folder!r}, "digits_flat_binarized_z20_h200_lr0.001_b100")
folder.mkdir(parents=True)
(folder / "epoch-7.npz").write_bytes(b"")
argv = ["--dataset", "digits", "--checkpoints_dir", str(folder.parent)]
code, output = run("train", *argv, "--list")
assert code == 0 and "epoch 7" in output
code, output = run("train", *argv)
assert code == 1 and "trained to epoch 7" in output
code, output = run("make_pictures", *argv, "--seed", "3")
assert code == 1 and "no trained model in" in output
assert not {{"tensorflow", "keras", "numpy"}} & set(sys.modules)
"""


def test_help_lists_and_refusals_do_not_wait_for_tensorflow(tmp_path):
    code = FRESH_PROCESS.format(scripts=SCRIPTS, folder=str(tmp_path / "checkpoints"))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_script_without_its_packages_says_what_to_do():
    """-S and -I leave out the installed packages."""
    script = str(ROOT / "train.py")
    code = f"import runpy, sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv = [{script!r}]; "
    code += f"runpy.run_path({script!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-S", "-I", "-c", code], capture_output=True, text=True)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and "No module named" in line and ". .venv/bin/activate" in line


# ---- Errors --------------------------------------------------------------------------------------------------------


def script_that_raises(error, module=__name__):
    """The main of a script that raises `error`, as if `module` defined it."""

    def main(argv=None):
        raise error

    main.__module__ = module
    return cli.script(main)


# NumPy's and TensorFlow's own classes.
ARRAY_TOO_LARGE = type("_ArrayMemoryError", (MemoryError,), {})("Unable to allocate 9 EiB")
TENSOR_TOO_LARGE = type("ResourceExhaustedError", (Exception,), {})("OOM when allocating")


@pytest.mark.parametrize(
    ("error", "code", "expected_text"),
    [
        (OSError("no such thing"), 1, "error: no such thing"),
        (FloatingPointError("nan"), 1, "error: nan"),
        (MemoryError(), 1, "error: not enough memory"),
        (ARRAY_TOO_LARGE, 1, "error: not enough memory"),
        (TENSOR_TOO_LARGE, 1, "error: not enough memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory", "/tensorflow/x.so"), 1, "error: not enough memory (["),
        (ImportError("libtf.so.2: failed to map segment from shared object"), 1, "error: not enough memory (libtf.so"),
        (RuntimeError("can't start new thread"), 1, "error: not enough memory (can't start new thread)"),
        (SystemError("error return without exception set"), 1, "not enough memory (error ret"),
        (ImportError("\nRead this:\n\nlibx.so: cannot open\n"), 1, "error: libx.so: cannot open: activate the env"),
        (ModuleNotFoundError("No module named 'x'"), 1, "error: No module named 'x': activate the environment"),
        (UsageError("argument --only: takes a, got b"), 2, "error: argument --only: takes a, got b"),
        (KeyboardInterrupt(), 130, "stopped"),
        (KeyboardInterrupt(signal.SIGTERM), 143, "stopped"),
        (BrokenPipeError(), 1, ""),
    ],
)
def test_a_script_turns_the_errors_that_users_meet_into_one_line(error, code, expected_text, capsys):
    assert script_that_raises(error)() == code
    error_output = capsys.readouterr().err.strip()
    assert expected_text in error_output and "\n" not in error_output


def test_a_script_lets_other_errors_through():
    for error in (ZeroDivisionError(), ValueError("a bug")):
        with pytest.raises(type(error)):
            script_that_raises(error)()


@pytest.mark.parametrize(("error", "is_shown"), [(ImportError("x"), False), (MemoryError(), False), (KeyError(), True)])
def test_what_tensorflow_prints_is_shown_only_with_an_error_that_keeps_its_traceback(error, is_shown, capfd):
    with pytest.raises(type(error)), cli.tensorflow_messages_held_back():
        os.write(2, b"printed by TensorFlow")
        raise error
    assert ("printed by TensorFlow" in capfd.readouterr().err) == is_shown


def test_ctrl_c_has_its_earlier_handler_again_after_a_script_that_was_called_from_python():
    before = signal.getsignal(signal.SIGINT)
    assert script_that_raises(KeyboardInterrupt())() == 130
    assert signal.getsignal(signal.SIGINT) is before


# ---- Programs ------------------------------------------------------------------------------------------------------


def run_in_shell(body, redirections="", **environment):
    """Runs a script whose main has this body in a shell; returns its exit code, standard output and standard error.

    The redirections follow the command, as in `python train.py >/dev/full`.
    """
    code = f"import atexit, os, pathlib, signal, sys, cli\n@cli.script\ndef main(argv=None):\n {body}\nsys.exit(main())"
    command = f"{shlex.join([sys.executable, '-c', code])} {redirections}"
    # The exit code of the script, not that of the end of the pipe.
    variables = {**os.environ, "PYTHONUNBUFFERED": "", **environment}
    shell = ["bash", "-o", "pipefail", "-c", command]
    done = subprocess.run(shell, cwd=ROOT, env=variables, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_further_ctrl_cs_change_nothing_while_a_program_ends():
    body = "for _ in range(3): atexit.register(os.kill, os.getpid(), signal.SIGINT)\n raise KeyboardInterrupt"
    assert run_in_shell(body) == (130, "", "\nstopped\n")


def test_names_that_a_terminal_cannot_show_are_printed_with_backslashes():
    body = "print('modèles 模型'); print('modèles 模型', file=sys.stderr)"
    expected = "mod\\xe8les \\u6a21\\u578b\n"
    assert run_in_shell(body, PYTHONIOENCODING="ascii", PYTHONUTF8="1") == (0, expected, expected)


needs_dev_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
# More than a pipe holds, so that the end of a pipe that has closed is noticed.
PRINT = "print('x' * 99999, flush=True)"


@needs_dev_full
@pytest.mark.parametrize(
    ("body", "redirections", "exit_code", "num_lines"),
    [
        # A closed pipe is no error, but the usual end of `... | head`.
        (PRINT, "| :", 1, 0),
        (PRINT, ">/dev/full", 1, 1),
        (PRINT, ">&-", 0, 0),
        ("print('x')", ">/dev/full", 0, 1),
        ("print('x')", "| :", 0, 0),
        ("print('x', file=sys.stderr)", "2>&-", 0, 0),
    ],
)
def test_lost_text_ends_without_a_traceback(body, redirections, exit_code, num_lines):
    code, _, errors = run_in_shell(body, redirections)
    assert (code, errors.count("\n")) == (exit_code, num_lines), errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("redirections", ["<&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_file_that_a_script_writes_does_not_get_the_text_of_a_closed_stream(redirections, tmp_path):
    body = f"file = open({str(tmp_path / 'result')!r}, 'w')\n print('a'); print('b', file=sys.stderr, flush=True)\n"
    body += " os.write(1, b'c'); os.write(2, b'd'); file.write('whole'); file.close()\n return 3"
    code, _, _ = run_in_shell(body, redirections)
    assert code == 3 and (tmp_path / "result").read_text() == "whole"
