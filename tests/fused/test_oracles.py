"""The fused step in float64 against independent versions of the papers' equations, 50 steps each.

The methods, the oracles and the comparison are those of `test_papers`; here the fused backend takes the steps.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
from tests.fused import FUSED, needs_fused, needs_kernels
from tests.fused.cases import reference_forbidden
from tests.optim import test_papers

pytestmark = needs_fused

# One variant for each part of a step; `test_papers` has more of them for the reference.
VARIANTS = (
    "defaults",
    "linear_decay",
    "weight_decay",
    "clip_pair",
    "clip_larc",
    "exclude_nothing",
    "segments",
    "nesterov_scheduled",
    "dampening",
    "no_bias_correction",
    "algorithm_1",
    "no_grad_averaging",
    "adapt_decayed_only",
    "two_learning_rates",
    "min_rms_acts",
    "global_clip",
    "everything_trust",
    "everything_percent_delta",
    "everything_layca",
)
CASES = [
    pytest.param(method, variant, id=f"{method}-{variant}")
    for variant in VARIANTS
    for method in test_papers.VARIANTS[variant].methods
]


def on_the_fused_backend(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    method = test_papers.METHODS[name]
    fused = replace(method, optimizer=functools.partial(method.optimizer, backend=FUSED))
    monkeypatch.setitem(test_papers.METHODS, name, fused)


@pytest.mark.parametrize(("method", "variant"), CASES)
def test_agrees_with_the_paper(method: str, variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    on_the_fused_backend(monkeypatch, method)
    test_papers.test_agrees_with_the_paper(method, variant)


@needs_kernels
@pytest.mark.parametrize("method", test_papers.METHODS)
def test_the_reference_has_no_part_in_it(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    on_the_fused_backend(monkeypatch, method)
    with reference_forbidden():
        test_papers.test_agrees_with_the_paper(method, "defaults")
