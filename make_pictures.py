"""Draws generated images, reconstructions and interpolations of a trained model (the report's section 4.4)."""

import sys
from collections.abc import Sequence

import cli
from config import UsageError

# Figure 1a: rows and columns of generated images
NUM_GENERATED = (10, 10)

# Figure 1b: test images, and the reconstructions of each. Their noise is figure 1a's, so neither number
# can exceed NUM_GENERATED.
NUM_RECONSTRUCTED = 10
NUM_RECONSTRUCTIONS = 9

# Figure 6b: test images, each with one reconstruction
NUM_PAIRS = 5

# Figure 1c: pairs of test images, and the steps from one image of a pair to the other
NUM_INTERPOLATIONS = 5
NUM_STEPS = 20

NUM_TEST_IMAGES = NUM_RECONSTRUCTED + 2 * NUM_INTERPOLATIONS


@cli.script
def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.make_parser(__doc__)
    cli.add_trained_model_flags(parser)
    cli.add_draw_seed(parser, "decides which test images are drawn, and which z")
    args = cli.parse_args(parser, argv)
    trained = cli.open_trained_run(args)
    model = trained.model
    test_images = trained.data.test_images
    folder = trained.pictures_folder
    if len(test_images) < NUM_TEST_IMAGES:
        raise UsageError(
            f"these pictures need {NUM_TEST_IMAGES} test images, and {trained.data.name} has {len(test_images)}; "
            f"put at least {NUM_TEST_IMAGES} images into the test set; if there is no test set, a tenth of the images "
            f"becomes one, so give at least {10 * NUM_TEST_IMAGES}"
        )

    import numpy as np

    from vae import evaluation, figures, latent, randomness

    # The draw seed decides which test images and which z are in the pictures.
    rng = randomness.generator(args.draw_seed, "draw")
    noise = rng.standard_normal((*NUM_GENERATED, model.latent_dim), dtype=np.float32)
    chosen = rng.permutation(len(test_images))[:NUM_TEST_IMAGES]
    # An image is encoded as it was prepared with the rest of the test set, so that evaluation and pictures agree.
    x = evaluation.prepare_test(model.likelihood, test_images)[chosen]
    posterior = model.encode(x)
    mean = posterior.mean.numpy()
    std = np.exp(posterior.log_std.numpy())

    # Figure 1a: z ~ N(0, I)
    cli.save_picture(figures.image_grid(model.images(noise)), folder / "generated.png")

    # Figure 1b: each row has a test image, then its reconstructions from z ~ q(z|x)
    originals = test_images[chosen[:NUM_RECONSTRUCTED], None] / np.float32(255)
    z = mean[:NUM_RECONSTRUCTED, None] + std[:NUM_RECONSTRUCTED, None] * noise[:NUM_RECONSTRUCTED, :NUM_RECONSTRUCTIONS]
    reconstructions = np.concatenate([originals, model.images(z)], axis=1)
    cli.save_picture(
        figures.image_grid(reconstructions, line_after=1),
        folder / "reconstructions.png",
        caption=f"left of the red line: test images; on the right: {NUM_RECONSTRUCTIONS} reconstructions of each",
    )

    # Figure 6b: a row of test images over a row of reconstructions
    pairs = reconstructions[:NUM_PAIRS, :2].swapaxes(0, 1)
    cli.save_picture(
        figures.image_grid(pairs),
        folder / "reconstruction_pairs.png",
        caption="upper row: test images; lower row: a reconstruction of each",
    )

    # Figure 1c: from one posterior mean, z2, to another, z1
    z1 = mean[NUM_RECONSTRUCTED : NUM_RECONSTRUCTED + NUM_INTERPOLATIONS]
    z2 = mean[NUM_RECONSTRUCTED + NUM_INTERPOLATIONS :]
    paths = latent.interpolations(z1, z2, NUM_STEPS)
    cli.save_picture(
        figures.image_grid(model.images(paths)),
        folder / "interpolations.png",
        caption="each row: from the mean of q(z|x) of one test image to that of another, decoded",
    )


if __name__ == "__main__":
    sys.exit(main())
