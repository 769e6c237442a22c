"""The table of experiments: every model that the report's figures and tasks need, and how each is looked at."""

from dataclasses import dataclass

from config import Config

BARS = ("plot_singular_values",)
PICTURES = ("make_pictures",)
MAP_2D = (*PICTURES, "plots_latent_space_2d")
ALL = (*PICTURES, "plots_latent_space", *BARS)


@dataclass(frozen=True)
class Experiment:
    """A model trained for config.num_epochs, evaluated with num_samples importance samples and drawn by `scripts`."""

    name: str
    shows: str  # a figure or task of the report (Albu 2017), or what else it is for
    config: Config
    num_samples: int
    scripts: tuple[str, ...]


def _continuous(dataset, task, likelihood):
    """The report's analysis of binarized MNIST for a density of the bytes.

    The report names no epochs for these: the command line's 500, and 100 for the map of two latents.
    """
    types, name = {"dataset": dataset, "vae_type": f"flat_cont_{likelihood}"}, f"{dataset}_{likelihood}"
    flat = Config(**types, latent_dim=2, num_epochs=100)
    return (
        Experiment(f"{name}_z2", f"{task}, {likelihood}, 2 latents", flat, 500, MAP_2D),
        Experiment(name, f"{task}, {likelihood}", Config(**types), 500, ALL),
    )


# Runs with 2 latents come before their twins with 20: plots_latent_space.py draws both side by side.
WIDE = {"hidden_size": 500, "num_epochs": 200}
FREY_LOGIT = {"dataset": "frey_faces", "vae_type": "flat_cont_logit"}
EXPERIMENTS = (
    Experiment("mnist_z2", "figure 2a", Config(latent_dim=2), 500, MAP_2D),
    Experiment("mnist", "figures 1 and 3, task 1b", Config(), 5000, ALL),
    Experiment("mnist_z2_h500", "figure 2b", Config(latent_dim=2, **WIDE), 500, MAP_2D),
    Experiment("mnist_h500", "figure 4", Config(**WIDE), 500, ALL),
    Experiment("mnist_h500_seed1", "figure 4, another seed", Config(**WIDE, seed=1), 500, BARS),
    Experiment("mnist_h500_seed2", "figure 4, another seed", Config(**WIDE, seed=2), 500, BARS),
    Experiment("mnist_tanh50", "Burda et al.'s network", Config(latent_dim=50, activation="tanh"), 5000, ALL),
    *_continuous("mnist", "task 2a", "normal"),
    *_continuous("mnist", "task 2a", "logit"),
    Experiment("frey_normal", "figure 5", Config("frey_faces", "flat_cont_normal"), 5000, ALL),
    Experiment("frey_logit_h500", "figure 6", Config(**FREY_LOGIT, **WIDE), 5000, ALL),
    Experiment("frey_logit", "figure 6 with 200 neurons", Config(**FREY_LOGIT), 5000, ALL),
    *_continuous("cifar10", "task 2c", "normal"),
    *_continuous("cifar10", "task 2c", "logit"),
    Experiment("svhn", "figure 7", Config("svhn", "conv3"), 100, PICTURES),
    Experiment("cifar10_full", "figure 8", Config("cifar10_full", "conv3", num_epochs=1000), 100, PICTURES),
)
