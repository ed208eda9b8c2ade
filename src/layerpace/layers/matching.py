"""Globs over a model's names, for optimizers that are given parameters without names."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn


def matching(model: nn.Module, globs: str | Sequence[str]) -> Matching:
    """An ``exclude`` by name, where a trainer makes the param groups and leaves the names out.

    Args:
        model: the one whose parameters the optimizer gets; they are told apart by identity, also after an exchange in
            the model (``fully_shard``).
        globs: over the names of its parameters. A tensor that it has twice has two names, and one of them is enough.

    Returns:
        A predicate of (name, parameter), for ``exclude``. It can be pickled and copied with the parameters, as an
        optimizer does.

    Raises:
        TypeError: not a module, or no globs.
        ValueError: a glob that matches no parameter; and when it is asked of a parameter that the model does not have.

    Example:
        >>> import torch, layerpace as lp
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
        >>> optimizer = lp.LAMB(model.parameters(), exclude=lp.layers.matching(model, ["1.*", "*.bias"]))
        >>> [layers.excluded for layers in optimizer.layers.values()]
        [False, True, True, True]
    """
    return Matching(model, globs)


class Matching:
    """What `matching` returns."""

    def __init__(self, model: nn.Module, globs: str | Sequence[str]) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"matching needs a torch.nn.Module, got {type(model).__name__}")
        self.globs = (globs,) if isinstance(globs, str) else tuple(globs) if isinstance(globs, Sequence) else ()
        if not self.globs or not all(isinstance(glob, str) for glob in self.globs):
            raise TypeError(f"matching needs a glob or a list of globs, got {globs!r}")
        self._model: nn.Module | None = model
        self._names = names_of(model)
        every = [name for names in self._names.values() for name in names]
        for glob in self.globs:
            if not any(fnmatchcase(name, glob) for name in every):
                shown = ", ".join(map(repr, every[:5]))
                raise ValueError(
                    f"{glob!r} matches no parameter of the {type(model).__name__}; the names are {shown}, ..."
                )

    def __call__(self, name: str, param: Tensor) -> bool:
        """Whether one of the parameter's names matches one of the globs."""
        if param not in self._names and self._model is not None:
            self._names = names_of(self._model)
        names = self._names.get(param, (name,) if name else ())
        if not names:
            raise ValueError(
                f"{self!r} was asked of a parameter of shape {tuple(param.shape)} that its model does not have: "
                "give it the model whose parameters the optimizer gets"
            )
        return any(fnmatchcase(own, glob) for own in names for glob in self.globs)

    def __repr__(self) -> str:
        return f"matching(..., {list(self.globs)})"

    def __getstate__(self) -> dict[str, Any]:
        # Parameters are an optimizer's own, and are saved and copied once; a model may not be fit for either.
        return {"globs": self.globs, "_names": list(self._names.items()), "_model": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _names=dict(state["_names"]))

    def __deepcopy__(self, memo: dict[int, Any]) -> Matching:
        """Of parameters that are copied with it the copies, of the others themselves."""
        other = object.__new__(Matching)
        memo[id(self)] = other
        other.globs, other._model = self.globs, None if self._model is None else memo.get(id(self._model), self._model)
        other._names = {memo.get(id(param), param): names for param, names in self._names.items()} | self._names
        return other


def names_of(model: nn.Module) -> dict[Tensor, tuple[str, ...]]:
    """Every name of every parameter."""
    names: dict[Tensor, tuple[str, ...]] = {}
    for name, param in model.named_parameters(remove_duplicate=False):
        names[param] = (*names.get(param, ()), name)
    return names
