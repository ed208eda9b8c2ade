"""With the identity rule every direction is its `torch.optim` counterpart, for every option the two share.

Oracle: torch.optim itself, at float64 to 1e-12 over 100 steps, on tensors of every shape and layout, with
gradients that depend on the weights (so that an error of one step moves all later ones) and a learning rate
that a scheduler changes on the way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

import layerpace as lp

D = lp.directions


@pytest.fixture(autouse=True)
def float64_scalars() -> Iterator[None]:
    """torch keeps NAdam's product of momenta in the default dtype: float32 would cost it 1e-8."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@dataclass(frozen=True)
class Case:
    """A direction, and the torch optimizer that it is."""

    direction: Any
    torch_class: type[torch.optim.Optimizer]
    torch_options: dict[str, Any] = field(default_factory=dict)
    lr: float = 0.05


CASES: dict[str, Case] = {
    "sgd": Case(D.SGD(), torch.optim.SGD),
    "heavy ball": Case(D.HeavyBall(), torch.optim.SGD, {"momentum": 0.9}),
    "heavy ball 0.5": Case(D.HeavyBall(momentum=0.5), torch.optim.SGD, {"momentum": 0.5}),
    "heavy ball damped": Case(
        D.HeavyBall(momentum=0.8, dampening=0.3), torch.optim.SGD, {"momentum": 0.8, "dampening": 0.3}
    ),
    "nesterov": Case(D.Nesterov(momentum=0.9), torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "adagrad": Case(D.AdaGrad(), torch.optim.Adagrad),
    "adagrad options": Case(
        D.AdaGrad(lr_decay=0.01, initial_accumulator_value=0.1, eps=1e-6),
        torch.optim.Adagrad,
        {"lr_decay": 0.01, "initial_accumulator_value": 0.1, "eps": 1e-6},
    ),
    "adadelta": Case(D.AdaDelta(), torch.optim.Adadelta, lr=1.0),
    "adadelta options": Case(D.AdaDelta(rho=0.8, eps=1e-4), torch.optim.Adadelta, {"rho": 0.8, "eps": 1e-4}, lr=1.0),
    "rmsprop": Case(D.RMSProp(), torch.optim.RMSprop),
    "rmsprop options": Case(D.RMSProp(alpha=0.9, eps=1e-4), torch.optim.RMSprop, {"alpha": 0.9, "eps": 1e-4}),
    "rmsprop centered": Case(D.RMSProp(centered=True, eps=1e-3), torch.optim.RMSprop, {"centered": True, "eps": 1e-3}),
    "rmsprop momentum": Case(D.RMSProp(momentum=0.7), torch.optim.RMSprop, {"momentum": 0.7}, lr=0.01),
    "rmsprop centered momentum": Case(
        D.RMSProp(alpha=0.95, centered=True, momentum=0.9, eps=1e-3),
        torch.optim.RMSprop,
        {"alpha": 0.95, "centered": True, "momentum": 0.9, "eps": 1e-3},
        lr=0.01,
    ),
    "adam": Case(D.Adam(), torch.optim.Adam),
    "adam options": Case(D.Adam(betas=(0.8, 0.95), eps=1e-4), torch.optim.Adam, {"betas": (0.8, 0.95), "eps": 1e-4}),
    "adam without first moment": Case(D.Adam(betas=(0.0, 0.99)), torch.optim.Adam, {"betas": (0.0, 0.99)}),
    "adam amsgrad": Case(
        D.Adam(betas=(0.9, 0.7), amsgrad=True), torch.optim.Adam, {"betas": (0.9, 0.7), "amsgrad": True}
    ),
    "amsgrad": Case(D.AMSGrad(), torch.optim.Adam, {"amsgrad": True}),
    "adamax": Case(D.AdaMax(), torch.optim.Adamax),
    "adamax options": Case(
        D.AdaMax(betas=(0.7, 0.9), eps=1e-3), torch.optim.Adamax, {"betas": (0.7, 0.9), "eps": 1e-3}
    ),
    "nadam": Case(D.NAdam(), torch.optim.NAdam),
    "nadam options": Case(
        D.NAdam(betas=(0.8, 0.95), eps=1e-5, momentum_decay=0.03),
        torch.optim.NAdam,
        {"betas": (0.8, 0.95), "eps": 1e-5, "momentum_decay": 0.03},
    ),
    "radam": Case(D.RAdam(), torch.optim.RAdam),
    "radam options": Case(D.RAdam(betas=(0.8, 0.95), eps=1e-4), torch.optim.RAdam, {"betas": (0.8, 0.95), "eps": 1e-4}),
    # beta2 so small that the rectification never starts: rho_inf = 3
    "radam never adaptive": Case(D.RAdam(betas=(0.9, 0.5)), torch.optim.RAdam, {"betas": (0.9, 0.5)}),
}

# How torch asks for decoupled weight decay; where it has none the decay is done by hand.
DECOUPLED: dict[type[torch.optim.Optimizer], tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    torch.optim.Adam: (torch.optim.AdamW, {}),
    torch.optim.NAdam: (torch.optim.NAdam, {"decoupled_weight_decay": True}),
    torch.optim.RAdam: (torch.optim.RAdam, {"decoupled_weight_decay": True}),
}


def weights(dtype: torch.dtype) -> list[Tensor]:
    """One tensor of every kind that a model may hold."""
    generator = torch.Generator().manual_seed(7)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    return [
        normal(4, 3),
        normal(5),
        normal(),
        normal(3, 4).t(),
        normal(6, 5)[::2, 1:4],  # with holes
        normal(2, 3, 4, 2).to(memory_format=torch.channels_last),
        normal(0, 3),
        torch.zeros(3, dtype=dtype),
    ]


def parameters(dtype: torch.dtype) -> list[Tensor]:
    return [w.detach().requires_grad_() for w in weights(dtype)]


class Bowl:
    """An ill-conditioned quadratic, tilted anew at each step: its gradients are never all near zero."""

    def __init__(self, params: list[Tensor], steps: int) -> None:
        generator = torch.Generator().manual_seed(11)
        self.scales = [
            10 ** torch.empty(p.shape, dtype=p.dtype).uniform_(-1.5, 0.5, generator=generator) for p in params
        ]
        self.tilts = [
            [torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype) for p in params]
            for _ in range(steps)
        ]

    def set_gradients(self, params: list[Tensor], step: int) -> None:
        for param, scale, tilt in zip(params, self.scales, self.tilts[step], strict=True):
            param.grad = scale * param.detach() + 0.3 * tilt


def train(
    make: Callable[[list[Tensor]], torch.optim.Optimizer],
    dtype: torch.dtype,
    steps: int,
    before_step: Callable[[list[Tensor], float], None] | None = None,
) -> list[Tensor]:
    params = parameters(dtype)
    bowl = Bowl(params, steps)
    optimizer = make(params)
    schedule = torch.optim.lr_scheduler.CyclicLR(
        optimizer,
        optimizer.param_groups[0]["lr"] / 4,
        optimizer.param_groups[0]["lr"],
        7,
        cycle_momentum=False,
    )
    for step in range(steps):
        bowl.set_gradients(params, step)
        if before_step is not None:
            before_step(params, optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return [param.detach() for param in params]


def torch_counterpart(
    case: Case, decay: float, decoupled: bool, maximize: bool, dtype: torch.dtype, steps: int
) -> list[Tensor]:
    options = dict(case.torch_options, lr=case.lr, maximize=maximize, foreach=False)
    torch_class, by_hand = case.torch_class, None
    if not decoupled:
        options["weight_decay"] = decay
    elif torch_class in DECOUPLED:
        torch_class, extra = DECOUPLED[torch_class]
        options |= {"weight_decay": decay, **extra}
    else:

        def by_hand(params: list[Tensor], lr: float) -> None:
            with torch.no_grad():
                for param in params:
                    param.mul_(1 - lr * decay)

    return train(lambda params: torch_class(params, **options), dtype, steps, by_hand)


def ours(case: Case, decay: float, decoupled: bool, maximize: bool, dtype: torch.dtype, steps: int) -> list[Tensor]:
    return train(
        lambda params: lp.Layerwise(
            params,
            direction=case.direction,
            rule=lp.rules.Identity(),
            backend="reference",  # tests/fused has the other one agree with it
            lr=case.lr,
            weight_decay=decay,
            decoupled_weight_decay=decoupled,
            maximize=maximize,
        ),
        dtype,
        steps,
    )


def assert_moved(result: list[Tensor]) -> None:
    for start, end in zip(weights(result[0].dtype), result, strict=True):
        assert start.numel() == 0 or (start - end).abs().min() > 0
        assert torch.isfinite(end).all()


@pytest.mark.parametrize("maximize", [False, True], ids=["minimize", "maximize"])
@pytest.mark.parametrize(
    ("decay", "decoupled"),
    [(0.0, False), (0.07, False), (0.07, True)],
    ids=["no decay", "coupled", "decoupled"],
)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_float64_equals_torch_to_1e_12(case: Case, decay: float, decoupled: bool, maximize: bool) -> None:
    result = ours(case, decay, decoupled, maximize, torch.float64, steps=100)
    expected = torch_counterpart(case, decay, decoupled, maximize, torch.float64, steps=100)
    assert_moved(result)
    for a, b in zip(result, expected, strict=True):
        size = max(1.0, float(b.abs().max()) if b.numel() else 0.0)
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12 * size)


@pytest.mark.parametrize(
    ("decay", "decoupled"),
    [(0.0, False), (0.07, False), (0.07, True)],
    ids=["no decay", "coupled", "decoupled"],
)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_float32_equals_torch_to_its_rounding(case: Case, decay: float, decoupled: bool) -> None:
    """Each of the steps may round a few times the other way: 8 ulps of the largest weight a step."""
    steps = 20
    result = ours(case, decay, decoupled, False, torch.float32, steps)
    expected = torch_counterpart(case, decay, decoupled, False, torch.float32, steps)
    assert_moved(result)
    for a, b in zip(result, expected, strict=True):
        assert a.dtype == torch.float32
        if a.numel():
            ulp = math.ldexp(torch.finfo(torch.float32).eps, math.frexp(float(b.abs().max()))[1])
            assert float((a - b).abs().max()) <= 8 * ulp * math.sqrt(steps)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("maximize", [False, True])
def test_the_velocity_after_the_identity_rule_is_sgd_with_momentum_at_a_constant_rate(
    nesterov: bool, maximize: bool
) -> None:
    """The velocity holds lr*u where torch's buffer holds u: the two differ only when lr changes."""

    def run(make: Callable[[list[Tensor]], torch.optim.Optimizer]) -> list[Tensor]:
        params = parameters(torch.float64)
        bowl = Bowl(params, 60)
        optimizer = make(params)
        for step in range(60):
            bowl.set_gradients(params, step)
            optimizer.step()
        return [param.detach() for param in params]

    result = run(
        lambda params: lp.Layerwise(
            params,
            direction="sgd",
            rule="identity",
            backend="reference",
            lr=0.02,
            momentum=0.9,
            nesterov=nesterov,
            maximize=maximize,
        )
    )
    expected = run(lambda params: torch.optim.SGD(params, lr=0.02, momentum=0.9, nesterov=nesterov, maximize=maximize))
    assert_moved(result)
    for a, b in zip(result, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_state_has_torchs_names_and_values(case: Case) -> None:
    """A monitor or a converter that reads torch's state reads ours."""

    def state(make: Callable[[list[Tensor]], torch.optim.Optimizer]) -> dict[str, Any]:
        params = parameters(torch.float64)
        bowl = Bowl(params, 5)
        optimizer = make(params)
        for step in range(5):
            bowl.set_gradients(params, step)
            optimizer.step()
        return dict(optimizer.state[params[0]])

    expected = state(lambda params: case.torch_class(params, lr=case.lr, foreach=False, **case.torch_options))
    result = state(
        lambda p: lp.Layerwise(p, direction=case.direction, rule="identity", lr=case.lr, backend="reference")
    )
    # torch's SGD keeps no step and an empty buffer without momentum
    expected = {key: value for key, value in expected.items() if value is not None}
    assert set(expected) <= set(result)
    assert set(result) - set(expected) <= {"step"}
    assert float(result["step"]) == 5
    for key, value in expected.items():
        torch.testing.assert_close(
            torch.as_tensor(result[key], dtype=torch.float64),
            torch.as_tensor(value, dtype=torch.float64),
            rtol=1e-12,
            atol=1e-14,
        )


def test_the_names_of_directions_are_the_directions() -> None:
    for name, direction in {
        "sgd": D.SGD(),
        "heavy_ball": D.HeavyBall(),
        "nesterov": D.Nesterov(),
        "ema_momentum": D.EMAMomentum(),
        "adagrad": D.AdaGrad(),
        "adadelta": D.AdaDelta(),
        "rmsprop": D.RMSProp(),
        "adam": D.Adam(),
        "amsgrad": D.AMSGrad(),
        "adamax": D.AdaMax(),
        "nadam": D.NAdam(),
        "radam": D.RAdam(),
    }.items():
        results = [
            train(
                lambda p, d=d: lp.Layerwise(p, direction=d, rule="identity", lr=0.05, backend="reference"),
                torch.float64,
                8,
            )
            for d in (name, direction)
        ]
        assert_moved(results[0])
        for a, b in zip(*results, strict=True):
            assert torch.equal(a, b), name
