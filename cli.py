"""What the scripts share: flags, short error messages, TensorFlow's start-up, and finding the run that flags name."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import functools
import io
import logging
import math
import os
import re
import shlex
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TextIO

from config import (
    ACTIVATIONS,
    DATASETS,
    LEARNING_RATE_SCHEDULES,
    LIKELIHOODS,
    MIN_IMAGE_SIZE,
    PRECISIONS,
    VAE_TYPES,
    Config,
    dataset_name,
    is_path,
)

# At run time these imports would load large libraries, which --help and error messages do not need.
if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from datasets import Dataset
    from vae.model import VAE

MainFunction = Callable[[Sequence[str] | None], int | None]

# What errors say, besides MemoryError, if there is no memory for the libraries or the threads of a package.
NOT_ENOUGH_MEMORY = ("failed to map segment", "annot allocate memory", "can't start new thread")

# How Matplotlib's warnings about a character that it cannot draw begin.
MISSING_CHARACTER = "Glyph .* missing from font|Matplotlib currently does not support .* natively"


# ---- Flags ---------------------------------------------------------------------------------------------------------


def whole_number(minimum: int, maximum: int) -> Callable[[str], int]:
    """Returns an argparse type for whole numbers from minimum to maximum, both included."""

    def parse(text: str) -> int:
        error = argparse.ArgumentTypeError(f"takes a whole number from {minimum} to {maximum}, got {text!r}")
        try:
            value = int(text)
        except ValueError:
            raise error from None
        if not minimum <= value <= maximum:
            raise error
        return value

    return parse


def real_number(is_allowed: Callable[[float], bool], description: str) -> Callable[[str], float]:
    """Returns an argparse type for finite numbers. `description` names the allowed ones in error messages."""

    def parse(text: str) -> float:
        error = argparse.ArgumentTypeError(f"takes {description}, got {text!r}")
        try:
            value = float(text)
        except ValueError:
            raise error from None
        if not math.isfinite(value) or not is_allowed(value):
            raise error
        return value

    return parse


def folder_path(text: str) -> Path:
    """Returns the path of a folder, or of one that can be made. It is used as an argparse type.

    Its full path must be UTF-8, because TensorFlow can write checkpoints only to such paths.
    """
    check_utf_8(text, "a folder")
    path = Path(text)
    try:
        files = [part for part in (path, *path.parents) if part.exists() and not part.is_dir()]
    except OSError as error:
        # The name is too long, for example.
        raise argparse.ArgumentTypeError(f"takes a folder, got {text!r}: {error.strerror}") from None
    if files:
        raise argparse.ArgumentTypeError(f"takes a folder, got {text!r}, where {str(files[0])!r} is a file")
    return path


def check_utf_8(path: str, description: str) -> None:
    """Raises ArgumentTypeError if a full path is not UTF-8. `description` says what the flag takes."""
    full_path = os.path.abspath(path)
    if os.fsencode(full_path) != full_path.encode("utf-8", "replace"):
        raise argparse.ArgumentTypeError(
            f"takes {description} whose full path is UTF-8, got {os.fsencode(full_path)!r}"
        )


def true_or_false(text: str) -> bool:
    """Returns the truth value that the word True or False stands for. It is used as an argparse type."""
    if text not in ("True", "False"):
        raise argparse.ArgumentTypeError(f"takes True or False (alone it means True), got {text!r}")
    return text == "True"


def name_or_path(text: str) -> str:
    """Returns a name of DATASETS, or the path of the user's own images. It is used as an argparse type."""
    if is_path(text):
        check_images_path(text)
    elif text not in DATASETS:
        raise argparse.ArgumentTypeError(
            f"takes {', '.join(DATASETS)}, or the path of your own images, with a {os.sep!r} in it, "
            f"got {text!r}{hint_at_data_set(text)}"
        )
    return text


def check_images_path(path: str) -> None:
    """Raises ArgumentTypeError if there is nothing at the path, or if its name cannot be part of a run's name.

    Messages and the commands in them have the path, so it must be UTF-8.
    """
    check_utf_8(path, "a folder or file")
    if not os.path.exists(path):
        raise argparse.ArgumentTypeError(f"there is no folder or file {path!r}{hint_at_path(path)}")
    try:
        dataset_name(path)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def hint_at_data_set(text: str) -> str:
    """Returns the end of the error for an unknown name: the folder or the name that was probably meant, if any."""
    if os.path.isdir(text):
        return f"; did you mean --dataset {os.path.join(os.curdir, text)}?"
    similar = difflib.get_close_matches(text, DATASETS, n=1)
    return f"; did you mean {similar[0]}?" if similar else ""


def hint_at_path(path: str) -> str:
    """Returns the end of the error for a missing path: the path beside it that was probably meant, if any."""
    folder, name = os.path.split(path.rstrip(os.sep))
    folder = folder or os.curdir
    try:
        similar = difflib.get_close_matches(name, os.listdir(folder), n=1)
    except OSError:
        return ""
    return f"; did you mean {os.path.join(folder, similar[0])}?" if similar else ""


COUNT = whole_number(1, 2**31 - 1)
# Training two hidden layers of the largest size takes 8 GB.
LAYER_SIZE = whole_number(1, 16384)
SEED = whole_number(0, 2**63 - 1)

ARGUMENTS: dict[str, dict[str, Any]] = {
    "dataset": {
        "type": name_or_path,
        "default": Config.dataset,
        "metavar": "NAME|PATH",
        "help": f"data set: {', '.join(DATASETS)} (cifar10 is cropped to 8x8, cifar10_full is 32x32); or the path of "
        "your own images: a folder, or a file that ends in .npz (default: %(default)s)",
    },
    "vae_type": {
        "choices": tuple(VAE_TYPES),
        "default": Config.vae_type,
        "help": "network and distribution of the pixels (default: %(default)s)",
    },
    "latent_dim": {
        "type": LAYER_SIZE,
        "default": Config.latent_dim,
        "help": "size of the latent space (default: %(default)s)",
    },
    "num_epochs": {
        "type": COUNT,
        "default": Config.num_epochs,
        # Not %(default)s, because parse_args_for_trained_model replaces the default.
        "help": f"the final epoch (default: {Config.num_epochs}); the scripts that use a trained model ignore it",
    },
    "learning_rate": {
        "type": real_number(lambda rate: rate > 0, "a finite number above 0"),
        "default": Config.learning_rate,
        "help": "Adam's learning rate (default: %(default)s)",
    },
    "batch_size": {
        "type": COUNT,
        "default": Config.batch_size,
        "help": "images per training step (default: %(default)s)",
    },
    "hidden_size": {
        "type": LAYER_SIZE,
        "default": Config.hidden_size,
        "help": "neurons in each hidden layer of the flat networks (default: %(default)s)",
    },
    "activation": {
        "choices": ACTIVATIONS,
        "default": Config.activation,
        "help": "activation of the hidden layers (default: %(default)s)",
    },
    "likelihood": {
        "choices": LIKELIHOODS,
        "default": None,
        "help": "distribution of the pixels, for conv3 only (default: cross_entropy)",
    },
    "seed": {
        "type": SEED,
        "default": Config.seed,
        "help": "sets initial weights, order of images and noise; part of the run's name (default: %(default)s)",
    },
    "precision": {
        "choices": PRECISIONS,
        "default": Config.precision,
        "help": "arithmetic of the networks; weights, likelihood and KL are float32 (default: %(default)s)",
    },
    "learning_rate_schedule": {
        "choices": LEARNING_RATE_SCHEDULES,
        "default": Config.learning_rate_schedule,
        "help": "staged: 3^i epochs at learning_rate x 10^(-i/7), for i = 0 to 7 (default: %(default)s)",
    },
    "image_size": {
        "type": whole_number(MIN_IMAGE_SIZE, 4096),
        "default": Config.image_size,
        "metavar": "N",
        "help": "scale your own images so that the shorter side is N, and cut out the middle N x N (default: off)",
    },
    "restore": {
        "type": true_or_false,
        "nargs": "?",
        "const": True,
        "default": False,
        "help": "continue a saved run up to --num_epochs (default: %(default)s)",
    },
    "overwrite": {
        "action": "store_true",
        "help": "train from scratch where a trained model exists; the earlier run moves to <checkpoints_dir>/replaced",
    },
    "worker_timeout": {
        "type": COUNT,
        "default": 300,
        "help": "seconds to wait until all workers of TF_CONFIG have started (default: %(default)s)",
    },
    "draw_seed": {
        "type": SEED,
        "default": 0,
        "help": "decides which test images are drawn and, in make_pictures.py, which z (default: %(default)s)",
    },
    "num_samples": {
        "type": whole_number(1, 10**6),
        "default": None,
        "help": "importance samples per image for each NLL (default: 5000; conv3: 100)",
    },
    "num_images": {
        "type": whole_number(2, 2**31 - 1),
        "default": None,
        "metavar": "N",
        "help": "evaluate only the first N test images (default: all of them; conv3: the first 1000)",
    },
    "epochs_scale": {
        "type": real_number(lambda share: 0 <= share <= 1, "a number from 0 to 1"),
        "default": 1.0,
        "help": "share of the epochs and samples; 0 trains nothing and takes all samples (default: %(default)s)",
    },
    "only": {
        "nargs": "+",
        "metavar": "NAME",
        "default": None,
        "help": "run only these experiments of report/experiments.py (default: all)",
    },
    "allow_unverified": {
        "action": "store_true",
        "help": "accept data files whose sha256 is not the published one",
    },
    "open": {
        "action": "store_true",
        "help": "open the page in the default browser",
    },
    "list": {
        "action": "store_true",
        "help": "list the trained runs, and exit",
    },
}


class PathFlag(NamedTuple):
    """Where a flag for a folder gets its default: an environment variable, or else a folder's name."""

    variable: str
    folder: str

    def default(self) -> str:
        """Returns the folder that is used if the flag is not given."""
        return os.environ.get(self.variable) or self.folder


PATH_FLAGS = {
    "data_dir": PathFlag("VAE_DATA_DIR", "data"),
    "checkpoints_dir": PathFlag("VAE_CHECKPOINTS_DIR", "checkpoints"),
    "pictures_dir": PathFlag("VAE_PICTURES_DIR", "pictures"),
}
MODEL_FLAGS = tuple(field.name for field in dataclasses.fields(Config))
TRAINING_FLAGS = (*MODEL_FLAGS, "restore", "overwrite", "worker_timeout", *PATH_FLAGS, "allow_unverified", "list")
DRAWING_FLAGS = (*MODEL_FLAGS, "draw_seed", *PATH_FLAGS, "allow_unverified", "list")
EXPLORER_FLAGS = (*DRAWING_FLAGS, "open")
EVALUATION_FLAGS = (*MODEL_FLAGS, "num_samples", "num_images", *PATH_FLAGS, "allow_unverified", "list")
REPORT_FLAGS = ("epochs_scale", "only", *PATH_FLAGS, "allow_unverified")


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line. That of argparse prints the usage of all flags before it."""

    def error(self, message: str) -> NoReturn:
        """Prints the error and exits with code 2."""
        self.exit(2, f"{self.prog}: error: {message} (--help lists the flags)\n")


def make_parser(description: str, flags: Sequence[str]) -> argparse.ArgumentParser:
    """Returns a parser that takes these flags."""
    parser = Parser(description=description, allow_abbrev=False)
    for flag in flags:
        if flag in PATH_FLAGS:
            path_flag = PATH_FLAGS[flag]
            text = f"default: the environment variable {path_flag.variable}, or else {path_flag.folder!r}"
            parser.add_argument(f"--{flag}", type=folder_path, metavar="DIR", default=path_flag.default(), help=text)
        else:
            parser.add_argument(f"--{flag}", **ARGUMENTS[flag])
    return parser


def parse_args(
    argv: Sequence[str] | None,
    description: str | None,
    flags: Sequence[str],
    ignored: Sequence[str] = (),
    fixed: Mapping[str, Any] | None = None,
    **defaults: Any,
) -> argparse.Namespace:
    """Reads a script's command line; `args.config` is the Config that the model flags give.

    `ignored` flags are accepted without effect, so that all drawing scripts take the same ones. `fixed` flags are
    accepted with one value only. `defaults` replace those of ARGUMENTS. Exits with code 2 on a bad argument.
    """
    fixed = fixed or {}
    parser = make_parser(description or "", flags)
    parser.set_defaults(**defaults, **fixed)
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.error(describe_unknown_argument(unknown[0], flags))
    # argparse's exclusive groups are not used, because newer Python versions would also reject
    # --restore False --overwrite.
    if "overwrite" in flags and args.overwrite and args.restore:
        parser.error(
            "argument --overwrite: cannot be combined with --restore True: one trains from scratch, the other continues"
        )
    for flag, value in fixed.items():
        if getattr(args, flag) != value:
            parser.error(f"argument --{flag}: this script takes {value} only, got {getattr(args, flag)}")
    try:
        args.config = make_config(args)
    except ValueError as error:
        parser.error(f"argument --likelihood: {error}")
    if args.config.image_size is not None and not is_path(args.dataset):
        parser.error(f"argument --image_size: only for your own images; {args.dataset} has a size of its own")
    warn_about_ignored_flags(args, parser, ignored)
    return args


def parse_args_for_trained_model(
    argv: Sequence[str] | None,
    description: str | None,
    flags: Sequence[str] = DRAWING_FLAGS,
    ignored: Sequence[str] = (),
    fixed: Mapping[str, Any] | None = None,
) -> argparse.Namespace:
    """Reads the command line of a script that reads a trained model. See parse_args.

    `args.num_epochs` is None if the flag was not given: the model is used at the epoch it was saved at.
    """
    return parse_args(argv, description, flags, ignored=ignored, fixed=fixed, num_epochs=None)


def make_config(args: argparse.Namespace) -> Config:
    """Returns the Config that the model flags give. Raises ValueError if they do not go together."""
    # None means that a flag was not given: Config's own default applies.
    values = {name: value for name, value in vars(args).items() if name in MODEL_FLAGS and value is not None}
    if "dataset" in values:
        values["dataset"] = dataset_name(values["dataset"])
    return Config(**values)


def warn_about_ignored_flags(args: argparse.Namespace, parser: argparse.ArgumentParser, ignored: Sequence[str]) -> None:
    """Tells the user about flags that were given and have no effect."""
    config = args.config
    hidden_size = getattr(args, "hidden_size", config.hidden_size)
    if hidden_size != config.hidden_size:
        print(f"--hidden_size has no effect with {config.vae_type}", file=sys.stderr)
    for flag in ignored:
        if getattr(args, flag) != parser.get_default(flag):
            print(f"--{flag} has no effect in this script", file=sys.stderr)


def describe_unknown_argument(argument: str, flags: Sequence[str]) -> str:
    """Returns the error for an argument that a script does not take, with a hint at what was meant."""
    name = argument.split("=")[0]
    options = [f"--{flag}" for flag in flags]
    similar = difflib.get_close_matches(name, options, n=1)
    if name in [f"--{flag}" for flag in (*ARGUMENTS, *PATH_FLAGS)]:
        hint = "this script does not use it"
    elif similar:
        hint = f"did you mean {similar[0]}?"
    else:
        hint = f"it takes {' '.join(options)}"
    return f"unrecognized argument {argument!r}: {hint}"


def path_arguments(args: argparse.Namespace) -> list[str]:
    """Returns the folder flags and --allow_unverified of `args`, except those at their defaults."""
    arguments = []
    for flag, path_flag in PATH_FLAGS.items():
        path = getattr(args, flag)
        if path != Path(path_flag.default()):
            arguments += [f"--{flag}", str(path)]
    if args.allow_unverified:
        arguments.append("--allow_unverified")
    return arguments


def command(script_name: str, config: Config, args: argparse.Namespace) -> str:
    """Returns the shell command that runs a script for `config` with the data set and the folders of `args`."""
    # For the user's own images, args.dataset is their path, and config.dataset only their name.
    config = dataclasses.replace(config, dataset=args.dataset)
    return shlex.join(["python", script_name, *config.arguments(), *path_arguments(args)])


# ---- Errors --------------------------------------------------------------------------------------------------------


class UsageError(Exception):
    """An argument that parsing accepts, but that the data or another flag rules out. The exit code is 2."""


def script(main: MainFunction) -> Callable[..., int]:
    """Decorates a script's main(argv=None): errors that a user can cause end in a short message and an exit code.

    A main whose result is in files, such as a trained model, returns the exit code. A main whose result is also the
    text that it prints returns None. See run_as_program for the difference, and run_main for the errors.
    """

    @functools.wraps(main)
    def wrapper(argv: Sequence[str] | None = None) -> int:
        if main.__module__ == "__main__":
            return run_as_program(main, argv)
        exit_code = run_main(main, argv)
        if exit_code is None:
            return 0
        return exit_code

    return wrapper


def run_as_program(main: MainFunction, argv: Sequence[str] | None) -> int:
    """Runs a script's main as the program of this process, and returns the exit code.

    Text that cannot be written to standard output, because the disk is full or the pipe is closed, never stops the
    work. Afterwards a line on standard error says that it is lost. If the result is in files, the exit code stays that
    of main. If the text is the result, as with --list, the exit code is 1, and a closed pipe is not reported: `head`,
    for example, closes it when it has read enough.
    """
    output = make_standard_streams_lossy()
    try:
        exit_code = run_main(main, argv, is_program=True)
    except SystemExit as ending:
        # argparse ends a script this way, after --help or a bad argument, and so does --list.
        exit_code = int(ending.code) if ending.code else None
    sys.stdout.flush()
    if output.error is not None:
        return report_lost_text(output.error, exit_code)
    if exit_code is None:
        return 0
    return exit_code


def report_lost_text(error: OSError, exit_code: int | None) -> int:
    """Reports that standard output could not be written, and returns the exit code. See run_as_program."""
    message = f"could not write standard output ({error.strerror}): some of its text is lost"
    if exit_code is not None:
        print(f"{script_name()}: {message}", file=sys.stderr)
        return exit_code
    if not isinstance(error, BrokenPipeError):
        print_error(message)
    return 1


def run_main(main: MainFunction, argv: Sequence[str] | None, is_program: bool = False) -> int | None:
    """Runs a script's main and returns what it returns, or the exit code of an error that a user can cause."""
    try:
        return main(argv)
    except KeyboardInterrupt as interrupt:
        report_interrupt(is_program)
        return exit_code_of(interrupt)
    except UsageError as error:
        print_error(str(error))
        return exit_code_of(error)
    except Exception as error:
        message = describe_error(error)
        if message is None:
            raise
        print_error(message)
        return exit_code_of(error)


def exit_code_of(error: BaseException) -> int:
    """Returns the exit code with which a script ends after an error or Ctrl-C."""
    if isinstance(error, KeyboardInterrupt):
        # Python's own handler of Ctrl-C gives no number.
        (number,) = error.args or (signal.SIGINT,)
        return 128 + number
    if isinstance(error, UsageError):
        return 2
    return 1


def describe_error(error: Exception) -> str | None:
    """Returns the message for an error that a user can cause. Any other error is a bug, and gives None.

    OSError covers data (datasets.DataError), runs (vae.runs.RunError) and full disks. FloatingPointError means that
    training diverged. Packages or memory may be missing. A SystemError comes from a package's C code.
    """
    # TensorFlow's own class is known here by its name alone, since TensorFlow may not be imported.
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
        return "not enough memory"
    if any(text in str(error) for text in NOT_ENOUGH_MEMORY):
        return f"not enough memory ({last_line(error)})"
    if isinstance(error, SystemError):
        return f"a package failed, perhaps because there is not enough memory ({last_line(error)})"
    if isinstance(error, ImportError):
        return (
            f"{last_line(error)}: activate the environment (. .venv/bin/activate), "
            "or install the packages (pip install -r requirements.txt)"
        )
    if isinstance(error, OSError | FloatingPointError):
        return str(error)
    return None


def describe_ending(error: BaseException) -> str:
    """Returns in one line why a script ends, after an error or Ctrl-C, for those who do not see its own messages."""
    if isinstance(error, UsageError):
        return str(error)
    if not isinstance(error, Exception):
        return "stopped"
    description = describe_error(error)
    if description is not None:
        return description
    name = type(error).__name__
    if str(error) == "":
        return name
    return f"{name}: {last_line(error)}"


def last_line(error: Exception) -> str:
    """Returns the last line of an error, which has its cause: before it, NumPy gives many lines of advice."""
    lines = str(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    return lines[-1]


def script_name() -> str:
    """Returns the file name of the script, as argparse has it."""
    return Path(sys.argv[0]).name


def print_error(message: str) -> None:
    """Prints an error the way argparse does."""
    print(f"{script_name()}: error: {message}", file=sys.stderr)


def report_interrupt(is_program: bool) -> None:
    """Reports that Ctrl-C stopped the script.

    Further Ctrl-Cs are ignored while it prints, and until the exit if the process is ending.
    """
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    print("\nstopped", file=sys.stderr)
    if not is_program:
        signal.signal(signal.SIGINT, previous)


# ---- Standard output and standard error ----------------------------------------------------------------------------


class LossyFile(io.FileIO):
    """The file below a standard stream. After a write fails, everything written to it is lost, without an exception.

    `error` is what made the first write fail, or None.
    """

    error: OSError | None = None

    def write(self, content: Any, /) -> int:
        """Writes bytes, or loses them; returns their number."""
        if self.error is None:
            try:
                return super().write(content)
            except OSError as error:
                self.error = error
        return len(content)


def make_standard_streams_lossy() -> LossyFile:
    """Puts a LossyFile below standard output and one below standard error. Returns that of standard output."""
    open_closed_descriptors()
    output = LossyFile(1, "w", closefd=False)
    sys.stdout = text_stream(output, like=sys.stdout)
    sys.stderr = text_stream(LossyFile(2, "w", closefd=False), like=sys.stderr)
    return output


def open_closed_descriptors() -> None:
    """Opens the standard streams that the user has closed, as `2>&-` does, on the null device.

    Otherwise the next file that is opened gets the number of a standard stream, and the text of that stream.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # A new descriptor is the lowest free number. It is for reading only, so that writing fails as before.
            os.open(os.devnull, os.O_RDONLY)


def text_stream(file: LossyFile, like: TextIO | None) -> TextIO:
    """Returns a stream that writes text to a file like another stream does. None stands for a closed stream."""
    buffer = io.BufferedWriter(file)
    if not isinstance(like, io.TextIOWrapper):
        return io.TextIOWrapper(buffer, encoding="utf-8", errors="backslashreplace", line_buffering=True)
    is_flushed_by_line = like.line_buffering or like.write_through
    return io.TextIOWrapper(buffer, encoding=like.encoding, errors=like.errors, line_buffering=is_flushed_by_line)


# ---- TensorFlow's start-up -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def tensorflow_environment() -> Iterator[None]:
    """Prepares the import of TensorFlow in the block: sets the variables that it reads, and holds back what it prints.

    Afterwards, TensorFlow's Python code no longer prints warnings, such as the one about a checkpoint of which only a
    part was read.
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # oneDNN is off by default on processors without AVX-512, where it halves the time of a conv3 step.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    # XLA prefers vectors of 256 bits. With AVX-512, 512 bits save 5% of an epoch.
    xla_flags = os.environ.get("XLA_FLAGS", "")
    if "prefer_vector_width" not in xla_flags:
        os.environ["XLA_FLAGS"] = f"{xla_flags} --xla_cpu_prefer_vector_width=512".lstrip()
    with stderr_held_back():
        yield
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


@contextlib.contextmanager
def stderr_held_back() -> Iterator[None]:
    """Holds back what is written to standard error, and shows it only if the block fails in an unexpected way.

    It works on the file descriptor, since TensorFlow's C++ code writes there before its log level applies.
    """
    sys.stderr.flush()
    stderr_copy = os.dup(2)
    with tempfile.TemporaryFile() as held_back:
        os.dup2(held_back.fileno(), 2)
        try:
            yield
        except Exception as error:
            if describe_error(error) is None:
                held_back.seek(0)
                os.write(stderr_copy, held_back.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(stderr_copy, 2)
            os.close(stderr_copy)


# ---- The run that the flags name -----------------------------------------------------------------------------------


class TrainedRun(NamedTuple):
    """What a script that reads a trained model works with: the model, its data set, and the folders."""

    model: VAE
    data: Dataset
    folder: Path
    pictures_folder: Path


def open_trained_run(args: argparse.Namespace) -> TrainedRun:
    """Restores the model that the flags name, and loads its data set. With --list it prints the runs, and exits.

    `args` comes from parse_args_for_trained_model. Raises RunError or DataError if the model or data cannot be used.
    """
    # TensorFlow is imported here first, so that what it prints is held back.
    with tensorflow_environment():
        from vae import runs

    exit_if_list_is_wanted(args)
    config = args.config
    folder = args.checkpoints_dir / config.run_name
    model = restore_model(args, folder)
    data = load_data(args)
    runs.check_digest(folder, data.digest)
    runs.check_image_shape(folder, model.image_shape, data.train_images.shape[1:])
    return TrainedRun(model, data, folder, pictures_folder=args.pictures_dir / config.run_name)


def load_data(args: argparse.Namespace) -> Dataset:
    """Returns the data set that the flags name. Raises DataError if it cannot be loaded."""
    import datasets

    return datasets.load(args.dataset, args.data_dir, args.allow_unverified, args.config.image_size)


def restore_model(args: argparse.Namespace, run_folder: Path) -> VAE:
    """Returns the model in run_folder.

    Raises RunError if there is none; the message lists the runs that exist, and has the command that trains this one.
    Also raises RunError if the folder holds another model than the flags name.
    """
    from vae import runs

    if runs.saved_epoch(run_folder) == 0:
        raise runs.RunError(
            f"no trained model in {run_folder}\n"
            f"{describe_runs(args.checkpoints_dir)}\n"
            f"to train it: {command('train.py', args.config, args)}"
        )
    model = runs.restore(run_folder, args.config)
    if args.num_epochs not in (None, model.epoch):
        print(f"the model is used as it was saved, at epoch {model.epoch}")
    return model


def exit_if_list_is_wanted(args: argparse.Namespace) -> None:
    """Answers --list: prints the trained runs and ends the script with exit code 0, as --help ends it."""
    if args.list:
        print(describe_runs(args.checkpoints_dir))
        sys.exit(0)


def describe_runs(checkpoints_dir: Path) -> str:
    """Returns a list of the trained runs, and of the replaced ones under a heading of their own."""
    from vae import runs

    trained = runs.trained(checkpoints_dir)
    heading = "trained runs" if trained else "no trained runs"
    lines = [f"{heading} in {checkpoints_dir}"]
    lines += [describe_run(folder) for folder in trained]
    replaced_dir = checkpoints_dir / runs.REPLACED
    replaced = runs.trained(replaced_dir)
    if replaced:
        lines.append(f"replaced runs in {replaced_dir}")
        lines += [describe_run(folder) for folder in replaced]
    return "\n".join(lines)


def describe_run(run_folder: Path) -> str:
    """Returns a run's line in the list: its name, epoch and last test ELBO, and whether its data was unverified."""
    from vae import runs

    epoch = runs.saved_epoch(run_folder)
    line = f"  {run_folder.name}  (epoch {epoch}"
    try:
        tested = runs.last_tested(run_folder, epoch)
        verified = runs.read_config(run_folder).data_verified
    except runs.RunError as error:
        problem = str(error).splitlines()[0]
        return f"{line}; {problem})"
    if tested is not None:
        line += f", test ELBO {tested.test_elbo:.2f} nats"
        if tested.epoch != epoch:
            line += f" at epoch {tested.epoch}"
    if verified is False:
        line += ", unverified data"
    return f"{line})"


def refuse_to_replace(args: argparse.Namespace, run_folder: Path) -> None:
    """Raises RunError if the folder holds a trained model and neither --restore nor --overwrite was given."""
    from vae import runs

    epoch = runs.saved_epoch(run_folder)
    if epoch == 0 or args.restore or args.overwrite:
        return
    config = args.config
    # If the run has reached --num_epochs, continuing it needs a larger number.
    num_epochs = config.num_epochs if config.num_epochs > epoch else 2 * epoch
    longer = dataclasses.replace(config, num_epochs=num_epochs)
    raise runs.RunError(
        f"{run_folder} holds a model trained to epoch {epoch}\n"
        f"to continue it:              {command('train.py', longer, args)} --restore True\n"
        f"to train again from scratch: {command('train.py', config, args)} --overwrite"
    )


def report_if_finished(args: argparse.Namespace, run_folder: Path, data: Dataset | None = None) -> bool:
    """Returns whether --restore finds a model that is at the final epoch already, and tells the user if so.

    `data` is the data set, if it has been loaded already.
    """
    from vae import runs

    num_epochs = args.config.num_epochs
    if not args.restore or runs.saved_epoch(run_folder) < num_epochs:
        return False
    # The newest checkpoint may turn out to be damaged. Then an earlier one is restored.
    epoch = runs.restore(run_folder, args.config).epoch
    if epoch < num_epochs:
        return False
    if is_path(args.dataset):
        # The finished run may have been trained on other images of the same name.
        if data is None:
            data = load_data(args)
        runs.check_digest(run_folder, data.digest)
    print(f"nothing to do: {run_folder} is at epoch {epoch}, and --num_epochs {num_epochs} is not above that")
    tested = runs.last_tested(run_folder, epoch)
    if tested is not None:
        print(f"its test ELBO was {tested.test_elbo:.2f} nats at epoch {tested.epoch}")
    print(f"to train it further, give a --num_epochs above {epoch}")
    return True


def save_picture(figure: Figure, path: Path) -> None:
    """Saves a Matplotlib Figure as PNG, and prints the path.

    If the font lacks characters, a line on standard error says so. Only the names of classes can have such characters.
    """
    from vae import files

    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", message=MISSING_CHARACTER)
        files.save_figure(figure, path)
    print(path)
    others = [warning for warning in caught if not re.match(MISSING_CHARACTER, str(warning.message))]
    if len(others) < len(caught):
        print("the figure's font lacks some characters of the class names", file=sys.stderr)
    for warning in others:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
