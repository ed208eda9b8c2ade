"""A small training problem, and two drivers for it: one for an oracle, one for an optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

torch.set_num_threads(1)

State = dict[str, Any]
Weights = dict[str, Tensor]
Step = Callable[..., Tensor]

# Names, shapes, and the scale of weights and of gradients: orders of magnitude apart, as in real networks.
LAYERS: tuple[tuple[str, tuple[int, ...], float, float], ...] = (
    ("conv.weight", (4, 3, 2, 2), 1.0, 1.0),
    ("conv.bias", (4,), 0.1, 0.3),
    ("qkv.weight", (6, 5), 1e-2, 10.0),
    ("norm.weight", (5,), 1.0, 0.1),
    ("head.weight", (3, 5), 10.0, 1e-3),
    ("head.bias", (3,), 0.0, 1.0),
    ("gain", (), 0.7, 0.2),
)
MATRICES = tuple(name for name, shape, _, _ in LAYERS if len(shape) > 1)
VECTORS = tuple(name for name, shape, _, _ in LAYERS if len(shape) <= 1)
ALL = tuple(name for name, _, _, _ in LAYERS)


@dataclass(frozen=True)
class Problem:
    """Weights away from zero, and gradients made of fixed noise plus a pull that depends on the weights."""

    initial: Weights
    noise: Mapping[str, Tensor]  # steps x shape
    target: Weights
    gradient_scale: Mapping[str, float]

    def gradient(self, name: str, w: Tensor, t: int) -> Tensor:
        pull = w.detach().to(torch.float64) - self.target[name]
        return self.gradient_scale[name] * (self.noise[name][t] + 0.3 * pull / (1 + pull.abs().max()))


def problem(seed: int = 0, steps: int = 64, names: Iterable[str] = ALL) -> Problem:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    initial, noise, target, gradient_scale = {}, {}, {}, {}
    for name, shape, weight_scale, grad_scale in LAYERS:
        size = torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5
        sign = torch.where(torch.rand(shape, generator=generator) < 0.5, -1.0, 1.0)
        noise_of_layer, target_of_layer = normal(steps, *shape), weight_scale * normal(*shape)
        if name in tuple(names):
            initial[name] = weight_scale * size * sign
            noise[name] = noise_of_layer
            target[name] = target_of_layer
            gradient_scale[name] = grad_scale
    return Problem(initial, noise, target, gradient_scale)


def linear_decay(slope: float, floor: float | None) -> Callable[[int], float]:
    """gamma(t) of PercentDelta's equations 9 (no floor) and 10."""

    def gamma(t: int) -> float:
        return 1 - t * slope if floor is None else max(floor, 1 - t * slope)

    return gamma


def pieces_of(w: Tensor, sizes: Sequence[int] | None) -> list[Tensor]:
    return [w] if sizes is None else list(torch.split(w, list(sizes)))


def train_oracle(
    task: Problem,
    step: Step,
    steps: int,
    *,
    options: Callable[[str], Mapping[str, Any]],
    adapted: Callable[[str], bool] = lambda name: True,
    segments: Mapping[str, Sequence[int]] | None = None,
    gamma: Callable[[int], float] = lambda t: 1.0,
    maximize: bool = False,
    max_grad_norm: float | None = None,
) -> list[Weights]:
    """Weights after each step. Every segment is a layer with a state of its own."""
    segments = segments or {}
    weights = {name: w.clone() for name, w in task.initial.items()}
    states: dict[str, list[State]] = {
        name: [{} for _ in pieces_of(w, segments.get(name))] for name, w in weights.items()
    }
    history = []
    for t in range(steps):
        grads = {name: task.gradient(name, w, t) for name, w in weights.items()}
        if max_grad_norm is not None:
            norm = torch.stack([(g * g).sum() for g in grads.values()]).sum().sqrt()
            if norm > max_grad_norm:
                grads = {name: g * (max_grad_norm / norm) for name, g in grads.items()}
        for name in weights:
            keywords = dict(options(name))
            lr = keywords.pop("lr") * gamma(t)
            g = -grads[name] if maximize else grads[name]
            parts = zip(
                pieces_of(weights[name], segments.get(name)),
                pieces_of(g, segments.get(name)),
                states[name],
                strict=True,
            )
            new = [
                step(w_part, g_part, state, lr=lr, adapt=adapted(name), **keywords) for w_part, g_part, state in parts
            ]
            weights[name] = torch.cat(new) if name in segments else new[0]
        history.append({name: w.clone() for name, w in weights.items()})
    return history


def parameters(task: Problem, dtype: torch.dtype = torch.float64) -> dict[str, torch.nn.Parameter]:
    return {name: torch.nn.Parameter(w.clone().to(dtype)) for name, w in task.initial.items()}


def train_library(
    task: Problem,
    params: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    steps: int,
    *,
    scheduler: Any = None,
    first: int = 0,
) -> list[Weights]:
    history = []
    for t in range(first, first + steps):
        for name, p in params.items():
            p.grad = task.gradient(name, p, t).to(p.dtype)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        history.append({name: p.detach().clone() for name, p in params.items()})
    return history


def assert_same(got: Sequence[Weights], expected: Sequence[Weights], tolerance: float) -> None:
    """Every weight after every step, relative to the largest entry of its tensor. NaN is a difference."""
    assert len(got) == len(expected) > 0
    for t, (ours, theirs) in enumerate(zip(got, expected, strict=True)):
        assert ours.keys() == theirs.keys()
        for name, w in theirs.items():
            error = (ours[name].to(torch.float64) - w).abs().max() / w.abs().max().clamp(min=1e-300)
            assert bool(error <= tolerance), f"step {t}, {name}: relative error {error:.3e} > {tolerance}"


def norm(x: Tensor) -> Tensor:
    return (x * x).sum().sqrt()


def phi(w: Tensor, min_rms: float) -> Tensor:
    """The norm of the weights, not less than that of n entries of size min_rms."""
    return torch.maximum(norm(w), torch.tensor(min_rms * w.numel() ** 0.5, dtype=w.dtype))


def clipped(ratio: Tensor, clip: Any, lr: float, state: State | None = None) -> Tensor:
    """None, an upper bound, a (lower, upper) pair, "larc": min(ratio/lr, 1), or one of `oracles.clips`."""
    if clip is None:
        return ratio
    if callable(clip):
        assert state is not None
        return torch.as_tensor(clip(ratio, state))
    if isinstance(clip, str):
        assert clip == "larc"
        return torch.ones_like(ratio) if lr == 0 else torch.clamp(ratio / lr, max=1.0)
    lower, upper = clip if isinstance(clip, tuple) else (None, clip)
    return torch.clamp(ratio, min=lower, max=upper)


def move(w: Tensor, d: Tensor, state: State, momentum: float, dampening: float = 0.0, nesterov: bool = False) -> Tensor:
    """w - d, through a velocity that starts at zero where there is momentum."""
    if momentum == 0:
        return w - d
    v = momentum * state.get("v", torch.zeros_like(w)) + (1 - dampening) * d
    state["v"] = v
    return w - (momentum * v + d) if nesterov else w - v
