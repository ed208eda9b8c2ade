"""What a step takes: hardly any memory of its own, and at most four launches however many layers there are."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.gpu.common import DEVICE, main, make, needs_gpu
from torch import Tensor, nn

import layerpace as lp

pytestmark = needs_gpu

OURS = ("run_tasks", "prepare_step", "look_at_gradients")
MOST = 4  # launches of a step
MIB = 1 << 20


@main
@pytest.mark.parametrize("options", [{}, {"nonfinite": "skip", "max_grad_norm": 1.0}], ids=["plain", "guarded"])
def test_a_step_needs_little_memory_of_its_own(name: str, options: dict[str, Any]) -> None:
    """100M weights in 24 matrices, and vectors; counted from the first step on, which makes tables and state."""
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    shapes = [(4096, 1024)] * 24 + [(4096,)] * 24
    params = {f"layer {k}": torch.randn(shape, device=DEVICE).requires_grad_() for k, shape in enumerate(shapes)}
    for p in params.values():
        p.grad = torch.randn_like(p)
    method = make(name, params, **options)
    torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        method.step()
    torch.cuda.synchronize()
    weights = sum(p.nbytes for p in params.values())
    state = sum(x.nbytes for found in method.state.values() for x in found.values() if x.is_cuda)
    beyond = torch.cuda.max_memory_allocated() - before - 2 * weights - state
    assert beyond <= weights // 100 + 16 * MIB, f"{beyond / MIB:.1f} MiB beyond weights, gradients and state"


def launches(run: Callable[[], Any], folder: Path) -> list[str]:
    """The names of the kernels, and of the memsets, that a function launches; copies are not among them."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=activities) as profile:
        torch.ones(3, device=DEVICE).mul_(2)
        torch.cuda.synchronize()
        run()
        torch.cuda.synchronize()
    file = folder / "trace.json"
    profile.export_chrome_trace(str(file))
    events = json.loads(file.read_text())["traceEvents"]
    found = [e for e in events if e.get("ph") == "X" and e.get("cat") in ("kernel", "gpu_memset")]
    names = [str(e["name"]) for e in sorted(found, key=lambda e: float(e["ts"]))]
    if not names:
        pytest.skip("the profiler records no kernels on this machine")
    return names[2:]  # without `ones` and `mul_`, which show that it does


def layers(count: int = 200) -> dict[str, Tensor]:
    """Layers of several sizes, and vectors, with gradients."""
    shapes = [(33, 65), (17,), (300, 301), (5, 3)]
    params = {f"layer {k}": torch.randn(shapes[k % 4], device=DEVICE).requires_grad_() for k in range(count)}
    for p in params.values():
        p.grad = torch.randn_like(p)
    return params


def prepared(name: str, case: str) -> Any:
    """An optimizer of that case, three steps on."""
    options = dict(CASES[case])
    if options.pop("lr on the device", False):
        options["lr"] = torch.tensor(0.01, device=DEVICE)
    scaled = options.pop("scaled", False)
    method = make(name, layers(), **options)
    if scaled:
        method.grad_scale = torch.full((), 4.0, device=DEVICE)
        method.found_inf = torch.zeros((), device=DEVICE)
    for _ in range(3):
        method.step()
    return method


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "schedule": {},
    "capturable": {"capturable": True},
    "capturable, lr a tensor": {"capturable": True, "lr on the device": True},
    "skipping": {"nonfinite": "skip"},
    "clipped": {"max_grad_norm": 1.0},
    "skipping and clipped": {"nonfinite": "skip", "max_grad_norm": 1.0},
    "scaled": {"scaled": True},
    "scaled, skipping and clipped": {"scaled": True, "nonfinite": "skip", "max_grad_norm": 1.0},
    "everything": {
        "scaled": True, "nonfinite": "skip", "max_grad_norm": 1.0, "capturable": True, "lr on the device": True,
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "case"), [("LAMB", case) for case in CASES] + [(name, "everything") for name in ("LARS", "Layca", "Adam")]
)
def test_launches_of_a_step(name: str, case: str, tmp_path: Path) -> None:
    method = prepared(name, case)
    if case == "schedule":
        method.param_groups[0]["lr"] *= 0.5
    found = launches(method.step, tmp_path)
    assert [kernel for kernel in found if "run_tasks" in kernel], found
    assert len(found) <= MOST, found


def test_a_watched_step_launches_the_same_kernels(tmp_path: Path) -> None:
    """What a monitor does with the sums afterwards is its own: of its steps, the kernels of the step are counted."""
    counts = []
    for watched in (False, True):
        params = layers()
        model = nn.ParameterDict({f"layer{k}": nn.Parameter(p.detach()) for k, p in enumerate(params.values())})
        own = dict(model.named_parameters())
        for p in own.values():
            p.grad = torch.randn_like(p)
        method = make("LAMB", own)
        monitor = lp.Monitor(model, method, every=1, out=None, initial=None) if watched else None
        for _ in range(3):
            method.step()
        found = launches(method.step, tmp_path)
        counts.append([name for name in OURS for kernel in found if name in kernel])
        if monitor is not None:
            assert monitor.step == 4
    assert counts[0] == counts[1] and 0 < len(counts[1]) <= MOST, counts
