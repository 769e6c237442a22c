"""What a run is made of and called: Config, and the names that a user may choose."""

import dataclasses
import math
import os
import re
from typing import NamedTuple


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

# CHOICES has the names that a field may have, and MINIMA the smallest value of a number. cli.name_or_path checks the
# data set, because a path needs the disk.
CHOICES = {
    "vae_type": tuple(VAE_TYPES),
    "activation": ACTIVATIONS,
    "likelihood": ("", *LIKELIHOODS),
    "precision": PRECISIONS,
    "learning_rate_schedule": LEARNING_RATE_SCHEDULES,
}
MINIMA = {"latent_dim": 1, "num_epochs": 1, "batch_size": 1, "hidden_size": 1, "seed": 0}
# The smallest width and height of the user's own images.
MIN_IMAGE_SIZE = 4


def is_path(dataset: str) -> bool:
    """Returns whether a value of --dataset is the path of the user's own images, and not a name."""
    return os.sep in dataset or dataset.endswith(".npz")


def dataset_name(dataset: str) -> str:
    """Returns the name of the data set that a value of --dataset stands for. Runs are named after it.

    For a path it is the folder's name, or the file's without .npz. Raises ValueError if it cannot be part of a run's
    name.
    """
    if not is_path(dataset):
        return dataset
    name = os.path.basename(os.path.abspath(dataset)).removesuffix(".npz")
    if name in DATASETS:
        raise ValueError(f"{dataset!r} has the name of the built-in data set {name}: rename the folder or file")
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", name):
        raise ValueError(
            f"runs are named after the folder or file, so its name takes only letters (a-z, A-Z), digits, '-', '_' and "
            f"'.', and must not begin with '.', got {name!r}: rename {dataset!r}"
        )
    return name


@dataclasses.dataclass(frozen=True)
class Config:
    """The parameters of one training run: those of the report, and a few more.

    `dataset` is one of DATASETS, or the name of the user's own images: see dataset_name. An `image_size` of None leaves
    the images as they are. An empty `likelihood` becomes the type's default. A `hidden_size` that the type does not use
    is ignored. Raises ValueError if a field has a value that it does not take, or if the type does not support the
    likelihood.
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
        self._check_fields()
        vae_type = VAE_TYPES[self.vae_type]
        if not self.likelihood:
            object.__setattr__(self, "likelihood", vae_type.likelihood)
        if not vae_type.has_hidden_size:
            object.__setattr__(self, "hidden_size", Config.hidden_size)
        if self.likelihood != vae_type.likelihood and not vae_type.takes_any_likelihood:
            flexible = [name for name, other in VAE_TYPES.items() if other.takes_any_likelihood]
            raise ValueError(
                f"{self.vae_type} takes {vae_type.likelihood} only, got {self.likelihood!r}; "
                f"types that take any: {', '.join(flexible)}"
            )

    def _check_fields(self) -> None:
        """Raises ValueError if a field has a value that it does not take."""
        if not isinstance(self.dataset, str):
            raise ValueError(f"dataset takes a name, got {self.dataset!r}")
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"{name} takes one of {', '.join(filter(None, choices))}, got {value!r}")
        for name, minimum in MINIMA.items():
            value = getattr(self, name)
            # Not isinstance, because True is an int.
            if type(value) is not int or value < minimum:
                raise ValueError(f"{name} takes a whole number of at least {minimum}, got {value!r}")
        size = self.image_size
        if size is not None and (type(size) is not int or size < MIN_IMAGE_SIZE):
            raise ValueError(f"image_size takes a whole number of at least {MIN_IMAGE_SIZE} or None, got {size!r}")
        rate = self.learning_rate
        if type(rate) not in (int, float) or not 0 < rate < math.inf:
            raise ValueError(f"learning_rate takes a finite number above 0, got {rate!r}")

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
        """Returns the command-line arguments that produce this Config. Arguments at their defaults are left out."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        defaults["likelihood"] = VAE_TYPES[self.vae_type].likelihood
        arguments = []
        for name, default in defaults.items():
            value = getattr(self, name)
            if value != default:
                arguments += [f"--{name}", str(value)]
        return arguments
