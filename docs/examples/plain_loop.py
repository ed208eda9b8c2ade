"""A training loop of one's own, watched layer by layer.

    python docs/examples/plain_loop.py
    layerpace report runs/plain

Trains a small network to tell three spiral arms apart. Nothing is downloaded: the points are made here.
"""

import math
from pathlib import Path

import torch
from torch import Tensor, nn

import layerpace as lp

ARMS = 3


def points(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """`count` points in the plane, shape [count, 2], and the arm each lies on, shape [count]."""
    generator = torch.Generator().manual_seed(seed)
    arm = torch.arange(count) % ARMS
    radius = torch.rand(count, generator=generator).sqrt()
    angle = 2 * math.pi * (radius + arm / ARMS) + 0.1 * torch.randn(count, generator=generator)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1), arm


def main(folder: Path = Path("runs/plain"), steps: int = 400) -> None:
    torch.manual_seed(0)
    x, y = points(3000, seed=0)
    test_x, test_y = points(1000, seed=1)
    model = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, ARMS))
    optimizer = lp.LAMB(model.parameters(), lr=0.02)

    with lp.Monitor(model, optimizer, every=10, out=folder) as monitor:  # with any torch optimizer
        for step in range(1, steps + 1):
            batch = torch.randint(len(x), (100,))
            loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 40 == 0:
                accuracy = float((model(test_x).argmax(1) == test_y).float().mean())
                monitor.log({"loss": loss.item(), "test_accuracy": accuracy})
                fastest = max(monitor.latest().items(), key=lambda item: item[1]["relative_update_l1"])
                print(
                    f"step {step}: test accuracy {accuracy:.3f}; the fastest layer is {fastest[0]}, "
                    f"which changes by {fastest[1]['relative_update_l1']:.2%} in a step"
                )


if __name__ == "__main__":
    main()
