"""Every option of an optimizer means on sharded layers what it means on whole ones."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.distributed.compare import assert_same_training, error, joined
from tests.distributed.processes import Pool
from tests.distributed.training import CUT, GROUPS, Job, Part, train

import layerpace as lp

NAN, INF = float("nan"), float("inf")
# name -> a training; each differs from the defaults in what the name says.
CASES: dict[str, Job] = {
    "segments, LAMB": Job("", "LAMB", CUT),
    "segments, LARS": Job("", "LARS", CUT),
    "segments, PercentDelta": Job("", "PercentDelta", CUT),
    "segments, Layca momentum": Job("", "Layca momentum", CUT),
    "segments, relative L1": Job("", "heavy ball, relative L1", CUT),
    "segments, reference": Job("", "LAMB", CUT | {"backend": "reference"}),
    "segments, wrapped Adam": Job("", "wrapped Adam", CUT),
    "segments, wrapped SGD": Job("", "wrapped SGD", CUT),
    "nothing excluded": Job("", "LAMB", {"exclude": None}),
    "much excluded": Job("", "Layca", {"exclude": ("*norm*", "embedding*", "scale", "blocks.1.*")}),
    "groups": Job("", "LAMB", groups=GROUPS),
    "groups, wrapped": Job("", "wrapped Adam", groups=[(("blocks.0.*", "head.*"), {"lr": 0.003})]),
    "coupled decay": Job("", "PercentDelta", {"weight_decay": 0.1}),
    "decoupled decay": Job("", "LAMB", {"weight_decay": 0.3}),
    "momentum before": Job("", "EMA, rotation"),
    "momentum after": Job("", "LARS", {"momentum": 0.8, "dampening": 0.5}),
    "clip": Job("", "LAMB", {"trust_clip": (0.5, 1.5)}),
    "LARC": Job("", "LARS", {"trust_clip": lp.rules.LARCClip()}),
    "zero layers": Job("", "LAMB", zeros=("embedding.*", "head.*", "scale")),
    "zero layers, PercentDelta": Job("", "PercentDelta", zeros=("embedding.*", "head.*", "scale")),
    "zero layers, Layca": Job("", "Layca", zeros=("embedding.*", "head.*")),
    "min_rms": Job("", "LAMB", {"min_rms": 2.0}),
    "min_rms, relative L1": Job("", "heavy ball, relative L1", {"min_rms": 2.0}),
    "schedule": Job("", "LARS", lr_factor=0.95),
    "schedule of a tensor": Job("", "LAMB", {"lr": torch.tensor(0.02)}, lr_factor=0.95),
    "maximize": Job("", "LAMB", {"maximize": True}),
    "without gradients": Job("", "Layca momentum", absent={0: ("head.*",), 7: ("blocks.0.*", "scale"), 9: ("*",)}),
    "without gradients, norm": Job(
        "", "LAMB", {"max_grad_norm": 1.0, "nonfinite": "skip"}, absent={0: ("head.*",), 4: ("embedding.*", "*qkv*")}
    ),
    # Of the head the last of four processes has nothing: it must notice as the others do.
    "steps counted elsewhere": Job("", "LAMB", {"max_grad_norm": 1.0}, recounted={4: (("head.*",), 40.0)}),
    "steps counted elsewhere, parts": Job(
        "", "LAMB", CUT | {"max_grad_norm": 1.0}, recounted={4: (("head.*", "*qkv*"), 40.0)}
    ),
    "max_grad_norm": Job("", "LARS", {"max_grad_norm": 1.0}),
    "max_grad_norm, PercentDelta": Job("", "heavy ball, relative L1", {"max_grad_norm": 20.0, "backend": "reference"}),
    "nan propagates": Job("", "LAMB", broken={5: ("blocks.0.qkv.weight", 140, NAN)}),
    "inf propagates": Job("", "Layca momentum", broken={5: ("blocks.0.down.weight", 0, INF)}),
    "nan is skipped": Job(
        "",
        "LAMB",
        {"nonfinite": "skip"},
        broken={0: ("head.weight", 20, NAN), 5: ("blocks.0.qkv.weight", 140, NAN), 9: ("scale", 0, INF)},
    ),
    "nan is skipped, Layca": Job(
        "", "Layca momentum", {"nonfinite": "skip"}, broken={0: ("head.weight", 0, -INF), 5: ("conv.bias", 4, NAN)}
    ),
    "nan is skipped in one part": Job(
        "",
        "LAMB",
        CUT | {"nonfinite": "skip"},
        broken={0: ("head.weight", 20, NAN), 5: ("blocks.0.qkv.weight", 140, NAN), 9: ("embedding.weight", 9, INF)},
    ),
    "nan is skipped by the norm": Job(
        "", "LAMB", {"nonfinite": "skip", "max_grad_norm": 1.0}, broken={3: ("head.weight", 0, NAN)}
    ),
    "one rank found inf": Job("", "LAMB", scale=8.0, found_inf={0: (0.0, 1.0, 0.0, 0.0), 6: (1.0, 0.0, 0.0, 0.0)}),
    "one rank found inf, Layca": Job(
        "", "Layca", {"max_grad_norm": 1.0}, scale=8.0, found_inf={0: (0.0, 1.0, 0.0, 0.0), 6: (1.0, 0.0, 0.0, 0.0)}
    ),
}
# Where shards of shards are another matter.
TWICE = ("segments", "groups", "zero", "without", "steps", "max_grad_norm", "nan", "inf", "one rank")
LAID = [("fsdp", case) for case in CASES] + [("fsdp x tp", case) for case in CASES if case.startswith(TWICE)]
STEPS = 15


@functools.cache
def alone(case: str) -> Part:
    """The training in one process, where what one rank found all of them have found."""
    job = CASES[case]
    found = None if job.found_inf is None else {step: [max(ranks)] for step, ranks in job.found_inf.items()}
    return train(replace(job, layout="plain", steps=STEPS, found_inf=found))


@functools.cache
def without_options(method: str) -> Part:
    return train(Job("plain", method, steps=STEPS))


@pytest.mark.parametrize(("layout", "case"), LAID)
def test_options(pool: Pool, layout: str, case: str) -> None:
    job = replace(CASES[case], steps=STEPS)
    ranks = pool.run(train, 4, job=replace(job, layout=layout))
    assert_same_training(ranks, alone(case))


@pytest.mark.parametrize("case", [case for case in CASES if case != "momentum before"])
def test_the_option_makes_a_difference(case: str) -> None:
    """Else the comparison above would not see it missing."""
    a, b = alone(case).weights, without_options(CASES[case].method).weights
    assert any(error(a[name], b[name]) > 1e-4 for name in a)


@pytest.mark.parametrize("layout", ["fsdp", "fsdp x tp"])
def test_bfloat16_with_master_copies(pool: Pool, layout: str) -> None:
    """Master copies agree as float32 weights do, and the weights are what they round to."""
    job = Job(layout, "LAMB", CUT, dtype=torch.bfloat16, slope=0.0, steps=STEPS)
    expected = train(replace(job, layout="plain"))
    found = joined(pool.run(train, 4, job=job), expected)
    for name, w in found.weights.items():
        master = found.state[name]["master"]
        assert master.dtype == torch.float32 and w.dtype == torch.bfloat16
        assert torch.equal(master.to(torch.bfloat16), w), name
        assert error(master, expected.state[name]["master"]) <= 1e-6, name


@pytest.mark.parametrize("options", [{"state_dtype": "bf16"}, {"low_precision": "stochastic"}], ids=str)
@pytest.mark.parametrize("layout", ["fsdp", "hsdp", "fsdp x tp"])
def test_random_rounding(pool: Pool, layout: str, options: dict[str, Any]) -> None:
    """The training is the same one but for the bits that are drawn; copies of a shard stay copies."""
    torch.manual_seed(0)  # as the workers do
    dtype = torch.bfloat16 if "low_precision" in options else torch.float32
    job = Job(layout, "LAMB", CUT | options, dtype=dtype, slope=0.0, steps=STEPS)
    expected, exact = train(replace(job, layout="plain")), train(Job("plain", "LAMB", CUT, slope=0.0, steps=STEPS))
    parts = pool.run(train, 4, job=job)
    assert len({part.coefficients for part in parts}) == 1
    found = joined(parts, expected)
    usual = {name: error(expected.weights[name], w) for name, w in exact.weights.items()}
    assert 1e-5 < max(usual.values()) < 0.1
    for name, w in exact.weights.items():
        assert error(found.weights[name], w) <= max(3 * usual[name], 0.1), name
    moment = found.state["head.weight"]["exp_avg"]
    assert moment.dtype == expected.state["head.weight"]["exp_avg"].dtype and bool(moment.any())
