"""Times conv3 training on 32x32x3 images: this project's step against PyTorch's for the same network and optimizer.

python benchmarks/conv3.py [--rounds 5] [--steps 12]

Each round runs this project and PyTorch (channels-last, 2-D convolutions by oneDNN) one after the other, each in a
process of its own with the same number of threads, and times `steps` steps after a warm-up; medians of the rounds.
"""

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
BATCH, LATENT = 100, 20


def time_ours(steps):
    """Seconds a step of the training block as train.py runs it, preparation aside on both sides."""
    sys.path.insert(0, str(ROOT))
    import config

    with config.tensorflow_environment():
        import numpy as np

        from vae import model, training

    vae = model.create("conv3", "cross_entropy", (32, 32, 3), LATENT, 0, "relu", seed=0)
    state = training.create_state(vae, 1e-3)
    rng = np.random.default_rng(0)
    x = rng.random((steps * BATCH, 3072), dtype=np.float32)
    noise = rng.standard_normal((steps * BATCH, LATENT), dtype=np.float32)
    train_block = training.compile_block(state, BATCH)
    train_block(x, noise, 3).numpy()
    start = time.perf_counter()
    train_block(x, noise, steps).numpy()
    return (time.perf_counter() - start) / steps, state.model


def time_pytorch(steps):
    """Seconds a step of the same VAE, written as a PyTorch user would for speed on a CPU."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    torch.manual_seed(0)
    torch.set_num_threads(os.cpu_count())

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.convs = nn.ModuleList(
                nn.Conv2d(i, o, k, padding=k // 2) for i, o, k in ((3, 32, 3), (32, 64, 7), (64, 128, 5))
            )
            self.to_q, self.from_z = nn.Linear(2048, 2 * LATENT), nn.Linear(LATENT, 2048)
            self.deconvs = nn.ModuleList(
                nn.ConvTranspose2d(i, o, k, stride=2, padding=k // 2, output_padding=1)
                for i, o, k in ((128, 64, 5), (64, 32, 7), (32, 3, 3))
            )

        def forward(self, x, noise):
            h = x
            for conv in self.convs:
                h = F.relu(F.max_pool2d(conv(h), 2))
            mean, log_std = self.to_q(h.flatten(1)).chunk(2, 1)
            kl = 0.5 * (mean**2 + (2 * log_std).exp() - 1 - 2 * log_std).sum(1)
            h = F.relu(self.from_z(mean + log_std.exp() * noise)).view(-1, 128, 4, 4)
            h = h.contiguous(memory_format=torch.channels_last)
            h = F.relu(self.deconvs[1](F.relu(self.deconvs[0](h))))
            logits = self.deconvs[2](h)
            cross_entropy = F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)
            return (cross_entropy + kl).mean()

    net = Net().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    x = torch.rand(steps, BATCH, 3, 32, 32)
    x = torch.stack([batch.contiguous(memory_format=torch.channels_last) for batch in x])
    noise = torch.randn(steps, BATCH, LATENT)

    def step(i):
        optimizer.zero_grad(set_to_none=True)
        batch = x[i].contiguous(memory_format=torch.channels_last)
        loss = net(batch, noise[i])
        loss.backward()
        optimizer.step()
        return loss.detach()

    for i in range(3):
        step(i)
    start = time.perf_counter()
    for i in range(steps):
        loss = step(i)
    float(loss)
    return (time.perf_counter() - start) / steps, net


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--side", choices=("ours", "pytorch"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        seconds, _ = {"ours": time_ours, "pytorch": time_pytorch}[args.side](args.steps)
        return print(seconds)
    if importlib.util.find_spec("torch") is None:
        return print("PyTorch is not installed here: pip install -r requirements-benchmark.txt")
    times = {"ours": [], "pytorch": []}
    for _ in range(args.rounds):
        for side, seconds in times.items():
            command = [sys.executable, __file__, "--side", side, "--steps", str(args.steps)]
            seconds.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
            print(f"{side:8} {seconds[-1] * 1e3:7.1f} ms a step", flush=True)
    ours, pytorch = (statistics.median(seconds) for seconds in times.values())
    print(f"medians of {args.rounds}: this project {ours * 1e3:.1f} ms, PyTorch {pytorch * 1e3:.1f} ms a step")
    print(f"ratio {ours / pytorch:.3f}")


if __name__ == "__main__":
    main()
