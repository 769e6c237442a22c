"""The two VAEs in PyTorch 2, written for speed on a CPU: fused Adam, torch.compile or (conv3) channels-last."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.turns import BATCH_SIZE, LATENT_DIM, Turns, parse_arguments, prefetch, prepared_blocks

# The largest number of steps in one block of prepared data.
MAX_BLOCK_STEPS = 100


class Flat(nn.Module):
    """d -> H -> H -> 2L and back, for d binary pixels."""

    def __init__(self, pixels: int, hidden_size: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(pixels, hidden_size),
            nn.ReLU(),
            nn.Linear(hidden_size, hidden_size),
            nn.ReLU(),
            nn.Linear(hidden_size, 2 * LATENT_DIM),
        )
        self.decoder = nn.Sequential(
            nn.Linear(LATENT_DIM, hidden_size),
            nn.ReLU(),
            nn.Linear(hidden_size, hidden_size),
            nn.ReLU(),
            nn.Linear(hidden_size, pixels),
        )

    def forward(self, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """The mean ELBO of x [batch, d], with noise ~ N(0, I), [batch, L]."""
        mean, log_std = self.encoder(x).chunk(2, dim=1)
        z = mean + log_std.exp() * noise
        return mean_elbo(x, self.decoder(z), mean, log_std)


class Conv3(nn.Module):
    """The report's convolutional network for 32x32 images. It pools before the activation, as this project does."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            [
                nn.Conv2d(channels, 32, kernel_size=3, padding=1),
                nn.Conv2d(32, 64, kernel_size=7, padding=3),
                nn.Conv2d(64, 128, kernel_size=5, padding=2),
            ]
        )
        self.to_posterior = nn.Linear(128 * 4 * 4, 2 * LATENT_DIM)
        self.from_latent = nn.Linear(LATENT_DIM, 128 * 4 * 4)
        self.transposed_convolutions = nn.ModuleList(
            [
                nn.ConvTranspose2d(128, 64, kernel_size=5, stride=2, padding=2, output_padding=1),
                nn.ConvTranspose2d(64, 32, kernel_size=7, stride=2, padding=3, output_padding=1),
                nn.ConvTranspose2d(32, channels, kernel_size=3, stride=2, padding=1, output_padding=1),
            ]
        )

    def forward(self, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """The mean ELBO of x [batch, c, 32, 32], with noise ~ N(0, I), [batch, L]."""
        h = x
        for convolution in self.convolutions:
            h = F.relu(F.max_pool2d(convolution(h), 2))
        # Under autocast, the layers return bfloat16. The latents and the ELBO are float32 in any case.
        mean, log_std = self.to_posterior(h.flatten(1)).float().chunk(2, dim=1)
        z = mean + log_std.exp() * noise
        h = F.relu(self.from_latent(z)).view(-1, 128, 4, 4)
        h = h.contiguous(memory_format=torch.channels_last)
        h = F.relu(self.transposed_convolutions[0](h))
        h = F.relu(self.transposed_convolutions[1](h))
        logits = self.transposed_convolutions[2](h).float()
        return mean_elbo(x, logits, mean, log_std)


def mean_elbo(x: torch.Tensor, logits: torch.Tensor, mean: torch.Tensor, log_std: torch.Tensor) -> torch.Tensor:
    """The mean over the batch of log p(x|z) - KL(q(z|x) || p(z)), in nats."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    kl = 0.5 * (mean**2 + (2 * log_std).exp() - 1 - 2 * log_std).sum()
    return -(cross_entropy + kl) / len(x)


def make_network(images: np.ndarray, is_conv3: bool, hidden_size: int) -> nn.Module:
    """A network for images [n, h, w, c], with Glorot uniform weights and biases of zero."""
    if is_conv3:
        network: nn.Module = Conv3(images.shape[-1])
    else:
        network = Flat(images[0].size, hidden_size)
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return network.to(memory_format=torch.channels_last)


def train(images: np.ndarray, is_conv3: bool, is_bfloat16: bool, hidden_size: int) -> Iterator[float]:
    """Yields the mean ELBO of each epoch, without end. images: uint8 [n, h, w, c]."""
    network = make_network(images, is_conv3, hidden_size)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    if not is_conv3:
        # conv3 is not faster with it.
        network = torch.compile(network, fullgraph=True, dynamic=False)
    steps = len(images) // BATCH_SIZE
    batches = make_batches(images, is_conv3)
    while True:
        total = torch.zeros(())
        for _ in range(steps):
            x, noise = next(batches)
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_bfloat16):
                elbo = network(x, noise)
            (-elbo).backward()
            optimizer.step()
            total += elbo.detach()
        yield float(total) / steps


def make_batches(images: np.ndarray, is_conv3: bool) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yields batches of float32: x, and noise [100, L].

    For conv3, x holds intensities [100, c, h, w]. For the flat network, it holds binary pixels [100, d].
    """
    block_steps = min(MAX_BLOCK_STEPS, len(images) // BATCH_SIZE)
    if is_conv3:
        blocks = prepared_blocks(images, block_steps, binarize=False)
    else:
        blocks = prepared_blocks(images.reshape(len(images), -1), block_steps, binarize=True)
    for x_block, noise_block in prefetch(blocks):
        batches = zip(torch.from_numpy(x_block), torch.from_numpy(noise_block), strict=True)
        for x, noise in batches:
            if is_conv3:
                # The channels stay last in memory. Only the order of the axes changes.
                yield x.permute(0, 3, 1, 2).float() / 255, noise
            else:
                yield x.float(), noise


def main() -> None:
    """Trains without end, in turn with the other contenders."""
    args = parse_arguments(__doc__, "flat", "conv3", "conv3_bfloat16")
    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    images = np.load(args.images)
    is_conv3 = args.kind.startswith("conv3")
    is_bfloat16 = "bfloat16" in args.kind
    turns = Turns()
    for elbo in train(images, is_conv3, is_bfloat16, args.hidden_size):
        turns.end_epoch(elbo)


if __name__ == "__main__":
    main()
