"""Any `torch.optim.Optimizer` as the direction of a layer rule."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Self, SupportsIndex
from weakref import finalize, ref

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT, _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from layerpace import rules
from layerpace.directions import SGD
from layerpace.engine.common.checks import check_number, plain
from layerpace.engine.common.parts import described
from layerpace.engine.common.printable import printable
from layerpace.engine.entries import Entry, GroupOptions, Scaling, Settings
from layerpace.engine.observed import Observed
from layerpace.engine.plan import Plan
from layerpace.engine.sharding.collectives import check_placements, is_distributed, local
from layerpace.engine.sharding.shards import Shard, shard_of
from layerpace.engine.step import layerwise_step
from layerpace.engine.support import captures_graph, check_shaped, check_supported, real, real_shape, step_device
from layerpace.engine.turns import Turns
from layerpace.engine.zeros import ZeroLayers
from layerpace.layers import Exclude, ParameterLayers, Segments
from layerpace.layers.describing import all_described, check_globs, describe_again
from layerpace.optim.compiling import OpaqueOptimizer, opaque
from layerpace.optim.options import deep_copy, default_exclude, on_host, rate, with_own_numbers, without_lambda
from layerpace.optim.saving import check_nonnegative, check_value
from layerpace.optim.state_names import by_names
from layerpace.rules import Rule

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
    state dict is the optimizer's with the rule's numbers added. It needs one extra copy of the weights. Hooks of the
    optimizer's own step are called around it, those of all optimizers (`register_optimizer_step_post_hook`) for the
    result alone. ``train()`` and ``eval()`` of an optimizer without a schedule are passed on.

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
    min_rms = check_number("min_rms", min_rms, 0)
    made = Wrapped.__new__(Wrapped)
    made._put_around(optimizer, rules.get(rule), exclude, segments, min_rms)
    return made


class Wrapped(OpaqueOptimizer):
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
        lr: handed on to what makes it, as trainers tell an optimizer's rate by that name; None: it is not.
        rule, exclude, segments, min_rms: see `wrap`.

    Attributes:
        inner: the torch optimizer.
        rule: the rule.

    Example:
        >>> import torch, layerpace as lp
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = lp.Wrapped(model.parameters(), torch.optim.AdamW, "trust_ratio")
    """

    inner: Optimizer
    rule: Rule
    _readers: set[int]
    _last_plan: Plan | None
    _exclude: Exclude
    _segments: Mapping[str, Segments] | None
    _settings: Settings
    _layers: dict[Tensor, ParameterLayers]
    _held: dict[Tensor, Shard]
    _turns: Turns
    _zeros: ZeroLayers

    @opaque
    def __init__(
        self,
        params: ParamsT,
        optimizer: Callable[[ParamsT], Optimizer],
        rule: str | Rule,
        *,
        lr: float | Tensor | None = None,
        exclude: Exclude = "auto",
        segments: Mapping[str, Segments] | None = None,
        min_rms: float = 1e-3,
    ) -> None:
        make = described(optimizer, "optimizer", partial)
        if not callable(make):
            raise TypeError(f"Wrapped needs what makes an optimizer, such as torch.optim.AdamW, got {optimizer!r}")
        inner = make(params) if lr is None else make(params, lr=lr)
        if not isinstance(inner, Optimizer):
            raise TypeError(f"Wrapped needs what makes a torch.optim.Optimizer, got {inner!r} of {make!r}")
        min_rms = check_number("min_rms", min_rms, 0)
        self._put_around(inner, rules.get(rule), exclude, segments, min_rms)

    @opaque
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
                "_settings": Settings(min_rms, "plain", "fp32", "propagate", None, "auto"),
                "_layers": {},
            }
        )
        self._describe()
        check_globs(self.param_groups, self._exclude, segments)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.inner.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.inner.param_groups = groups

    @property
    def state(self) -> Any:
        return self.inner.state

    @state.setter
    def state(self, state: Any) -> None:
        self.inner.state = state

    @property
    def defaults(self) -> dict[str, Any]:
        return self.inner.defaults

    @defaults.setter
    def defaults(self, defaults: dict[str, Any]) -> None:
        self.inner.defaults = defaults

    def __getattr__(self, name: str) -> Any:
        # What trainers look for, and call, in an optimizer without a schedule, whose weights have two places. Not all
        # that the inner optimizer has: GradScaler would hand its scale to a flag of a fused one.
        if name in ("train", "eval") and "inner" in self.__dict__:
            return getattr(self.inner, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def layers(self) -> dict[Tensor, ParameterLayers]:
        """How each parameter is cut into layers, in the order of the groups."""
        self._describe()
        return dict(self._layers)

    @property
    def observed(self) -> Observed:
        """What monitors read of this optimizer; while they do, a step keeps a copy of the weights."""

        def forget() -> None:
            self._last_plan = None

        return Observed(self._settings, [self.rule], self._layers, self._last_plan, self._readers, forget)

    def _describe(self) -> None:
        """Cut parameters into layers, those too that were added to the inner optimizer, or have another shape now."""
        if not all_described(self.param_groups, self._layers):
            automatic = {"exclude": self._exclude}
            groups = [group | automatic if group.get("exclude") == "auto" else group for group in self.param_groups]
            self._layers = describe_again(groups, self._layers, self._exclude, self._segments)
            self._held = {param: held for param, held in self._held.items() if param in self._layers}

    @opaque
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
                (`check_placements` of engine/sharding), or the rule's numbers do not fit; nothing has changed.
        """
        with self._turns:
            return self._step(closure)

    def _step(self, closure: Callable[[], Any] | None) -> Any:
        if captures_graph():
            raise RuntimeError("a wrapped optimizer arranges every step anew, which a CUDA graph cannot hold")
        self._describe()
        self._last_plan = None
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
            self._check_numbers(param)

        def check() -> None:
            for param, _ in members:
                if param.grad is not None:
                    check_supported(param, param.grad, self._layers[param].name)

        def then_check() -> Any:
            assert closure is not None
            loss = closure()
            check()  # the gradients that the step will read, before it moves anything
            return loss

        if closure is None:
            check()
        before = [real(local(param)).clone() for param, _ in members]
        loss = _step_without_global_hooks(self.inner, None if closure is None else then_check)
        with torch.no_grad():
            moved = {
                param: self._entry(param, index, old)
                for (param, index), old in zip(members, before, strict=True)
                if param.grad is not None
            }
            entries = list(moved.values())
            if entries:
                options = [self._group_options(group) for group in self.param_groups]
                plan = Plan(entries, options, self._settings, Scaling())
                for entry in entries:
                    if entry.held is not None:
                        entry.held.publish(entry.state, entry.saved)
                layerwise_step(plan, Scaling())
                if self._zeros.waiting:
                    self._zeros.look(plan)
                self._last_plan = plan if self._readers else None
        self._remember(moved)
        return loss

    def _remember(self, entries: Mapping[Tensor, Entry]) -> None:
        """Keep the rule's numbers in the inner optimizer's state: of every parameter that was moved, or of none.

        torch.distributed.checkpoint takes a parameter without state among others that have some for a damaged file. So
        an excluded one has the numbers from before its first step under the rule.
        """
        names = self._saved_names()
        for group in self.param_groups if names else ():
            for param in group["params"]:
                entry = entries.get(param)
                if entry is not None:
                    self.state[param].update({key: entry.saved[name] for name, key in names})
                elif param.grad is not None and names[0][1] not in self.state[param]:
                    numbers = self._numbers_before(param)
                    self.state[param].update({key: numbers[name] for name, key in names})

    def _check_numbers(self, param: Tensor) -> None:
        """Raise RuntimeError for what a rule keeps of other layers than there are: the tensor has been exchanged."""
        layers, kept = self._layers[param], self.state.get(param, {})
        for name, key in self._saved_names():
            shape = layers.broadcast_shape(real_shape(param)) if name == "step" else (layers.count,)
            value = kept.get(key)
            if value is not None and value.shape != shape:
                raise RuntimeError(
                    f"the state {key!r} of {layers.name!r} has shape {tuple(value.shape)}, and its layers (the weight "
                    f"has shape {tuple(param.shape)}) need {shape}; no weight was changed. Drop what is kept of a "
                    "parameter that has been exchanged: optimizer.state.pop(param)"
                )

    def _entry(self, param: Tensor, index: int, old: Tensor) -> Entry:
        """The entry of one parameter; puts its old weights back, and the direction into the copy of them."""
        w = real(local(param).detach())
        displacement = old - w
        w.copy_(old)
        lr = on_host(plain(self.param_groups[index]["lr"]))
        if isinstance(lr, Tensor):
            lr = lr.to(old.device).reshape(())
            old.copy_(torch.where(lr == 0, 0.0, displacement / lr))
        elif lr == 0:
            old.zero_()
        else:
            torch.div(displacement, lr, out=old)
        layers = self._layers[param]
        kept = self.state.get(param, {})
        if any(key not in kept for _, key in self._saved_names()):
            self._zeros.begin()
        state = self._numbers_before(param)
        state |= {name: kept[key] for name, key in self._saved_names() if key in kept}
        if not is_distributed(param):
            return Entry(w, old, state, layers, index, owner=None, saved=state)
        held = shard_of(self._held, param, layers)
        own = held.local_state(state)
        return Entry(w, old, own, held.rows.layers, index, owner=None, held=held, saved=state)

    def _numbers_before(self, param: Tensor) -> dict[str, Tensor]:
        """The rule's numbers before the first step."""
        layers, w = self._layers[param], local(param)
        step = torch.zeros(layers.broadcast_shape(real_shape(param)), device=step_device(layers, w))
        return {"step": step, **layers.memory(self.rule.state_names, w.device)}

    def _group_options(self, group: Mapping[str, Any]) -> GroupOptions:
        """The displacement of the inner optimizer is the whole direction, its weight decay included."""
        return GroupOptions(
            lr=rate(group),
            weight_decay=0.0,
            l2=0.0,
            maximize=False,
            direction=SGD(),
            rule=self.rule,
            velocity=None,
            undecayed=not group.get("weight_decay", 0.0),
        )

    def _saved_names(self) -> list[tuple[str, str]]:
        """(name in a step, name in the inner optimizer's state) of what a rule with memory keeps."""
        if not self.rule.state_names:
            return []
        return [("step", "rule_step"), *((name, name) for name in self.rule.state_names)]

    # Saving and loading are the inner optimizer's; the rule's numbers travel in its state.

    @opaque
    def state_dict(self) -> dict[str, Any]:
        """The inner optimizer's state dict, with the rule's numbers in the state of each parameter."""
        return with_own_numbers(self.inner.state_dict())

    @opaque
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned; the same as loading it into the inner optimizer.

        State goes by names, where both sides have them; see `Layerwise.load_state_dict`.
        """
        state, groups = self.inner.state, self.inner.param_groups
        try:
            self.inner.load_state_dict(state_dict)
        except BaseException:  # torch judges the inner state after it has taken it over
            self.inner.state, self.inner.param_groups = state, groups
            raise

    def _rule_numbers(self, state_dict: Mapping[str, Any]) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """(parameter, the rule's saved numbers) of a state dict that fits the groups.

        Raises:
            ValueError: numbers of other segments, or out of range.
        """
        names = {key: name for name, key in self._saved_names()}
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            for param, key in zip(group["params"], saved["params"], strict=True):
                layers, state = self._layers[param], state_dict["state"].get(key, {})
                numbers = {name: state[name] for name in names if name in state}
                if numbers:
                    check_shaped(param, printable(layers.name))
                for name, value in numbers.items():
                    shape = torch.Size((layers.count,))
                    if names[name] == "step":
                        shape = torch.Size(layers.broadcast_shape(real_shape(param)))
                    if isinstance(value, Tensor) and value.shape != shape:
                        raise ValueError(
                            f"{name} of {printable(layers.name)} has shape {tuple(value.shape)} in the state dict, "
                            f"needs {tuple(shape)}: were the segments the same?"
                        )
                    check_value(name, value, shape, layers.name, param, counts=names[name] == "step")
                    if name in self.rule.nonnegative:
                        check_nonnegative(name, value, layers.name, or_nan=True)
                yield param, {name: value.detach() for name, value in numbers.items()}

    def _loadable(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """The state dict in the order of the parameters here, checked."""
        self._describe()
        state_dict = by_names(self.param_groups, state_dict)
        for _ in self._rule_numbers(state_dict):
            pass
        return state_dict

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
        if "inner" not in state:  # groups and state, as torch's own loading hands them over
            self.inner.__setstate__(state)
            return
        inner = state["inner"]
        hooks = {name: getattr(inner, name) for name in _SHARED_HOOKS}
        anew: dict[str, Any] = {
            "_readers": set(),
            "_last_plan": None,
            "_held": {},
            "_turns": Turns(),
            "_zeros": ZeroLayers(),
        }
        super().__setstate__({**state, **hooks, **anew})
        _restore_after_loading(inner, self)


def _step_without_global_hooks(inner: Optimizer, closure: Callable[[], Any] | None) -> Any:
    """The step of a wrapped optimizer with its own hooks: those of all optimizers are called for the wrapping one.

    After the inner step the weights are not yet where the step leads, and a hook that counts steps would count two.
    """
    hooked: Any = type(inner).step
    outer = inner.__dict__.get("step")  # a scheduler's, which notes the call, or somebody else's
    scheduled = getattr(outer, "_wrapped_by_lr_sched", False) and getattr(outer, "__wrapped__", None) is hooked
    somebody_asks = _global_optimizer_pre_hooks or _global_optimizer_post_hooks
    if not somebody_asks or not hasattr(hooked, "hooked") or (outer is not None and not scheduled):
        return inner.step(closure)
    if scheduled:
        inner._opt_called = True  # type: ignore[attr-defined]
    step = inspect.unwrap(hooked, stop=lambda function: not hasattr(function, "hooked"))
    args: tuple[Any, ...] = (inner, closure)
    kwargs: dict[str, Any] = {}
    for before in list(inner._optimizer_step_pre_hooks.values()):
        others = before(inner, args, kwargs)
        if others is not None:
            args, kwargs = others
    result = step(*args, **kwargs)
    for after in list(inner._optimizer_step_post_hooks.values()):
        after(inner, args, kwargs)
    return result


def _restore_after_loading(inner: Optimizer, wrapped: Wrapped) -> None:
    """Hook into the inner optimizer's loading, for as long as the wrapped one lives."""
    reference = ref(wrapped)
    loading: list[dict[str, Any]] = []

    def before(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        alive = reference()
        if alive is not None:
            state_dict = alive._loadable(state_dict)
        loading[:] = [state_dict]
        return state_dict

    def after(optimizer: Optimizer) -> None:
        alive = reference()
        if alive is not None:
            alive._restore(loading.pop())

    for handle in (
        inner.register_load_state_dict_pre_hook(before),
        inner.register_load_state_dict_post_hook(after),
    ):
        finalize(wrapped, handle.remove)
