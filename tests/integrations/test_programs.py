"""Training code as people write it around an optimizer; each ends in the weights of a version by hand."""

from __future__ import annotations

import copy
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.integrations import tiny
from torch import Tensor, nn

import layerpace as lp

MAKERS: dict[str, Callable[[Any], Any]] = {
    "LAMB": lambda params: lp.LAMB(params, lr=0.01, weight_decay=0.1),
    "LARS": lambda params: lp.LARS(params, lr=5.0),
    "Layca": lambda params: lp.Layca(params, lr=0.02, direction="adam"),
    "wrap": lambda params: lp.wrap(torch.optim.AdamW(params, lr=0.01), "trust_ratio"),
}
makers = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
Make = Callable[[Any], Any]
RHO = 0.05


class SAM(torch.optim.Optimizer):
    """As the public implementations have it: an optimizer around one of a class, whose groups carry ``rho``."""

    def __init__(self, params: Any, base: Make, rho: float) -> None:
        super().__init__(params, {"rho": rho})
        self.base = base(self.param_groups)
        self.param_groups = self.base.param_groups
        self.defaults.update(self.base.defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        closure = torch.enable_grad()(closure)
        before = {}
        for group in self.param_groups:
            norm = torch.stack([p.grad.norm() for g in self.param_groups for p in g["params"]]).norm()
            for p in group["params"]:
                before[p] = p.clone()
                p.add_(p.grad * group["rho"] / norm)
        self.zero_grad()
        closure()
        for p, old in before.items():
            p.copy_(old)
        return self.base.step()


@makers
def test_sam(make: Make) -> None:
    net, twin = tiny.model(), tiny.model()
    sam, other = SAM(net.parameters(), make, RHO), make(twin.parameters())
    for batch in list(tiny.batches()) * 2:

        def closure(batch: Any = batch) -> Tensor:
            found = tiny.loss(net, batch)
            found.backward()
            return found

        sam.zero_grad()
        closure()
        sam.step(closure)
        tiny.loss(twin, batch).backward()
        old = tiny.weights(twin)
        norm = torch.stack([p.grad.norm() for p in twin.parameters()]).norm()  # type: ignore[union-attr]
        with torch.no_grad():
            for p in twin.parameters():
                p.add_(p.grad * RHO / norm)  # type: ignore[operator]
        other.zero_grad()
        tiny.loss(twin, batch).backward()
        twin.load_state_dict(old)
        other.step()
        other.zero_grad()
    tiny.same(net, tiny.weights(twin))
    assert sam.param_groups[0]["rho"] == RHO


class Lookahead(torch.optim.Optimizer):
    """As public implementations have it: groups, defaults and state are those of the optimizer inside."""

    def __init__(self, base: Any, alpha: float = 0.5, k: int = 3) -> None:
        self.optimizer = base
        self.param_groups, self.defaults = base.param_groups, base.defaults
        self.state = defaultdict(dict)
        self.fast_state = base.state
        self._optimizer_step_pre_hooks: Any = {}
        self._optimizer_step_post_hooks: Any = {}
        for group in self.param_groups:
            group.update(alpha=alpha, k=k, counter=0)

    def step(self, closure: Any = None) -> Any:
        found = self.optimizer.step(closure)
        for group in self.param_groups:
            if group["counter"] == 0:
                for fast in group["params"]:
                    kept = self.state[fast]
                    slow = kept.setdefault("slow", fast.detach().clone())
                    slow += (fast.detach() - slow) * group["alpha"]
                    fast.data.copy_(slow)
            group["counter"] = (group["counter"] + 1) % group["k"]
        return found


@makers
def test_lookahead(make: Make) -> None:
    net, twin = tiny.model(), tiny.model()
    optimizer, other = Lookahead(make(net.parameters())), make(twin.parameters())
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    slow = None
    for number, batch in enumerate(list(tiny.batches()) * 2):
        optimizer.zero_grad()
        tiny.loss(net, batch).backward()
        optimizer.step()
        schedule.step()
        other.zero_grad()
        tiny.loss(twin, batch).backward()
        other.step()
        if number % 3 == 0:
            now = tiny.weights(twin)
            slow = now if slow is None else {name: slow[name] + (now[name] - slow[name]) * 0.5 for name in now}
            twin.load_state_dict(slow)
        if number % 2 == 1:
            other.param_groups[0]["lr"] *= 0.5
    tiny.same(net, tiny.weights(twin))


@makers
def test_numpy_schedules(make: Make) -> None:
    """As fastai sets them: rates, momenta and decays out of numpy, into the groups."""
    rates = np.cos(np.linspace(0, 1.5, 8)) * 0.02
    decays = np.linspace(0.1, 0.0, 8, dtype=np.float32)

    def trained(value: Callable[[Any], Any]) -> nn.Module:
        net = tiny.model()
        optimizer = make(net.parameters())
        for rate, decay, batch in zip(rates, decays, list(tiny.batches()) * 2, strict=True):
            for group in optimizer.param_groups:
                group["lr"], group["weight_decay"] = value(rate), value(decay)
                if "betas" in group:
                    group["betas"] = (value(np.float64(0.9) - rate), group["betas"][1])
            optimizer.zero_grad()
            tiny.loss(net, batch).backward()
            optimizer.step()
        return net

    tiny.same(trained(lambda number: number), tiny.weights(trained(float)), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["LAMB", "LARS"])
def test_a_compiled_step_under_a_schedule(name: str) -> None:
    nets = {}
    for compiled in (False, True):
        torch._dynamo.reset()
        net = tiny.model()
        optimizer = MAKERS[name](net.parameters())
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50)
        step = torch.compile(optimizer.step, backend="eager") if compiled else optimizer.step
        batches = list(tiny.batches())
        for number in range(50):
            optimizer.zero_grad()
            tiny.loss(net, batches[number % 4]).backward()
            step()
            schedule.step()
        nets[compiled] = net
    torch._dynamo.reset()
    tiny.same(nets[True], tiny.weights(nets[False]), rtol=0, atol=0)


@makers
def test_optimizers_in_threads(make: Make) -> None:
    expected, nets = tiny.trained(lambda net: make(net.parameters())), [tiny.model() for _ in range(3)]

    def train(net: nn.Module) -> None:
        optimizer = make(net.parameters())
        for batch in tiny.batches():
            optimizer.zero_grad()
            tiny.loss(net, batch).backward()
            optimizer.step()

    threads = [threading.Thread(target=train, args=(net,)) for net in nets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for net in nets:
        tiny.same(net, expected)


def test_copies_for_later(tmp_path: Any) -> None:
    """deepcopy of model and optimizer together is a training of its own, from the same place."""
    for make in MAKERS.values():
        net = tiny.model()
        optimizer = make(net.parameters())
        batches = list(tiny.batches())
        tiny.loss(net, batches[0]).backward()
        optimizer.step()
        twin, other = copy.deepcopy((net, optimizer))
        for model, own in ((net, optimizer), (twin, other)):
            for batch in batches[1:]:
                own.zero_grad()
                tiny.loss(model, batch).backward()
                own.step()
        tiny.same(twin, tiny.weights(net), rtol=0, atol=0)
