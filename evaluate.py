"""Evaluates a trained model on the test set: ELBO, importance-sampled NLL, bits/dim, active units (metrics.json)."""

import json
import sys

import config

CONV3_IMAGES, CONV3_SAMPLES, SAMPLES = 1000, 100, 5000  # conv3's decoder costs some 100 times the flat one's


@config.script
def main(argv=None):
    args = config.parse_args(argv, __doc__, config.EVALUATE_FLAGS)
    with config.tensorflow_environment():
        import datasets
        from vae import evaluation, runs
    import tqdm

    if args.list:
        return print(runs.listing(args.checkpoints_dir))
    model, flat = runs.restore_for(args), args.config.network == "mlp"
    folder = args.checkpoints_dir / args.config.run_name
    images = datasets.load(args.config.dataset, args.data_dir, args.allow_unverified).test_images
    images = images if flat else images[:CONV3_IMAGES]
    num_samples = args.num_samples or (SAMPLES if flat else CONV3_SAMPLES)
    with tqdm.tqdm(total=len(images), unit="image", disable=not sys.stderr.isatty()) as bar:
        metrics = evaluation.metrics(model, images, num_samples, bar.update)
    facts = runs.read_facts(folder)
    metrics |= {"epoch": model.epoch} | {name: facts[name] for name in ("data_verified", "versions")}
    with runs.replacing(folder / "metrics.json") as path:
        path.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    print(table(metrics))
    print(folder / "metrics.json")


def table(metrics):
    """The metrics as lines for a person to read."""
    lines = [f"epoch {metrics['epoch']}, {metrics['num_images']} test images, seed {metrics['seed']}"]
    names = {"elbo": "ELBO", "log_likelihood": "log-likelihood term", "kl": "KL"}
    names["nll"] = f"NLL, {metrics['num_samples']} importance samples"
    names["nll_of_q"] = f"the same, {metrics['num_samples_of_q']} of q(z|x) alone"
    for name, words in names.items():
        if metrics[name]:
            bits = metrics["bits_per_dim"].get(name)
            lines.append(f"{words:34} {metrics[name]['mean']:10.2f} +- {metrics[name]['standard_error']:.2f} nats")
            lines[-1] += "" if bits is None else f"   {bits:.3f} bits/dim"
    if not metrics["nll"]:
        lines.append("no NLL: the cross-entropy on grey intensities is no likelihood")
    active = metrics["active_units"]
    return "\n".join([*lines, f"{'active units':34} {len(active):10}    {' '.join(map(str, active))}"])


if __name__ == "__main__":
    sys.exit(main())
