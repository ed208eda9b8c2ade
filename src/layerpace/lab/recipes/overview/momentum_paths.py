"""Optimizers on parabolas, as the overview's slides on momentum draw and describe them; layerpace's own optimizers.

    L(theta) = 1/2 (h_x x^2 + h_y y^2),    gradient + noise * normal

Two dimensions of different curvature, h_x for the valley and h_y across it: `run` makes one path.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .... import directions, rules
from ....optim import Layerwise

KINDS = ("heavy_ball", "nesterov", "ema_momentum")
HUNDREDTH = 0.01
FAR = 1e6  # a path that is further off has diverged


def direction(kind: str, momentum: float) -> directions.Direction:
    """Of a name of `KINDS`; momentum 0 is gradient descent in all of them."""
    if kind == "ema_momentum":
        return directions.EMAMomentum(beta=momentum)
    return directions.Nesterov(momentum) if kind == "nesterov" else directions.HeavyBall(momentum)


def path(
    kind: str,
    lr: float,
    momentum: float,
    curvature: tuple[float, float],
    start: tuple[float, float],
    steps: int,
    noise: float = 0.0,
    seed: int = 0,
    enough: float = 0.0,
) -> torch.Tensor:
    """The places of an optimizer, [steps + 1, 2], float64; it ends early if it goes away to `FAR`.

    Args:
        kind: of `KINDS`.
        curvature: (h_x, h_y).
        noise: standard deviation of each of the gradient's two components.
        enough: share of the first loss at which the path may end.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r}: choose from {', '.join(KINDS)}")
    theta = torch.nn.Parameter(torch.tensor(start, dtype=torch.float64, device="cpu"))
    optimizer = Layerwise([theta], direction=direction(kind, momentum), rule=rules.Identity(), lr=lr)
    generator = torch.Generator().manual_seed(seed)
    slope = torch.tensor(curvature, dtype=torch.float64, device="cpu")
    places = [theta.detach().clone()]
    goal = enough * float(loss(places[0][None], curvature))
    for _ in range(steps):
        theta.grad = slope * theta.detach() + noise * torch.randn(
            2, generator=generator, dtype=torch.float64, device="cpu"
        )
        optimizer.step()
        places.append(theta.detach().clone())
        if float(places[-1].abs().max()) > FAR or float(loss(places[-1][None], curvature)) < goal:
            break
    return torch.stack(places)


def loss(places: torch.Tensor, curvature: tuple[float, float]) -> torch.Tensor:
    """L at each place: [steps + 1]."""
    return 0.5 * (torch.tensor(curvature, dtype=places.dtype, device="cpu") * places**2).sum(1)


def run(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A run of a recipe: the arguments of `path`, and `average`, the steps at the end that are averaged over.

    Returns:
        status; places (the first 80); losses (the mean over the last `average` steps); variance (of the components of
        these steps, divided by lr^2); away (whether it went to `FAR`); reached (the first step with a hundredth of the
        first loss; None: none); crossings (how often x changes its sign).
    """
    arguments = {key: config[key] for key in ("kind", "lr", "momentum", "steps", "noise", "seed", "enough")}
    curvature, start = tuple(config["curvature"]), tuple(config["start"])
    places = path(**arguments, curvature=curvature, start=start)
    losses = loss(places, curvature)
    moves = (places[1:] - places[:-1])[-config["average"] :]
    below = (losses <= HUNDREDTH * losses[0]).nonzero().flatten().tolist()
    return {
        "status": "done",
        "places": [[float(f"{value:.12g}") for value in place] for place in places[:80].tolist()],
        "losses": float(losses[-config["average"] :].mean()),
        "variance": float((moves**2).mean() - moves.mean() ** 2) / config["lr"] ** 2,
        "away": float(places[-1].abs().max()) > FAR,
        "reached": below[0] if below else None,
        "crossings": int((places[1:, 0] * places[:-1, 0] < 0).sum()),
    }
