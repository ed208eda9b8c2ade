"""The ends of the range of float32, as tests/engine/test_extremes.py has them for the other backends."""

from __future__ import annotations

import pytest
from tests.engine.test_extremes import assert_agrees, on_tiny_weights, with_a_constant_gradient
from tests.fused.cases import DIRECTIONS, D
from tests.gpu_step import DEVICE


@pytest.mark.filterwarnings("ignore:.*encountered in.*:RuntimeWarning")  # numpy's, which computes for the interpreter
def test_directions_agree_at_the_ends_of_the_range() -> None:
    for name in DIRECTIONS:
        assert_agrees("triton", name, steps=1, device=DEVICE)


def test_rules_on_tiny_weights() -> None:
    for name in ("trust ratio", "rotation"):
        on_tiny_weights("triton", name, D.SGD(), steps=1, device=DEVICE)


def test_a_constant_gradient_has_a_variance_of_zero() -> None:
    for direction in (D.RMSProp(centered=True), D.RMSProp(centered=True, momentum=0.5)):
        with_a_constant_gradient("triton", direction, "trust_ratio", steps=2, device=DEVICE)
