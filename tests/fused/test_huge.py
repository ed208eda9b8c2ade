"""A tensor with more entries than a 32-bit number counts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.fused import FUSED, needs_fused
from tests.fused.cases import reference_forbidden

import layerpace as lp

ENTRIES = 2**31 + 17
NEEDED = 20  # GiB: weights and gradient have 4 each, and others use the machine too


def free_gib() -> float:
    """Memory that is to be had, in GiB; 0 where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 2**20 for line in lines if line.startswith("MemAvailable:")), 0.0)


@needs_fused
@pytest.mark.slow
@pytest.mark.usefixtures("two_threads")
def test_the_last_entries_count_and_move() -> None:
    """Relative L1 of the gradient itself: no state, and one sum that every entry is in."""
    if free_gib() < NEEDED:
        pytest.skip(f"needs {NEEDED} GiB of free memory, {free_gib():.0f} are there")
    # Weights of 1, but 2 at the end; gradients of 0, but 1 in few places on both sides of 2^31: sums that are exact.
    w = torch.ones(ENTRIES, dtype=torch.bfloat16)
    w[2**31 :] = 2.0
    places = torch.tensor([0, 2**30, 2**31 - 1, 2**31, ENTRIES - 1])
    w.requires_grad_()
    w.grad = torch.zeros(ENTRIES, dtype=torch.bfloat16)
    w.grad[places] = 1.0
    before = w.detach()[places].float()

    l1_w, l1_u = 2**31 + 2 * 17, len(places)
    step = 0.25  # of each of these entries; exact in bfloat16
    method = lp.Layerwise(
        [w],
        direction=lp.directions.SGD(),
        rule=lp.rules.RelativeL1(),
        lr=step * l1_u / l1_w,
        low_precision="plain",
        backend=FUSED,
    )
    with reference_forbidden():
        method.step()

    after = w.detach()
    assert torch.equal(after[places].float(), before - step)
    # The others stayed: a few at both ends and at the seams, and their number.
    for part in (slice(1, 100), slice(2**30 + 1, 2**30 + 100), slice(2**31 - 100, 2**31 - 1)):
        assert bool((after[part] == 1).all())
    assert bool((after[2**31 + 1 : -1] == 2).all())
    changed = sum(int((chunk != 1).sum()) for chunk in torch.split(after, 2**26))
    assert changed == 17 + 3
