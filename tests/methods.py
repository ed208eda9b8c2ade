"""The list of methods that drives the tests of behaviour, and a small problem for them to train on."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import layerpace as lp

Params = Iterable[Any]
Make = Callable[..., torch.optim.Optimizer]


def _wrapped(torch_class: type[torch.optim.Optimizer], rule: lp.rules.Rule, **defaults: Any) -> Make:
    inner = {"lr", "maximize", "weight_decay", *defaults}

    def make(params: Params, **options: Any) -> torch.optim.Optimizer:
        own = {key: options.pop(key) for key in inner & set(options)}
        return lp.wrap(torch_class(params, **{**defaults, **own}), rule, **options)  # type: ignore[arg-type]

    return make


def _with(make: Make, **defaults: Any) -> Make:
    return lambda params, **options: make(params, **{**defaults, **options})


def _layerwise(direction: Any, rule: Any, **defaults: Any) -> Make:
    return _with(lp.Layerwise, direction=direction, rule=rule, **defaults)


def _mix(*methods: dict[str, Any], **defaults: Any) -> Make:
    """An optimizer with a method per group. A tensor's number of dimensions settles its method, however it is handed
    over, and neighbours of one method are a group: parameters keep their order.
    """

    def method_of(item: Any) -> dict[str, Any]:
        tensor = item[1] if isinstance(item, tuple) else item
        if not isinstance(tensor, Tensor):
            return {}  # which is refused
        return methods[(tensor.ndim + tensor.is_complex()) % len(methods)]

    def make(params: Params, **options: Any) -> torch.optim.Optimizer:
        if isinstance(params, (Tensor, str)):
            return lp.Layerwise(params, direction="adam", rule="identity", **options)  # type: ignore[arg-type]
        given = list(params)
        whole = given if given and isinstance(given[0], dict) else [{"params": given}]
        groups: list[dict[str, Any]] = []
        for group in whole:
            members = group["params"]
            members = [members] if isinstance(members, Tensor) else list(members)
            for method, own in groupby(members, method_of):
                groups.append({**method, **group, "params": list(own)})
        return lp.Layerwise(groups or given, **{"direction": "adam", "rule": "identity", **defaults, **options})

    return make


D, R = lp.directions, lp.rules

# name -> make(params, **options). Every direction, every rule and every kind of state stands in it.
NATIVE: dict[str, Make] = {
    "LARS": _with(lp.LARS, lr=0.02, trust_coefficient=0.5, weight_decay=0.01),
    "LARS nesterov": _with(lp.LARS, lr=0.02, trust_coefficient=0.5, nesterov=True),
    "LAMB": _with(lp.LAMB, lr=0.02, weight_decay=0.01),
    "LAMBC": _with(lp.LAMBC, lr=0.02),
    "LAMBC, running bounds": _with(lp.LAMBC, lr=0.02, trust_clip=R.RunningBounds(warmup=2)),
    "PercentDelta": _with(lp.PercentDelta, lr=0.02),
    "Layca": _with(lp.Layca, lr=0.05),
    "Layca momentum": _with(lp.Layca, lr=0.05, momentum=0.9),
    "Layca adam": _with(lp.Layca, lr=0.05, direction="adam"),
    "adam, identity": _layerwise("adam", "identity", lr=0.02, weight_decay=0.01),
    "amsgrad, trust ratio": _layerwise("amsgrad", "trust_ratio", lr=0.02),
    "heavy ball, relative L1": _layerwise("heavy_ball", "relative_l1", lr=0.02, weight_decay=0.01),
    "nesterov, trust ratio": _layerwise("nesterov", R.TrustRatio(clip=(0.0, 1.0)), lr=0.02),
    "heavy ball, limited norm": _layerwise("heavy_ball", "limited_norm", lr=0.05),
    "EMA, rotation": _layerwise("ema_momentum", "rotation", lr=0.05),
    "adagrad, percent delta": _layerwise("adagrad", "percent_delta", lr=0.02),
    "adadelta, trust ratio": _layerwise("adadelta", "trust_ratio", lr=0.02, momentum=0.5),
    "rmsprop, rotation": _layerwise(D.RMSProp(centered=True, momentum=0.5, eps=1e-3), "rotation", lr=0.05),
    "adamax, identity": _layerwise("adamax", "identity", lr=0.02),
    "nadam, trust ratio": _layerwise("nadam", "trust_ratio", lr=0.02),
    "radam, relative L1": _layerwise(D.RAdam(betas=(0.8, 0.9)), "relative_l1", lr=0.02, momentum=0.5),
    "mix: rules": _mix(
        {"rule": "trust_ratio", "clip": 2.0}, {"rule": "identity"}, {"rule": R.Rotation()}, lr=0.02, weight_decay=0.01
    ),
    "mix: directions": _mix(
        {"direction": "nadam", "rule": "identity"},
        {"direction": "heavy_ball", "momentum": 0.5, "rule": "trust_ratio"},
        {"direction": D.RAdam(betas=(0.8, 0.9)), "rule": "percent_delta"},
        lr=0.02,
    ),
    "mix: memories": _mix(
        {"rule": R.TrustRatio(clip=R.RunningBounds(warmup=2))},
        {"direction": "sgd", "rule": "rotation", "momentum": 0.5},
        {"direction": "amsgrad", "rule": "limited_norm"},
        lr=0.02,
        exclude=None,
    ),
}
WRAPPED: dict[str, Make] = {
    "wrapped Adam": _wrapped(torch.optim.Adam, R.TrustRatio(), lr=0.02),
    "wrapped SGD": _wrapped(torch.optim.SGD, R.Rotation(), lr=0.05, momentum=0.9),
}
METHODS = NATIVE | WRAPPED

native = pytest.mark.parametrize("make", NATIVE.values(), ids=NATIVE)
methods = pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
# Where a test looks into the groups: a mix makes as many as it needs.
ONE_GROUP = {name: make for name, make in METHODS.items() if not name.startswith("mix")}
of_one_group = pytest.mark.parametrize("make", ONE_GROUP.values(), ids=ONE_GROUP)
few = pytest.mark.parametrize(
    "make",
    [METHODS[name] for name in ("LARS", "LAMB", "PercentDelta", "Layca", "wrapped Adam")],
    ids=["LARS", "LAMB", "PercentDelta", "Layca", "wrapped Adam"],
)

SHAPES = ((4, 3), (5,), (2, 3, 2, 2), ())
NAMES = ("first.weight", "first.bias", "conv.weight", "scale")


class Problem:
    """Ill-conditioned bowls, one a tensor, tilted anew at each step; the gradients depend on the weights."""

    def __init__(
        self, dtype: torch.dtype = torch.float64, shapes: Iterable[tuple[int, ...]] = SHAPES, seed: int = 0
    ) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.params = [self._normal(shape).to(dtype).requires_grad_() for shape in shapes]
        self.targets = [self._normal(p.shape) for p in self.params]
        self.scales = [10 ** (self._normal(p.shape) / 2) for p in self.params]

    def _normal(self, shape: Iterable[int]) -> Tensor:
        return torch.randn(tuple(shape), generator=self.generator, dtype=torch.float64)

    @property
    def named(self) -> list[tuple[str, Tensor]]:
        return list(zip(NAMES, self.params, strict=True))

    def set_gradients(self, step: int) -> None:
        tilt = torch.Generator().manual_seed(1000 + step)
        for p, target, scale in zip(self.params, self.targets, self.scales, strict=True):
            noise = torch.randn(p.shape, generator=tilt, dtype=torch.float64)
            p.grad = (scale * (p.detach().double() - target) + 0.1 * noise).to(p.dtype)

    def loss(self) -> Tensor:
        terms = zip(self.params, self.targets, self.scales, strict=True)
        return torch.stack([(s * (p.double() - t) ** 2).sum() / 2 for p, t, s in terms]).sum()

    def train(self, optimizer: torch.optim.Optimizer, steps: int, first: int = 0) -> None:
        for step in range(first, first + steps):
            self.set_gradients(step)
            optimizer.step()

    def weights(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.params]


def snapshot(optimizer: torch.optim.Optimizer) -> Any:
    """Everything that a step may change: weights, state, groups."""
    weights = [p.detach().clone() for group in optimizer.param_groups for p in group["params"]]
    return weights, copy.deepcopy(optimizer.state_dict())


def assert_same(a: Any, b: Any, where: str = "", check_dtype: bool = True) -> None:
    """Equality to the bit, of nested containers of tensors and values; nan equals nan."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        assert isinstance(a, Tensor), f"{where}: {type(a)} and {type(b)}"
        assert isinstance(b, Tensor), f"{where}: {type(a)} and {type(b)}"
        assert not check_dtype or a.dtype == b.dtype, f"{where}: {a.dtype} and {b.dtype}"
        torch.testing.assert_close(
            a, b, rtol=0, atol=0, equal_nan=True, check_dtype=check_dtype, msg=lambda m: f"{where}: {m}"
        )
    elif isinstance(a, dict):
        assert set(a) == set(b), f"{where}: {set(a) ^ set(b)}"
        for key in a:
            assert_same(a[key], b[key], f"{where}[{key!r}]", check_dtype)
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for k, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{k}]", check_dtype)
    else:
        assert a == b or (a != a and b != b), f"{where}: {a!r} and {b!r}"


def assert_differ(a: list[Tensor], b: list[Tensor]) -> None:
    """Each of the tensors differs somewhere: a comparison of two things that never moved proves nothing."""
    for x, y in zip(a, b, strict=True):
        assert not torch.equal(x, y)


def save_and_open(thing: Any) -> Any:
    """Through a file that needs no pickled code."""
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def model_and(make: Make, seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A small network, and its optimizer."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    return model, make(model.parameters())


def train_model(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        x = torch.randn(6, 3, generator=generator, dtype=torch.float64)
        (model(x) - x[:, :2]).square().mean().backward()
        optimizer.step()
