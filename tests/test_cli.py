"""Tests of the command line: flags, errors as one line, what Ctrl-C does, and streams that cannot be written."""

import errno
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import cli

ROOT = Path(cli.__file__).parent
SCRIPTS = (
    "train",
    "evaluate",
    "make_pictures",
    "plots_latent_space",
    "plots_latent_space_2d",
    "plot_singular_values",
    "explore",
)


def parse(*argv, flags=cli.TRAINING_FLAGS):
    return cli.parse_args(list(argv), "", flags)


def exit_code_and_line(capsys, *argv, flags=cli.TRAINING_FLAGS):
    """Returns the exit code that a bad command line gives, and its error output, which is one line."""
    with pytest.raises(SystemExit) as caught:
        parse(*argv, flags=flags)
    (line,) = capsys.readouterr().err.splitlines()
    return caught.value.code, line


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
def test_restore_takes_true_or_false_and_means_true_without_a_value(argv, restore):
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
    code, line = exit_code_and_line(capsys, *argv)
    assert code == 2
    assert "--overwrite" in line and "--restore True" in line


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
def test_a_bad_argument_gives_exit_code_2_and_one_helpful_line(argv, expected_texts, capsys):
    code, line = exit_code_and_line(capsys, *argv.split())
    assert code == 2
    for text in (*expected_texts, "error: ", "(--help lists the flags)"):
        assert text in line


NUMBERS = {"latent_dim", "num_epochs", "batch_size", "hidden_size", "num_samples", "learning_rate", "epochs_scale"}
NUMBERS |= {"image_size", "num_images", "worker_timeout"}
SEEDS = {"seed", "draw_seed"}
CHOICES = {"dataset", "vae_type", "activation", "likelihood", "restore", "precision", "learning_rate_schedule"}
SWITCHES = {"overwrite", "allow_unverified", "open", "list"}
BAD_VALUES = [
    *((flag, value) for flag in NUMBERS | SEEDS for value in ("x", "", "-1", "nan", "inf", "-inf", "1e999", "0x10")),
    *((flag, "9" * 400) for flag in NUMBERS | SEEDS),
    *((flag, "0") for flag in NUMBERS - {"epochs_scale"}),
    *((flag, "1.5") for flag in NUMBERS | SEEDS if flag != "learning_rate"),
    *((flag, value) for flag in CHOICES for value in ("", "x", "0", "nan", "MNIST")),
    *((flag, "True") for flag in SWITCHES),
    *((flag, value) for flag in cli.PATH_FLAGS for value in (__file__, f"{__file__}/below", "x" * 300)),
]


def test_every_flag_is_among_those_with_bad_values():
    flags = {*cli.TRAINING_FLAGS, *cli.EXPLORER_FLAGS, *cli.EVALUATION_FLAGS, *cli.REPORT_FLAGS}
    assert flags == NUMBERS | SEEDS | CHOICES | SWITCHES | set(cli.PATH_FLAGS) | {"only"}


@pytest.mark.parametrize(("flag", "value"), sorted(BAD_VALUES))
def test_every_bad_value_gives_exit_code_2_and_a_line_that_names_the_flag(flag, value, capsys):
    flags = {*cli.TRAINING_FLAGS, *cli.EXPLORER_FLAGS, *cli.EVALUATION_FLAGS, *cli.REPORT_FLAGS}
    code, line = exit_code_and_line(capsys, f"--{flag}={value}", flags=sorted(flags))
    assert code == 2
    assert f"--{flag}" in line


@pytest.mark.parametrize("flag", cli.PATH_FLAGS)
def test_a_folder_whose_path_is_not_utf_8_is_refused(flag, capsys):
    """TensorFlow cannot write a checkpoint into it."""
    code, line = exit_code_and_line(capsys, f"--{flag}", os.fsdecode(b"mod\xe8les"))
    assert code == 2
    assert f"--{flag}: takes a folder whose full path is UTF-8, got b'/" in line and r"mod\xe8les'" in line
    assert getattr(parse(f"--{flag}", "modèles"), flag) == Path("modèles")


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
    assert args.config.run_name == f"{name}_flat_binarized_z20_h200_lr0.001_b100_size32"


def test_a_file_in_the_current_folder_is_a_path_if_it_ends_in_npz(photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    assert parse("--dataset", "faces.npz").config.dataset == "faces"
    assert parse("--dataset", "../some").config.dataset == "some"


def test_a_printed_command_has_the_path_of_the_images(photos):
    args = parse("--dataset", "some/photos", "--vae_type", "conv3", "--image_size", "32")
    expected = "python train.py --dataset some/photos --vae_type conv3 --image_size 32"
    assert cli.command("train.py", args.config, args) == expected


@pytest.mark.parametrize(
    ("value", "expected_text"),
    [
        ("some/photso", "there is no folder or file 'some/photso'; did you mean some/photos?"),
        ("some/face.npz", "there is no folder or file 'some/face.npz'; did you mean some/faces.npz?"),
        ("some/zzzzzz", "there is no folder or file 'some/zzzzzz'"),
        ("nowhere/photos", "there is no folder or file 'nowhere/photos'"),
        ("smoe/", "there is no folder or file 'smoe/'; did you mean ./some?"),
        ("faces.npz", "there is no folder or file 'faces.npz'"),
        ("some", "got 'some'; did you mean --dataset ./some?"),
        ("minst", "got 'minst'; did you mean mnist?"),
        ("xyz", "svhn, digits, or the path of your own images, with a '/' in it, got 'xyz'"),
        ("some/my photos", "got 'my photos': rename 'some/my photos'"),
        ("some/.hidden", "and must not begin with '.', got '.hidden': rename 'some/.hidden'"),
        ("some/été", "got 'été': rename 'some/été'"),
        ("some/mnist", "'some/mnist' has the name of the built-in data set mnist: rename the folder or file"),
        ("some/svhn.npz", "has the name of the built-in data set svhn: rename the folder or file"),
        ("/", "got '': rename '/'"),
    ],
)
def test_a_bad_name_or_path_gives_a_helpful_line(value, expected_text, photos, capsys):
    for name in ("my photos", ".hidden", "été", "mnist", "svhn.npz"):
        photos.with_name(name).mkdir()
    code, line = exit_code_and_line(capsys, "--dataset", value)
    assert code == 2
    assert "argument --dataset: " in line and line.endswith(f"{expected_text} (--help lists the flags)")


def test_a_path_of_images_that_is_not_utf_8_is_refused(photos, capsys):
    path = photos / os.fsdecode(b"mod\xe8les")
    try:
        path.mkdir()
    except OSError:
        pytest.skip("this file system takes text only")
    for value in (path, path / "photos"):
        code, line = exit_code_and_line(capsys, "--dataset", str(value))
        assert code == 2
        assert "argument --dataset: takes a folder or file whose full path is UTF-8, got b'/" in line
        assert r"mod\xe8les" in line


def test_image_size_is_for_own_images_only(photos, capsys):
    code, line = exit_code_and_line(capsys, "--dataset", "svhn", "--image_size", "16")
    assert code == 2 and "argument --image_size: only for your own images; svhn has a size of its own" in line
    code, line = exit_code_and_line(capsys, "--dataset", "some/photos", "--image_size", "3")
    assert code == 2 and "argument --image_size: takes a whole number from 4 to 4096, got '3'" in line


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_imports_nothing_heavy(script):
    code = f"import sys, {script}\ntry: {script}.main(['--help'])\nfinally: print(sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert "--hidden_size" in done.stdout and "(default: 200)" in done.stdout
    for module in ("tensorflow", "numpy", "matplotlib", "scipy"):
        assert f"'{module}'" not in done.stderr


# ---- Errors --------------------------------------------------------------------------------------------------------


def np_memory_error():
    """Returns an error of a class of its own, as NumPy raises it."""
    return type("_ArrayMemoryError", (MemoryError,), {})("Unable to allocate 9 EiB")


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
        (OSError(errno.ENOMEM, "Cannot allocate memory", "/tensorflow/x.so"), 1, "error: not enough memory (["),
        (ImportError("libtf.so.2: failed to map segment from shared object"), 1, "error: not enough memory (libtf.so"),
        (RuntimeError("can't start new thread"), 1, "error: not enough memory (can't start new thread)"),
        (SystemError("error return without exception set"), 1, "perhaps because there is not enough memory (error ret"),
        (ImportError("\nRead this:\n\nlibx.so: cannot open\n"), 1, "error: libx.so: cannot open: activate the env"),
        (ImportError(), 1, "error: ImportError: activate the environment"),
        (ModuleNotFoundError("No module named 'x'"), 1, "error: No module named 'x': activate the environment"),
        (np_memory_error(), 1, "error: not enough memory"),
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


@pytest.mark.parametrize(("error", "is_shown"), [(ImportError("x"), False), (MemoryError(), False), (KeyError(), True)])
def test_what_tensorflow_prints_is_shown_only_with_an_error_that_keeps_its_traceback(error, is_shown, capfd):
    with pytest.raises(type(error)), cli.stderr_held_back():
        os.write(2, b"printed by TensorFlow")
        raise error
    assert ("printed by TensorFlow" in capfd.readouterr().err) == is_shown


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


# ---- Standard output and standard error ----------------------------------------------------------------------------

# How a shell gives a program a stream that cannot be written, and what the system then says.
UNWRITABLE = {">/dev/full": "No space left on device", ">&-": "Bad file descriptor", "| :": "Broken pipe"}
LOST = "could not write standard output"
needs_dev_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")


def run_in_shell(body, redirections):
    """Runs a script whose main has this body in a shell; returns its exit code and its standard error.

    The redirections follow the command, as in `python train.py >/dev/full`.
    """
    code = f"import os, sys, cli\n@cli.script\ndef main(argv=None):\n {body}\nsys.exit(main(sys.argv[1:]))"
    command = f"{shlex.join([sys.executable, '-c', code])} {redirections}"
    # The exit code of the script, not that of the end of the pipe.
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stderr


# More than a pipe holds, so that the end of a pipe that has closed is noticed.
PRINT = "for _ in range(100): print('x' * 9999, flush=True)"


@needs_dev_full
@pytest.mark.parametrize("redirection", UNWRITABLE)
@pytest.mark.parametrize("exit_code", [0, 3])
def test_a_script_whose_result_is_in_files_goes_on_without_its_text(redirection, exit_code, tmp_path):
    body = f"{PRINT}\n open({str(tmp_path / 'result')!r}, 'w').close()\n return {exit_code}"
    code, error_output = run_in_shell(body, redirection)
    assert code == exit_code
    assert error_output == f"-c: {LOST} ({UNWRITABLE[redirection]}): some of its text is lost\n"
    assert (tmp_path / "result").exists()


@needs_dev_full
@pytest.mark.parametrize("redirection", UNWRITABLE)
@pytest.mark.parametrize("body", [PRINT, f"{PRINT}\n sys.exit(0)", "cli.parse_args(['--help'], 'x' * 99999, ['seed'])"])
def test_a_script_whose_text_is_its_result_fails_without_it(redirection, body):
    """A closed pipe is no error, but the usual end of `... | head`."""
    code, error_output = run_in_shell(body, redirection)
    assert code == 1
    if redirection == "| :":
        assert error_output == ""
    else:
        assert error_output == f"-c: error: {LOST} ({UNWRITABLE[redirection]}): some of its text is lost\n"


@needs_dev_full
@pytest.mark.parametrize("redirections", ["2>&-", "2>/dev/full", ">&- 2>&-", "<&- >&- 2>&-", "2>&1 >/dev/full | :"])
def test_without_standard_error_a_script_goes_on(redirections, tmp_path):
    """The file that the script writes does not get the text of a closed stream."""
    result = tmp_path / "result"
    body = f"file = open({str(result)!r}, 'w')\n print('a'); print('b', file=sys.stderr, flush=True)\n"
    body += " try: os.write(2, b'c')\n except OSError: pass\n file.write('whole'); file.close(); return 3"
    code, _ = run_in_shell(body, redirections)
    assert code == 3
    assert result.read_text() == "whole"


def test_output_is_flushed_by_the_line_for_a_reader_only_if_python_is_told_so():
    """As without the script's own streams, -u writes each line at once."""
    body = "print('first'); os.kill(os.getpid(), 9)"
    code = f"import os, sys, cli\n@cli.script\ndef main(argv=None):\n {body}\nsys.exit(main())"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    for options, expected in (([], ""), (["-u"], "first\n")):
        command = [sys.executable, *options, "-c", code]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.stdout == expected and done.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("error", "exit_code", "description"),
    [
        (KeyboardInterrupt(), 130, "stopped"),
        (KeyboardInterrupt(signal.SIGTERM), 143, "stopped"),
        (cli.UsageError("a bad value"), 2, "a bad value"),
        (MemoryError(), 1, "not enough memory"),
        (OSError("the disk is full"), 1, "the disk is full"),
        (AssertionError(), 1, "AssertionError"),
        (ValueError("first line\nthe cause"), 1, "ValueError: the cause"),
    ],
)
def test_the_end_of_a_script_is_described_in_one_line(error, exit_code, description):
    """Other workers print it. They do not see the traceback of a bug."""
    assert cli.exit_code_of(error) == exit_code
    assert cli.describe_ending(error) == description
