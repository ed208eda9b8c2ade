"""A monitored model that training code copies, or trains by two optimizers, ends in the weights of one that is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.integrations import tiny
from torch import nn

import layerpace as lp

MAKERS: dict[str, Callable[[Any], Any]] = {
    "LAMB": lambda params: lp.LAMB(params, lr=0.01, weight_decay=0.1),
    "wrap": lambda params: lp.wrap(torch.optim.AdamW(params, lr=0.01), "trust_ratio"),
    "AdamW": lambda params: torch.optim.AdamW(params, lr=0.01),
}
makers = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@makers
def test_an_average_of_a_monitored_model(make: Callable[[Any], Any]) -> None:
    net, expected = tiny.model(), []
    optimizer = make(net.parameters())
    net.monitor = lp.Monitor(net, optimizer, every=1, out=None)  # type: ignore[assignment]
    average = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    for batch in tiny.batches():
        optimizer.zero_grad()
        tiny.loss(net, batch).backward()
        optimizer.step()
        average.update_parameters(net)
        now = tiny.weights(net)
        expected = [now] if not expected else [{k: 0.5 * v + 0.5 * now[k] for k, v in expected[0].items()}]
    tiny.same(average.module, expected[0])
    tiny.same(net, tiny.trained(lambda twin: make(twin.parameters())))
    assert net.monitor.history.steps == [1, 2, 3, 4]  # type: ignore[union-attr]


@pytest.mark.parametrize("paces", [(5, 1), (1, 2)])
def test_a_gan_with_one_monitor(paces: tuple[int, int]) -> None:
    """Two optimizers at different paces."""
    models = {}
    for monitored in (False, True):
        net = nn.ModuleDict({"critic": tiny.model(), "maker": nn.Linear(2, 5)}).double()
        critic, maker = lp.LAMB(net["critic"].parameters()), lp.Layca(net["maker"].parameters(), direction="adam")
        monitor = lp.Monitor(net, [critic, maker], every=1, out=None) if monitored else None
        noise = torch.randn(20, 8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        for number, z in enumerate(noise):
            for optimizer, pace, sign in ((critic, paces[0], 1), (maker, paces[1], -1)):
                if number % pace == 0:
                    net.zero_grad()
                    (sign * net["critic"](net["maker"](z)).square().mean()).backward()
                    optimizer.step()
        models[monitored] = net
        if monitor is not None:
            assert not [finding for finding in monitor.diagnose() if "gradient" in str(finding)]
    tiny.same(models[True], tiny.weights(models[False]), rtol=0, atol=0)
