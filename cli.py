"""What the scripts share: flags, errors as one line, TensorFlow's start-up, and finding the run that the flags name."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import functools
import os
import re
import shlex
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from config import CHOICES, DATASETS, Config, UsageError, dataset_name, is_path

# At run time these imports would load large libraries, which --help and error messages do not need.
if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from datasets import Dataset
    from vae.model import VAE
    from vae.runs import SavedConfig

# ---- Flags ---------------------------------------------------------------------------------------------------------

# The environment variable and the folder that give a flag its default.
FOLDER_FLAGS = {
    "data_dir": ("VAE_DATA_DIR", "data"),
    "checkpoints_dir": ("VAE_CHECKPOINTS_DIR", "checkpoints"),
    "pictures_dir": ("VAE_PICTURES_DIR", "pictures"),
}

# What other programs call our flags.
OTHER_NAMES = {
    "lr": "learning_rate",
    "epochs": "num_epochs",
    "batch": "batch_size",
    "hidden": "hidden_size",
    "z_dim": "latent_dim",
    "data": "dataset",
    "model": "vae_type",
}


FIELDS = tuple(field.name for field in dataclasses.fields(Config))

# What the flags of Config's fields say in --help.
HELP = {
    "dataset": f"data set: {', '.join(DATASETS)} (cifar10 is cropped to 8x8, cifar10_full is 32x32); or the path of "
    "your own images: a folder, or a file that ends in .npz (default: %(default)s)",
    "vae_type": "network and distribution of the pixels (default: %(default)s)",
    "latent_dim": "size of the latent space (default: %(default)s)",
    "num_epochs": f"the final epoch (default: {Config.num_epochs}); scripts that use a trained model ignore it",
    "learning_rate": "Adam's learning rate (default: %(default)s)",
    "batch_size": "images per training step (default: %(default)s)",
    "hidden_size": "neurons in each hidden layer of the flat networks (default: %(default)s)",
    "activation": "activation of the hidden layers (default: %(default)s)",
    "likelihood": "distribution of the pixels, for conv3 only (default: cross_entropy)",
    "seed": "sets initial weights, order of images and noise; part of the run's name (default: %(default)s)",
    "precision": "arithmetic of the networks; weights, likelihood and KL are float32 (default: %(default)s)",
    "learning_rate_schedule": "staged: 3^i epochs at learning_rate x 10^(-i/7), for i = 0 to 7 (default: %(default)s)",
    "image_size": "scale your own images so that the shorter side is N, and cut out the middle N x N (default: off)",
}


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line. argparse's own prints the usage of all flags before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (--help lists the flags)\n")

    def parse_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            # Not the names of the parsed values: a script may set a value for which it has no flag.
            flags = list(self._option_string_actions)
            self.error(f"unrecognized argument {unknown[0]!r}{hint_at_flag(unknown[0], flags)}")
        return parsed


def make_parser(description: str | None) -> Parser:
    return Parser(description=description, allow_abbrev=False)


def add_model_flags(parser: Parser, without: Sequence[str] = ()) -> None:
    """Adds --list and a flag for each field of Config, except those in `without`. Config says what each takes."""
    for field in dataclasses.fields(Config):
        name = field.name
        if name in without:
            continue
        read, metavar = READERS[field.type]
        if name in CHOICES:
            metavar = f"{{{','.join(CHOICES[name])}}}"
        parser.add_argument(f"--{name}", type=read, default=field.default, metavar=metavar, help=HELP[name])
    parser.add_argument("--list", action="store_true", help="list the trained runs, and exit")


def add_trained_model_flags(parser: Parser, without: Sequence[str] = ()) -> None:
    """Adds what all scripts take that use a trained model: its folder, or the flags that it was trained with."""
    parser.add_argument("run", nargs="?", type=Path, help="the folder of a run, in place of the flags of its model")
    add_model_flags(parser, without)
    # None if the flag is not given: the model is used at the epoch it was saved at.
    parser.set_defaults(num_epochs=None)
    add_folder_flags(parser)


def add_folder_flags(parser: Parser) -> None:
    """Adds the flags for folders and data."""
    for name, (variable, folder) in FOLDER_FLAGS.items():
        text = f"default: the environment variable {variable}, or else {folder!r}"
        parser.add_argument(f"--{name}", type=Path, metavar="DIR", default=default_folder(name), help=text)
    parser.add_argument(
        "--allow_unverified", action="store_true", help="accept data files whose sha256 is not the published one"
    )


def add_draw_seed(parser: Parser, effect: str) -> None:
    parser.add_argument("--draw_seed", type=at_least(0), default=0, help=f"{effect} (default: %(default)s)")


def default_folder(name: str) -> Path:
    variable, folder = FOLDER_FLAGS[name]
    return Path(os.environ.get(variable) or folder)


def whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"takes a whole number, got {text!r}") from None


def real_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"takes a number, got {text!r}") from None


# How a field of Config is read, by its annotation, and what --help shows for its value.
READERS: dict[Any, tuple[Callable[[str], object], str]] = {
    int: (whole_number, "N"),
    int | None: (whole_number, "N"),
    float: (real_number, "X"),
    str: (str, "NAME|PATH"),
}


def at_least(minimum: int) -> Callable[[str], int]:
    """An argparse type: a function that reads whole numbers from `minimum` to 2^63 - 1."""

    def parse(text: str) -> int:
        number = whole_number(text)
        if not minimum <= number < 2**63:
            raise argparse.ArgumentTypeError(f"takes a whole number of at least {minimum}, got {text!r}")
        return number

    return parse


def true_or_false(text: str) -> bool:
    if text not in ("True", "False"):
        raise argparse.ArgumentTypeError(f"takes True or False (alone it means True), got {text!r}")
    return text == "True"


def parse_args(parser: Parser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line of a script with model flags: args.config is the Config, and args.run the run's folder.

    Exits with code 2 and one line on a bad argument. With --list it prints the trained runs, and exits.
    """
    args = parser.parse_args(argv)
    if args.list:
        print(describe_runs(args.checkpoints_dir))
        parser.exit()
    if getattr(args, "run", None) is not None:
        read_flags_from_run(parser, args)
        return args
    values = {name: getattr(args, name) for name in FIELDS}
    if args.num_epochs is None:
        del values["num_epochs"]
    try:
        values["dataset"] = dataset_name(args.dataset)
        args.config = Config(**values)
    except UsageError as error:
        parser.error(f"argument --{error}{hint_at_data_set(args.dataset)}")
    if is_path(args.dataset) and not os.path.exists(args.dataset):
        parser.error(f"argument --dataset: there is no folder or file {args.dataset!r}{hint_at_path(args.dataset)}")
    if args.hidden_size != args.config.hidden_size:
        print(f"--hidden_size has no effect with {args.config.vae_type}", file=sys.stderr)
    args.run = args.checkpoints_dir / args.config.run_name
    return args


def read_flags_from_run(parser: Parser, args: argparse.Namespace) -> None:
    """Fills `args` from the config.json of the run that it names. Raises RunError if that cannot be read."""
    from vae import runs

    for name in FIELDS:
        if getattr(args, name) != parser.get_default(name):
            parser.error(f"argument --{name}: cannot be given together with a run's folder, which sets it")
    if not args.run.is_dir():
        parser.error(f"argument run: there is no folder {str(args.run)!r}{hint_at_path(str(args.run))}")
    if runs.saved_epoch(args.run) == 0:
        raise runs.RunError(f"no trained model in {args.run}\n{describe_runs(args.checkpoints_dir)}")
    saved = runs.read_config(args.run)
    args.config = saved.config
    args.dataset = saved.data_path or saved.config.dataset
    args.checkpoints_dir = args.run.parent


def hint_at_data_set(text: str) -> str:
    """The end of the error for an unknown name: the folder or the name that was probably meant, if any."""
    if text in DATASETS or is_path(text):
        return ""
    if os.path.isdir(text):
        return f"; did you mean --dataset {os.path.join(os.curdir, text)}?"
    return did_you_mean(text, DATASETS)


def hint_at_path(path: str) -> str:
    """The end of the error for a missing path: the path beside it that was probably meant, if any."""
    folder, name = os.path.split(path.rstrip(os.sep))
    try:
        return did_you_mean(name, os.listdir(folder or os.curdir))
    except OSError:
        return ""


def did_you_mean(word: str, choices: Sequence[str], prefix: str = "") -> str:
    similar = difflib.get_close_matches(word, choices, n=1)
    return f"; did you mean {prefix}{similar[0]}?" if similar else ""


def hint_at_flag(argument: str, flags: Sequence[str]) -> str:
    """The end of the error for an unknown flag: the one of the script's `flags` that was probably meant, if any."""
    name = argument.split("=")[0].lstrip("-")
    if name in ("gpu", "gpus", "device", "cuda"):
        return "; TensorFlow uses the GPUs that it finds"
    names = [flag.removeprefix("--") for flag in flags]
    meant = OTHER_NAMES.get(name)
    return did_you_mean(meant if meant in names else name, names, prefix="--")


def command(script_name: str, config: Config, args: argparse.Namespace) -> str:
    """The shell command that runs a script for `config` with the data set and the folders of `args`."""
    # For the user's own images, args.dataset is their path, and config.dataset only their name.
    arguments = dataclasses.replace(config, dataset=args.dataset).arguments()
    return shlex.join(["python", script_name, *arguments, *folder_arguments(args)])


def folder_arguments(args: argparse.Namespace) -> list[str]:
    """The arguments for folders and data of `args`, except those at their defaults."""
    arguments = []
    for name in FOLDER_FLAGS:
        folder = getattr(args, name)
        if folder != default_folder(name):
            arguments += [f"--{name}", str(folder)]
    if args.allow_unverified:
        arguments.append("--allow_unverified")
    return arguments


# ---- Errors --------------------------------------------------------------------------------------------------------

# What errors say, besides MemoryError, if there is no memory for the libraries or the threads of a package.
NOT_ENOUGH_MEMORY = ("failed to map segment", "annot allocate memory", "can't start new thread")


def script(main: Callable[[Sequence[str] | None], int | None]) -> Callable[..., int]:
    """Decorates a script's main(argv=None): errors that a user can cause end in one line and an exit code.

    main returns the exit code, or None for 0. Bad arguments give 2, Ctrl-C 130, and other errors that a user can cause
    1. Any other exception is a bug, and is raised.
    """

    @functools.wraps(main)
    def wrapper(argv: Sequence[str] | None = None) -> int:
        is_program = main.__module__ == "__main__"
        if is_program:
            prepare_standard_streams()
        try:
            return main(argv) or 0
        except KeyboardInterrupt as interrupt:
            if is_program:
                # Python is about to exit, and a further Ctrl-C would print a traceback.
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            complain("\nstopped")
            # signals.py gives the signal's number. Python's own KeyboardInterrupt has no argument.
            number = interrupt.args[0] if interrupt.args else signal.SIGINT
            return 128 + number
        except UsageError as error:
            print_error(str(error))
            return 2
        except BrokenPipeError:
            # `head`, for example, closes its pipe when it has read enough.
            return 1
        except Exception as error:
            message = describe_error(error)
            if message is None:
                raise
            print_error(message)
            return 1
        finally:
            if is_program:
                flush_standard_output()

    return wrapper


def describe_error(error: Exception) -> str | None:
    """The message for an error that a user can cause. Any other error is a bug, and gives None.

    OSError covers data (datasets.DataError), runs (vae.runs.RunError) and full disks. FloatingPointError means that
    training diverged. Packages or memory may be missing. A SystemError comes from a package's C code.
    """
    # The last line has the cause: before it, NumPy gives many lines of advice.
    lines = str(error).strip().splitlines()
    cause = lines[-1] if lines else type(error).__name__
    # TensorFlow's own class is known here by its name alone, since TensorFlow may not be imported.
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
        return "not enough memory"
    if any(text in str(error) for text in NOT_ENOUGH_MEMORY):
        return f"not enough memory ({cause})"
    if isinstance(error, SystemError):
        return f"a package failed, perhaps because there is not enough memory ({cause})"
    if isinstance(error, ImportError):
        return (
            f"{cause}: activate the environment (. .venv/bin/activate), "
            "or install the packages (pip install -r requirements.txt)"
        )
    if isinstance(error, OSError | FloatingPointError):
        return str(error)
    return None


def print_error(message: str) -> None:
    """Prints an error the way argparse does."""
    complain(f"{Path(sys.argv[0]).name}: error: {message}")


def complain(text: str) -> None:
    """Prints on standard error, if that is possible."""
    # As vae.messages.note, which is not imported here: a Ctrl-C during that import would print a traceback.
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


# ---- Standard output and standard error ----------------------------------------------------------------------------


def prepare_standard_streams() -> None:
    """Makes printing safe: closed streams are opened on the null device, and any character can be printed."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # Otherwise a checkpoint, for example, would get the number and the text of a closed stream. A new
            # descriptor is the lowest free number.
            os.open(os.devnull, os.O_RDWR)
    # Python has None for a stream that was closed when it started.
    sys.stdout = sys.stdout or open(1, "w")
    sys.stderr = sys.stderr or open(2, "w")
    for stream in (sys.stdout, sys.stderr):
        # A terminal that does not take UTF-8 shows a path with an accent with backslashes.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def flush_standard_output() -> None:
    """Writes what is left of standard output. Says so if that fails, and loses it, so that Python's exit succeeds."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if not isinstance(error, BrokenPipeError):
            complain(f"{Path(sys.argv[0]).name}: some output is lost: {error.strerror}")


# ---- TensorFlow's start-up -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def tensorflow_messages_held_back() -> Iterator[None]:
    """Holds back what the import of TensorFlow in the block prints, and shows it only if it fails unexpectedly.

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
    """Restores the model that the flags name, and loads its data set.

    Raises RunError if there is no such model; the message lists the runs that exist, and has the command that trains
    this one. Raises RunError or DataError if the model or the data cannot be used.
    """
    from vae import runs

    config = args.config
    folder = args.run
    if runs.saved_epoch(folder) == 0:
        raise runs.RunError(
            f"no trained model in {folder}\n"
            f"{describe_runs(args.checkpoints_dir)}\n"
            f"to train it: {command('train.py', config, args)}"
        )
    saved = runs.read_config(folder)
    data = load_data(args, saved)
    runs.check_data(folder, saved, data.train_images.shape[1:], data.digest)
    with tensorflow_messages_held_back():
        model = runs.restore(folder, config)
    if args.num_epochs not in (None, model.epoch):
        print(f"the model is used as it was saved, at epoch {model.epoch}")
    # abspath, because "." has no name. A symbolic link keeps its own, as in train.py.
    name = os.path.basename(os.path.abspath(folder))
    return TrainedRun(model, data, folder, pictures_folder=args.pictures_dir / name)


def load_data(args: argparse.Namespace, saved: SavedConfig | None = None) -> Dataset:
    """The data set that the flags name. Raises DataError if it cannot be loaded.

    saved: of the run that will use the data. What it was trained on needs no --allow_unverified again.
    """
    import datasets

    def load(allow_unverified: bool) -> Dataset:
        return datasets.load(args.dataset, args.data_dir, allow_unverified, args.config.image_size)

    if saved is not None and saved.data_verified is False and not args.allow_unverified:
        data = load(allow_unverified=True)
        if data.verified or data.digest == saved.data_digest:
            return data
    return load(args.allow_unverified)


def describe_runs(checkpoints_dir: Path) -> str:
    """A list of the trained runs, and of the replaced ones under a heading of their own."""
    from vae import runs

    trained = runs.trained_folders(checkpoints_dir)
    heading = "trained runs" if trained else "no trained runs"
    lines = [f"{heading} in {checkpoints_dir}"]
    lines += [describe_run(folder) for folder in trained]
    if trained:
        lines.append(f"to draw one, for example: python make_pictures.py {shlex.quote(str(trained[-1]))}")
    replaced_dir = checkpoints_dir / runs.REPLACED
    replaced = runs.trained_folders(replaced_dir)
    if replaced:
        lines.append(f"replaced runs in {replaced_dir}")
        lines += [describe_run(folder) for folder in replaced]
    return "\n".join(lines)


def describe_run(run_folder: Path) -> str:
    """A run's line in the list: its folder, when it was saved, its epoch and last test ELBO, and unverified data."""
    from vae import checkpoints, history, runs

    epoch = runs.saved_epoch(run_folder)
    saved_at = checkpoints.path_of(run_folder, epoch).stat().st_mtime
    line = f"  {run_folder}  ({time.strftime('%Y-%m-%d %H:%M', time.localtime(saved_at))}, epoch {epoch}"
    try:
        tested = history.last_tested(run_folder, epoch)
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


# ---- Pictures ------------------------------------------------------------------------------------------------------

# How Matplotlib's warnings about a character that it cannot draw begin.
MISSING_CHARACTER = "Glyph .* missing from font|Matplotlib currently does not support .* natively"


def save_picture(figure: Figure, path: Path, caption: str = "") -> None:
    """Saves a Matplotlib Figure as PNG, and prints the path, and beside it the caption, if there is one.

    If the font lacks characters, a line on standard error says so. Only the names of classes can have such characters.
    """
    from vae import files

    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", message=MISSING_CHARACTER)
        files.save_figure(figure, path)
    print(f"{path}  ({caption})" if caption else path)
    others = [warning for warning in caught if not re.match(MISSING_CHARACTER, str(warning.message))]
    if len(others) < len(caught):
        print("the figure's font lacks some characters of the class names", file=sys.stderr)
    for warning in others:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
