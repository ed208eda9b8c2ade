"""Whether each method is right on the device: against float64 on the CPU, from the same weights and gradients.

The distance of a tensor from its float64 twin, ‖w - w64‖, may be at most ``tolerance`` of the way that the twin has
come, and half a unit in the last place of the weights for each step: float32 rounds there, whoever computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

import layerpace as lp

from ..shapes import Shapes
from .device import Device
from .methods import ours

BOOST = 1e4  # of the learning rates that are timed: 1e-2 of the weights, or 1e-2 a step of Adam
WEIGHT_RMS, GRADIENT_RMS = 0.05, 0.02
TOLERANCE = 1e-5
# Where more is lost than float32's rounding: moments of 8 bits, and sums of 1/w over weights that pass through zero.
TOLERANCES = {"LAMB bf16 state": 2e-2, "PercentDelta": 1e-4}
HALF_ULP = 2.0**-24

# Odd sizes, one chunk and many, a layer larger than an L2 cache holds, one entry, and weights that begin as zeros.
SHAPES: Shapes = [(257, 129), (1000,), (64, 3, 7, 7), (2049, 1024), (3,), (), (5000, 33), (40, 30)]
DRY_SHAPES: Shapes = [(7, 5), (3,)]
STEPS, DRY_STEPS, DRY_EVERY = 5, 2, 4

Make = Callable[..., Optimizer]


def _layerwise(direction: Any, rule: Any, **defaults: Any) -> Make:
    return lambda p, **options: lp.Layerwise(p, direction=direction, rule=rule, **defaults, **options)


D, R = lp.directions, lp.rules
# What is not timed: every other direction, rule, and kind of momentum.
UNTIMED: dict[str, Make] = {
    "LARS nesterov": lambda p, **o: lp.LARS(p, lr=0.02, trust_coefficient=0.5, nesterov=True, **o),
    "LAMBC, running bounds": lambda p, **o: lp.LAMBC(p, lr=0.02, trust_clip=R.RunningBounds(warmup=2), **o),
    "Layca momentum": lambda p, **o: lp.Layca(p, lr=0.05, momentum=0.9, **o),
    "Layca adam": lambda p, **o: lp.Layca(p, lr=0.05, direction="adam", **o),
    "amsgrad, trust ratio": _layerwise("amsgrad", "trust_ratio", lr=0.02),
    "heavy ball, relative L1": _layerwise("heavy_ball", "relative_l1", lr=0.02, weight_decay=0.01),
    "nesterov, trust ratio": _layerwise("nesterov", R.TrustRatio(clip=(0.0, 1.0)), lr=0.02),
    "heavy ball, limited norm": _layerwise("heavy_ball", "limited_norm", lr=0.05),
    "EMA, rotation": _layerwise("ema_momentum", "rotation", lr=0.05),
    "adagrad, trust ratio": _layerwise("adagrad", "trust_ratio", lr=0.02),
    "adadelta, trust ratio": _layerwise("adadelta", "trust_ratio", lr=0.02, momentum=0.5),
    "rmsprop, rotation": _layerwise(D.RMSProp(centered=True, momentum=0.5, eps=1e-3), "rotation", lr=0.05),
    "adamax, identity": _layerwise("adamax", "identity", lr=0.02),
    "nadam, trust ratio": _layerwise("nadam", "trust_ratio", lr=0.02),
    "radam, relative L1": _layerwise(D.RAdam(betas=(0.8, 0.9)), "relative_l1", lr=0.02, momentum=0.5),
}


@dataclass(frozen=True)
class Verdict:
    """How far a method was from float64.

    Attributes:
        error: the largest distance of a tensor, as a share of the way it came, after what is due to the weights' own
            rounding; None: it never got there, and ``why`` says what happened.
        right: whether that is within ``tolerance``.
    """

    error: float | None
    tolerance: float
    right: bool
    why: str = ""


def check(device: Device, in_time: Callable[[], bool], say: Callable[[str], None]) -> dict[str, Any]:
    """All methods: ours as they are timed, by calls and by replays of a graph, and then all others by calls.

    Returns:
        "eager", "graph": name -> verdict; "wrong": the names of those that are; "not_checked": name -> reason.
    """
    shapes, steps = (DRY_SHAPES, DRY_STEPS) if device.dry else (SHAPES, STEPS)
    found: dict[str, Any] = {"eager": {}, "graph": {}, "not_checked": {}}
    found |= {"tolerance": TOLERANCE, "tolerances": TOLERANCES, "steps": steps, "shapes": shapes}
    exact = {method.name: method.make for method in ours("reference", boost=BOOST)}
    exact |= {name: _with_backend(make, "reference") for name, make in UNTIMED.items()}
    todo: list[tuple[str, str, Make]] = [("eager", method.name, method.make) for method in ours(boost=BOOST)]
    todo += [("graph", method.name, method.make) for method in ours(device=device.device, boost=BOOST)]
    untimed = list(UNTIMED.items())[:: DRY_EVERY if device.dry else 1]
    todo += [("eager", name, _with_backend(make, "triton")) for name, make in untimed]
    for way, name, make in todo:
        if not in_time():
            found["not_checked"][f"{name} ({way})"] = "no time left"
            continue
        say(f"checking {name}, {way}")
        tolerance = TOLERANCES.get(name, TOLERANCE)
        try:
            verdict = compare(device, make, exact[name], way == "graph", shapes, steps, tolerance)
        except Exception as error:
            verdict = Verdict(None, tolerance, False, f"{type(error).__name__}: {error}"[:400])
        found[way][name] = asdict(verdict)
    found["wrong"] = sorted({name for way in ("eager", "graph") for name, v in found[way].items() if not v["right"]})
    return found


def compare(
    device: Device, make: Make, exact: Make, replayed: bool, shapes: Shapes, steps: int, tolerance: float
) -> Verdict:
    """One method; ``replayed``: all steps but the first are those of a graph, and lr is halved before the last."""
    weights = starting_weights(shapes)
    params = [Parameter(w.clone().to(device.device)) for w in weights]
    twins = [Parameter(w.double()) for w in weights]
    for p in [*params, *twins]:
        p.grad = torch.zeros_like(p)
    optimizer, twin = make(params), exact(twins)
    step: Callable[[], object] = optimizer.step
    for number in range(steps):
        for p, q, gradient in zip(params, twins, gradients(shapes, number), strict=True):
            assert p.grad is not None
            assert q.grad is not None
            p.grad.copy_(gradient)
            q.grad.copy_(gradient)
        if replayed and number == steps - 1:
            _halve_rates(optimizer)
            _halve_rates(twin)
        if replayed and number == 0:
            device.warm_up(optimizer, 1)
            step = device.capture(optimizer) if steps > 1 else step
        else:
            step()
        twin.step()
    return judge([p.detach().cpu() for p in params], [q.detach() for q in twins], weights, steps, tolerance)


def judge(found: list[Tensor], exact: list[Tensor], start: list[Tensor], steps: int, tolerance: float) -> Verdict:
    """The verdict on the weights that were found."""
    errors = []
    for w, twin, before in zip(found, exact, start, strict=True):
        if not bool(torch.isfinite(w).all()):
            return Verdict(None, tolerance, False, "inf or nan in the weights")
        way = float((twin - before.double()).norm())
        distance = max(0.0, float((w.double() - twin).norm()) - steps * HALF_ULP * float(twin.norm()))
        if way == 0:
            return Verdict(None, tolerance, False, "the float64 run did not move a tensor: this check shows nothing")
        errors.append(distance / way)
    return Verdict(max(errors), tolerance, max(errors) <= tolerance)


def starting_weights(shapes: Shapes) -> list[Tensor]:
    """Weights of a trained network's size, and one tensor of zeros."""
    generator = torch.Generator().manual_seed(0)
    found = [torch.empty(shape).normal_(0, WEIGHT_RMS, generator=generator) for shape in shapes]
    found[-1].zero_()
    return found


def gradients(shapes: Shapes, step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1000 + step)
    return [torch.empty(shape).normal_(0, GRADIENT_RMS, generator=generator) for shape in shapes]


def _halve_rates(optimizer: Optimizer) -> None:
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].mul_(0.5)
        else:
            group["lr"] *= 0.5


def _with_backend(make: Make, backend: str) -> Make:
    return lambda p: make(p, backend=backend)


def summary(found: Mapping[str, Any]) -> str:
    """One line of the verdicts."""
    verdicts = [v for way in ("eager", "graph") for v in found[way].values()]
    errors = [v["error"] for v in verdicts if v["error"] is not None]
    right = sum(v["right"] for v in verdicts)
    largest = f"; largest error {max(errors):.1e} of the way" if errors else ""
    return f"correct: {right} of {len(verdicts)} checks against float64{largest}"
