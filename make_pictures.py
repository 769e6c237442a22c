"""Draws generated images, reconstructions and interpolations of a trained model (the report's section 4.4)."""

import sys

import config


@config.script
def main(argv=None):
    args = config.parse_args(argv, __doc__, config.DRAW_FLAGS)
    with config.tensorflow_environment():
        import datasets
        from vae import runs
    if args.list:
        return print(runs.listing(args.checkpoints_dir))
    model = runs.restore_for(args)
    data = datasets.load(args.config.dataset, args.data_dir, args.allow_unverified)
    draw(model, data.test_images, args.draw_seed, args.pictures_dir / args.config.run_name)


def draw(model, test_images, draw_seed, folder):
    import numpy as np

    from vae import evaluation, figures, latent, runs
    from vae.model import generator

    rng = generator(draw_seed, "draw")
    noise = rng.standard_normal((10, 10, model.latent_dim), dtype=np.float32)
    chosen = rng.permutation(len(test_images))[:20]
    # Each image is encoded as it was prepared with the rest of the test set, as in the evaluation.
    x = evaluation.prepare_test(model.likelihood, test_images)[chosen]
    posterior = model.encode(x)
    mean, std = posterior.mean.numpy(), np.exp(posterior.log_std.numpy())

    runs.save_picture(figures.image_grid(model.images(noise)), folder / "generated.png")
    originals = test_images[chosen[:10], None] / np.float32(255)
    samples = mean[:10, None] + std[:10, None] * noise[:, :9]
    reconstructions = np.concatenate([originals, model.images(samples)], axis=1)
    runs.save_picture(figures.image_grid(reconstructions, line_after=1), folder / "reconstructions.png")
    pairs = reconstructions[:5, :2].swapaxes(0, 1)  # figure 6b: five images over a reconstruction of each
    runs.save_picture(figures.image_grid(pairs), folder / "reconstruction_pairs.png")
    paths = latent.interpolations(mean[10:15], mean[15:20], num_steps=20)
    runs.save_picture(figures.image_grid(model.images(paths)), folder / "interpolations.png")


if __name__ == "__main__":
    sys.exit(main())
