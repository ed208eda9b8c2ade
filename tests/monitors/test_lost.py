"""A step that gives a parameter another shape, memory or place: its record is left out, and the others are made."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from tests.monitors.training import network
from torch import Tensor, nn
from torch.optim import SGD

import layerpace as lp
from layerpace.monitors import Monitor, measure


class Plain(SGD):
    """SGD whose step torch does not hook: whether it has hooked SGD's depends on who made one before."""

    step = SGD.step.__wrapped__ if hasattr(SGD.step, "hooked") else SGD.step  # type: ignore[attr-defined]


class Changing(Plain):
    """SGD that changes the last weight in its second step, as growing and pruning optimizers do."""

    change: Callable[[Changing, nn.Parameter], None]
    count = 0

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        super().step(closure)
        self.count += 1
        if self.count == 2:
            self.change(self.param_groups[0]["params"][2])
        return None


def exchanged(optimizer: Changing, param: nn.Parameter) -> None:
    optimizer.param_groups[0]["params"][2] = nn.Parameter(param.detach().clone())


CHANGES: dict[str, Callable[[Changing, nn.Parameter], None]] = {
    "larger": lambda o, p: setattr(p, "data", torch.ones(5000, 8)),
    "smaller": lambda o, p: setattr(p, "data", torch.ones(1, 8)),
    "another shape": lambda o, p: setattr(p, "data", torch.ones(8, 3)),
    "without memory": lambda o, p: p.untyped_storage().resize_(0),
    "too little memory": lambda o, p: p.untyped_storage().resize_(4),
    "exchanged": exchanged,
}


@pytest.fixture(params=[False, True], ids=["hooked once", "hooked twice"])
def hooks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether torch has also hooked the step of the base class, as it does when an optimizer of that class is made."""
    if request.param:
        monkeypatch.setattr(Plain, "step", Plain.step)  # put back after the test
        Plain([torch.ones(1, requires_grad=True)])
    assert hasattr(Plain.step, "hooked") == request.param


@pytest.mark.usefixtures("hooks")
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_layer_that_is_not_what_it_was(change: Callable[[Changing, nn.Parameter], None]) -> None:
    model = network()
    optimizer = Changing(model.parameters(), lr=0.01)
    optimizer.change = lambda p: change(optimizer, p)  # type: ignore[method-assign,assignment]
    monitor = Monitor(model, optimizer, every=1)
    kept = [p.detach().clone() for p in model.parameters()]
    for step in range(2):
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        if step == 0:
            optimizer.step()
            continue
        with pytest.warns(UserWarning, match=r"2\.weight"):
            optimizer.step()
    monitor.latest()
    norms = monitor.history["update_norm"]
    names = list(monitor.history.layers)
    expected = [0.01 * math.sqrt(p.numel()) for p in kept]
    lost = names.index("2.weight")
    for place in range(len(kept)):  # one that has come in its place is a layer more
        if place == lost:
            assert norms[0, place].item() == pytest.approx(expected[place], rel=1e-5)
            assert norms[1, place].isnan()
        else:
            assert norms[:, place].tolist() == pytest.approx([expected[place]] * 2, rel=1e-5)


class Clamping(Plain):
    """What the step of a base class leaves is not yet where the step leads; both may fail."""

    fails = ""

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = super().step(self.fail if self.fails == "inner" else closure)
        if self.fails == "outer":
            self.fail()
        for p in self.param_groups[0]["params"]:
            p.data.clamp_(min=0)
        return loss

    def fail(self) -> float:
        raise ArithmeticError


@pytest.mark.usefixtures("hooks")
def test_a_step_is_measured_to_its_end_and_after_one_that_failed() -> None:
    model = network()
    optimizer = Clamping(model.parameters(), lr=0.01)
    monitor = Monitor(model, optimizer, every=1)
    moved = []
    for fails in ("", "inner", "", "outer", "outer", "", ""):
        for p in model.parameters():
            p.data.normal_()
            p.grad = torch.ones_like(p)
        old = [p.detach().clone() for p in model.parameters()]
        optimizer.fails = fails
        if fails:
            with pytest.raises(ArithmeticError):
                optimizer.step()
        else:
            optimizer.step()
            moved.append([float((p.detach() - w).norm()) for p, w in zip(model.parameters(), old, strict=True)])
    assert monitor.history.steps == [1, 2, 3, 4]
    torch.testing.assert_close(monitor.history["update_norm"], torch.tensor(moved))


def test_other_layouts_and_dtypes_are_measured_all_the_same() -> None:
    """What changes neither shape nor place can be compared."""
    for change in (lambda p: p.detach().T.contiguous().T, lambda p: p.detach().double()):
        model = network()
        optimizer = Changing(model.parameters(), lr=0.01)
        optimizer.change = lambda p, c=change: setattr(p, "data", c(p))  # type: ignore[method-assign,assignment,misc]
        monitor = Monitor(model, optimizer, every=1)
        for _ in range(2):
            for p in model.parameters():
                p.grad = torch.ones_like(p)
            optimizer.step()
        monitor.latest()
        assert monitor.history["update_norm"][1].isfinite().all()


def test_sums_of_pairs_of_two_shapes_are_refused() -> None:
    def pair(*shape: int) -> tuple[list[Tensor], list[Tensor]]:
        return [torch.ones(6), torch.ones(3)], [torch.ones(6), torch.ones(*shape)]

    for shape in ((4000,), (1,), (3, 1), (0,)):
        with pytest.raises(ValueError, match=r"\(3,\) have become"):
            measure.moves(*pair(*shape))
    for shape in ((4000,), (1,)):
        with pytest.raises((ValueError, RuntimeError)):
            measure.copy(*pair(*shape))


def test_parameters_without_entries_beside_others() -> None:
    """In every order, with sums for monitors; under `make sanitize` an index beyond the sums ends this test."""
    for order in ([0, 4], [4, 0], [0, 0, 4], [4, 0, 0], [0], [0, 4, 0, 30000, 0]):
        model = nn.ParameterList([nn.Parameter(torch.ones(n, 4)) for n in order])
        optimizer = lp.LAMB(model.parameters(), lr=0.01)
        monitor = Monitor(model, optimizer, every=1)
        for _ in range(2):
            for p in model.parameters():
                p.grad = torch.ones_like(p)
            optimizer.step()
        monitor.history.steps  # noqa: B018
        for p in model.parameters():
            assert (p != 1).all()
