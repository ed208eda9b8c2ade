"""Any `torch.optim.Optimizer` as the direction of a layer rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from weakref import finalize, ref

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from layerpace import rules
from layerpace.checks import check_range
from layerpace.directions import SGD
from layerpace.layers import Exclude, ParameterLayers, Segments, check_globs, describe_group
from layerpace.optim.base import default_exclude
from layerpace.optim.support import check_supported, real
from layerpace.rules import Rule
from layerpace.step import Entry, Scaling, Settings, layerwise_step

# Hooks of saving and loading are the inner optimizer's; those of the step are each optimizer's own.
_SHARED_HOOKS = (
    "_optimizer_state_dict_pre_hooks",
    "_optimizer_state_dict_post_hooks",
    "_optimizer_load_state_dict_pre_hooks",
    "_optimizer_load_state_dict_post_hooks",
)


def wrap(
    optimizer: Optimizer,
    rule: str | Rule,
    *,
    exclude: Exclude = "auto",
    segments: Mapping[str, Segments] | None = None,
    min_rms: float = 1e-3,
) -> Wrapped:
    """Put a layer rule behind any torch optimizer::

        d' = w - (w after optimizer.step())        what the optimizer would do, its weight decay included
        u  = d' / lr
        w <- w - (c*w + b*u)                       c, b of the rule

    The result shares ``param_groups`` and ``state`` with the optimizer: a scheduler on either moves both, and its
    state dict is the optimizer's with the rule's numbers added. It needs one extra copy of the weights.

    What is known of u is what the rounding of w - d' leaves of it: with float32 weights its relative error is about
    6e-8*||w||/||d'||, and with bfloat16 weights a small step is lost before the rule can see it. An optimizer of
    layerpace's own directions has no such limit.

    Args:
        optimizer: its groups need a positive ``lr`` (where it is 0 the layer does not move).
        rule: an instance such as ``layerpace.rules.Rotation()``, or a name.
        exclude, segments, min_rms: see `layerpace.Layerwise`; a group's ``lr_multiplier`` applies too. An excluded
            tensor takes the optimizer's own step.

    Raises:
        TypeError: not a torch optimizer.
        ValueError: a value out of range, or a glob that matches no parameter.

    Example:
        >>> import torch, layerpace as lp
        >>> model = torch.nn.Linear(4, 2)
        >>> adamw = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
        >>> optimizer = lp.wrap(adamw, lp.rules.TrustRatio())        # LAMB
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> optimizer.step()
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"wrap needs a torch.optim.Optimizer, got {type(optimizer).__name__}")
    check_range("min_rms", min_rms, 0)
    return Wrapped(optimizer, rules.get(rule), exclude, segments, min_rms)


class Wrapped(Optimizer):
    """A torch optimizer whose steps go through a layer rule; made by `wrap`.

    Attributes:
        inner: the torch optimizer.
        rule: the rule.
    """

    inner: Optimizer
    rule: Rule
    _exclude: Exclude
    _segments: Mapping[str, Segments] | None
    _settings: Settings
    _layers: dict[Tensor, ParameterLayers]

    def __init__(
        self,
        optimizer: Optimizer,
        rule: Rule,
        exclude: Exclude,
        segments: Mapping[str, Segments] | None,
        min_rms: float,
    ) -> None:
        # Not super().__init__: groups and state are the inner optimizer's, and __setstate__ sets up the rest.
        self.__setstate__(
            {
                "inner": optimizer,
                "rule": rule,
                "_exclude": default_exclude(rule) if exclude == "auto" else exclude,
                "_segments": segments,
                # A displacement read from weights has their precision: a master copy would add none to it.
                "_settings": Settings(rule, min_rms, "plain", "propagate", None, "auto"),
                "_layers": {},
            }
        )
        self._describe()
        check_globs(self.param_groups, self._exclude, segments)

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        return self.inner.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        return self.inner.state

    def _describe(self) -> None:
        """Cut parameters into layers, those too that were added to the inner optimizer."""
        for index, group in enumerate(self.param_groups):
            if any(param not in self._layers for param in group["params"]):
                self._layers |= describe_group(group, index, self._exclude, self._segments)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the inner optimizer."""
        self.inner.add_param_group(param_group)
        try:
            self._describe()
        except BaseException:
            self.inner.param_groups.pop()
            raise

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Let the inner optimizer step, and send its displacement through the rule.

        Raises:
            RuntimeError: sparse gradients or sharded parameters; nothing has changed.
        """
        self._describe()
        members = [
            (param, group)
            for group in self.param_groups
            for param in group["params"]
            if (closure is not None and param.requires_grad) or param.grad is not None
        ]
        members = [(param, group) for param, group in members if not self._layers[param].excluded]
        for param, _ in members:
            check_supported(param, param if param.grad is None else param.grad, self._layers[param].name)
        before = [real(param).clone() for param, _ in members]
        loss = self.inner.step(closure)
        with torch.no_grad():
            entries = [
                self._entry(param, group, old)
                for (param, group), old in zip(members, before, strict=True)
                if param.grad is not None
            ]
            if entries:
                layerwise_step(entries, self._settings, Scaling())
        if self.rule.state_names:
            moved = [param for param, _ in members if param.grad is not None]
            for param, entry in zip(moved, entries, strict=True):
                self.state[param]["rule_step"] = entry.state["step"]
                self.state[param].update({name: entry.state[name] for name in self.rule.state_names})
        return loss

    def _entry(self, param: Tensor, group: Mapping[str, Any], old: Tensor) -> Entry:
        """The entry of one parameter; puts its old weights back, and the direction into the copy of them."""
        lr, multiplier = group["lr"], group.get("lr_multiplier", 1.0)
        w = real(param)
        displacement = old - w
        w.copy_(old)
        if isinstance(lr, Tensor):
            rate = lr.to(old.device)
            old.copy_(torch.where(rate == 0, 0.0, displacement / rate))
        elif lr == 0:
            old.zero_()
        else:
            torch.div(displacement, lr, out=old)
        layers = self._layers[param]
        kept = self.state.get(param, {})
        zero = torch.zeros(() if layers.sizes is None else layers.count, dtype=torch.float64, device=old.device)
        state = {"step": kept.get("rule_step", torch.zeros(()))}
        state |= {name: kept.get(name, zero.clone()) for name in self.rule.state_names}
        return Entry(
            param=w,
            grad=old,
            state=state,
            layers=layers,
            direction=SGD(),
            lr=lr if multiplier == 1.0 else lr * multiplier,
            weight_decay=0.0,
            l2=0.0,
            maximize=False,
            velocity=None,
            grad_is_scratch=True,
        )

    # Saving and loading are the inner optimizer's; the rule's numbers travel in its state.

    def state_dict(self) -> dict[str, Any]:
        """The inner optimizer's state dict, with the rule's numbers in the state of each parameter."""
        return self.inner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned; the same as loading it into the inner optimizer."""
        self.inner.load_state_dict(state_dict)

    def _restore(self, saved: Mapping[str, Any]) -> None:
        """Restore the precision of the rule's numbers, which torch casts to the weights' dtype."""
        for group, saved_group in zip(self.param_groups, saved["param_groups"], strict=True):
            for param, key in zip(group["params"], saved_group["params"], strict=True):
                numbers = saved["state"].get(key, {})
                for name in {"rule_step", *self.rule.state_names} & numbers.keys():
                    device = "cpu" if name == "rule_step" else param.device
                    self.state[param][name] = numbers[name].detach().to(device, copy=True)

    def __getstate__(self) -> dict[str, Any]:
        names = ("inner", "rule", "_exclude", "_segments", "_settings", "_layers")
        return {name: self.__dict__[name] for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        inner = state["inner"]
        hooks = {name: getattr(inner, name) for name in _SHARED_HOOKS}
        super().__setstate__({**state, **hooks, "defaults": inner.defaults})
        _restore_after_loading(inner, self)


def _restore_after_loading(inner: Optimizer, wrapped: Wrapped) -> None:
    """Hook into the inner optimizer's loading, for as long as the wrapped one lives."""
    reference = ref(wrapped)
    loading: list[dict[str, Any]] = []

    def before(optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
        loading[:] = [state_dict]

    def after(optimizer: Optimizer) -> None:
        alive = reference()
        if alive is not None:
            alive._restore(loading.pop())

    for handle in (
        inner.register_load_state_dict_pre_hook(before),
        inner.register_load_state_dict_post_hook(after),
    ):
        finalize(wrapped, handle.remove)
