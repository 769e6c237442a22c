"""The two VAEs in PyTorch 2, written for speed on a CPU: fused Adam, channels-last, eager or torch.compile."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from turns import BATCH, LATENT, arguments, prepared, start

STEPS = 100  # of prepared data, a block


class Flat(nn.Module):
    """784-H-H-2L and back; forward returns the mean ELBO of a binarized batch."""

    def __init__(self, pixels, hidden_size):
        super().__init__()
        h = hidden_size
        self.encoder = nn.Sequential(
            nn.Linear(pixels, h), nn.ReLU(), nn.Linear(h, h), nn.ReLU(), nn.Linear(h, 2 * LATENT)
        )
        self.decoder = nn.Sequential(nn.Linear(LATENT, h), nn.ReLU(), nn.Linear(h, h), nn.ReLU(), nn.Linear(h, pixels))

    def forward(self, x, noise):
        mean, log_std = self.encoder(x).chunk(2, dim=1)
        logits = self.decoder(mean + log_std.exp() * noise)
        return elbo(x, logits, mean, log_std)


class Conv3(nn.Module):
    """The report's convolutional network on 32x32 images; the pool before the activation, as in this project."""

    def __init__(self, channels):
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, k, padding=k // 2) for i, o, k in ((channels, 32, 3), (32, 64, 7), (64, 128, 5))
        )
        self.to_q, self.from_z = nn.Linear(2048, 2 * LATENT), nn.Linear(LATENT, 2048)
        self.deconvs = nn.ModuleList(
            nn.ConvTranspose2d(i, o, k, stride=2, padding=k // 2, output_padding=1)
            for i, o, k in ((128, 64, 5), (64, 32, 7), (32, channels, 3))
        )

    def forward(self, x, noise):
        h = x
        for conv in self.convs:
            h = F.relu(F.max_pool2d(conv(h), 2))
        mean, log_std = self.to_q(h.flatten(1)).chunk(2, dim=1)
        h = F.relu(self.from_z(mean + log_std.exp() * noise)).view(-1, 128, 4, 4)
        h = h.contiguous(memory_format=torch.channels_last)
        h = F.relu(self.deconvs[1](F.relu(self.deconvs[0](h))))
        return elbo(x, self.deconvs[2](h), mean, log_std)


def elbo(x, logits, mean, log_std):
    cross_entropy = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    kl = 0.5 * (mean**2 + (2 * log_std).exp() - 1 - 2 * log_std).sum()
    return -(cross_entropy + kl) / len(x)


def make_network(images, kind, hidden_size):
    net = Conv3(images.shape[-1]) if kind.startswith("conv3") else Flat(images[0].size, hidden_size)
    for layer in net.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return net.to(memory_format=torch.channels_last)


def main():
    args = arguments(__doc__, "eager", "compiled", "conv3", "conv3_compiled")
    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    images, conv = np.load(args.images), args.kind.startswith("conv3")
    net = make_network(images, args.kind, args.hidden_size)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    mean_elbo = torch.compile(net, fullgraph=True, dynamic=False) if args.kind.endswith("compiled") else net
    steps = len(images) // BATCH
    block_steps = min(STEPS, steps)
    blocks, turn = prepared(images if conv else images.reshape(len(images), -1), block_steps, not conv), start()
    with ThreadPoolExecutor(1) as preparer:
        upcoming = preparer.submit(next, blocks)
        while True:
            total = torch.zeros(())
            for _ in range(steps // block_steps):
                block, upcoming = map(torch.from_numpy, upcoming.result()), preparer.submit(next, blocks)
                for x, noise in zip(*block, strict=True):
                    x = x.permute(0, 3, 1, 2).float() / 255 if conv else x.float()  # NHWC in memory: channels-last
                    optimizer.zero_grad(set_to_none=True)
                    value = mean_elbo(x, noise)
                    (-value).backward()
                    optimizer.step()
                    total += value.detach()
            turn(elbo=float(total) / steps)


if __name__ == "__main__":
    main()
