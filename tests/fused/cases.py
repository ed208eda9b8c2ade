"""The methods and tensors of these tests, and runs of them that can be compared."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import layerpace as lp
from layerpace.engine.backends import reference
from layerpace.engine.numerics.precision import compute_dtype

D, R = lp.directions, lp.rules

# Every direction, and every option that takes another branch.
DIRECTIONS: dict[str, D.Direction] = {
    "sgd": D.SGD(),
    "heavy ball": D.HeavyBall(momentum=0.9),
    "heavy ball dampened": D.HeavyBall(momentum=0.9, dampening=0.3),
    "heavy ball off": D.HeavyBall(momentum=0.0),
    "nesterov": D.Nesterov(momentum=0.8),
    "ema": D.EMAMomentum(beta=0.8),
    "adagrad": D.AdaGrad(),
    "adagrad lr_decay": D.AdaGrad(lr_decay=0.1, initial_accumulator_value=0.1, eps=1e-6),
    "adagrad eps inside": D.AdaGrad(eps=1e-3, eps_inside_sqrt=True),
    "adadelta": D.AdaDelta(),
    "rmsprop": D.RMSProp(),
    "rmsprop centered": D.RMSProp(alpha=0.9, centered=True, eps=1e-3),
    "rmsprop momentum": D.RMSProp(alpha=0.9, momentum=0.5),
    "rmsprop all": D.RMSProp(alpha=0.9, centered=True, momentum=0.5, eps=1e-3, eps_inside_sqrt=True),
    "adam": D.Adam(betas=(0.8, 0.95)),
    "adam uncorrected": D.Adam(bias_correction=False, eps=1e-3),
    "adam after": D.Adam(bias_correction="after", eps=1e-3),
    "adam sum": D.Adam(grad_averaging=False),
    "adam eps inside": D.Adam(eps=1e-3, eps_inside_sqrt=True),
    "adam amsgrad": D.Adam(betas=(0.8, 0.5), amsgrad=True, bias_correction="after", eps_inside_sqrt=True, eps=1e-3),
    "amsgrad": D.AMSGrad(betas=(0.8, 0.5)),
    "adamax": D.AdaMax(betas=(0.8, 0.9)),
    "nadam": D.NAdam(betas=(0.8, 0.95), momentum_decay=0.1),
    "radam": D.RAdam(),  # adaptive from the sixth step on
    "radam soon": D.RAdam(betas=(0.8, 0.9), threshold=4.0),
}
# Every rule, and every option that takes another branch; the learning rate of these tests.
RULES: dict[str, tuple[R.Rule, float]] = {
    "identity": (R.Identity(), 0.02),
    "trust ratio": (R.TrustRatio(), 0.02),
    "trust ratio sum": (R.TrustRatio(coefficient=0.5, norm="sum", eps=1e-3), 0.02),
    "trust ratio direction": (R.TrustRatio(norm="direction"), 0.02),
    "trust ratio bounds": (R.TrustRatio(clip=R.Bounds(0.1, 0.8)), 0.02),
    "trust ratio LARC": (R.TrustRatio(coefficient=0.02, clip=R.LARCClip(), norm="sum"), 0.02),
    "trust ratio decayed": (R.TrustRatio(always_adapt=False), 0.02),
    "trust ratio zero": (R.TrustRatio(zero_ratio=1.0, clip=(0.0, 0.5)), 0.02),
    "trust ratio running": (R.TrustRatio(clip=R.RunningBounds(warmup=1)), 0.02),
    "trust ratio falling": (R.TrustRatio(clip=R.FallingBound(0.9, 0.1, 3)), 0.02),
    "percent delta": (R.PercentDelta(), 0.02),
    "percent delta eps 0": (R.PercentDelta(eps=0.0), 0.02),
    "relative L1": (R.RelativeL1(), 0.02),
    "rotation": (R.Rotation(), 0.05),
    "limited norm": (R.LimitedNorm(), 0.05),
}
BUILT_IN = ("identity", "trust ratio", "percent delta", "relative L1", "rotation")
COUPLED_ONLY = ("percent delta", "percent delta eps 0", "relative L1", "rotation", "limited norm")

directions = pytest.mark.parametrize("direction", DIRECTIONS)
rules = pytest.mark.parametrize("rule", RULES)
built_in = pytest.mark.parametrize("rule", BUILT_IN)
full = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
halves = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
all_dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)

Shapes = Mapping[str, tuple[int, ...]]

# Around the width of a vector register; 0, 1 and 4 dimensions; the last three are cut into layers.
SMALL: Shapes = {
    "empty": (0, 4), "scalar": (), "vector": (5,), "one": (1, 1), "15": (15, 1), "16": (1, 16), "17": (17, 1),
    "31": (1, 31), "conv": (4, 3, 3, 2), "zeros": (3, 4), "rows": (6, 5), "equal": (8, 3), "unequal": (7, 5),
}  # fmt: skip
# Several chunks, with tails.
LARGE: Shapes = {
    "4099": (4099, 1),
    "65537": (1, 65537),
    "300007": (300007, 1),
    "rows": (5, 4001),
    "unequal": (7, 30011),
}
SEGMENTS: dict[str, Any] = {"rows": "rows", "equal": 4, "unequal": (1, 4, 2)}


@functools.lru_cache(maxsize=4096)
def _values(name: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int, what: str) -> Tensor:
    """Weights away from zero, or gradients with a zero here and there; orders of magnitude apart by name."""
    generator = torch.Generator().manual_seed(seed * 1000 + sum(map(ord, name)))
    if what == "gradient":
        x = torch.randn(shape, generator=generator, dtype=torch.float64)
        if x.numel() > 4:
            x = torch.where(torch.rand(shape, generator=generator) < 0.1, 0.0, x)
        return (x * (0.1, 1.0, 3.0)[len(name) % 3]).to(dtype)
    size = torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5
    x = torch.where(torch.rand(shape, generator=generator) < 0.5, -size, size)
    return (x * (0.0 if name == "zeros" else (1.0, 0.05, 4.0)[len(name) % 3])).to(dtype)


def weights(
    shapes: Shapes = SMALL, dtype: torch.dtype = torch.float64, seed: int = 0, device: str = "cpu"
) -> dict[str, Tensor]:
    """Parameters by name; the convolution's is channels-last."""
    params = {name: _values(name, shape, dtype, seed, "weight").clone() for name, shape in shapes.items()}
    if "conv" in params:
        params["conv"] = params["conv"].contiguous(memory_format=torch.channels_last)
    return {name: p.to(device).requires_grad_() for name, p in params.items()}


def gradient(name: str, param: Tensor, step: int) -> Tensor:
    """The gradient of a step, in the layout of the parameter."""
    values = _values(name, tuple(param.shape), param.dtype, step + 1, "gradient")
    return torch.empty_like(param).detach().copy_(values)


def optimizer(
    backend: str, params: Mapping[str, Tensor], direction: D.Direction, rule: str | R.Rule, **options: Any
) -> lp.Layerwise:
    """The optimizer of these parameters; of a rule's name, its learning rate comes with it."""
    if isinstance(rule, str):
        rule, lr = RULES[rule]
        options = {"lr": lr, **options}
    options.setdefault("segments", {name: parts for name, parts in SEGMENTS.items() if name in params})
    return lp.Layerwise(list(params.items()), direction=direction, rule=rule, backend=backend, **options)


@dataclass
class Outcome:
    """What a run leaves: weights before and after, and the state; copies."""

    start: dict[str, Tensor]
    weights: dict[str, Tensor]
    state: dict[str, dict[str, Tensor]]

    def moved(self, name: str) -> float:
        """The largest change of a weight; in half precision that of the master copy, if there is one."""
        after = self.state[name].get("master", self.weights[name])
        return float((after - self.start[name].to(after.dtype)).abs().max()) if after.numel() else 0.0


def outcome(start: Mapping[str, Tensor], params: Mapping[str, Tensor], method: torch.optim.Optimizer) -> Outcome:
    return Outcome(
        dict(start),
        {name: p.detach().clone() for name, p in params.items()},
        {name: {key: x.detach().clone() for key, x in method.state.get(p, {}).items()} for name, p in params.items()},
    )


def copies(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in params.items()}


def train(
    method: torch.optim.Optimizer,
    params: Mapping[str, Tensor],
    steps: int,
    first: int = 0,
    absent: Callable[[str, int], bool] = lambda name, step: False,
    lr_factor: float = 1.0,
) -> None:
    """Steps number ``first`` and on; the learning rate changes by a factor after each."""
    for step in range(first, first + steps):
        for name, p in params.items():
            p.grad = None if absent(name, step) else gradient(name, p, step)
        method.step()
        for group in method.param_groups:
            group["lr"] *= lr_factor


def run(
    backend: str,
    direction: str | D.Direction,
    rule: str | R.Rule,
    shapes: Shapes = SMALL,
    dtype: torch.dtype = torch.float64,
    steps: int = 3,
    train_options: Mapping[str, Any] | None = None,
    device: str = "cpu",
    **options: Any,
) -> Outcome:
    """Train fresh tensors by one backend."""
    params = weights(shapes, dtype, device=device)
    start = copies(params)
    method = optimizer(
        backend, params, DIRECTIONS[direction] if isinstance(direction, str) else direction, rule, **options
    )
    train(method, params, steps, **(train_options or {}))
    return outcome(start, params, method)


def assert_agree(
    got: Outcome, expected: Outcome, *, still: tuple[str, ...] = (), loose: float = 1.0, rewritten: bool = False
) -> None:
    """Weights and state agree to rounding: a few ulp of the weights, and of what the weights moved by.

    Args:
        still: names of the tensors that do not move.
        loose: a factor on the tolerances, where a method magnifies rounding.
        rewritten: master copies were lost and made again from the rounded weights, some of which differ in a bit.
    """
    assert got.weights.keys() == expected.weights.keys() and got.weights
    for name, w in expected.weights.items():
        ours, state = got.weights[name], expected.state[name]
        assert ours.dtype == w.dtype and ours.shape == w.shape and ours.stride() == w.stride(), name
        assert got.state[name].keys() == state.keys(), f"{name}: {set(got.state[name]) ^ set(state)}"
        if not w.numel():
            continue
        moved = expected.moved(name)
        # Half precision without a master copy loses the steps of a small tensor now and then.
        stuck = moved == 0 and w.dtype.itemsize == 2 and "master" not in state and w.numel() < 8
        assert (moved == 0) == (name in still) or stuck, f"{name} moved by {moved}"
        exact = torch.finfo(compute_dtype(w.dtype)).eps * loose
        bound = moved * (1e-11 * loose if w.dtype == torch.float64 else 100 * exact)
        bound += 8 * exact * float(w.abs().max())
        if w.dtype != compute_dtype(w.dtype):
            if "master" in state:
                ulp = 2 * torch.finfo(w.dtype).eps * float(w.abs().max())
                masters = got.state[name]["master"], state["master"]
                _close(*masters, bound + (ulp if rewritten else 0), f"{name}: master")
                far = int(((masters[0] - masters[1]).abs() > bound).sum())
                assert far <= w.numel() // 1000, f"{name}: {far} of {w.numel()} master weights differ"
                assert torch.equal(got.state[name]["master"].to(w.dtype), ours), f"{name}: not its master, rounded"
            # Where the exact weight lies between two numbers, the last bit may fall to either side.
            differ = int((ours != w).sum())
            assert differ <= max(2, w.numel() // 100), f"{name}: {differ} of {w.numel()} weights differ"
            bound += 2 * torch.finfo(w.dtype).eps * float(w.abs().max())
        _close(ours, w, bound, name)
        for key, value in state.items():
            ours_value = got.state[name][key]
            assert ours_value.dtype == value.dtype and ours_value.shape == value.shape, f"{name}: {key}"
            if key == "step":
                assert torch.equal(ours_value, value), f"{name}: {ours_value} steps, not {value}"
            elif key != "master":
                half = value.dtype in (torch.bfloat16, torch.float16) or w.dtype != compute_dtype(w.dtype)
                of_ratios = key.startswith("ratio_")  # of directions in the precision of the weights
                wide = value.dtype == torch.float64 and not half
                factor = 1e-11 * loose if wide and not of_ratios else 100 * exact
                # A velocity may be small where steps cancel; its rounding is that of the steps.
                size = max(
                    float(value.abs().max()), max(moved, 0.1 * float(w.abs().max())) if key == "velocity" else 0.0
                )
                if of_ratios:
                    size = float(state["ratio_mean"].abs().max())  # the deviation is a difference of ratios
                _close(ours_value, value, factor * size, f"{name}: {key}")


def _close(got: Tensor, expected: Tensor, bound: float, what: str) -> None:
    error = float((got.double() - expected.double()).abs().max())
    assert error <= bound, f"{what}: error {error:.3e} > {bound:.3e}"  # nan is an error, too


@contextlib.contextmanager
def reference_forbidden() -> Iterator[None]:
    """Within it a step by the reference backend fails: what is compared with it must not be it."""

    def forbidden(work: Any, *others: Any) -> Any:
        shapes = [tuple(p.shape) for p in work.params]
        raise AssertionError(f"the reference backend took a step of {work.direction} on {shapes}")

    with pytest.MonkeyPatch.context() as patch:
        for function in ("accumulate", "apply"):
            patch.setattr(reference, function, forbidden)
        yield
