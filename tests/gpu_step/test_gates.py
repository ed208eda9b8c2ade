"""What decides on the device who steps, how large gradients are, and what the number of the step is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.fused.cases import DIRECTIONS, gradient, optimizer, run, train, weights
from tests.gpu_step import DEVICE, needs_triton
from tests.gpu_step.cases import FEW, Play, assert_same, played
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

import layerpace as lp
from layerpace.optim import options as options_module

pytestmark = needs_triton


@pytest.fixture
def rates_on_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave tensor learning rates where they are also on the CPU, as those on a GPU are."""
    monkeypatch.setattr(options_module, "on_host", lambda lr: lr)


def player(direction: str = "adam", rule: str = "trust ratio", **options: Any) -> Play:
    def play(backend: str, params: dict[str, Tensor]) -> torch.optim.Optimizer:
        method = optimizer(backend, params, DIRECTIONS[direction], rule, **options)
        train(method, params, 2)
        return method

    return play


@pytest.mark.parametrize("max_grad_norm", [0.5, 1e6])
def test_clipping_the_joint_norm(max_grad_norm: float) -> None:
    """Over two buckets: excluded tensors have no coupled decay, which makes them one of their own."""
    options = {"weight_decay": 0.1, "decoupled_weight_decay": False, "exclude": ["17", "scalar"]}
    assert_same(player(max_grad_norm=max_grad_norm, **options))


@pytest.mark.parametrize("max_grad_norm", [None, 3.0])
@pytest.mark.parametrize("rule", ["trust ratio", "rotation"])
def test_layers_with_inf_or_nan_are_held_back(rule: str, max_grad_norm: float | None) -> None:
    def play(backend: str, params: dict[str, Tensor]) -> torch.optim.Optimizer:
        method = optimizer(
            backend, params, DIRECTIONS["nadam"], rule, nonfinite="skip", max_grad_norm=max_grad_norm, momentum=0.5
        )
        for bad in (False, True, False):
            for p in params.values():
                p.grad = torch.full_like(p, 0.3)
            if bad:
                params["17"].grad[3] = torch.inf  # type: ignore[index]
                params["unequal"].grad[2, 1] = torch.nan  # type: ignore[index]
            method.step()
        return method

    assert_same(play)


@pytest.mark.parametrize("rule", ["rotation", "trust ratio"])
def test_a_layer_held_back_from_its_start_keeps_no_memory(rule: str) -> None:
    def play(backend: str, params: dict[str, Tensor]) -> torch.optim.Optimizer:
        method = optimizer(backend, params, DIRECTIONS["nadam"], rule, nonfinite="skip")
        for p in params.values():
            p.grad = torch.full_like(p, 0.3)
        params["conv"].grad[0, 0] = torch.nan  # type: ignore[index]
        method.step()
        return method

    assert_same(play, still=("conv",))


def test_a_non_finite_gradient_raises_before_anything_changes() -> None:
    params = {"w": torch.ones(3, 4, device=DEVICE).requires_grad_()}
    method = optimizer("triton", params, DIRECTIONS["adam"], "trust ratio", nonfinite="raise", max_grad_norm=1.0)
    params["w"].grad = torch.full((3, 4), torch.nan, device=DEVICE)
    with pytest.raises(FloatingPointError, match="in w"):
        method.step()
    assert torch.equal(params["w"], torch.ones(3, 4, device=DEVICE))
    params["w"].grad = torch.ones(3, 4, device=DEVICE)
    method.step()
    assert float(method.state[params["w"]]["step"]) == 1


def test_grad_scaler_holds_a_step_back() -> None:
    def play(backend: str, params: dict[str, Tensor]) -> torch.optim.Optimizer:
        method: Any = optimizer(backend, params, DIRECTIONS["adam"], "trust ratio", momentum=0.9)
        for step in range(3):
            for name, p in params.items():
                p.grad = gradient(name, p, step) * 4
            if step == 1:
                params["17"].grad[0] = torch.inf  # type: ignore[index]
            method.grad_scale = torch.tensor(4.0, device=DEVICE)
            method.found_inf = torch.tensor([float(step == 1)], device=DEVICE)
            method.step()
        return method

    assert_same(play)


@pytest.mark.parametrize("max_grad_norm", [None, 1.0])
def test_a_scale_of_gradients_that_are_clipped(max_grad_norm: float | None) -> None:
    def play(backend: str, params: dict[str, Tensor]) -> torch.optim.Optimizer:
        method: Any = optimizer(backend, params, DIRECTIONS["sgd"], "trust ratio", max_grad_norm=max_grad_norm)
        method.grad_scale = torch.tensor(8.0, device=DEVICE)
        train(method, params, 2)
        return method

    assert_same(play)


@pytest.mark.usefixtures("rates_on_device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_learning_rate_on_the_device(dtype: torch.dtype) -> None:
    def play(backend: str, params: dict[str, Tensor]) -> torch.optim.Optimizer:
        lr = torch.tensor(0.0625, dtype=dtype, device=DEVICE)
        method = optimizer(backend, params, DIRECTIONS["adam"], "trust ratio", lr=lr, weight_decay=0.1)
        train(method, params, 2)
        lr.fill_(0.25)
        train(method, params, 1, first=2)
        return method

    assert_same(play)


@pytest.mark.usefixtures("rates_on_device")
def test_a_step_without_rate_and_gradients_changes_nothing() -> None:
    """torch.distributed.checkpoint makes one to create the state; steps are not counted either."""

    def play(backend: str, params: dict[str, Tensor]) -> torch.optim.Optimizer:
        lr = torch.tensor(0.0, device=DEVICE)
        method = optimizer(backend, params, DIRECTIONS["adam"], "trust ratio", lr=lr)
        for p in params.values():
            p.grad = torch.zeros_like(p)
        method.step()
        assert all(float(state["step"].max()) == 0 for state in method.state.values() if state["step"].numel())
        lr.fill_(0.02)
        train(method, params, 2)
        return method

    assert_same(play)


def test_counting_on_the_device() -> None:
    assert_same(player("nadam", capturable=True))
    method: Any = played_method(player(capturable=True))
    for p, state in method.state.items():
        assert state["step"].device == p.device
        assert bool((state["step"] == 2).all())


def played_method(play: Play) -> torch.optim.Optimizer:
    params = {"w": torch.ones(3, 4, device=DEVICE).requires_grad_()}
    return play("triton", params)


def test_one_number_a_row_is_kept_for_every_row() -> None:
    """More rows in a segment than are written at once."""

    def play(backend: str, params: dict[str, Tensor]) -> torch.optim.Optimizer:
        method = optimizer(backend, params, DIRECTIONS["nadam"], "trust ratio", segments={"rows": [70, 1]})
        train(method, params, 2)
        return method

    assert_same(play, shapes={"rows": (71, 2)})


def test_monitors_read_the_same() -> None:
    found = {}
    for backend in ("reference", "triton"):
        params = {name: w.detach().to(DEVICE).requires_grad_() for name, w in weights(FEW).items()}
        options: dict[str, Any] = {"momentum": 0.9, "nonfinite": "skip"}
        method: Any = optimizer(backend, params, DIRECTIONS["adam"], "trust ratio bounds", **options)
        method._cache.readers.add(1)
        train(method, params, 2)
        params["17"].grad = torch.full_like(params["17"], torch.nan)
        method.step()
        (part,) = method._cache.plan.parts
        numbers = torch.cat(
            [part.measured, part.table.values, part.coefficients.b[:, None], part.coefficients.ratio[:, None]], 1
        )
        found[backend] = dict(zip(part.rows.names, numbers, strict=True)), part.ok_L
    (ours, ok), (theirs, _) = found["triton"], found["reference"]
    assert int((ok == 0).sum()) == 1
    for name, row in theirs.items():
        torch.testing.assert_close(ours[name], row, rtol=1e-10, atol=1e-12, equal_nan=True, msg=name)


class Launches(TorchDispatchMode):
    """Counts operations of torch that launch something on a device: all but views and allocations."""

    FREE = ("_record_function", "lift_fresh", "_pin_memory", "is_pinned", "view", "as_strided", "slice", "select")
    FREE += ("detach", "empty", "alias", "reshape", "unsqueeze", "_to_copy", "new_empty")
    FREE += ("_local_scalar_dense",) if DEVICE == "cpu" else ()  # a rate there may be read, to see if it has changed

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if not name.startswith(self.FREE):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def _kernels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels that are launched from now on; they run."""
    from layerpace.engine.backends.triton import launches

    found: list[str] = []

    def counting(original: Any, name: str) -> Any:
        class Counting:
            def __getitem__(self, grid: Any) -> Callable[..., None]:
                def launch(*args: Any, **options: Any) -> None:
                    found.append(name)
                    with _disable_current_modes():  # the interpreter asks torch for a lot
                        original[grid](*args, **options)

                return launch

        return Counting()

    places = ((launches.look, "look_at_gradients"), (launches.prepare, "prepare_step"), (launches.passes, "run_tasks"))
    for module, name in places:
        monkeypatch.setattr(module, name, counting(getattr(module, name), name))
    return found


PLAIN, LOOKS = ["prepare_step", "run_tasks"], ["zero_", "look_at_gradients", "prepare_step", "run_tasks"]


@pytest.mark.usefixtures("rates_on_device")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, PLAIN),
        ({"direction": "nadam", "rule": "rotation"}, PLAIN),
        ({"direction": "adam after"}, PLAIN),
        ({"capturable": True}, PLAIN),
        ({"lr": torch.tensor(0.02, device=DEVICE), "capturable": True}, LOOKS),
        ({"nonfinite": "skip", "max_grad_norm": 1.0}, LOOKS),
    ],
    ids=str,
)
def test_a_step_launches_four_kernels_at_most(
    options: dict[str, Any], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What torch is asked for and what Triton is, in the third step of a kept plan, the rate changed before it."""
    options = dict(options)
    direction, rule = options.pop("direction", "adam"), options.pop("rule", "trust ratio")
    params = {name: torch.full((2, 3), 0.5, device=DEVICE).requires_grad_() for name in "abcdefgh"}
    params["bias"] = torch.zeros(3, device=DEVICE).requires_grad_()
    decay = 0.0 if rule == "rotation" else 0.1  # coupled, it would be an option that excluded tensors do not share
    method: Any = optimizer("triton", params, DIRECTIONS[direction], rule, weight_decay=decay, **options)
    train(method, params, 2)
    plan = method._cache.plan
    for name, p in params.items():
        p.grad = gradient(name, p, 2)
    for group in method.param_groups:
        group["lr"].mul_(0.5) if isinstance(group["lr"], Tensor) else group.update(lr=group["lr"] * 0.5)
    kernels = _kernels(monkeypatch)
    with Launches() as launches:
        method.step()
    assert method._cache.plan is plan
    sent = [name for name in launches.found if name == "copy_"]  # of numbers from the host
    others = [name for name in launches.found if name != "copy_"]
    assert others + kernels == expected
    assert len(sent) <= 2
    assert kernels[-1] == "run_tasks"


def test_gradient_sums_of_every_column() -> None:
    from layerpace.engine.backends import reference
    from layerpace.engine.numerics.columns import COLUMNS

    columns = tuple(COLUMNS)
    params = {"a": torch.randn(70, 80), "b": torch.randn(5), "empty": torch.zeros(0, 3)}
    found = []
    for backend in ("reference", "triton"):
        ours = {name: w.clone().to(DEVICE).requires_grad_() for name, w in params.items()}
        method: Any = optimizer(backend, ours, DIRECTIONS["sgd"], "identity")
        for name, p in ours.items():
            p.grad = gradient(name, p, 0)
        method.step()
        (work,) = method._cache.plan.parts[0].works
        work.grads = [p.grad for p in ours.values()]
        found.append(work.backend.gradient_sums(work, columns))
        assert (work.backend is reference) == (backend == "reference")
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-12)


def test_the_wrapped_optimizer() -> None:
    found = []
    for backend in ("reference", "triton"):
        torch.manual_seed(0)
        values = {"a": torch.randn(3, 4), "b": torch.randn(5)}
        params = {name: w.to(DEVICE).requires_grad_() for name, w in values.items()}
        method: Any = lp.wrap(torch.optim.AdamW(params.values(), lr=0.05), lp.rules.Rotation())
        method._settings = dataclasses.replace(method._settings, backend=backend)
        for _ in range(2):
            for name, p in params.items():
                p.grad = gradient(name, p, 0)
            method.step()
        found.append(params)
    for name, w in found[0].items():
        torch.testing.assert_close(found[1][name], w, rtol=1e-5, atol=1e-6)


def test_runs_are_alike() -> None:
    """The same bits twice, and the harness of `tests.fused` finds the same as this one."""
    outcomes = [played("triton", player(), FEW, torch.float32) for _ in range(2)]
    for name, w in outcomes[0].weights.items():
        assert torch.equal(outcomes[1].weights[name], w)
    if DEVICE == "cpu":
        again = run("triton", "adam", "trust ratio", shapes=FEW, dtype=torch.float32, steps=2)
        assert all(torch.equal(again.weights[name], w) for name, w in outcomes[0].weights.items())
