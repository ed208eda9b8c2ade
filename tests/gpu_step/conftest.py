from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from layerpace.engine.backends import triton


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _quick_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the interpreter half of its time: it patches Triton's language anew for each function that is called."""
    if not triton.interprets():
        return
    import triton.language as tl
    from triton.runtime import interpreter

    if not (hasattr(interpreter, "_patch_lang") and hasattr(interpreter, "_LangPatchScope")):
        return  # another version, which may do better
    original = interpreter._patch_lang
    languages: dict[int, list[Any]] = {}

    def once(fn: Any) -> Any:
        names = fn.__globals__
        if id(names) not in languages:
            modules = [value for value in names.values() if inspect.ismodule(value)]
            languages[id(names)] = [module for module in modules if module in (tl, tl.core)]
        if all(not tl.core.is_builtin(module.full) for module in languages[id(names)]):
            return interpreter._LangPatchScope()
        return original(fn)

    monkeypatch.setattr(interpreter, "_patch_lang", once)
