"""An installation without a compiler: everything runs on the reference, and says once what is missing."""

from __future__ import annotations

import pytest
from tests.fused import FUSED, available
from tests.fused.processes import program

pytestmark = pytest.mark.skipif(FUSED == "reference" or not available(), reason="nothing that could be missing")

WITHOUT = """
import sys, warnings
sys.modules["layerpace.engine.backends.cpu._native"] = None
import torch
import layerpace as lp

def problem():
    torch.manual_seed(0)
    model = torch.nn.Linear(5, 3)
    model(torch.ones(2, 5)).square().sum().backward()
    return model
"""


def test_everything_runs_on_the_reference() -> None:
    code = """
warnings.simplefilter("ignore")
from layerpace.engine.backends import cpu
print(cpu.available())
ends = []
for backend in ("reference", "auto"):
    for make in (lp.LAMB, lp.LARS, lp.PercentDelta, lp.Layca):
        model = problem()
        start = [p.detach().clone() for p in model.parameters()]
        optimizer = make(model.parameters(), lr=0.01, backend=backend)
        for _ in range(3):
            optimizer.step()
        assert not any(torch.equal(p, q) for p, q in zip(model.parameters(), start))
        ends.append([p.detach().clone() for p in model.parameters()])
half = len(ends) // 2
print(all(torch.equal(a, b) for x, y in zip(ends[:half], ends[half:]) for a, b in zip(x, y)))
"""
    assert program(code, prelude=WITHOUT) == ["False", "True"]


def test_auto_warns_once_in_a_process() -> None:
    code = """
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(3):
        optimizer = lp.LAMB(problem().parameters(), lr=0.01)
        optimizer.step()
        optimizer.step()
print(len([w for w in caught if w.category is UserWarning]))
print(str(caught[0].message))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    lp.LAMB(problem().parameters(), lr=0.01, backend="reference").step()
print(len(caught))
"""
    count, message, of_reference = program(code, prelude=WITHOUT)
    assert count == "1"
    assert "compiler" in message and "g++" in message
    assert of_reference == "0"


def test_nothing_is_said_where_nothing_is_asked() -> None:
    """Neither by the import, nor by the reference backend."""
    code = """
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model = problem()
    lp.LAMB(model.parameters(), backend="reference").step()
print(len(caught))
"""
    assert program(code, prelude=WITHOUT) == ["0"]


def test_asking_for_it_is_an_error_that_says_how_to_get_it() -> None:
    code = """
model = problem()
before = [p.detach().clone() for p in model.parameters()]
try:
    lp.LAMB(model.parameters(), backend="cpu").step()
except RuntimeError as error:
    print(error)
print(all(torch.equal(p, q) for p, q in zip(model.parameters(), before)))
"""
    message, unchanged = program(code, prelude=WITHOUT)
    assert "compiler" in message and "install" in message
    assert unchanged == "True"


def test_a_saved_state_opens_without_it(tmp_path: object) -> None:
    """What the fused step saved, the reference goes on with."""
    path = f"{tmp_path}/state.pt"
    save = f"""
params, optimizer = fresh()
optimizer.step()
torch.save((params, optimizer.state_dict()), {path!r})
"""
    program(save)
    load = f"""
warnings.simplefilter("ignore")
params, state = torch.load({path!r}, weights_only=True)
params = [p.detach().requires_grad_() for p in params]
optimizer = lp.LAMB(params, lr=0.02, weight_decay=0.01, max_grad_norm=1.0)
optimizer.load_state_dict(state)
for p in params:
    p.grad = torch.ones_like(p)
optimizer.step()
print(optimizer.state[params[0]]["step"].item(), all(bool(p.isfinite().all()) for p in params))
"""
    assert program(load, prelude=WITHOUT) == ["2.0 True"]
