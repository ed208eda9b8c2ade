"""Presets: LAMB and LARS as other libraries step them, against float64 versions of those libraries' steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from tests.oracles import common, peers

import layerpace as lp

STEPS = 25
TOLERANCE = 1e-10


@dataclass(frozen=True)
class Peer:
    """A preset, and the step of the library that it is named after."""

    optimizer: Any
    preset: str
    step: Callable[..., common.Weights]
    lr: float
    oracle: Mapping[str, Any] = field(default_factory=dict)


PEERS: dict[str, Peer] = {
    "lamb_timm": Peer(lp.LAMB, "timm", peers.lamb_apex, 0.01),
    "lamb_apex": Peer(lp.LAMB, "apex", peers.lamb_apex, 0.01),
    "lamb_optax": Peer(lp.LAMB, "optax", peers.lamb_optax, 0.01),
    "lamb_deepspeed": Peer(lp.LAMB, "deepspeed", peers.lamb_deepspeed, 0.01),
    "lars_timm": Peer(lp.LARS, "timm", peers.lars_timm, 0.2),
    "lars_apex": Peer(lp.LARS, "apex", peers.larc_apex, 0.02),
    "lars_optax": Peer(lp.LARS, "optax", peers.lars_optax, 0.5),
    "lars_lightning_bolts": Peer(lp.LARS, "lightning-bolts", peers.lars_lightning_bolts, 0.2),
}
LAMBS = tuple(name for name in PEERS if name.startswith("lamb"))
LARSES = tuple(name for name in PEERS if name.startswith("lars"))


DECAY = common.linear_decay(0.03, 0.1)


def warmup_from_zero(t: int) -> float:
    return min(1.0, t / 5)


@dataclass(frozen=True)
class Variant:
    """Keywords for both sides, weight decay of the vectors' group, and what happens to the gradients."""

    peers: tuple[str, ...] = tuple(PEERS)
    keywords: Mapping[str, Any] = field(default_factory=dict)
    oracle: Mapping[str, Any] | None = None  # where the keywords of the other library differ
    vector_decay: float | None = None  # a second group for biases and norms, as recipes make it
    schedule: Callable[[int], float] | None = None
    zero_gradients_at: int | None = None


VARIANTS: dict[str, Variant] = {
    "defaults": Variant(),
    "weight_decay": Variant(keywords={"weight_decay": 0.1}),
    "decay_of_matrices_only": Variant(keywords={"weight_decay": 0.1}, vector_decay=0.0),
    "scheduled": Variant(keywords={"weight_decay": 0.1}, schedule=DECAY),
    "momentum": Variant(LARSES, {"weight_decay": 0.1, "momentum": 0.9}),
    "momentum_scheduled": Variant(LARSES, {"weight_decay": 0.1, "momentum": 0.9}, schedule=DECAY),
    # The first step has lr = 0: lr outside of the velocity must not be divided out of a zero.
    "warmup_from_zero": Variant(keywords={"weight_decay": 0.1}, schedule=warmup_from_zero),
    "momentum_warmup_from_zero": Variant(LARSES, {"weight_decay": 0.1, "momentum": 0.9}, schedule=warmup_from_zero),
    "nesterov": Variant(LARSES, {"weight_decay": 0.1, "momentum": 0.9, "nesterov": True}),
    "no_momentum": Variant(LARSES, {"weight_decay": 0.1, "momentum": 0.0}, schedule=DECAY),
    "trust_coefficient": Variant(LARSES, {"weight_decay": 0.1, "trust_coefficient": 0.05}),
    "betas_and_eps": Variant(LAMBS, {"weight_decay": 0.1, "betas": (0.8, 0.9), "eps": 1e-2}),
    "no_global_clip": Variant(("lamb_timm", "lamb_apex"), {"max_grad_norm": None}),
    "global_clip_acts": Variant(("lamb_timm", "lamb_apex"), {"max_grad_norm": 0.01, "eps": 1e-2}),
    "always_adapt": Variant(("lamb_timm", "lamb_apex", "lars_timm"), {"always_adapt": True, "weight_decay": 0.0}),
    "no_grad_averaging": Variant(("lamb_timm", "lamb_apex"), {"grad_averaging": False}),
    "no_bias_correction": Variant(("lamb_timm", "lamb_apex"), {"bias_correction": False}),
    "timms_larc": Variant(
        ("lars_timm",),
        {"weight_decay": 0.1, "trust_clip": lp.rules.LARCClip(), "lr": 0.02, "trust_coefficient": 0.02},
        {"weight_decay": 0.1, "larc": True, "lr": 0.02, "trust_coefficient": 0.02},
    ),
    "apex_without_clip": Variant(
        ("lars_apex",), {"weight_decay": 0.1, "trust_clip": None}, {"weight_decay": 0.1, "clip": False}
    ),
    "zero_gradients": Variant((*LAMBS, "lars_optax"), {"weight_decay": 0.1}, zero_gradients_at=3),
    "zero_gradients_at_first": Variant(LAMBS, {"weight_decay": 0.0}, zero_gradients_at=0),
    "zero_gradients_without_decay": Variant(LARSES, {"weight_decay": 0.0}, zero_gradients_at=3),
    "zero_gradients_keep_decay": Variant(("lars_timm",), {"weight_decay": 0.1}, zero_gradients_at=3),
}


def gradient(task: common.Problem, variant: Variant, name: str, w: torch.Tensor, t: int) -> torch.Tensor:
    g = task.gradient(name, w, t)
    return torch.zeros_like(g) if t == variant.zero_gradients_at else g


def expected_of(peer: Peer, variant: Variant, task: common.Problem) -> list[common.Weights]:
    keywords = {"lr": peer.lr, **(variant.keywords if variant.oracle is None else variant.oracle)}
    gamma = variant.schedule or (lambda t: 1.0)
    ws = {name: w.clone() for name, w in task.initial.items()}
    states: dict[str, common.State] = {name: {} for name in ws}
    history = []
    for t in range(STEPS):
        options = {}
        for name in ws:
            options[name] = {**keywords, "lr": keywords["lr"] * gamma(t)}
            if variant.vector_decay is not None and name in common.VECTORS:
                options[name]["weight_decay"] = variant.vector_decay
        ws = peer.step(ws, {n: gradient(task, variant, n, w, t) for n, w in ws.items()}, states, options)
        history.append({name: w.clone() for name, w in ws.items()})
    return history


def got_of(build: Callable[..., torch.optim.Optimizer], lr: float, variant: Variant, task: common.Problem) -> Any:
    params = common.parameters(task)
    groups: list[dict[str, Any]] = [{"params": list(params.items())}]
    if variant.vector_decay is not None:
        groups = [
            {"params": [(name, params[name]) for name in common.MATRICES]},
            {
                "params": [(name, params[name]) for name in common.VECTORS],
                "weight_decay": variant.vector_decay,
            },
        ]
    optimizer = build(groups, **{"lr": lr, **variant.keywords})
    rates = [group["lr"] for group in optimizer.param_groups]
    history = []
    for t in range(STEPS):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (variant.schedule or (lambda t: 1.0))(t)
        for name, p in params.items():
            p.grad = gradient(task, variant, name, p.detach(), t)
        optimizer.step()
        history.append({name: p.detach().clone() for name, p in params.items()})
    return history


CASES = [
    pytest.param(peer, variant, id=f"{peer}-{variant}")
    for variant, options in VARIANTS.items()
    for peer in options.peers
]


@pytest.mark.parametrize(("peer_name", "variant_name"), CASES)
def test_preset_steps_as_its_library(peer_name: str, variant_name: str) -> None:
    peer, variant = PEERS[peer_name], VARIANTS[variant_name]
    task = common.problem(seed=10)
    expected = expected_of(peer, variant, task)
    got = got_of(peer.optimizer.preset(peer.preset), peer.lr, variant, task)
    common.assert_same(got, expected, TOLERANCE)


@pytest.mark.parametrize("name", PEERS)
def test_without_the_preset_the_steps_differ(name: str) -> None:
    """So that a preset that set nothing would fail above."""
    peer, variant, task = PEERS[name], VARIANTS["weight_decay"], common.problem(seed=10)
    with pytest.raises(AssertionError, match="relative error"):
        common.assert_same(got_of(peer.optimizer, peer.lr, variant, task), expected_of(peer, variant, task), 1e-4)


@pytest.mark.parametrize("name", LAMBS)
def test_a_zero_tensor_takes_the_raw_step(name: str) -> None:
    """Ratio 1 where the weights are zero: what all these libraries do, and what the default avoids."""
    p = torch.nn.Parameter(torch.zeros(2, 2, dtype=torch.float64))
    optimizer = PEERS[name].optimizer.preset(PEERS[name].preset)([p], lr=0.01, weight_decay=0.1, eps=0.0)
    p.grad = torch.tensor([[1e-3, -1e-3], [2e-3, -5e-3]], dtype=torch.float64)
    optimizer.step()
    torch.testing.assert_close(p.detach(), -0.01 * torch.sign(p.grad), rtol=1e-12, atol=0)


@pytest.mark.parametrize("optimizer", [lp.LAMB, lp.LARS])
def test_an_unknown_preset_names_those_there_are(optimizer: Any) -> None:
    with pytest.raises(ValueError, match="timm") as caught:
        optimizer.preset("keras")
    assert "keras" in str(caught.value)
    assert "apex" in str(caught.value)
    assert "optax" in str(caught.value)


@pytest.mark.parametrize("name", PEERS)
def test_a_preset_only_sets_defaults(name: str) -> None:
    p = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = PEERS[name].optimizer.preset(PEERS[name].preset)([p], lr=0.5, weight_decay=0.25)
    assert type(optimizer) is PEERS[name].optimizer
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert optimizer.param_groups[0]["weight_decay"] == 0.25


@pytest.mark.parametrize("library", ["timm", "apex", "optax", "deepspeed"])
def test_lambc_keeps_its_clip(library: str) -> None:
    """A library's own clip is what LAMBC has another one for."""
    p = torch.nn.Parameter(torch.ones(2, 2))
    assert lp.LAMBC.preset(library)([p]).rule.clip == 1.0  # type: ignore[attr-defined]
    assert lp.LAMBC.preset(library)([p], trust_clip=3.0).rule.clip == 3.0  # type: ignore[attr-defined]
    assert lp.LAMBC.preset(library).keywords.items() <= lp.LAMB.preset(library).keywords.items()
