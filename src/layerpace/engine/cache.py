"""Keeping the plan of a step for the next one, and noticing what has changed since.

What is compared before each step: the groups and the option values in them, the parameters of each group, which of
them have a gradient, the state dict, and (in the compiled module) every tensor's place and shape. If
a check fails, a new plan is built, so that a step with a kept plan equals one with a new plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Number
from operator import is_
from typing import Any, Protocol

from torch import Tensor

from layerpace.directions import Direction
from layerpace.engine.common.checks import is_plain
from layerpace.engine.common.fake import has_values
from layerpace.engine.common.parts import Part
from layerpace.engine.entries import Entry, GroupOptions, Scaling, Settings
from layerpace.engine.fitting import check_direction, check_state
from layerpace.engine.plan import Plan
from layerpace.engine.sharding.collectives import is_distributed
from layerpace.engine.sharding.shards import Shard, shard_of, take_gradients
from layerpace.engine.step import layerwise_step
from layerpace.engine.support import captures_graph, check_supported, real
from layerpace.engine.turns import Turns
from layerpace.engine.zeros import ZeroLayers
from layerpace.layers.base import ParameterLayers
from layerpace.rules import Rule


class Stepped(Protocol):
    """What the engine reads of the optimizer that it steps."""

    defaults: dict[str, Any]
    direction: Direction
    _settings: Settings
    _layers: dict[Tensor, ParameterLayers]

    @property
    def param_groups(self) -> list[dict[str, Any]]: ...

    @property
    def state(self) -> Any: ...

    def _describe(self) -> None:
        """Cut new parameters, and those of another shape, into layers."""

    def _group_options(self, group: Mapping[str, Any], index: int) -> GroupOptions:
        """The options of a group in this step, checked."""

    def _initial_state(
        self, param: Tensor, direction: Direction, rule: Rule, device: str | None = None
    ) -> dict[str, Tensor]:
        """The state before the first step; on "meta" its shapes and dtypes, without memory."""


METHOD = ("direction", "rule")
VELOCITY = ("momentum", "dampening", "nesterov")


class Values:
    """The option values of a group, to be compared with later ones."""

    def __init__(self, group: Mapping[str, Any], keys: tuple[str, ...]) -> None:
        self.keys = keys
        self.raw = tuple(map(group.get, keys))
        self.fixed = all(is_plain(value) or isinstance(value, (Part, type)) for value in self.raw)
        self.frozen = () if self.fixed else _frozen(self.raw)

    def same(self, group: Mapping[str, Any]) -> bool:
        """Whether the group still has these values."""
        raw = tuple(map(group.get, self.keys))
        return all(map(is_, raw, self.raw)) if self.fixed else _frozen(raw) == self.frozen


def _frozen(value: Any) -> Any:
    """What tells a value from another one, in the place of those that can change by themselves."""
    if is_plain(value) or isinstance(value, Number):  # numpy's numbers too, which a scheduler has put there
        return type(value), value
    if isinstance(value, (Part, type)):  # a rule or a direction, which does not change
        return id(value), value
    if isinstance(value, (tuple, list)):
        return type(value), tuple(_frozen(item) for item in value)
    if isinstance(value, Tensor) and value.device.type == "cpu" and value.numel() == 1 and has_values(value):
        return id(value), float(value)
    return object()  # equal to nothing: a tensor on a device is not read here


@dataclass
class Known:
    """What is known of a param group; of one without gradients the options are None, as they are not checked."""

    group: dict[str, Any]
    params: list[Tensor]
    values: Values
    options: GroupOptions | None


class PlanCache:
    """The plan of an optimizer's last step, and what it rested on. It is not saved with the optimizer.

    Attributes:
        plan: of the last step; None: there has been none, or it has been dropped.
        readers: of what the next steps are to leave in the plan for monitors; nobody: they leave nothing.
    """

    def __init__(self) -> None:
        self._turns = Turns()
        self._zeros = ZeroLayers()
        self.readers: set[int] = set()
        self._held: dict[Tensor, Shard] = {}
        self.drop()

    def drop(self) -> None:
        """Forget the plan: the next step makes one."""
        self.plan: Plan | None = None
        self._groups: list[Known] = []
        self._still: list[Tensor] = []  # parameters without gradient
        self._direction: Direction | None = None
        self._state: Any = None
        self._states: list[Any] = []

    def step(self, optimizer: Stepped, scaling: Scaling) -> None:
        """Step with the kept plan, or with a new one; see `Turns` for other threads and for steps within a step."""
        with self._turns:
            finished = False
            if self._turns.torn:  # what was kept is half of another thread's step
                self.drop()
                self._turns.torn = False
            captures = captures_graph()
            if captures and not optimizer._settings.capturable:
                raise RuntimeError(
                    "a CUDA graph would repeat this step with the same number of the step: pass capturable=True to "
                    f"{type(optimizer).__name__}, so that it counts on the device"
                )
            try:
                plan = self.plan if self._holds(optimizer, scaling) else None
                if plan is None and captures:
                    raise RuntimeError(
                        "a CUDA graph can hold a step like those before it only: make one with the same parameters, "
                        "gradients and options before the capture"
                    )
                if plan is None or not layerwise_step(plan, scaling, bool(self.readers)):
                    self.drop()
                    self.plan = self._new(optimizer, scaling)
                    if self.plan is not None:
                        layerwise_step(self.plan, scaling, bool(self.readers))
                if self._zeros.waiting and self.plan is not None:
                    self._zeros.look(self.plan)
                finished = True
            finally:
                if not finished:
                    self.drop()

    def _holds(self, optimizer: Stepped, scaling: Scaling) -> bool:
        """Whether the kept plan serves this step too; takes over new option values."""
        plan = self.plan
        if plan is None or not plan.lasting or self._state is not optimizer.state:
            return False
        if plan.settings is not optimizer._settings or self._direction is not optimizer.direction:
            return False
        groups = optimizer.param_groups
        if len(groups) != len(self._groups):
            return False
        changed = False
        for index, (known, group) in enumerate(zip(self._groups, groups, strict=True)):
            params = group["params"]
            if group is not known.group or len(params) != len(known.params) or not all(map(is_, params, known.params)):
                return False
            if known.options is not None and not known.values.same(group):
                known.options = optimizer._group_options(group, index)
                known.values = Values(group, known.values.keys)
                changed = True
        if any(param.grad is not None for param in self._still):
            return False
        states = self._state.values()
        if len(states) != len(self._states) or not all(map(is_, states, self._states)):
            return False
        if changed and not plan.renew([known.options for known in self._groups if known.options is not None]):
            return False
        return plan.holds(scaling)

    def _new(self, optimizer: Stepped, scaling: Scaling) -> Plan | None:
        """A new plan, as `_build` makes it; where that fails, the state is left as it was."""
        states = optimizer.state
        before = {param: dict(state) for param, state in states.items()}
        try:
            return self._build(optimizer, scaling)
        except BaseException:
            for param in [param for param in states if param not in before]:
                del states[param]
            for param, state in before.items():
                states[param].clear()
                states[param].update(state)
            raise

    def _build(self, optimizer: Stepped, scaling: Scaling) -> Plan | None:
        """A new plan; None: no parameter has a gradient. All checks come before the first change of state."""
        keys = (*(key for key in optimizer.defaults if key != "differentiable"), *VELOCITY)
        optimizer._describe()
        groups: list[Known] = []
        still: list[Tensor] = []
        options: list[GroupOptions] = []
        members: list[tuple[list[Tensor], list[Tensor], list[ParameterLayers]]] = []
        for index, group in enumerate(optimizer.param_groups):
            every = list(group["params"])
            own = METHOD if "direction" not in group and "rule" not in group else (*METHOD, *map(str, group))
            known = Known(group, every, Values(group, tuple(dict.fromkeys((*keys, *own)))), None)
            groups.append(known)
            params = [param for param in every if param.grad is not None]
            if len(params) < len(every):
                still += [param for param in every if param.grad is None]
            if not params:
                continue
            known.options = optimizer._group_options(group, index)
            options.append(known.options)
            grads = [grad for param in params if (grad := param.grad) is not None]
            layers = [optimizer._layers[param] for param in params]
            for param, grad, cut in zip(params, grads, layers, strict=True):
                check_supported(param, grad, cut.name)
            members.append((params, grads, layers))
        if not options:
            return None
        entries = self._entries(members, options, optimizer)
        for entry in entries:
            check_state(entry, options[entry.group], optimizer._settings, partial(_initial, optimizer, entry, options))
        plan = Plan(entries, options, optimizer._settings, scaling)
        for entry in entries:
            if entry.held is not None:
                entry.held.publish(entry.state, entry.saved)
        self._groups, self._still, self._direction = groups, still, optimizer.direction
        self._state, self._states = optimizer.state, list(optimizer.state.values())
        return plan

    def _entries(
        self,
        members: Sequence[tuple[list[Tensor], list[Tensor], list[ParameterLayers]]],
        options: Sequence[GroupOptions],
        optimizer: Stepped,
    ) -> list[Entry]:
        """The entries of parameters with gradients, a list a group."""
        distributed = {
            param: self.of(param, cut)
            for params, _, layers in members
            for param, cut in zip(params, layers, strict=True)
            if is_distributed(param)
        }
        self._held = distributed  # nothing is kept of parameters that have gone
        for (params, _, _), chosen in zip(members, options, strict=True):
            for param in params:
                if param in distributed:
                    initial = partial(optimizer._initial_state, param, chosen.direction, chosen.rule, "meta")
                    check_direction(chosen.direction, distributed[param], initial)
        take_gradients(distributed.values())
        found: list[Entry] = []
        for place, (params, grads, layers) in enumerate(members):
            states = self._states_of(params, options[place], optimizer)
            for param, grad, state, cut in zip(params, grads, states, layers, strict=True):
                held = distributed.get(param)
                if held is None:
                    found.append(Entry(_real(param), _real(grad), state, cut, place, param, saved=state))
                    continue
                owner, shard = held.tensor, held.tensor.grad
                assert shard is not None
                own = held.local_state(state)
                found.append(Entry(_real(owner), _real(shard), own, held.rows.layers, place, owner, held, state))
        return found

    def _states_of(self, params: list[Tensor], options: GroupOptions, optimizer: Stepped) -> list[dict[str, Tensor]]:
        """The state of each parameter, created where it is missing."""
        states: list[dict[str, Tensor]] = [optimizer.state[param] for param in params]
        direction, rule = options.direction, options.rule
        needed = {"step", *direction.state_names()}
        for param, state in zip(params, states, strict=True):
            if not state.keys() >= needed:
                # At the first step, or after an option was changed that asks for more, such as amsgrad.
                self._zeros.begin()
                fresh = optimizer._initial_state(param, direction, rule)
                state.update({k: v for k, v in fresh.items() if k not in state})
        return states

    def of(self, param: Tensor, cut: ParameterLayers) -> Shard:
        """What this process holds of a parameter that is a DTensor."""
        return shard_of(self._held, param, cut)


def _initial(optimizer: Stepped, entry: Entry, options: Sequence[GroupOptions]) -> dict[str, Tensor]:
    """The state of a parameter before its first step, without memory."""
    param = entry.owner if entry.held is None else entry.held.param
    assert param is not None
    own = options[entry.group]
    return optimizer._initial_state(param, own.direction, own.rule, "meta")


def _real(tensor: Tensor) -> Tensor:
    # Not a detached view of a real one, which would keep its memory from going when a model moves to another device.
    return real(tensor.resolve_conj()) if tensor.is_complex() else tensor
