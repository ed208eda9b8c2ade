"""Random methods on random tensors: the fused step equals the reference, whatever is combined."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fused import FUSED, needs_fused
from tests.fused.cases import COUPLED_ONLY, D, R, assert_agree, run

pytestmark = needs_fused

share = st.sampled_from([0.0, 0.3, 0.9, 0.99])
eps = st.sampled_from([1e-8, 1e-6, 1e-3])  # below, rounding of a gradient that is nearly gone has no bound
betas = st.sampled_from([(0.0, 0.5), (0.5, 0.9), (0.9, 0.9), (0.8, 0.999)])
flag = st.booleans()

DIRECTIONS: st.SearchStrategy[D.Direction] = st.one_of(
    st.just(D.SGD()),
    st.builds(D.HeavyBall, momentum=share, dampening=st.sampled_from([0.0, 0.4, 1.0])),
    st.builds(D.Nesterov, momentum=share),
    st.builds(D.EMAMomentum, beta=share),
    st.builds(
        D.AdaGrad,
        lr_decay=st.sampled_from([0.0, 0.5]),
        initial_accumulator_value=st.sampled_from([0.0, 0.2]),
        eps=eps,
        eps_inside_sqrt=flag,
    ),
    st.builds(D.AdaDelta, rho=share, eps=eps),
    st.builds(
        D.RMSProp,
        alpha=st.sampled_from([0.5, 0.9]),
        eps=st.just(1e-2),  # a centered second moment may be the difference of two equal numbers
        centered=flag,
        momentum=share,
        eps_inside_sqrt=flag,
    ),
    st.builds(
        D.Adam,
        betas=betas,
        eps=eps,
        amsgrad=flag,
        bias_correction=st.sampled_from([True, False, "after"]),
        grad_averaging=flag,
        eps_inside_sqrt=flag,
    ),
    st.builds(D.AMSGrad, betas=betas, eps=eps),
    st.builds(D.AdaMax, betas=betas, eps=eps),
    st.builds(D.NAdam, betas=betas, eps=eps, momentum_decay=st.sampled_from([0.0, 4e-3, 0.5])),
    st.builds(D.RAdam, betas=betas, eps=eps, threshold=st.sampled_from([4.0, 5.0])),
)
clips: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.sampled_from([0.5, 10.0]), st.builds(R.Bounds, st.just(0.01), st.just(2.0)), st.builds(R.LARCClip)
)
RULES: st.SearchStrategy[R.Rule] = st.one_of(
    st.just(R.Identity()),
    st.builds(
        R.TrustRatio,
        coefficient=st.sampled_from([0.01, 1.0]),
        clip=clips,
        eps=st.sampled_from([0.0, 1e-6]),
        norm=st.sampled_from(["total", "sum", "direction"]),
        always_adapt=flag,
        zero_ratio=st.sampled_from([None, 0.0, 1.0]),
    ),
    st.builds(R.PercentDelta, eps=st.sampled_from([0.0, 1e-8, 1e-2])),
    st.just(R.RelativeL1()),
    st.just(R.Rotation()),
)
# Names with meaning: see `tests.fused.cases.SMALL` and SEGMENTS.
SHAPES = st.fixed_dictionaries(
    {"a": st.lists(st.integers(2, 40), min_size=1, max_size=3).map(tuple)},
    optional={
        "empty": st.just((0, 3)),
        "scalar": st.just(()),
        "long": st.integers(1000, 70000).map(lambda n: (n, 1)),
        "vector": st.integers(5, 5000).map(lambda n: (n,)),
        "conv": st.tuples(*[st.integers(2, 5)] * 4),
        "rows": st.tuples(st.integers(2, 6), st.integers(2, 300)),
        "equal": st.integers(2, 3000).map(lambda n: (8, n)),
        "unequal": st.integers(2, 200).map(lambda n: (7, n)),
    },
)


@st.composite
def methods(draw: st.DrawFn) -> dict[str, Any]:
    """A direction, a rule, and options that go with them."""
    direction, rule = draw(DIRECTIONS), draw(RULES)
    coupled_only = any(name.replace(" ", "_").lower() in rule.names for name in COUPLED_ONLY)
    options: dict[str, Any] = {
        "lr": draw(st.sampled_from([1e-4, 0.01])),
        "weight_decay": draw(st.sampled_from([0.0, 0.0, 0.01])),
        "decoupled_weight_decay": draw(st.sampled_from([None, False] if coupled_only else [None, False, True])),
        "maximize": draw(flag),
        "exclude": draw(st.sampled_from(["auto", None, ["a", "*"], "a"])),
        "min_rms": draw(st.sampled_from([0.0, 1e-3, 1.0])),
        "nonfinite": draw(st.sampled_from(["propagate", "propagate", "skip"])),
        "max_grad_norm": draw(st.sampled_from([None, None, 1.0])),
    }
    if "momentum" not in direction.options():
        kind = draw(st.sampled_from(["none", "none", "heavy", "average", "nesterov"]))
        if kind != "none":
            options |= {
                "momentum": 0.8,
                "dampening": None if kind == "average" else 0.0,
                "nesterov": kind == "nesterov",
            }
            options["lr_in_velocity"] = coupled_only or draw(flag)
    return {"direction": direction, "rule": rule, "shapes": draw(SHAPES), **options}


@given(
    method=methods(),
    dtype=st.sampled_from([torch.float64, torch.float64, torch.float32, torch.float32, torch.bfloat16, torch.float16]),
    steps=st.integers(1, 7),
    factor=st.sampled_from([1.0, 0.5]),
)
@settings(max_examples=150, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_any_method_on_any_tensors(method: dict[str, Any], dtype: torch.dtype, steps: int, factor: float) -> None:
    options = {"dtype": dtype, "steps": steps, "train_options": {"lr_factor": factor}, **method}
    direction, rule = options.pop("direction"), options.pop("rule")
    expected, got = (run(backend, direction, rule, **options) for backend in ("reference", FUSED))
    still = tuple(name for name in expected.weights if expected.moved(name) == 0)
    assert_agree(got, expected, still=still, loose=20)
