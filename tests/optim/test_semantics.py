"""Semantics that implementations elsewhere get wrong, each with its own test; and the laws of the rules."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
import torch
from tests.oracles import common
from torch import Tensor

import layerpace as lp

Build = Callable[..., torch.optim.Optimizer]

OPTIMIZERS: dict[str, Build] = {
    "lars": functools.partial(lp.LARS, lr=0.5),
    "lars_nesterov": functools.partial(lp.LARS, lr=0.5, nesterov=True, weight_decay=0.1),
    "lars_lr_outside": functools.partial(lp.LARS.preset("timm"), lr=0.5, momentum=0.9, weight_decay=0.1),
    "lamb": functools.partial(lp.LAMB, lr=0.01),
    "lamb_correction_after": functools.partial(lp.LAMB.preset("deepspeed"), lr=0.01, weight_decay=0.1),
    "lamb_decay": functools.partial(lp.LAMB, lr=0.01, weight_decay=0.1),
    "lambc": functools.partial(lp.LAMBC, lr=0.01, weight_decay=0.1),
    "percent_delta": functools.partial(lp.PercentDelta, lr=0.01),
    "percent_delta_decay": functools.partial(lp.PercentDelta, lr=0.01, weight_decay=0.1),
    "layca": functools.partial(lp.Layca, lr=0.03),
    "layca_adam": functools.partial(lp.Layca, lr=0.03, direction="adam"),
    "relative_l1": functools.partial(lp.Layerwise, direction="rmsprop", rule="relative_l1", lr=0.01),
    "identity": functools.partial(lp.Layerwise, direction="adam", rule="identity", lr=0.01, weight_decay=0.1),
}
PHANTOM_DIRECTIONS = (
    "heavy_ball",
    "ema_momentum",
    "rmsprop",
    "adagrad",
    "adadelta",
    "adamax",
    "nadam",
    "radam",
)
RULES: dict[str, dict[str, Any]] = {
    "identity": {"rule": "identity"},
    "trust_ratio": {"rule": "trust_ratio"},
    "trust_ratio_decay": {"rule": "trust_ratio", "weight_decay": 0.1},
    "trust_ratio_sum": {"rule": lp.rules.TrustRatio(norm="sum"), "weight_decay": 0.1},
    "trust_ratio_clip": {"rule": lp.rules.TrustRatio(coefficient=0.1, clip=(0.01, 1e9))},
    "percent_delta": {"rule": lp.rules.PercentDelta(eps=0.0)},
    "relative_l1": {"rule": "relative_l1"},
    "rotation": {"rule": "rotation"},
}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weights(*shape: int, seed: int = 0) -> Tensor:
    """Away from zero, of both signs."""
    w = draw(*shape, seed=seed)
    return torch.where(w < 0, -1.0, 1.0) * (0.5 + w.abs())


def steps(
    build: Build, w: Tensor, grads: Iterable[Tensor], name: str = "layer.weight", **keywords: Any
) -> list[Tensor]:
    """The displacement w_t - w_{t+1} of every step."""
    p = torch.nn.Parameter(w.clone())
    optimizer = build([(name, p)], **keywords)
    displacements = []
    for g in grads:
        before = p.detach().clone()
        p.grad = g.clone()
        optimizer.step()
        displacements.append(before - p.detach())
    return displacements


def first(build: Build, w: Tensor, g: Tensor, **keywords: Any) -> Tensor:
    return steps(build, w, [g], **keywords)[0]


def layerwise(**keywords: Any) -> Build:
    return functools.partial(lp.Layerwise, **{"direction": "sgd", "lr": 0.01, **keywords})


def close(got: Tensor | float, expected: Tensor | float, rtol: float = 1e-11) -> None:
    """In the norm: a displacement is a difference of weights, exact to their rounding and not to its own."""
    theirs = torch.as_tensor(expected, dtype=torch.float64)
    error = common.norm(torch.as_tensor(got, dtype=torch.float64) - theirs) / common.norm(theirs)
    assert bool(error <= rtol), f"got {got}, expected {expected}: relative error {float(error):.3e} > {rtol}"


def size(x: Tensor) -> Tensor:
    return common.norm(x)


def unit(x: Tensor) -> Tensor:
    return x / size(x)


# ---- LAMB -------------------------------------------------------------------------------------------------


def test_lamb_has_its_weight_decay_inside_the_norm() -> None:
    w, g = weights(4, 3), draw(4, 3, seed=1)
    total = torch.sign(g) + 0.7 * w  # the first step of Adam without eps is the sign
    d = first(lp.LAMB, w, g, lr=0.01, weight_decay=0.7, eps=0.0)
    close(d, 0.01 * size(w) * unit(total))
    outside = first(lp.LAMB, w, g, lr=0.01, weight_decay=0.7, eps=0.0, decay_in_norm=False)
    close(outside, 0.01 * size(w) / size(torch.sign(g)) * total)


def test_lamb_has_its_eps_outside_the_root() -> None:
    w, g = weights(4, 3), draw(4, 3, seed=1)
    outside, inside = g / (g.abs() + 0.1), g / torch.sqrt(g * g + 0.1)
    close(first(lp.LAMB, w, g, eps=0.1), 1e-3 * size(w) * unit(outside))
    close(first(lp.LAMB, w, g, eps=0.1, eps_inside_sqrt=True), 1e-3 * size(w) * unit(inside))
    assert size(unit(outside) - unit(inside)) > 0.01


def test_lamb_corrects_the_bias_before_the_ratio() -> None:
    """A correction after the ratio (DeepSpeed's) makes the first step 0.316 times as long as lr says."""
    w, g = weights(4, 3), draw(4, 3, seed=1)
    corrected = g / (g.abs() + 0.1)
    raw = 0.1 * g / (math.sqrt(0.001) * g.abs() + 0.1)
    close(first(lp.LAMB, w, g, lr=0.01, eps=0.1), 0.01 * size(w) * unit(corrected))
    close(first(lp.LAMB, w, g, lr=0.01, eps=0.1, bias_correction=False), 0.01 * size(w) * unit(raw))
    assert size(unit(corrected) - unit(raw)) > 0.01


def test_lambs_options_of_algorithm_1_are_off_by_default() -> None:
    w, g = weights(4, 3), draw(4, 3, seed=1)
    for build in (lp.LAMB, lp.LAMBC):
        default = first(build, w, g, weight_decay=0.7, eps=0.1)
        explicit = first(build, w, g, weight_decay=0.7, eps=0.1, eps_inside_sqrt=False, decay_in_norm=True)
        assert torch.equal(default, explicit)
        for option in ({"eps_inside_sqrt": True}, {"decay_in_norm": False}):
            changed = first(build, w, g, weight_decay=0.7, eps=0.1, **option)
            assert size(changed - default) > 1e-3 * size(default)


def test_lambc_never_steps_further_than_lamb() -> None:
    # |w| from far below to far above |u|, which is about sqrt(n)
    for k, scale in enumerate((1e-2, 0.5, 1.0, 2.0, 1e2)):
        w, g = scale * weights(4, 3, seed=k), draw(4, 3, seed=k + 10)
        lamb = size(first(lp.LAMB, w, g))
        clipped = size(first(lp.LAMBC, w, g))
        assert clipped <= lamb * (1 + 1e-12)
        close(clipped, torch.minimum(size(w), torch.tensor(math.sqrt(12), dtype=w.dtype)) * 1e-3, rtol=1e-4)


def test_lambc_with_a_huge_bound_is_lamb() -> None:
    w, grads = weights(4, 3), [draw(4, 3, seed=k) for k in range(5)]
    lamb = steps(lp.LAMB, w, grads, weight_decay=0.1)
    clipped = steps(lp.LAMBC, w, grads, weight_decay=0.1, trust_clip=1e30)
    assert all(torch.equal(a, b) for a, b in zip(lamb, clipped, strict=True))


def test_a_lower_bound_of_the_clip_acts() -> None:
    w, g = 1e-2 * weights(4, 3), draw(4, 3, seed=1)
    close(first(lp.LAMB, w, g, eps=0.0, trust_clip=(0.5, 1.0)), 1e-3 * 0.5 * torch.sign(g))


# ---- LARS -------------------------------------------------------------------------------------------------


def test_lars_first_velocity_is_its_displacement_and_not_the_raw_gradient() -> None:
    """Seeded with the gradient, as torch.optim.SGD seeds its buffer, the first step is 800 times too long."""
    w, g = weights(4, 3), 50 * draw(4, 3, seed=1)
    close(first(lp.LARS, w, g, lr=0.5, eps=0.0), 0.5 * 1e-3 * size(w) * unit(g))


def test_lars_velocity_starts_at_zero_so_that_dampening_acts_at_once() -> None:
    w, g = weights(4, 3), draw(4, 3, seed=1)
    close(first(lp.LARS, w, g, lr=0.5, eps=0.0, dampening=0.25), 0.75 * 0.5 * 1e-3 * size(w) * unit(g))


def test_lars_has_its_learning_rate_inside_the_velocity() -> None:
    """With the learning rate outside, a step at lr = 0 stands still; inside, the velocity goes on."""
    w, g = weights(4, 3), draw(4, 3, seed=1)
    p = torch.nn.Parameter(w.clone())
    optimizer = lp.LARS([p], lr=0.5, momentum=0.9)
    p.grad = g.clone()
    optimizer.step()
    first_step = w - p.detach()
    optimizer.param_groups[0]["lr"] = 0.0
    before = p.detach().clone()
    optimizer.step()
    close(before - p.detach(), 0.9 * first_step, rtol=1e-11)


def test_lars_ratio_is_that_of_the_raw_gradient() -> None:
    """Not of the momentum: a gradient that turns round keeps its full length in the second step."""
    w, g = weights(4, 3), draw(4, 3, seed=1)
    one, two = steps(lp.LARS, w, [g, -3 * g], lr=0.5, eps=0.0)
    close(two - 0.9 * one, -0.5 * 1e-3 * size(w - one) * unit(g), rtol=1e-10)


def test_lars_denominator_is_the_sum_of_two_norms() -> None:
    w, g = weights(4, 3), draw(4, 3, seed=1)
    d = first(lp.LARS, w, g, lr=0.5, weight_decay=0.3, eps=0.2)
    close(d, 0.5 * 1e-3 * size(w) / (size(g) + 0.3 * size(w) + 0.2) * (g + 0.3 * w))


def test_lars_nesterov() -> None:
    w, g = weights(4, 3), draw(4, 3, seed=1)
    close(first(lp.LARS, w, g, lr=0.5, eps=0.0, nesterov=True), 1.9 * 0.5 * 1e-3 * size(w) * unit(g))
    with pytest.raises(ValueError, match=r"(?i)nesterov"):
        lp.LARS([torch.nn.Parameter(w)], lr=0.5, nesterov=True, dampening=0.5)


# ---- PercentDelta -----------------------------------------------------------------------------------------


def test_percent_delta_changes_a_layer_by_its_lr() -> None:
    for shape in ((4, 3), (7,), (2, 3, 2)):
        w, g = weights(*shape), draw(*shape, seed=1)
        d = first(lp.PercentDelta, w, g, lr=0.03, momentum=0.0, eps=0.0)
        close((d / w).abs().mean(), 0.03)
        close(unit(d), unit(g))


@pytest.mark.parametrize(("dampening", "share"), [(None, 1.0), (0.9, 1.0), (0.0, 10.0)])
def test_percent_delta_momentum_keeps_the_meaning_of_lr(dampening: float | None, share: float) -> None:
    """A heavy ball makes the share 1/(1 - momentum) times lr, so the velocity is an average by default."""
    w, g = weights(4, 3), draw(4, 3, seed=1)
    last = steps(lp.PercentDelta, w, [g] * 150, lr=1e-7, momentum=0.9, dampening=dampening)[-1]
    close((last / w).abs().mean(), share * 1e-7, rtol=1e-3)


def test_percent_delta_momentum_of_a_group_keeps_the_meaning_of_lr() -> None:
    """Where dampening is None it follows the momentum in force: of a group, or cycled by a scheduler."""
    w, g = weights(4, 3), draw(4, 3, seed=1)
    for momentum in (0.0, 0.5, 0.95):
        p = torch.nn.Parameter(w.clone())
        optimizer = lp.PercentDelta([{"params": [p], "momentum": momentum}], lr=1e-7)
        for _ in range(300):
            before = p.detach().clone()
            p.grad = g.clone()
            optimizer.step()
        close(((before - p.detach()) / w).abs().mean(), 1e-7, rtol=1e-3)


def test_percent_delta_takes_the_sign_of_zero_as_plus() -> None:
    w = torch.tensor([[0.0, 1.0], [-2.0, 4.0]], dtype=torch.float64)
    g = torch.tensor([[1.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    d = first(lp.PercentDelta, w, g, lr=0.03, momentum=0.0, eps=0.5)
    close(d, 0.03 * 4 / (1 / 0.5 + 1 / 1.5 + 1 / 2.5 + 1 / 4.5) * g)


def test_percent_delta_stays_finite_at_a_zero_weight() -> None:
    w = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    d = first(lp.PercentDelta, w, torch.ones_like(w), lr=0.03, momentum=0.0)
    close(d, 0.03 * 2 / (1e8 + 1) * torch.ones_like(w), rtol=1e-6)


def test_percent_delta_adds_its_weight_decay_to_the_gradient() -> None:
    w, g = weights(4, 3), draw(4, 3, seed=1)
    close(
        first(lp.PercentDelta, w, g, weight_decay=0.5, momentum=0.0),
        first(lp.PercentDelta, w, g + 0.5 * w, momentum=0.0),
    )


# ---- Layca and the rotation rule --------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["sgd", "ema_momentum", "adam", "rmsprop", "adagrad"])
@pytest.mark.parametrize("lr", [3.0**-7, 3.0**-3, 1.0, 9.0])
def test_layca_turns_a_layer_by_atan_lr_and_keeps_its_norm(lr: float, direction: str) -> None:
    w = weights(4, 3)
    p = torch.nn.Parameter(w.clone())
    optimizer = lp.Layca([p], lr=lr, direction=direction)
    for k in range(20):
        before = p.detach().clone()
        p.grad = draw(4, 3, seed=k)
        optimizer.step()
        after = p.detach()
        close(size(after), size(w), rtol=1e-12)
        difference = size(unit(before) - unit(after))
        close(2 * torch.asin(difference / 2), math.atan(lr), rtol=1e-9)


def test_layca_turns_towards_the_descent_direction_in_one_plane() -> None:
    w, g = weights(4, 3), draw(4, 3, seed=1)
    d = first(lp.Layca, w, g, lr=0.1)
    basis = torch.linalg.qr(torch.stack([w.reshape(-1), g.reshape(-1)], dim=1)).Q
    outside = d.reshape(-1) - basis @ (basis.T @ d.reshape(-1))
    assert size(outside) < 1e-14
    assert (d * g).sum() > 0


def test_layca_returns_to_the_norm_of_its_first_step() -> None:
    """Weights written from outside, at another norm, come back to the sphere."""
    w, g = weights(4, 3), draw(4, 3, seed=1)
    p = torch.nn.Parameter(w.clone())
    optimizer = lp.Layca([p], lr=0.1)
    for factor in (1.0, 5.0):
        with torch.no_grad():
            p.mul_(factor)
        p.grad = g.clone()
        optimizer.step()
        close(size(p.detach()), size(w))


def test_layca_takes_the_norm_of_its_first_step_and_not_of_a_phantom_step() -> None:
    """Weights loaded after torch.distributed.checkpoint created the state keep their own norm."""
    w, g = weights(4, 3), draw(4, 3, seed=1)
    p = torch.nn.Parameter(w.clone())
    optimizer = lp.Layca([p], lr=0.0)
    p.grad = torch.zeros_like(p)
    optimizer.step()
    with torch.no_grad():
        p.mul_(5)
    optimizer.param_groups[0]["lr"] = 0.1
    p.grad = g.clone()
    optimizer.step()
    close(size(p.detach()), 5 * size(w))


def test_layca_does_not_move_along_its_own_weights() -> None:
    w = weights(4, 3)
    for u in (w, -3 * w, 1e-8 * w):
        d = first(lp.Layca, w, u, lr=0.1)
        assert torch.equal(d, torch.zeros_like(w))
        perturbed = first(lp.Layca, w, u + 1e-4 * size(u) * unit(draw(4, 3, seed=1)), lr=0.1)
        assert size(perturbed) > 0.05 * size(w)


def test_layca_stands_still_at_zero_learning_rate() -> None:
    w, g = weights(4, 3), draw(4, 3, seed=1)
    assert torch.equal(first(lp.Layca, w, g, lr=0.0), torch.zeros_like(w))


# ---- laws of the rules ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("scale", [1e-3, 7.0, 1e6])
def test_scaling_weights_and_update_together_scales_the_step(rule: str, scale: float) -> None:
    w, grads = weights(4, 3), [draw(4, 3, seed=k) for k in range(3)]
    build = layerwise(min_rms=0.0, momentum=0.5, **RULES[rule])
    small = steps(build, w, grads)
    large = steps(build, scale * w, [scale * g for g in grads])
    for one, other in zip(small, large, strict=True):
        close(unit(other), unit(one), rtol=1e-9)
        close(size(other), scale * size(one), rtol=1e-9)


@pytest.mark.parametrize(
    "rule", [name for name in RULES if name not in ("identity", "trust_ratio_clip", "trust_ratio_decay")]
)
@pytest.mark.parametrize("scale", [1e-6, 7.0, 1e8])
def test_a_layer_rule_forgets_the_length_of_the_gradient(rule: str, scale: float) -> None:
    w, g = weights(4, 3), draw(4, 3, seed=1)
    keywords = {**RULES[rule], "weight_decay": 0.0}
    build = layerwise(**keywords)
    close(first(build, w, scale * g), first(build, w, g), rtol=1e-10)
    assert not torch.allclose(first(layerwise(rule="identity"), w, scale * g), 0.01 * g)


@pytest.mark.parametrize("coefficient", [1e-3, 1.0, 3.0])
def test_trust_ratio_makes_steps_of_lr_times_the_weight_norm(coefficient: float) -> None:
    for scale in (1e-2, 1.0, 1e3):
        w, g = scale * weights(4, 3), draw(4, 3, seed=1)
        build = layerwise(rule=lp.rules.TrustRatio(coefficient=coefficient), weight_decay=0.3)
        close(size(first(build, w, g)), 0.01 * coefficient * size(w))


def test_relative_l1_changes_a_layer_by_lr_in_the_l1_norm() -> None:
    for scale in (1e-2, 1.0, 1e3):
        w, g = scale * weights(4, 3), draw(4, 3, seed=1)
        d = first(layerwise(rule="relative_l1"), w, g)
        close(d.abs().sum() / w.abs().sum(), 0.01)
        close(unit(d), unit(g))


def test_larc_clip_is_sgd_where_the_ratio_is_large_and_forgets_lr_where_it_is_small() -> None:
    w, g = weights(4, 3), draw(4, 3, seed=1)
    for lr in (0.1, 0.5):
        for coefficient, expected in ((1e3, lr * g), (1e-3, 1e-3 * size(w) * unit(g))):
            rule = lp.rules.TrustRatio(coefficient=coefficient, clip=lp.rules.LARCClip())
            close(first(layerwise(rule=rule, lr=lr), w, g), expected)


def test_identity_with_weight_decay_is_decoupled() -> None:
    w, g = weights(4, 3), draw(4, 3, seed=1)
    close(first(layerwise(rule="identity", direction="adam", weight_decay=0.5), w, g),
          0.01 * (g / (g.abs() + 1e-8) + 0.5 * w), rtol=1e-11)  # fmt: skip


@pytest.mark.parametrize("rule", ["identity", "trust_ratio_decay", "trust_ratio_sum"])
def test_weights_with_a_decay_too_small_for_one_minus_c_still_decay(rule: str) -> None:
    """lr*ratio*lambda of 1e-9 vanishes from 1 - c in fp32, not from c."""
    w = torch.full((2, 2), 1e-3)
    keywords = {**RULES[rule], "weight_decay": 1e-6, "lr": 1e-3, "min_rms": 0.0, "momentum": 0.9}
    p = torch.nn.Parameter(w.clone())
    optimizer = lp.Layerwise([p], direction="sgd", **keywords)
    p.grad = torch.zeros_like(p)
    optimizer.step()
    velocity = optimizer.state[p]["velocity"]
    assert bool((velocity > 0).all())


# ---- zero-initialised tensors -----------------------------------------------------------------------------

# optimizer -> displacement of the first step from zero, for n = 12 entries and gradient g
FROM_ZERO: dict[str, tuple[Build, Callable[[Tensor], Tensor]]] = {
    "lars": (
        functools.partial(lp.LARS, lr=30.0, eps=0.0),
        lambda g: 30.0 * 1e-3 * 1e-3 * math.sqrt(12) * unit(g),
    ),
    "lars_decay": (
        functools.partial(lp.LARS, lr=30.0, eps=0.0, weight_decay=0.1),
        lambda g: 30.0 * 1e-3 * 1e-3 * math.sqrt(12) * unit(g),
    ),
    "lamb": (
        functools.partial(lp.LAMB, lr=0.01, eps=0.0),
        lambda g: 0.01 * 1e-3 * math.sqrt(12) * unit(torch.sign(g)),
    ),
    "lambc": (
        functools.partial(lp.LAMBC, lr=0.01, eps=0.0),
        lambda g: 0.01 * 1e-3 * math.sqrt(12) * unit(torch.sign(g)),
    ),
    "percent_delta": (
        functools.partial(lp.PercentDelta, lr=0.03, momentum=0.0),
        lambda g: 0.03 * 1e-3 * 12 * g / g.abs().sum(),
    ),
    "relative_l1": (layerwise(rule="relative_l1"), lambda g: 0.01 * 1e-3 * 12 * g / g.abs().sum()),
    "layca": (functools.partial(lp.Layca, lr=0.1), lambda g: 1e-3 * math.sqrt(12) * unit(g)),
}


@pytest.mark.parametrize("name", FROM_ZERO)
@pytest.mark.parametrize("gradient_scale", [1e-6, 1.0, 1e6])
def test_a_zero_tensor_starts_to_move_and_does_not_jump(name: str, gradient_scale: float) -> None:
    """Elsewhere it takes the raw lr*g, or stays frozen."""
    build, expected = FROM_ZERO[name]
    g = gradient_scale * draw(4, 3, seed=1)
    close(first(build, torch.zeros(4, 3, dtype=torch.float64), g), expected(g), rtol=1e-10)


@pytest.mark.parametrize("name", FROM_ZERO)
def test_a_zero_tensor_goes_on_moving(name: str) -> None:
    build, _ = FROM_ZERO[name]
    grads = [draw(4, 3, seed=1) + 0.1 * draw(4, 3, seed=k) for k in range(2, 40)]
    displacements = steps(build, torch.zeros(4, 3, dtype=torch.float64), grads)
    assert all(bool(torch.isfinite(d).all()) and size(d) > 0 for d in displacements)
    travelled = size(sum(displacements, torch.zeros(())))
    assert travelled > (0.5 if name == "layca" else 5) * size(displacements[0])


@pytest.mark.parametrize("name", ["lars", "lamb", "lambc", "relative_l1"])
def test_min_rms_zero_is_the_papers_text_which_freezes_a_zero_tensor(name: str) -> None:
    build, _ = FROM_ZERO[name]
    d = first(build, torch.zeros(4, 3, dtype=torch.float64), draw(4, 3, seed=1), min_rms=0.0)
    assert torch.equal(d, torch.zeros_like(d))


@pytest.mark.parametrize("name", FROM_ZERO)
def test_min_rms_leaves_tensors_above_it_alone(name: str) -> None:
    build, _ = FROM_ZERO[name]
    w, g = 0.01 * weights(4, 3), draw(4, 3, seed=1)
    assert torch.equal(first(build, w, g), first(build, w, g, min_rms=0.0))


def test_percent_delta_floors_single_weights_only_of_a_tensor_below_min_rms() -> None:
    w = torch.tensor([[1e-5, -2e-3], [5e-4, -1e-4]], dtype=torch.float64)
    g = draw(2, 2, seed=1)
    floored = torch.tensor([[1e-3, 2e-3], [1e-3, 1e-3]], dtype=torch.float64)
    assert (w * w).mean().sqrt() > 1e-3
    exact = w + 1e-8 * torch.sign(w)
    close(first(lp.PercentDelta, w, g, momentum=0.0), 0.03 * 4 / (g / exact).abs().sum() * g)
    small = w.clone()
    small[0, 1] = -1.9e-3
    floored[0, 1] = 1.9e-3
    assert (small * small).mean().sqrt() < 1e-3
    close(first(lp.PercentDelta, small, g, momentum=0.0), 0.03 * 4 / (g / floored).abs().sum() * g)


# ---- nothing to do ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize("name", [*OPTIMIZERS, *PHANTOM_DIRECTIONS])
def test_a_phantom_step_changes_nothing(name: str, before: int) -> None:
    """Zero gradients and lr = 0: torch.distributed.checkpoint makes such a step to create the state.

    No weight, no statistic, no step count, and so nothing of the training that follows.
    """
    build = OPTIMIZERS.get(name, layerwise(direction=name, rule="trust_ratio", lr=0.01))
    task = common.problem(seed=8)
    undisturbed, params = common.parameters(task), common.parameters(task)
    reference = build(undisturbed.items())
    expected = common.train_library(task, undisturbed, reference, before + 3)
    optimizer = build(params.items())
    common.train_library(task, params, optimizer, before)
    state = {layer: {k: v.clone() for k, v in optimizer.state[p].items()} for layer, p in params.items()}
    weights_before = {layer: p.detach().clone() for layer, p in params.items()}

    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    for p in params.values():
        p.grad = torch.zeros_like(p)
    optimizer.step()

    for layer, p in params.items():
        assert torch.equal(p.detach(), weights_before[layer])
        assert set(optimizer.state[p]) == set(reference.state[undisturbed[layer]]), "the state was not created"
        assert bool(optimizer.state[p]["step"] == before)
        assert all(bool(torch.isfinite(value).all()) for value in optimizer.state[p].values())
        for key, value in state[layer].items():
            assert torch.equal(optimizer.state[p][key], value), key
    for group, lr in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = lr
    got = common.train_library(task, params, optimizer, 3, first=before)
    for ours, theirs in zip(got, expected[before:], strict=True):
        assert all(torch.equal(ours[layer], w) for layer, w in theirs.items())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("direction", ["sgd", "adam", "rmsprop", "adagrad", "adadelta", "adamax", "nadam", "radam"])
def test_zero_gradients_make_no_nan(direction: str, rule: str) -> None:
    """Of non-zero and of zero weights; without decay nothing moves."""
    keywords = {**RULES[rule], "weight_decay": 0.0}
    for w in (weights(4, 3), torch.zeros(4, 3, dtype=torch.float64)):
        for d in steps(layerwise(direction=direction, **keywords), w, [torch.zeros_like(w)] * 3):
            assert torch.equal(d, torch.zeros_like(w))


@pytest.mark.parametrize("lr", [0.0, 0.01])
@pytest.mark.parametrize("rule", RULES)
def test_a_layer_without_gradient_beside_one_with_makes_no_nan(rule: str, lr: float) -> None:
    """Not a phantom step: 0/0 and 0*inf are the rule's to avoid, at lr = 0 too (the start of a warm-up)."""
    for dead in (weights(4, 3), torch.zeros(4, 3, dtype=torch.float64)):
        a, b = torch.nn.Parameter(dead.clone()), torch.nn.Parameter(weights(4, 3, seed=2))
        optimizer = layerwise(momentum=0.5, **{**RULES[rule], "weight_decay": 0.0, "lr": lr})([a, b])
        for k in range(2):
            a.grad, b.grad = torch.zeros_like(a), draw(4, 3, seed=k)
            optimizer.step()
        assert torch.equal(a.detach(), dead)
        assert torch.equal(b.detach(), weights(4, 3, seed=2)) is (lr == 0)


# ---- exclusion --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (5,)])
def test_vectors_are_left_out_of_adaptation_and_decay_by_default(shape: tuple[int, ...]) -> None:
    w, g = weights(*shape), draw(*shape, seed=1)
    close(first(lp.LARS, w, g, lr=0.5, weight_decay=0.3), 0.5 * g)
    for build in (lp.LAMB, lp.LAMBC):
        close(first(build, w, g, lr=0.01, weight_decay=0.3, eps=0.1), 0.01 * g / (g.abs() + 0.1))
    close(first(lp.Layca, w, g, lr=0.01), 0.01 * g)


def test_percent_delta_adapts_vectors_by_default() -> None:
    w, g = weights(5), draw(5, seed=1)
    close((first(lp.PercentDelta, w, g, lr=0.03, momentum=0.0, eps=0.0) / w).abs().mean(), 0.03)


@pytest.mark.parametrize("shape", [(5,), (1, 5), (5, 1, 1, 1)])
def test_the_default_looks_at_the_number_of_dimensions(shape: tuple[int, ...]) -> None:
    w, g = weights(*shape), draw(*shape, seed=1)
    d = first(lp.LARS, w, g, lr=0.5, eps=0.0)
    close(d, 0.5 * g if len(shape) == 1 else 0.5 * 1e-3 * size(w) * unit(g))


@pytest.mark.parametrize(
    ("exclude", "excluded"),
    [
        (None, set()),
        ((), set()),
        ("*.bias", {"a.bias"}),
        (["a.*"], {"a.weight", "a.bias"}),
        (["b.weight", "*.bias"], {"b.weight", "a.bias"}),
        (lambda name, p: p.ndim == 1 or name == "b.weight", {"b.weight", "a.bias"}),
        ("auto", {"a.bias"}),
    ],
)
def test_one_argument_says_which_tensors_are_left_out(exclude: Any, excluded: set[str]) -> None:
    initial = {"a.weight": weights(4, 3), "a.bias": weights(4, seed=1), "b.weight": weights(2, 4, seed=2)}
    params = {name: torch.nn.Parameter(w.clone()) for name, w in initial.items()}
    optimizer = lp.LARS(params.items(), lr=0.5, weight_decay=0.3, exclude=exclude, eps=0.0)
    for p in params.values():
        p.grad = draw(*p.shape, seed=3)
    optimizer.step()
    for name, p in params.items():
        w, g = initial[name], p.grad
        assert g is not None
        adapted = 0.5 * 1e-3 * size(w) / (size(g) + 0.3 * size(w)) * (g + 0.3 * w)
        close(w - p.detach(), 0.5 * g if name in excluded else adapted, rtol=1e-10)


@pytest.mark.parametrize("in_group", [True, False, None, lambda name, p: True])
def test_a_group_says_it_for_its_own_tensors(in_group: Any) -> None:
    a, b = torch.nn.Parameter(weights(4, 3)), torch.nn.Parameter(weights(4, 3, seed=2))
    w, g = b.detach().clone(), draw(4, 3, seed=3)
    optimizer = lp.LARS([{"params": [a]}, {"params": [b], "exclude": in_group}], lr=0.5, eps=0.0)
    a.grad, b.grad = g.clone(), g.clone()
    optimizer.step()
    adapted = 0.5 * 1e-3 * size(w) * unit(g)
    close(w - b.detach(), 0.5 * g if in_group is True or callable(in_group) else adapted, rtol=1e-10)


def test_names_are_needed_for_a_glob() -> None:
    with pytest.raises(ValueError, match=r"(?i)name"):
        lp.LARS([torch.nn.Parameter(torch.ones(2, 2))], lr=0.1, exclude="*.bias")


def test_an_excluded_layer_has_the_velocity_too() -> None:
    w, g = weights(5), draw(5, seed=1)
    one, two = steps(lp.LARS, w, [g, g], lr=0.5, momentum=0.9)
    close(two, 1.9 * one, rtol=1e-11)


# ---- gradients, errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("common_options", [{}, {"maximize": True, "max_grad_norm": 0.1}], ids=["plain", "clip"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_gradients_are_never_written(name: str, common_options: Mapping[str, Any]) -> None:
    task = common.problem(seed=9)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        params = common.parameters(task, dtype)
        optimizer = OPTIMIZERS[name](params.items(), **common_options)
        for t in range(2):
            grads = {layer: task.gradient(layer, p, t).to(dtype) for layer, p in params.items()}
            for layer, p in params.items():
                p.grad = grads[layer]
            copies = {layer: g.clone() for layer, g in grads.items()}
            versions = {layer: g._version for layer, g in grads.items()}
            optimizer.step()
            for layer, p in params.items():
                assert p.grad is grads[layer]
                assert grads[layer]._version == versions[layer]
                assert torch.equal(grads[layer], copies[layer])


def parameter() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.ones(2, 2))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("keyword", ["momemtum", "beta", "weight_deacy", "trust_ratio", "foreach"])
def test_an_unknown_keyword_is_a_type_error(name: str, keyword: str) -> None:
    with pytest.raises(TypeError, match=keyword):
        OPTIMIZERS[name]([parameter()], **{keyword: 0.5})


# build, keyword, bad value, a part of the range that the message must name
OUT_OF_RANGE: list[tuple[str, Build, str, Any]] = [
    ("lars", lp.LARS, "lr", -0.1),
    ("lars", lp.LARS, "lr", math.nan),
    ("lars", lp.LARS, "momentum", -0.5),
    ("lars", lp.LARS, "weight_decay", -1.0),
    ("lars", lp.LARS, "eps", -1e-8),
    ("lars", lp.LARS, "trust_coefficient", -1.0),
    ("lars", lp.LARS, "min_rms", -1.0),
    ("lars", lp.LARS, "trust_clip", -1.0),
    ("lars", lp.LARS, "trust_clip", (2.0, 1.0)),
    ("lars", lp.LARS, "max_grad_norm", 0.0),
    ("lamb", lp.LAMB, "lr", -0.1),
    ("lamb", lp.LAMB, "lr", math.nan),
    ("lamb", lp.LAMB, "betas", (1.0, 0.999)),
    ("lamb", lp.LAMB, "betas", (0.9, -0.1)),
    ("lamb", lp.LAMB, "betas", (0.9, math.nan)),
    ("lamb", lp.LAMB, "eps", -1.0),
    ("lamb", lp.LAMB, "eps", math.nan),
    ("lamb", lp.LAMB, "weight_decay", math.nan),
    ("lambc", lp.LAMBC, "trust_clip", math.nan),
    ("percent_delta", lp.PercentDelta, "lr", -0.1),
    ("percent_delta", lp.PercentDelta, "momentum", math.nan),
    ("percent_delta", lp.PercentDelta, "dampening", -0.5),
    ("percent_delta", lp.PercentDelta, "eps", -1.0),
    ("layca", lp.Layca, "lr", -0.1),
    ("layca", lp.Layca, "momentum", -0.1),
    ("layca", lp.Layca, "min_rms", math.nan),
]
IDS = [f"{name}-{keyword}-{value}" for name, _, keyword, value in OUT_OF_RANGE]
GROUP_OPTIONS = ("lr", "momentum", "weight_decay", "betas", "dampening")


def message_of(build: Build, arguments: Any, keywords: Mapping[str, Any]) -> str:
    with pytest.raises(ValueError) as caught:
        build(arguments, **keywords)
    return str(caught.value)


def named(message: str, keyword: str, value: Any) -> None:
    assert keyword in message
    # of a pair with one bad number, either the pair or that number
    candidates = [value, *value] if isinstance(value, tuple) else [value]
    assert any(repr(candidate) in message for candidate in candidates), message
    assert any(word in message for word in ("[", "(", ">", "at least", "positive")), f"no range: {message}"


@pytest.mark.parametrize(("name", "build", "keyword", "value"), OUT_OF_RANGE, ids=IDS)
def test_an_error_names_the_value_and_the_range(name: str, build: Build, keyword: str, value: Any) -> None:
    keywords = {"lr": 0.1, keyword: value}
    named(message_of(build, [parameter()], keywords), keyword, value)


@pytest.mark.parametrize(
    ("name", "build", "keyword", "value"),
    [case for case in OUT_OF_RANGE if case[2] in GROUP_OPTIONS],
    ids=[i for i, case in zip(IDS, OUT_OF_RANGE, strict=True) if case[2] in GROUP_OPTIONS],
)
def test_an_error_names_the_parameter_group(name: str, build: Build, keyword: str, value: Any) -> None:
    groups = [{"params": [parameter()]}, {"params": [parameter()], keyword: value}]
    message = message_of(build, groups, {"lr": 0.1})
    named(message, keyword, value)
    assert "group 1" in message
