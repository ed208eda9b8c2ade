"""Compiles the kernels of some steps for GPUs that need not be there, and prints what became of them as JSON.

    python -m tests.gpu_step.compiling

Triton's compiler needs no GPU if it is told for which to compile. Launches are noted instead of made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import layerpace as lp
from layerpace.engine.backends.triton import launches, library

TYPES = {
    torch.float32: "*fp32", torch.float64: "*fp64", torch.bfloat16: "*bf16", torch.float16: "*fp16",
    torch.int32: "*i32", torch.int64: "*i64", torch.bool: "*i1",
}  # fmt: skip
COMPILER = ("num_warps", "enable_fp_fusion")


class Noted:
    """A kernel that notes how it is launched."""

    def __init__(self, fn: Any, launches: list[tuple[Any, dict[str, Any]]]) -> None:
        self.fn, self.launches = fn, launches

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        def launch(*args: Any, **options: Any) -> None:
            self.launches.append((self.fn, dict(zip(self.fn.arg_names, args, strict=False)) | options))

        return launch


def source(fn: Any, given: dict[str, Any]) -> tuple[ASTSource, dict[str, Any]]:
    """What the compiler is handed for such a launch."""
    options = {name: given.pop(name) for name in COMPILER if name in given}
    types: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    facts: dict[tuple[int, ...], Any] = {}
    for place, param in enumerate(fn.params):
        value = given[param.name]
        if param.is_constexpr or value is None:
            types[param.name], constants[(place,)] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            types[param.name] = TYPES[value.dtype]
            if value.data_ptr() % 16 == 0:
                facts[(place,)] = [["tt.divisibility", 16]]
        else:
            assert isinstance(value, int), f"{param.name}: a {type(value).__name__} would be rounded to float32"
            types[param.name] = "i32"
    return ASTSource(fn, types, constants, facts), options


def methods() -> dict[str, Callable[[list[torch.Tensor]], torch.optim.Optimizer]]:
    return {
        "LAMB": lambda p: lp.LAMB(p, lr=0.1, weight_decay=0.1, backend="triton"),
        "LARS": lambda p: lp.LARS(p, lr=0.1, backend="triton"),
        "everything": lambda p: lp.Layerwise(
            p,
            direction=lp.directions.NAdam(),
            rule=lp.rules.Rotation(),
            lr=0.1,
            nonfinite="skip",
            max_grad_norm=1.0,
            capturable=True,
            low_precision="stochastic",
            state_dtype="bf16",
            backend="triton",
        ),
    }


def main() -> None:
    library.interprets = lambda: True  # type: ignore[assignment]  # it takes tensors of the CPU then
    noted: list[tuple[Any, dict[str, Any]]] = []
    for module, name in (
        (launches.look, "look_at_gradients"),
        (launches.prepare, "prepare_step"),
        (launches.passes, "run_tasks"),
    ):
        setattr(module, name, Noted(getattr(module, name), noted))
    found: dict[str, dict[str, Any]] = {}
    for method, make in methods().items():
        dtype = torch.bfloat16 if method == "everything" else torch.float32
        params = [torch.zeros(shape, dtype=dtype).requires_grad_() for shape in ((70, 80), (9, 9), (5,))]
        for p in params:
            p.grad = torch.zeros_like(p)
        optimizer: Any = make(params)
        optimizer._cache.readers.update({1} if method == "everything" else ())
        noted.clear()
        optimizer.step()
        for fn, given in noted:
            for capability in (80, 90) if method == "LAMB" else (90,):
                made, options = source(fn, dict(given))
                compiled = triton.compile(made, target=GPUTarget("cuda", capability, 32), options=options)
                text = compiled.asm["ptx"]
                found[f"{method} {fn.__name__} sm_{capability}"] = {
                    "binary": len(compiled.asm["cubin"]),
                    "wide loads": len(re.findall(r"ld\.global[.\w]*\.v[24]", text)),
                    "wide stores": len(re.findall(r"st\.global[.\w]*\.v[24]", text)),
                    "acquires": len(re.findall(r"\.acquire", text)),
                    "releases": len(re.findall(r"\.release", text)),
                    "local memory": text.count(".local"),
                    "vectors read": [
                        len(re.findall(r"tt\.load .*tensor<", compiled.asm[stage])) for stage in ("ttir", "ttgir")
                    ],
                    "fused multiply-adds": len(re.findall(r"fma\.rn\.f32", text)),
                }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
