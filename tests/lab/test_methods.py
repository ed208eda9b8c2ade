from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

from layerpace import directions, layers, optim, rules
from layerpace.lab.errors import UsageError
from layerpace.lab.methods import DEFAULT_METHODS, NAMED, literal, parse_method


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def trained(optimizer_of: Any, steps: int = 4) -> list[torch.Tensor]:
    net = model()
    optimizer = optimizer_of(net)
    inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for _ in range(steps):
        optimizer.zero_grad()
        net(inputs).pow(2).sum().backward()
        optimizer.step()
    return [p.detach() for p in net.parameters()]


# What each line of a command means, as the optimizer that it must equal. Any two of these differ.
MEANINGS = [
    ("sgd:lr=0.1", lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9)),
    (
        "sgd:lr=0.1,momentum=0.5,wd=0.2",
        lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.5, weight_decay=0.2),
    ),
    ("nesterov:lr=0.1", lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9, nesterov=True)),
    ("adam:lr=0.1,wd=0.2", lambda m: torch.optim.Adam(m.parameters(), lr=0.1, weight_decay=0.2)),
    ("adam:lr=0.1,betas=0.5/0.7", lambda m: torch.optim.Adam(m.parameters(), lr=0.1, betas=(0.5, 0.7))),
    ("adamw:lr=0.1", lambda m: torch.optim.AdamW(m.parameters(), lr=0.1, weight_decay=0.01)),
    ("rmsprop:lr=0.1,alpha=0.5", lambda m: torch.optim.RMSprop(m.parameters(), lr=0.1, alpha=0.5)),
    ("adagrad:lr=0.1", lambda m: torch.optim.Adagrad(m.parameters(), lr=0.1)),
    ("lamb:lr=0.1,clip=(0.5,0.6)", lambda m: optim.LAMB(m.parameters(), lr=0.1, trust_clip=(0.5, 0.6))),
    ("lambc:lr=0.1", lambda m: optim.LAMBC(m.parameters(), lr=0.1)),
    ("lars:lr=0.1", lambda m: optim.LARS(m.parameters(), lr=0.1, exclude=None)),
    ("lars:lr=0.1,exclude=auto", lambda m: optim.LARS(m.parameters(), lr=0.1)),
    ("lars:lr=0.1,exclude=*.bias", lambda m: optim.LARS(m.named_parameters(), lr=0.1, exclude="*.bias", momentum=0.9)),
    ("percent-delta:lr=0.1,momentum=0", lambda m: optim.PercentDelta(m.parameters(), lr=0.1, momentum=0.0)),
    ("layca:lr=0.1,direction=adam", lambda m: optim.Layca(m.parameters(), lr=0.1, direction="adam")),
    (
        "radam+trust_ratio:lr=0.1,clip=1,direction.eps=1e-3",
        lambda m: optim.Layerwise(
            m.parameters(), lr=0.1, direction=directions.RAdam(eps=1e-3), rule=rules.TrustRatio(clip=1.0)
        ),
    ),
]


@pytest.mark.parametrize(("spec", "same"), MEANINGS, ids=[spec for spec, _ in MEANINGS])
def test_a_method_is_the_optimizer_it_names(spec: str, same: Any) -> None:
    method = parse_method(spec)
    (lr,) = method.rates
    for ours, theirs in zip(trained(lambda m: method.build(m.named_parameters(), lr)), trained(same), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMED)
def test_every_name_builds_with_its_default_rate(name: str) -> None:
    method = parse_method(name)
    method.check(method.rates_to_try(()), model())
    before = [p.detach() for p in model().parameters()]
    after = trained(lambda m: method.build(m.named_parameters(), method.default_lr), steps=1)
    assert any(not torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_the_seven_methods_of_the_default() -> None:
    assert [parse_method(name).title for name in DEFAULT_METHODS] == [
        "SGD", "Adam", "LARS", "LAMB", "LAMBC", "PercentDelta", "Layca",
    ]  # fmt: skip


def test_rates_of_a_method_come_before_the_grid_and_the_grid_before_the_default() -> None:
    assert parse_method("adam:lr=1e-3/3e-3").rates_to_try((5.0,)) == (1e-3, 3e-3)
    assert parse_method("adam").rates_to_try((5.0, 6.0)) == (5.0, 6.0)
    assert parse_method("adam").rates_to_try(()) == (NAMED["adam"].lr,)
    assert parse_method("adam", {"adam": 7.0}).rates_to_try(()) == (7.0,)


def test_titles_tell_options_apart_and_leave_the_rate_out() -> None:
    assert parse_method("lamb:lr=0.01,clip=(0,1)").title == "LAMB (clip=(0,1))"
    assert parse_method("lamb:lr=0.01").title == "LAMB"


def test_schedule_is_an_option_of_every_method() -> None:
    assert parse_method("adam:schedule=cosine").schedule == "cosine"
    assert parse_method("adam").schedule is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("1e-3", 1e-3),
        ("True", True),
        ("None", None),
        ("(0,1)", (0, 1)),
        ("0.9/0.99", (0.9, 0.99)),
        ("*.bias", "*.bias"),
    ],
)
def test_option_values(text: str, value: object) -> None:
    assert literal(text) == value


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("adm", "unknown method 'adm' (did you mean adam?)"),
        ("", "unknown method ''"),
        ("rdam+trust_ratio", "unknown direction 'rdam' in 'rdam+trust_ratio'"),
        ("radam+trust", "unknown rule 'trust' in 'radam+trust'"),
        ("lamb:bets=1", "lamb has no option 'bets' (did you mean betas?); it has "),
        ("layca:clip=1", "layca has no option 'clip'"),
        ("adam:lr", "'lr' is not option=value"),
        ("adam:lr=", "'lr=' is not option=value"),
        ("adam:lr=fast", "lr 'fast' is not a number"),
        ("adam:schedule=slow", "schedule 'slow'; choose from constant, linear, cosine"),
        ("adam:lr=-1", "lr must be in"),
        ("adam:lr=nan", "lr must be"),
        ("adam:betas=0.9/2", "betas"),
        ("lamb:clip=hello", "trust_clip must be"),
        ("layca:alpha=2", "alpha must be in [-1, 1], got 2"),
        ("sgd:alpha=high", "alpha must be"),
        ("adam:schedule=steps:2@0.5", "schedule 'steps:2@0.5'; the factor must be in (0, 1], got 2"),
    ],
)
def test_bad_methods_are_refused_in_one_line(spec: str, complaint: str) -> None:
    def use() -> None:
        method = parse_method(spec)
        method.check(method.rates_to_try(()), model())

    with pytest.raises(UsageError, match=re.escape(complaint)) as error:
        use()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("spec", "same"),
    [
        ("layca:lr=0.1,alpha=-0.6", lambda groups: optim.Layca(groups, lr=0.1)),
        ("layca:lr=0.1,direction=adam,alpha=0.3", lambda groups: optim.Layca(groups, lr=0.1, direction="adam")),
        ("lars:lr=0.1,exclude=*.bias,alpha=0.3", lambda groups: optim.LARS(groups, lr=0.1, exclude="*.bias")),
        ("sgd:lr=0.1,alpha=0.3", lambda groups: optim.Layerwise(
            groups, direction=directions.HeavyBall(), rule=rules.Identity(), lr=0.1, decoupled_weight_decay=False)),
        ("radam+trust_ratio:lr=0.1,alpha=-0.6", lambda groups: optim.Layerwise(
            groups, direction=directions.RAdam(), rule=rules.TrustRatio(), lr=0.1)),
        ("rmsprop:lr=0.1,alpha=0.5,layers.alpha=-0.6", lambda groups: optim.Layerwise(
            groups, direction=directions.RMSProp(alpha=0.5), rule=rules.Identity(), lr=0.1,
            decoupled_weight_decay=False)),
    ],
)  # fmt: skip
def test_alpha_multiplies_the_rates_of_layers(spec: str, same: Any) -> None:
    method = parse_method(spec)
    alpha = 0.3 if "alpha=0.3" in spec else -0.6
    method.check(method.rates, model())
    ours = trained(lambda m: method.build(m.named_parameters(), 0.1, method.multipliers(m)))
    theirs = trained(lambda m: same(layers.prioritize(m, alpha)))
    plain = trained(lambda m: same(m.named_parameters()))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert not all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))


def test_alpha_counts_layers_in_the_order_of_the_forward_pass_and_draws_no_random_number() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Linear(4, 2), nn.Linear(3, 4)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.last(torch.rand(()) * self.first(inputs))  # type: ignore[no-any-return]

    method = parse_method("layca:alpha=-0.5")
    state = torch.get_rng_state()
    found = method.multipliers(Backwards(), lambda: torch.ones(1, 3))
    again = method.multipliers(Backwards())
    torch.set_rng_state(state)
    assert found == {"first.weight": 1.0, "first.bias": 1.0, "last.weight": 0.5**5, "last.bias": 0.5**5}
    assert again == {"last.weight": 1.0, "last.bias": 1.0, "first.weight": 0.5**5, "first.bias": 0.5**5}
    net = Backwards()
    state = torch.get_rng_state()
    method.multipliers(net, lambda: torch.ones(1, 3))
    assert torch.equal(torch.get_rng_state(), state)


def test_alpha_without_the_layers_of_a_model_is_refused() -> None:
    with pytest.raises(ValueError, match="alpha needs the multipliers"):
        parse_method("sgd:alpha=0.3").build(model().named_parameters(), 0.1)
    with pytest.raises(UsageError, match="no tensor with two or more dimensions"):
        parse_method("sgd:alpha=0.3").check([0.1], nn.LayerNorm(3))


def test_an_unknown_option_lists_all_valid_ones() -> None:
    with pytest.raises(UsageError) as error:
        parse_method("lambc:x=1")
    listed = str(error.value).split("it has ")[1].split(", ")
    assert {"lr", "schedule", "alpha", "betas", "eps", "weight_decay", "trust_clip", "exclude", "nonfinite"} <= set(
        listed
    )
    assert "params" not in listed
    assert "options" not in listed


# A method per role


def deep() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def run(net: nn.Module, optimizers: list[torch.optim.Optimizer]) -> list[torch.Tensor]:
    inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for _ in range(4):
        net.zero_grad()
        net(inputs).pow(2).sum().backward()
        for optimizer in optimizers:
            optimizer.step()
    return [p.detach() for p in net.parameters()]


@pytest.mark.parametrize(
    "others", ["rest=adamw:lr=0.01", "input=adamw:lr=0.01; head=adamw:lr=0.01; vector=adamw:lr=0.01"]
)
def test_roles_have_methods_of_their_own(others: str) -> None:
    method = parse_method(f"layca:lr=0.1; {others}")
    net, twin = deep(), deep()
    roles = method.roles(net, lambda: torch.ones(1, 3, dtype=torch.float64))
    ours = run(net, [method.build(net.named_parameters(), 0.1, roles=roles)])
    hidden = twin[2].weight
    rest = [p for p in twin.parameters() if p is not hidden]
    expected = run(twin, [optim.Layca([hidden], lr=0.1), torch.optim.AdamW(rest, lr=0.01, weight_decay=0.01)])
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert roles is not None
    table = method.routing(roles)
    assert table.splitlines()[1].split() == ["hidden", "1", "16", "layca:lr=0.1", "2.weight"]
    assert "adamw:lr=0.01" in table and method.rates == (0.1,)


def test_a_method_by_role_is_told_apart_from_the_same_without() -> None:
    plain, one, two = (parse_method(spec) for spec in ("lamb", "lamb; rest=sgd", "lamb; rest=sgd:lr=0.1"))
    assert len({str(sorted(m.options.items())) for m in (plain, one, two)}) == 3
    assert [m.name for m in (plain, one, two)] == ["lamb"] * 3 and one.title == "LAMB; rest: SGD"
    assert plain.roles(deep()) is None
    with pytest.raises(ValueError, match="needs the roles"):
        one.build(deep().named_parameters(), 0.1)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("lamb; body=sgd", r"'body=sgd' is not ROLE=METHOD; roles are hidden, .*, vector, rest"),
        ("lamb; hiden=sgd", r"did you mean hidden\?"),
        ("lamb; sgd", "'sgd' is not ROLE=METHOD"),
        ("lamb; rest=sgdd", r"unknown method 'sgdd' \(did you mean sgd\?\)"),
        ("lamb; rest=sgd; rest=adam", "the role 'rest' is there twice"),
        ("lamb; rest=sgd:lr=0.1/0.2", "rates to try, a schedule and alpha belong to the first method"),
        ("lamb; rest=sgd:schedule=linear", "belong to the first method"),
        ("lamb; rest=sgd:wat=1", "sgd has no option 'wat'"),
    ],
)
def test_bad_methods_of_roles_are_refused_in_one_line(spec: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        parse_method(spec)
    assert "\n" not in str(caught.value)
