from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from layerpace.lab.probe import LayerRow, Probe, unevenness


def test_figures_equal_a_direct_computation() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    probe = Probe(net.named_parameters())
    history = [[p.detach().clone() for p in net.parameters()]]
    for step in range(3):
        optimizer.zero_grad()
        net(torch.randn(8, 3, dtype=torch.float64)).pow(2).sum().backward()
        table = probe.around(optimizer.step)
        history.append([p.detach().clone() for p in net.parameters()])
        for row, start, old, new in zip(probe.rows(step, table), history[0], history[-2], history[-1], strict=True):
            assert row.step == step
            assert row.l1 == pytest.approx(((new - old).abs().sum() / old.abs().sum()).item(), rel=1e-12)
            assert row.l2 == pytest.approx(((new - old).norm() / old.norm()).item(), rel=1e-12)
            cosine = torch.cosine_similarity(new.flatten(), start.flatten(), dim=0)
            assert row.cosine == pytest.approx(1 - cosine.item(), abs=1e-12)
    assert [row.layer for row in probe.rows(0, table)] == [name for name, _ in net.named_parameters()]


def test_a_step_may_use_a_closure_with_gradients() -> None:
    w = nn.Parameter(torch.ones(2, 2))
    optimizer = torch.optim.SGD([w], lr=0.25)
    probe = Probe([("w", w)])

    def closure() -> torch.Tensor:
        loss = w.sum()
        loss.backward()
        return loss

    (row,) = probe.rows(0, probe.around(lambda: optimizer.step(closure)))
    assert row.l1 == 0.25


def test_zero_tensors_and_frozen_ones() -> None:
    zero, frozen = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.ones(3), requires_grad=False)
    probe = Probe([("zero", zero), ("frozen", frozen)])
    (row,) = probe.rows(0, probe.around(lambda: zero.data.add_(1)))
    assert (row.l1, row.l2, row.cosine) == (None, None, None)


def test_unevenness_is_the_spread_of_decades() -> None:
    def rows(*values: float | None, step: int = 0) -> list[LayerRow]:
        return [LayerRow(step, f"layer{i}", v, None, None) for i, v in enumerate(values)]

    names = ["layer0", "layer1", "layer2"]
    assert unevenness(rows(0.1, 0.1, 0.1), names) == pytest.approx(0)
    assert unevenness(rows(1e-1, 1e-3), names) == pytest.approx(1)  # each one decade from the middle
    assert unevenness(rows(1e-1, 1e-3) + rows(0.1, 0.1, step=1), names) == pytest.approx(0.5)
    assert unevenness(rows(1e-1, 1e-3, 1e-9), names[:2]) == pytest.approx(1)
    assert unevenness(rows(1e-1, None), names) is None
    still = unevenness(rows(1e-2, 0.0), names)
    assert still is not None
    assert math.isclose(still, 5)
