"""What a run is made of and called: Config, the names that a user may choose, and what each of them takes."""

import dataclasses
import math
import os
import re
from typing import NamedTuple


class UsageError(ValueError):
    """A value that the user gave and that cannot be used. Scripts print it in one line, with exit code 2."""


class VaeType(NamedTuple):
    """What `--vae_type` stands for: a network of vae.networks and a likelihood of vae.likelihoods, by name."""

    network: str
    likelihood: str
    takes_any_likelihood: bool = False
    has_hidden_size: bool = True


DATASETS = ("mnist", "frey_faces", "cifar10", "cifar10_full", "svhn", "digits")
VAE_TYPES = {
    "flat_binarized": VaeType("flat", "bernoulli"),
    "flat_cont_normal": VaeType("flat", "normal"),
    "flat_cont_logit": VaeType("flat", "logit_normal"),
    "conv3": VaeType("conv3", "cross_entropy", takes_any_likelihood=True, has_hidden_size=False),
}
LIKELIHOODS = ("cross_entropy", "bernoulli", "normal", "logit_normal")
# All of them are monotonic, because conv3 pools before its activation.
ACTIVATIONS = ("relu", "tanh", "elu", "softplus", "leaky_relu", "selu", "sigmoid", "softsign")
# Keras's dtype policies for the networks. mixed_bfloat16 computes in bfloat16 and keeps the weights in float32.
PRECISIONS = ("float32", "mixed_bfloat16")
LEARNING_RATE_SCHEDULES = ("constant", "staged")

# The names that a field may have.
CHOICES = {
    "vae_type": tuple(VAE_TYPES),
    "activation": ACTIVATIONS,
    "likelihood": LIKELIHOODS,
    "precision": PRECISIONS,
    "learning_rate_schedule": LEARNING_RATE_SCHEDULES,
}
# The smallest width and height of the user's own images.
MIN_IMAGE_SIZE = 4
# The least and the largest value of a number. Training two hidden layers of the largest size takes 8 GB.
RANGES = {
    "latent_dim": (1, 16384),
    "num_epochs": (1, 2**31 - 1),
    "batch_size": (1, 2**31 - 1),
    "hidden_size": (1, 16384),
    "seed": (0, 2**63 - 1),
    "image_size": (MIN_IMAGE_SIZE, 4096),
}


def is_path(dataset: str) -> bool:
    """Whether a value of --dataset is the path of the user's own images, and not a name."""
    return os.sep in dataset or dataset.endswith(".npz")


def name_of_path(path: str | os.PathLike) -> str:
    """The folder's name, or the file's without .npz."""
    return os.path.basename(os.path.abspath(path)).removesuffix(".npz")


def dataset_name(dataset: str) -> str:
    """The name of the data set that a value of --dataset stands for. Runs are named after it.

    For a path it is the folder's name, or the file's without .npz. Raises UsageError if there is no such data set, or
    if a path's name cannot be part of a run's name.
    """
    if not is_path(dataset):
        if dataset not in DATASETS:
            raise UsageError(
                f"dataset: takes {', '.join(DATASETS)}, or the path of your own images, with a {os.sep!r} in it, "
                f"got {dataset!r}"
            )
        return dataset
    name = name_of_path(dataset)
    if name in DATASETS:
        raise UsageError(
            f"dataset: {dataset!r} has the name of the built-in data set {name}: rename the folder or file"
        )
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", name):
        raise UsageError(
            f"dataset: runs are named after the folder or file, so its name takes only letters (a-z, A-Z), digits, "
            f"'-', '_' and '.', and must not begin with '.', got {name!r}: rename {dataset!r}"
        )
    return name


@dataclasses.dataclass(frozen=True)
class Config:
    """The parameters of one training run: the report's, and a few more.

    `dataset` is one of DATASETS, or the name of the user's own images: see dataset_name. An `image_size` of None leaves
    the images as they are. An empty `likelihood` becomes the type's default. A `hidden_size` that the type does not
    use is ignored. Raises UsageError, which begins with the field's name, if a field has a value that it does not take,
    or if two fields do not go together.

    Each field is a flag of the scripts; cli.HELP has what --help says of it.
    """

    dataset: str = "mnist"
    vae_type: str = "flat_binarized"
    latent_dim: int = 20
    num_epochs: int = 500
    learning_rate: float = 0.001
    batch_size: int = 100
    hidden_size: int = 200
    activation: str = "relu"
    likelihood: str = ""
    seed: int = 0
    precision: str = "float32"
    learning_rate_schedule: str = "constant"
    image_size: int | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            # Types are compared too, because True == 1.
            is_default = value == field.default and type(value) is type(field.default)
            if not is_default:
                check_field(field.name, value)
        vae_type = VAE_TYPES[self.vae_type]
        if not self.likelihood:
            object.__setattr__(self, "likelihood", vae_type.likelihood)
        if not vae_type.has_hidden_size:
            object.__setattr__(self, "hidden_size", Config.hidden_size)
        if self.likelihood != vae_type.likelihood and not vae_type.takes_any_likelihood:
            flexible = [name for name, other in VAE_TYPES.items() if other.takes_any_likelihood]
            raise UsageError(
                f"likelihood: {self.vae_type} takes {vae_type.likelihood} only, got {self.likelihood!r}; "
                f"types that take any: {', '.join(flexible)}"
            )
        if self.image_size is not None and self.dataset in DATASETS:
            raise UsageError(f"image_size: is for your own images only; {self.dataset} has a size of its own")

    @property
    def network(self) -> str:
        """The name of the network in vae.networks."""
        return VAE_TYPES[self.vae_type].network

    @property
    def run_name(self) -> str:
        """The name of the run's folder: everything that shapes the result, except the number of epochs.

        Activation, likelihood, seed, precision, schedule and image size appear only if they differ from the default.
        """
        vae_type = VAE_TYPES[self.vae_type]
        parts = [self.dataset, self.vae_type, f"z{self.latent_dim}"]
        if vae_type.has_hidden_size:
            parts.append(f"h{self.hidden_size}")
        parts.append(f"lr{self.learning_rate!r}")
        parts.append(f"b{self.batch_size}")
        if self.activation != Config.activation:
            parts.append(self.activation)
        if self.likelihood != vae_type.likelihood:
            parts.append(self.likelihood)
        if self.seed != Config.seed:
            parts.append(f"seed{self.seed}")
        if self.precision != Config.precision:
            parts.append(self.precision)
        if self.learning_rate_schedule != Config.learning_rate_schedule:
            parts.append(self.learning_rate_schedule)
        if self.image_size != Config.image_size:
            parts.append(f"size{self.image_size}")
        return "_".join(parts)

    def arguments(self) -> list[str]:
        """The command-line arguments that produce this Config. Arguments at their defaults are left out."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        defaults["likelihood"] = VAE_TYPES[self.vae_type].likelihood
        arguments = []
        for name, default in defaults.items():
            value = getattr(self, name)
            if value != default:
                arguments += [f"--{name}", str(value)]
        return arguments


def check_field(name: str, value: object) -> None:
    """Raises UsageError if a field of Config does not take this value."""
    if name in CHOICES:
        takes = f"one of {', '.join(CHOICES[name])}"
        is_right = value in CHOICES[name]
    elif name in RANGES:
        least, largest = RANGES[name]
        takes = f"a whole number from {least} to {largest}"
        # Not isinstance, because True is an int.
        is_right = type(value) is int and least <= value <= largest
    elif name == "learning_rate":
        takes = "a finite number above 0"
        is_right = type(value) in (int, float) and 0 < value < math.inf  # type: ignore[operator]
    else:
        takes = "a name"
        is_right = isinstance(value, str)
    if not is_right:
        raise UsageError(f"{name}: takes {takes}, got {value!r}")
