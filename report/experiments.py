"""The table of experiments: each model that the report's figures and tasks need, and the scripts that draw it."""

import dataclasses
from dataclasses import dataclass

from config import Config

# The scripts that draw a model, in their order.
PICTURES = ("make_pictures",)
SINGULAR_VALUES = ("plot_singular_values",)
TWO_LATENTS = ("make_pictures", "plots_latent_space_2d")
MANY_LATENTS = ("make_pictures", "plots_latent_space", "plot_singular_values")
PAGE = ("explore",)


@dataclass(frozen=True)
class Experiment:
    """A model that is trained for config.num_epochs, evaluated, and drawn by `scripts`.

    `shows` is the figure or task of the report (Albu 2017) that needs it, or what else it is for. `num_samples` is the
    number of importance samples per test image.
    """

    name: str
    shows: str
    config: Config
    scripts: tuple[str, ...]
    num_samples: int = 500


NORMAL = "flat_cont_normal"
LOGIT = "flat_cont_logit"


def two_latents(dataset: str, vae_type: str) -> Config:
    """The Config of a model with two latents. It has 100 epochs, because the report gives no number."""
    return Config(dataset, vae_type, latent_dim=2, num_epochs=100)


def wide(dataset: str = "mnist", vae_type: str = "flat_binarized", latent_dim: int = 20, seed: int = 0) -> Config:
    """The Config of a model with the 500 neurons and 200 epochs of the report's figures 2b, 4 and 6."""
    return Config(dataset, vae_type, latent_dim, num_epochs=200, hidden_size=500, seed=seed)


def other_seeds(name: str, shows: str, config: Config) -> list[Experiment]:
    """The experiment of this name with the seeds 1 and 2. Nothing but their learning curves is drawn."""
    return [
        Experiment(f"{name}_seed{seed}", shows, dataclasses.replace(config, seed=seed), scripts=(), num_samples=5000)
        for seed in (1, 2)
    ]


# A name is a field of results.template.md. A model with 2 latents comes before its twin with 20, because
# plots_latent_space.py draws the two side by side.
EXPERIMENTS = (
    Experiment("mnist_z2", "figure 2a", Config(latent_dim=2), TWO_LATENTS + PAGE),
    Experiment("mnist", "figures 1 and 3, task 1b", Config(), MANY_LATENTS + PAGE, num_samples=5000),
    Experiment(
        "mnist_staged",
        "figure 1, falling rate",
        # The stages 0 to 6 of the schedule.
        Config(num_epochs=1093, learning_rate_schedule="staged"),
        MANY_LATENTS,
        num_samples=5000,
    ),
    Experiment("mnist_z2_h500", "figure 2b", wide(latent_dim=2), TWO_LATENTS),
    Experiment("mnist_h500", "figure 4", wide(), MANY_LATENTS),
    Experiment("mnist_h500_seed1", "figure 4", wide(seed=1), SINGULAR_VALUES),
    Experiment("mnist_h500_seed2", "figure 4", wide(seed=2), SINGULAR_VALUES),
    Experiment(
        "mnist_tanh50",
        "Burda et al.'s network",
        Config(latent_dim=50, activation="tanh"),
        MANY_LATENTS,
        num_samples=5000,
    ),
    Experiment(
        "mnist_burda",
        "Burda et al.'s network and recipe",
        Config(
            latent_dim=50,
            activation="tanh",
            batch_size=20,
            num_epochs=3280,
            learning_rate_schedule="staged",
        ),
        MANY_LATENTS,
        num_samples=5000,
    ),
    Experiment("mnist_normal_z2", "task 2a", two_latents("mnist", NORMAL), TWO_LATENTS),
    Experiment("mnist_normal", "task 2a", Config("mnist", NORMAL), MANY_LATENTS),
    Experiment("mnist_logit_z2", "task 2a", two_latents("mnist", LOGIT), TWO_LATENTS),
    Experiment("mnist_logit", "task 2a", Config("mnist", LOGIT), MANY_LATENTS),
    Experiment("frey_normal", "figure 5", Config("frey_faces", NORMAL), MANY_LATENTS + PAGE, num_samples=5000),
    Experiment("frey_logit_h500", "figure 6", wide("frey_faces", LOGIT), MANY_LATENTS, num_samples=5000),
    Experiment("frey_logit", "figure 6, 200 neurons", Config("frey_faces", LOGIT), MANY_LATENTS, num_samples=5000),
    *other_seeds("frey_normal", "figure 5", Config("frey_faces", NORMAL)),
    *other_seeds("frey_logit", "figure 6, 200 neurons", Config("frey_faces", LOGIT)),
    Experiment("cifar10_normal_z2", "task 2c", two_latents("cifar10", NORMAL), TWO_LATENTS),
    Experiment("cifar10_normal", "task 2c", Config("cifar10", NORMAL), MANY_LATENTS),
    Experiment("cifar10_logit_z2", "task 2c", two_latents("cifar10", LOGIT), TWO_LATENTS),
    Experiment("cifar10_logit", "task 2c", Config("cifar10", LOGIT), MANY_LATENTS),
    Experiment("svhn", "figure 7", Config("svhn", "conv3"), PICTURES, num_samples=100),
    Experiment(
        "svhn_bfloat16",
        "figure 7",
        Config("svhn", "conv3", precision="mixed_bfloat16"),
        PICTURES,
        num_samples=100,
    ),
    Experiment(
        "cifar10_full",
        "figure 8",
        Config("cifar10_full", "conv3", num_epochs=1000, precision="mixed_bfloat16"),
        PICTURES,
        num_samples=100,
    ),
)
