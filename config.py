"""What a run is made of and called: Config, the names a user may choose, and the command line all scripts share."""

import argparse
import contextlib
import dataclasses
import difflib
import functools
import math
import os
import shlex
import signal
import sys
import tempfile
from pathlib import Path

DATASETS = ("mnist", "frey_faces", "cifar10", "cifar10_full", "svhn", "digits")
VAE_TYPES = {  # type: (network, likelihood)
    "flat_binarized": ("mlp", "bernoulli"),
    "flat_cont_normal": ("mlp", "normal"),
    "flat_cont_logit": ("mlp", "logit_normal"),
    "conv3": ("conv3", "cross_entropy"),
}
LIKELIHOODS = ("cross_entropy", "bernoulli", "normal", "logit_normal")
ACTIVATIONS = ("relu", "tanh", "elu", "softplus", "leaky_relu", "selu", "sigmoid", "softsign")  # all monotonic
PATHS = {  # flag: (environment variable, default)
    "data_dir": ("VAE_DATA_DIR", "data"),
    "checkpoints_dir": ("VAE_CHECKPOINTS_DIR", "checkpoints"),
    "pictures_dir": ("VAE_PICTURES_DIR", "pictures"),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """One training run: the report's parameters, and `likelihood` (None: its type's own; ValueError: not its)."""

    dataset: str = "mnist"
    vae_type: str = "flat_binarized"
    latent_dim: int = 20
    num_epochs: int = 500
    learning_rate: float = 0.001
    batch_size: int = 100
    hidden_size: int = 200
    activation: str = "relu"
    likelihood: str | None = None
    seed: int = 0

    def __post_init__(self):
        network, own = VAE_TYPES[self.vae_type]
        if self.likelihood is None:
            object.__setattr__(self, "likelihood", own)
        if network == "mlp" and self.likelihood != own:
            raise ValueError(f"{self.vae_type} takes {own} only (conv3 takes any), got {self.likelihood!r}")

    @property
    def network(self):
        return VAE_TYPES[self.vae_type][0]

    @property
    def run_name(self):
        """The run's folder name: everything that shapes the result but the number of epochs."""
        parts = [self.dataset, self.vae_type, f"z{self.latent_dim}"]
        parts += [f"h{self.hidden_size}"] if self.network == "mlp" else []
        parts += [f"lr{self.learning_rate!r}", f"b{self.batch_size}"]
        parts += [self.activation] if self.activation != Config.activation else []
        parts += [self.likelihood] if self.likelihood != VAE_TYPES[self.vae_type][1] else []
        parts += [f"seed{self.seed}"] if self.seed != Config.seed else []
        return "_".join(parts)


def _number(convert, low, wording):
    def parse(text):
        with contextlib.suppress(ValueError, OverflowError):
            value = convert(text)
            if math.isfinite(value) and low(value):
                return value
        raise argparse.ArgumentTypeError(f"takes {wording}, got {text!r}")

    return parse


_count = _number(int, lambda n: 0 < n < 2**31, "a whole number from 1 to 2147483647")
_size = _number(int, lambda n: 0 < n <= 16384, "a whole number from 1 to 16384")  # two such layers: 8 GB to train
_samples = _number(int, lambda n: 0 < n <= 10**6, "a whole number from 1 to 1000000")
_seed = _number(int, lambda n: 0 <= n < 2**63, "a whole number from 0 to 2**63 - 1")
_rate = _number(float, lambda x: x > 0, "a finite number above 0")
_share = _number(float, lambda x: 0 <= x <= 1, "a number from 0 to 1")


def _folder(text):
    """The Path of a folder, or of what may become one."""
    path = Path(text)
    if files := [part for part in (path, *path.parents) if part.exists() and not part.is_dir()]:
        raise argparse.ArgumentTypeError(f"takes a folder, got {text!r}, where {str(files[0])!r} is a file")
    return path


def _true_or_false(text):
    if text not in ("True", "False"):
        raise argparse.ArgumentTypeError(f"takes True or False (alone it means True), got {text!r}")
    return text == "True"


_SWITCH = {"action": "store_true"}
_FLAGS = {  # every flag of every script; the defaults of the first ten are Config's
    "dataset": {"choices": DATASETS, "help": "data set; cifar10 is cropped to 8x8, cifar10_full is 32x32"},
    "vae_type": {"choices": tuple(VAE_TYPES), "help": "network and distribution of the pixels"},
    "latent_dim": {"type": _size, "help": "size of the latent space"},
    "num_epochs": {"type": _count, "help": "the final epoch"},
    "learning_rate": {"type": _rate, "help": "Adam's learning rate"},
    "batch_size": {"type": _count, "help": "images a step"},
    "hidden_size": {"type": _size, "help": "neurons on each hidden layer of the flat networks"},
    "activation": {"choices": ACTIVATIONS, "help": "activation of the hidden layers"},
    "likelihood": {"choices": LIKELIHOODS, "help": "distribution of the pixels, conv3 only (default: cross_entropy)"},
    "seed": {"type": _seed, "help": "names the run; fixes weights, order and noise"},
    "restore": {"type": _true_or_false, "nargs": "?", "const": True, "help": "carry a saved run on (default: False)"},
    "overwrite": _SWITCH | {"help": "train anew where a trained model is; the old one goes once the new one is saved"},
    "draw_seed": {"type": _seed, "help": "which images and which z are drawn (default: 0)"},
    "num_samples": {
        "type": _samples,
        "help": "importance samples an image (default: 5000; conv3: 100, on 1000 images)",
    },
    "allow_unverified": _SWITCH | {"help": "accept data files whose sha256 is not the published one"},
    "list": _SWITCH | {"help": "list the trained runs, and exit"},
    "epochs_scale": {"type": _share, "help": "share of the epochs (and samples) to do; 0: train nothing (default: 1)"},
    "only": {"nargs": "+", "metavar": "NAME", "help": "of the table in vae/experiments.py, these (default: all)"},
}
_PATH = {"type": _folder, "metavar": "DIR"}
_FLAGS |= {f: _PATH | {"help": f"default: {path!r}, or the environment's {v}"} for f, (v, path) in PATHS.items()}
_MODEL_FLAGS = tuple(field.name for field in dataclasses.fields(Config))
TRAIN_FLAGS = (*_MODEL_FLAGS, "restore", "overwrite", *PATHS, "allow_unverified", "list")
DRAW_FLAGS = (*_MODEL_FLAGS, "draw_seed", *PATHS, "allow_unverified", "list")
EVALUATE_FLAGS = (*_MODEL_FLAGS, "num_samples", *PATHS, "allow_unverified", "list")
REPORT_FLAGS = ("epochs_scale", "only", *PATHS, "allow_unverified")


def parse_args(argv, description, flags, idle=(), **fixed):
    """Reads a script's command line; on a bad one prints what is wrong and exits with code 2, as argparse does.

    Returns a namespace: config (Config), given (the flags that were there), and a value for each of `flags` that is no
    part of Config. `fixed` are fields of Config with no flag; `idle` flags are taken and have no use in the script.
    """
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for flag in flags:
        default = getattr(Config, flag, None)
        words = _FLAGS[flag]["help"] + (f" (default: {default})" if default is not None else "")
        parser.add_argument(f"--{flag}", **_FLAGS[flag] | {"help": words})
    namespace, unknown = parser.parse_known_args(argv)
    if unknown:
        name = unknown[0].split("=")[0]
        hints = [f"did you mean {near}?" for near in difflib.get_close_matches(name, [f"--{f}" for f in flags], 1)]
        hints = ["this script has no use for it"] if name[2:] in _FLAGS else hints
        hint = hints[0] if hints else f"it takes {' '.join(f'--{flag}' for flag in flags)}"
        parser.error(f"unrecognized argument {unknown[0]!r}: {hint}")
    given = vars(namespace)
    try:
        config = Config(**{name: given[name] for name in _MODEL_FLAGS if name in given}, **fixed)
    except ValueError as error:
        parser.error(f"argument --likelihood: {error}")
    if config.network != "mlp" and "hidden_size" in given:
        print(f"--hidden_size has no effect with {config.vae_type}", file=sys.stderr)
    for flag in given.keys() & set(idle):
        print(f"--{flag} has no effect here: nothing is drawn at random", file=sys.stderr)
    defaults = dict.fromkeys(("restore", "overwrite", "allow_unverified", "list"), False)
    defaults |= {"draw_seed": 0, "epochs_scale": 1.0} | {flag: _environment_path(flag) for flag in PATHS}
    values = {name: given.get(name, defaults.get(name)) for name in flags if name not in _MODEL_FLAGS}
    if values.get("restore") and values.get("overwrite"):
        parser.error("argument --overwrite: trains anew, and --restore True carries on; give one of the two")
    return argparse.Namespace(config=config, given=set(given), **values)


def _environment_path(flag):
    variable, default = PATHS[flag]
    return Path(os.environ.get(variable) or default)


def command(script, config, args=None):
    """The command that runs `script` for `config` (and with the paths of `args`): what is a default is left out."""
    words = ["python", script]
    for field in dataclasses.fields(Config):
        value = getattr(config, field.name)
        own = VAE_TYPES[config.vae_type][1] if field.name == "likelihood" else field.default
        words += [f"--{field.name}", str(value)] if value != own else []
    for flag in PATHS if args else ():
        path = getattr(args, flag)
        words += [f"--{flag}", str(path)] if path != _environment_path(flag) else []
    words += ["--allow_unverified"] if args and args.allow_unverified else []
    return shlex.join(words)


def refuse(flag, takes, got):
    """Says of an argument that only the data shows to be bad what argparse says of others; returns the exit code."""
    print(f"{Path(sys.argv[0]).name}: error: argument --{flag}: takes {takes}, got {got}", file=sys.stderr)
    return 2


def script(main):
    """Decorates a script's main(argv=None): what a user can run into ends in one message and exit code 1, no traceback.

    OSError: data (datasets.DataError), runs (vae.runs.RunError), full disks; FloatingPointError: training diverged.
    """

    @functools.wraps(main)
    def wrapper(argv=None):
        try:
            return main(argv) or 0
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # on the way out, more of them change nothing
            print("\nstopped", file=sys.stderr)
            return 130
        except BrokenPipeError:  # the reader of our output, say `head`, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except Exception as error:
            known = isinstance(error, OSError | FloatingPointError)
            if not known and type(error).__name__ not in ("MemoryError", "ResourceExhaustedError"):  # TensorFlow's
                raise
            what = error if known else "not enough memory"
            print(f"{Path(sys.argv[0]).name}: error: {what}", file=sys.stderr)
        return 1

    return wrapper


@contextlib.contextmanager
def tensorflow_environment():
    """Sets what TensorFlow reads when it is first imported, and holds back what it prints meanwhile.

    TensorFlow writes notices to file descriptor 2 before its log level applies: shown only if an import fails.
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # off by default without AVX-512; halves conv3's step there
    if "prefer_vector_width" not in (flags := os.environ.get("XLA_FLAGS", "")):  # with AVX-512, 5% of an epoch
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_prefer_vector_width=512".lstrip()
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except Exception:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
