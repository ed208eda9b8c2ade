"""Any `torch.optim.Optimizer` as the direction of a layer rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Self, SupportsIndex
from weakref import finalize, ref

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from layerpace import rules
from layerpace.checks import check_range
from layerpace.directions import SGD
from layerpace.entries import Entry, GroupOptions, Scaling, Settings
from layerpace.held import Held, held_of
from layerpace.layers import Exclude, ParameterLayers, Segments, all_described, check_globs, describe_again
from layerpace.optim.options import deep_copy, default_exclude, on_host, rate, without_lambda
from layerpace.optim.support import captures_graph, check_supported, real, real_shape, step_device
from layerpace.parts import described
from layerpace.plan import Plan
from layerpace.rules import Rule
from layerpace.sharding import check_placements, is_distributed, local
from layerpace.step import layerwise_step

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
    made = Wrapped.__new__(Wrapped)
    made._put_around(optimizer, rules.get(rule), exclude, segments, min_rms)
    return made


class Wrapped(Optimizer):
    """A torch optimizer whose steps go through a layer rule: `wrap`, where a trainer or a file makes the optimizer::

        optimizer:
          class_path: layerpace.Wrapped
          init_args:
            optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.01}}
            rule: rotation

    Args:
        params: as for any torch optimizer.
        optimizer: what makes the torch optimizer of them: a class, a function, ``partial(AdamW, lr=0.01)``; or the
            mapping with class_path and init_args above, which LightningCLI hands over as it is.
        rule, exclude, segments, min_rms: see `wrap`.

    Attributes:
        inner: the torch optimizer.
        rule: the rule.
        readers: of ``last_plan`` after the next steps; for them it is kept, and with it a copy of the weights.
        last_plan: what the rule did in the last step; None: nothing, or it was not kept.

    Example:
        >>> import torch, layerpace as lp
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = lp.Wrapped(model.parameters(), torch.optim.AdamW, "trust_ratio")
    """

    inner: Optimizer
    rule: Rule
    readers: set[int]
    last_plan: Plan | None
    _exclude: Exclude
    _segments: Mapping[str, Segments] | None
    _settings: Settings
    _layers: dict[Tensor, ParameterLayers]
    _held: dict[Tensor, Held]

    def __init__(
        self,
        params: ParamsT,
        optimizer: Callable[[ParamsT], Optimizer],
        rule: str | Rule,
        *,
        exclude: Exclude = "auto",
        segments: Mapping[str, Segments] | None = None,
        min_rms: float = 1e-3,
    ) -> None:
        make = described(optimizer, "optimizer", partial)
        if not callable(make):
            raise TypeError(f"Wrapped needs what makes an optimizer, such as torch.optim.AdamW, got {optimizer!r}")
        inner = make(params)
        if not isinstance(inner, Optimizer):
            raise TypeError(f"Wrapped needs what makes a torch.optim.Optimizer, got {inner!r} of {make!r}")
        check_range("min_rms", min_rms, 0)
        self._put_around(inner, rules.get(rule), exclude, segments, min_rms)

    def _put_around(
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
                "_settings": Settings(rule, min_rms, "plain", "fp32", "propagate", None, "auto"),
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

    @property
    def layers(self) -> dict[Tensor, ParameterLayers]:
        """How each parameter is cut into layers, in the order of the groups."""
        self._describe()
        return dict(self._layers)

    def _describe(self) -> None:
        """Cut parameters into layers, those too that were added to the inner optimizer, or have another shape now."""
        if not all_described(self.param_groups, self._layers):
            automatic = {"exclude": self._exclude}
            groups = [group | automatic if group.get("exclude") == "auto" else group for group in self.param_groups]
            self._layers = describe_again(groups, self._layers, self._exclude, self._segments)
            self._held = {param: held for param, held in self._held.items() if param in self._layers}

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

        Args:
            closure: handed to the inner optimizer.

        Returns:
            What the inner optimizer's step returned.

        Raises:
            RuntimeError: sparse gradients, or parameters whose layers are not known (FSDP1) or not added up
                (`layerpace.sharding.check_placements`); nothing has changed.
        """
        if captures_graph():
            raise RuntimeError("a wrapped optimizer arranges every step anew, which a CUDA graph cannot hold")
        self._describe()
        members = [
            (param, index)
            for index, group in enumerate(self.param_groups)
            for param in group["params"]
            if (closure is not None and param.requires_grad) or param.grad is not None
        ]
        for param, _ in members:  # FSDP1's pieces are vectors, which are excluded
            check_placements(param, repr(self._layers[param].name))
        # An excluded tensor takes the inner optimizer's step, and only a multiplier asks for more than that.
        members = [
            (param, index)
            for param, index in members
            if not self._layers[param].excluded or self.param_groups[index].get("lr_multiplier", 1.0) != 1.0
        ]
        for param, _ in members:
            check_supported(param, param if param.grad is None else param.grad, self._layers[param].name)
        self.last_plan = None
        before = [real(local(param)).clone() for param, _ in members]
        loss = self.inner.step(closure)
        with torch.no_grad():
            entries = [
                self._entry(param, index, old)
                for (param, index), old in zip(members, before, strict=True)
                if param.grad is not None
            ]
            if entries:
                options = [self._group_options(group) for group in self.param_groups]
                plan = Plan(entries, options, self._settings, Scaling())
                for entry in entries:
                    if entry.held is not None:
                        entry.held.publish(entry.state, entry.saved)
                layerwise_step(plan, Scaling())
                self.last_plan = plan if self.readers else None
        moved = [param for param, _ in members if param.grad is not None]
        for param, entry in zip(moved, entries, strict=True):
            self.state[param].update({key: entry.saved[name] for name, key in self._saved_names()})
        return loss

    def _entry(self, param: Tensor, index: int, old: Tensor) -> Entry:
        """The entry of one parameter; puts its old weights back, and the direction into the copy of them."""
        w = real(local(param).detach())
        displacement = old - w
        w.copy_(old)
        lr = on_host(self.param_groups[index]["lr"])
        if isinstance(lr, Tensor):
            lr = lr.to(old.device).reshape(())
            old.copy_(torch.where(lr == 0, 0.0, displacement / lr))
        elif lr == 0:
            old.zero_()
        else:
            torch.div(displacement, lr, out=old)
        layers = self._layers[param]
        kept = self.state.get(param, {})
        state = {"step": torch.zeros(layers.broadcast_shape(real_shape(param)), device=step_device(layers, w))}
        state |= layers.memory(self.rule.state_names, w.device)
        state |= {name: kept[key] for name, key in self._saved_names() if key in kept}
        if not is_distributed(param):
            return Entry(w, old, state, layers, index, owner=None, saved=state)
        held = held_of(self._held, param, layers)
        own = held.local_state(state)
        return Entry(w, old, own, held.rows.layers, index, owner=None, held=held, saved=state)

    def _group_options(self, group: Mapping[str, Any]) -> GroupOptions:
        """The displacement of the inner optimizer is the whole direction, its weight decay included."""
        return GroupOptions(
            lr=rate(group),
            weight_decay=0.0,
            l2=0.0,
            maximize=False,
            direction=SGD(),
            velocity=None,
            undecayed=not group.get("weight_decay", 0.0),
        )

    def _saved_names(self) -> list[tuple[str, str]]:
        """(name in a step, name in the inner optimizer's state) of what a rule with memory keeps."""
        if not self.rule.state_names:
            return []
        return [("step", "rule_step"), *((name, name) for name in self.rule.state_names)]

    # Saving and loading are the inner optimizer's; the rule's numbers travel in its state.

    def state_dict(self) -> dict[str, Any]:
        """The inner optimizer's state dict, with the rule's numbers in the state of each parameter."""
        return self.inner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned; the same as loading it into the inner optimizer."""
        self.inner.load_state_dict(state_dict)

    def _rule_numbers(self, state_dict: Mapping[str, Any]) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """(parameter, the rule's saved numbers) of a state dict that fits the groups.

        Raises:
            ValueError: numbers of other segments.
        """
        names = {key: name for name, key in self._saved_names()}
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            for param, key in zip(group["params"], saved["params"], strict=True):
                layers, state = self._layers[param], state_dict["state"].get(key, {})
                numbers = {name: state[name].detach() for name in names if name in state}
                for name, value in numbers.items():
                    shape = torch.Size((layers.count,))
                    if names[name] == "step":
                        shape = torch.Size(layers.broadcast_shape(real_shape(param)))
                    if value.shape != shape:
                        raise ValueError(
                            f"{name} of {layers.name} has shape {tuple(value.shape)} in the state dict, needs "
                            f"{tuple(shape)}: were the segments the same?"
                        )
                yield param, numbers

    def _check_loadable(self, state_dict: Mapping[str, Any]) -> None:
        sizes = [[len(g["params"]) for g in groups] for groups in (self.param_groups, state_dict["param_groups"])]
        if sizes[0] == sizes[1]:  # else torch has its own error
            self._describe()
            for _ in self._rule_numbers(state_dict):
                pass

    def _restore(self, saved: Mapping[str, Any]) -> None:
        """Restore the precision of the rule's numbers, which torch casts to the weights' dtype."""
        for param, numbers in self._rule_numbers(saved):
            for name, value in numbers.items():
                device = step_device(self._layers[param], param) if name == "rule_step" else param.device
                self.state[param][name] = value.to(device, copy=True)

    def __getstate__(self) -> dict[str, Any]:
        names = ("inner", "rule", "_exclude", "_segments", "_settings", "_layers")
        return {name: self.__dict__[name] for name in names}

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        return without_lambda(super().__reduce_ex__(protocol), self.rule)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return deep_copy(self, memo)

    def __setstate__(self, state: dict[str, Any]) -> None:
        inner = state["inner"]
        hooks = {name: getattr(inner, name) for name in _SHARED_HOOKS}
        super().__setstate__(
            {**state, **hooks, "defaults": inner.defaults, "readers": set(), "last_plan": None, "_held": {}}
        )
        _restore_after_loading(inner, self)


def _restore_after_loading(inner: Optimizer, wrapped: Wrapped) -> None:
    """Hook into the inner optimizer's loading, for as long as the wrapped one lives."""
    reference = ref(wrapped)
    loading: list[dict[str, Any]] = []

    def before(optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
        loading[:] = [state_dict]
        alive = reference()
        if alive is not None:
            alive._check_loadable(state_dict)

    def after(optimizer: Optimizer) -> None:
        alive = reference()
        if alive is not None:
            alive._restore(loading.pop())

    for handle in (
        inner.register_load_state_dict_pre_hook(before),
        inner.register_load_state_dict_post_hook(after),
    ):
        finalize(wrapped, handle.remove)
