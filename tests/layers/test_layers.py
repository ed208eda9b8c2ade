"""Parameters -> layers: names, exclusion, segments, and the multipliers of layer prioritization."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.methods import Problem, assert_differ, assert_same
from torch import Tensor, nn

import layerpace as lp

# Rules with their own default of what is left out: tensors of at most one dimension, or nothing.
LEAVES_OUT_VECTORS: dict[str, tuple[Callable[..., torch.optim.Optimizer], bool]] = {
    "LARS": (lambda p, **o: lp.LARS(p, lr=2.0, weight_decay=0.1, **o), True),
    "LAMB": (lambda p, **o: lp.LAMB(p, lr=0.05, weight_decay=0.1, **o), True),
    "LAMBC": (lambda p, **o: lp.LAMBC(p, lr=0.05, weight_decay=0.1, **o), True),
    "Layca": (lambda p, **o: lp.Layca(p, lr=0.05, **o), True),
    "PercentDelta": (lambda p, **o: lp.PercentDelta(p, lr=0.05, weight_decay=0.1, **o), False),
    "trust ratio": (
        lambda p, **o: lp.Layerwise(p, direction="sgd", rule="trust_ratio", lr=0.1, weight_decay=0.1, **o),
        True,
    ),
    "rotation": (lambda p, **o: lp.Layerwise(p, direction="sgd", rule="rotation", lr=0.1, **o), True),
    "relative L1": (lambda p, **o: lp.Layerwise(p, direction="sgd", rule="relative_l1", lr=0.1, **o), False),
    "percent delta": (
        lambda p, **o: lp.Layerwise(p, direction="sgd", rule="percent_delta", lr=0.1, **o),
        False,
    ),
    "identity": (
        lambda p, **o: lp.Layerwise(p, direction="sgd", rule="identity", lr=0.1, weight_decay=0.1, **o),
        False,
    ),
}
defaults = pytest.mark.parametrize(("make", "leaves_out"), LEAVES_OUT_VECTORS.values(), ids=LEAVES_OUT_VECTORS)
makers = pytest.mark.parametrize("make", [m for m, _ in LEAVES_OUT_VECTORS.values()], ids=LEAVES_OUT_VECTORS)


def trained(
    make: Callable[..., torch.optim.Optimizer], named: bool = True, steps: int = 3, **options: Any
) -> list[Tensor]:
    problem = Problem()
    problem.train(make(problem.named if named else problem.params, **options), steps)
    return problem.weights()


@defaults
def test_by_default_a_rule_leaves_out_vectors_or_nothing(
    make: Callable[..., torch.optim.Optimizer], leaves_out: bool
) -> None:
    default = trained(make)
    nothing = trained(make, exclude=None)
    vectors = trained(make, exclude=lambda name, param: param.ndim <= 1)
    assert_same(default, vectors if leaves_out else nothing)
    for k, weight in enumerate(default):  # and the two differ, for the vectors alone
        assert torch.equal(nothing[k], vectors[k]) == (weight.ndim > 1)


@makers
def test_excluded_layers_take_the_plain_step_without_decay(
    make: Callable[..., torch.optim.Optimizer],
) -> None:
    """In one step from a fresh state: w - lr*g for the methods on raw gradients, w - lr*g/|g| for Adam's."""
    problem = Problem()
    before = problem.weights()
    optimizer = make(problem.named, exclude="*")
    problem.train(optimizer, 1)
    group = optimizer.param_groups[0]
    # the first step of an averaged velocity is 1 - dampening of the displacement
    share = 1 - group["momentum"] if type(optimizer) is lp.PercentDelta else 1.0
    if group.get("nesterov"):
        share += group["momentum"]
    for w, p in zip(before, problem.params, strict=True):
        g = p.grad
        assert g is not None
        u = g / (g.abs() + group["eps"]) if "betas" in group else g  # Adam's bias-corrected first step
        torch.testing.assert_close(p.detach(), w - share * group["lr"] * u, rtol=1e-6, atol=1e-12)


@makers
@pytest.mark.parametrize("exclude", [None, (), [], False])
def test_all_spellings_of_nothing(make: Callable[..., torch.optim.Optimizer], exclude: Any) -> None:
    assert_same(trained(make, exclude=exclude), trained(make, exclude=lambda name, param: False))


@makers
@pytest.mark.parametrize(
    "exclude",
    [
        "first.*",
        ["first.weight", "*.bias"],
        ("f?rst.weight", "first.bias"),
        ["[f]irst.weight", "first.bias"],
        lambda name, param: name.startswith("first"),
        lambda name, param: param.shape in ((4, 3), (5,)),
    ],
    ids=["glob", "globs", "question mark", "brackets", "by name", "by parameter"],
)
def test_globs_and_predicates_select_the_same(make: Callable[..., torch.optim.Optimizer], exclude: Any) -> None:
    got = trained(make, exclude=exclude)
    everything, nothing = trained(make, exclude="*"), trained(make, exclude=None)
    assert_same(got, [*everything[:2], *nothing[2:]])
    if make is not LEAVES_OUT_VECTORS["identity"][0]:
        assert_differ(everything, nothing)


def test_a_predicate_sees_every_name_and_parameter() -> None:
    problem = Problem()
    seen: list[tuple[str, Tensor]] = []

    def note(name: str, param: Tensor) -> bool:
        seen.append((name, param))
        return False

    lp.LAMB(problem.named, exclude=note)
    assert {name for name, _ in seen} == {name for name, _ in problem.named}
    assert all(param is dict(problem.named)[name] for name, param in seen)
    seen.clear()
    lp.LAMB(problem.params, exclude=note)
    assert {name for name, _ in seen} == {""}


def test_globs_are_case_sensitive() -> None:
    problem = Problem()
    with pytest.raises(ValueError, match=r"FIRST\.\*"):
        lp.LAMB(problem.named, exclude="FIRST.*")


@makers
def test_a_group_may_have_its_own_exclude(make: Callable[..., torch.optim.Optimizer]) -> None:
    problem = Problem()
    groups = [
        {"params": problem.named[:2], "exclude": True},
        {"params": problem.named[2:], "exclude": False},
    ]
    problem.train(make(groups), 3)
    assert_same(problem.weights(), trained(make, exclude="first.*"))

    problem = Problem()
    groups = [
        {"params": problem.named[:2], "exclude": "*.weight"},
        {"params": problem.named[2:], "exclude": ["scale"]},
    ]
    problem.train(make(groups), 3)
    assert_same(problem.weights(), trained(make, exclude=["first.weight", "scale"]))


def test_a_group_added_later_is_excluded_likewise() -> None:
    problem = Problem()
    optimizer = lp.LAMB(problem.named[:2], lr=0.05, exclude=["first.weight"])
    optimizer.add_param_group({"params": problem.named[2:3]})
    optimizer.add_param_group({"params": problem.named[3:], "exclude": True})
    problem.train(optimizer, 3)
    assert_same(problem.weights(), trained(lambda p, **o: lp.LAMB(p, lr=0.05, **o), exclude=["first.weight", "scale"]))


@pytest.mark.parametrize("exclude", ["*.gamma", ["first.bias", "norm.*"]])
def test_a_glob_that_matches_nothing_is_an_error(exclude: Any) -> None:
    pattern = exclude if isinstance(exclude, str) else exclude[1]
    with pytest.raises(ValueError) as error:
        lp.LARS(Problem().named, lr=1.0, exclude=exclude)
    assert pattern in str(error.value)
    assert "exclude" in str(error.value)
    with pytest.raises(ValueError) as error:
        lp.LARS(Problem().named, lr=1.0, segments={"first.weight": 2, "qkv.*": 3})
    assert "qkv.*" in str(error.value)
    assert "segments" in str(error.value)


@pytest.mark.parametrize("options", [{"exclude": "*.bias"}, {"segments": {"*.weight": 2}}])
def test_globs_need_names(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="named_parameters"):
        lp.LARS(Problem().params, lr=1.0, **options)


@pytest.mark.parametrize("exclude", [3, 1.5, [1, 2], {"a": 1}])
def test_other_types_of_exclude_are_refused(exclude: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="exclude"):
        lp.LARS(Problem().named, lr=1.0, exclude=exclude)


BAD_SEGMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "does not divide": ({"first.weight": 3}, "first.weight.*4 rows.*3 equal parts"),
    "zero parts": ({"first.weight": 0}, "first.weight"),
    "negative parts": ({"first.weight": -2}, "first.weight"),
    "True": ({"first.weight": True}, "first.weight"),
    "sizes do not sum": ({"first.weight": [1, 2]}, r"first.weight.*sum to 4.*\[1, 2\]"),
    "a size of zero": ({"first.weight": [0, 4]}, "first.weight"),
    "no sizes": ({"first.weight": []}, "first.weight"),
    "a word": ({"first.weight": "columns"}, "first.weight.*columns"),
    "without dimensions": ({"scale": 2}, "scale.*without dimensions"),
    "two globs": ({"first.*": 2, "*.weight": 2}, "first.weight"),
}


@pytest.mark.parametrize(("segments", "message"), BAD_SEGMENTS.values(), ids=BAD_SEGMENTS)
def test_segments_that_do_not_fit_are_named(segments: dict[str, Any], message: str) -> None:
    problem = Problem(shapes=[(4, 3), (4,), (2, 3, 2, 2), ()])
    before = problem.weights()
    with pytest.raises(ValueError, match=message):
        lp.LAMB(problem.named, segments=segments)
    optimizer = lp.LAMB(problem.named[:1])
    with pytest.raises(ValueError, match="cut"):
        optimizer.add_param_group({"params": problem.named[2:3], "segments": 5})
    assert len(optimizer.param_groups) == 1
    assert_same(problem.weights(), before)
    optimizer.add_param_group({"params": problem.named[2:3], "segments": 2})  # it can go on


@makers
@pytest.mark.parametrize("segments", [1, [4]])
def test_one_segment_is_the_tensor_itself(make: Callable[..., torch.optim.Optimizer], segments: Any) -> None:
    assert_same(trained(make, segments={"first.weight": segments}), trained(make))


@makers
def test_equal_spellings_of_segments(make: Callable[..., torch.optim.Optimizer]) -> None:
    rows = trained(make, segments={"first.weight": "rows"})
    assert_same(rows, trained(make, segments={"first.w*": 4}))
    assert_same(rows, trained(make, segments={"first.weight": (1, 1, 1, 1)}))
    problem = Problem()
    groups = [{"params": problem.named[:1], "segments": "rows"}, {"params": problem.named[1:]}]
    problem.train(make(groups), 3)
    assert_same(problem.weights(), rows)
    if make is not LEAVES_OUT_VECTORS["identity"][0]:
        assert not torch.equal(rows[0], trained(make)[0])


def test_errors_name_segments_by_number() -> None:
    problem = Problem()
    optimizer = lp.LAMB(problem.named, segments={"first.weight": 2}, nonfinite="raise")
    problem.set_gradients(0)
    problem.params[0].grad[3, 1] = math.inf  # type: ignore[index]
    with pytest.raises(FloatingPointError, match=r"first\.weight\[1\]") as error:
        optimizer.step()
    assert "first.weight[0]" not in str(error.value)


# Layer prioritization: equation 1 of the layer-rotation paper, with the alphas of its section 4


class Stack(nn.Module):
    """Registered as last, norm, first, middle; computed as first, norm, middle, last."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(5, 2)
        self.norm = nn.BatchNorm1d(4)
        self.first = nn.Linear(3, 4)
        self.middle = nn.Linear(4, 5, bias=False)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.dropout(self.middle(self.norm(self.first(x)))))
        return result


def by_name(groups: list[dict[str, Any]]) -> dict[str, float]:
    found = {name: group["lr_multiplier"] for group in groups for name, _ in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in groups)
    return found


ALPHAS = [0.0, *(sign * a for a in (0.1, 0.2, 0.3, 0.4, 0.6, 0.8) for sign in (1, -1))]


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("depth", [2, 3, 7])
def test_multipliers_are_equation_1(alpha: float, depth: int) -> None:
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(depth)))
    found = by_name(lp.layers.prioritize(model, alpha))
    for layer in range(depth):
        if alpha > 0:
            expected = (1 - alpha) ** (5 * (depth - 1 - layer) / (depth - 1))
        else:
            expected = (1 + alpha) ** (5 * layer / (depth - 1))
        assert found[f"{layer}.weight"] == pytest.approx(expected, rel=1e-14)
        assert found[f"{layer}.bias"] == found[f"{layer}.weight"]
    # figure 12: the prioritized end has multiplier 1, the other end (1 - |alpha|)^5
    ends = (found["0.weight"], found[f"{depth - 1}.weight"])
    assert max(ends) == 1.0
    assert min(ends) == pytest.approx((1 - abs(alpha)) ** 5)
    assert alpha == 0 or (ends[0] > ends[1]) == (alpha < 0)


@pytest.mark.parametrize("kind", ["tensor", "tuple", "dict"])
def test_forward_order_is_measured(kind: str) -> None:
    model = Stack().train()
    model.middle.eval()
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    example = {"tensor": x, "tuple": (x,), "dict": {"x": x}}[kind]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    rng = torch.get_rng_state()
    found = by_name(lp.layers.prioritize(model, 0.5, example_input=example))
    assert found == pytest.approx(
        {
            "first.weight": 0.5**5,
            "first.bias": 0.5**5,
            "norm.weight": 0.5**5,
            "norm.bias": 0.5**5,
            "middle.weight": 0.5**2.5,
            "last.weight": 1.0,
            "last.bias": 1.0,
        }
    )
    # measuring leaves no trace: buffers of the normalisation, modes, gradients, hooks, random numbers
    assert_same(dict(model.state_dict()), state)
    assert model.training
    assert model.norm.training
    assert not model.middle.training
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), rng)


def test_without_an_example_the_order_is_that_of_registration() -> None:
    found = by_name(lp.layers.prioritize(Stack(), 0.5))
    assert [found[f"{name}.weight"] for name in ("last", "first", "middle")] == pytest.approx([0.5**5, 0.5**2.5, 1])
    assert found["norm.weight"] == found["last.weight"]


def test_a_failing_forward_pass_leaves_no_trace() -> None:
    model = Stack().train()
    with pytest.raises(RuntimeError):
        lp.layers.prioritize(model, 0.5, example_input=torch.zeros(2, 99))
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_module_that_is_never_called_follows_the_one_registered_before_it() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(4, 4)
            self.first = nn.MultiheadAttention(4, 1)  # reads the weights of its out_proj, and does not call it
            self.second = nn.MultiheadAttention(4, 1)
            self.head = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.embed(x)
            for block in (self.first, self.second):
                x, _ = block(x, x, x)
            return self.head(x)

    found = by_name(lp.layers.prioritize(Attention(), -0.2, example_input=torch.zeros(3, 4)))
    order = ["embed.weight", "first.in_proj_weight", "first.out_proj.weight"]
    order += ["second.in_proj_weight", "second.out_proj.weight", "head.weight"]
    assert [found[name] for name in order] == pytest.approx([0.8 ** (5 * k / 5) for k in range(6)])


def test_shared_weights_and_direct_parameters_stand_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(5, 3)
            self.scale = nn.Parameter(torch.ones(()))
            self.head = nn.Linear(3, 5)
            self.head.weight = self.embed.weight

        def forward(self, tokens: Tensor) -> Tensor:
            result: Tensor = self.head(self.embed(tokens) * self.scale)
            return result

    model = Tied()
    for example in (None, torch.tensor([1, 2])):
        found = by_name(lp.layers.prioritize(model, -0.5, example_input=example))
        assert set(found) == {name for name, _ in model.named_parameters()}


def test_one_layer_has_multiplier_one_and_no_layer_is_an_error() -> None:
    assert set(by_name(lp.layers.prioritize(nn.Linear(2, 2), 0.7)).values()) == {1.0}
    with pytest.raises(ValueError, match="no layer"):
        lp.layers.prioritize(nn.LayerNorm(3), 0.5)


@pytest.mark.parametrize("alpha", [1.5, -1.5, math.nan, math.inf])
def test_alpha_out_of_range(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha"):
        lp.layers.prioritize(Stack(), alpha)


def test_a_prioritized_layca_turns_each_layer_by_its_share() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    groups = lp.layers.prioritize(model, -0.4, example_input=torch.zeros(1, 4, dtype=torch.float64))
    optimizer = lp.Layca(groups, lr=0.2)
    schedule = lp.schedules.linear_decay(optimizer, slope=0.25, floor=0.1)
    weights = [model[k].weight for k in (0, 2, 4)]
    for t in range(3):
        before = [w.detach().clone() for w in weights]
        optimizer.zero_grad()
        model(torch.randn(8, 4, dtype=torch.float64)).square().sum().backward()
        optimizer.step()
        schedule.step()
        for layer, (w, old) in enumerate(zip((w.detach() for w in weights), before, strict=True)):
            angle = math.acos(float((w * old).sum() / (w.norm() * old.norm())))
            share = 0.6 ** (5 * layer / 2)
            assert math.tan(angle) == pytest.approx(0.2 * (1 - 0.25 * t) * share, rel=1e-6)


def test_lr_multiplier_of_a_group_scales_any_rule() -> None:
    for make, _ in LEAVES_OUT_VECTORS.values():
        one, other = Problem(), Problem()
        optimizer = make([{"params": one.named, "lr_multiplier": 0.5}])
        reference = make(other.named)
        for group in reference.param_groups:
            group["lr"] *= 0.5
        one.train(optimizer, 3)
        other.train(reference, 3)
        assert_same(one.weights(), other.weights())
