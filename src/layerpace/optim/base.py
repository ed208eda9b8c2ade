"""`Layerwise`: any direction with any rule, as a `torch.optim.Optimizer`.

This module is the optimizer's citizenship of torch: param groups, state, saving and loading. What a step computes is
in `layerpace.engine.step`; each method of this folder is a direction and a rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self, SupportsIndex

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, ParamsT

from layerpace import directions, rules
from layerpace.directions import Direction
from layerpace.engine import backends
from layerpace.engine.backends import Velocity
from layerpace.engine.cache import PlanCache
from layerpace.engine.common.checks import check_choice, check_flag, check_number, check_range, plain, read_number
from layerpace.engine.common.signatures import name_options
from layerpace.engine.entries import GroupOptions, Scaling, Settings
from layerpace.engine.numerics.precision import MODES, STATE_DTYPES, moment_dtype
from layerpace.engine.observed import Observed
from layerpace.engine.sharding.collectives import is_distributed, local
from layerpace.engine.support import real, real_shape, step_device
from layerpace.layers import Exclude, ParameterLayers, Segments
from layerpace.layers.describing import all_described, check_globs, describe_again, describe_group
from layerpace.optim.compiling import OpaqueOptimizer, opaque
from layerpace.optim.methods import VELOCITY, direction_kind, merge_saved, option_names, rule_of, take_method
from layerpace.optim.options import (
    deep_copy,
    default_exclude,
    direction_of,
    of_module,
    of_the_whole,
    own_numbers,
    rate,
    with_own_numbers,
    without_lambda,
)
from layerpace.optim.saving import cast_state, check_loadable
from layerpace.optim.scaling import ForScalers
from layerpace.optim.state_names import by_names
from layerpace.rules import Rule

NONFINITE = ("propagate", "skip", "raise")


class Layerwise(OpaqueOptimizer):
    """Any direction with any layer rule::

        u, state <- D(g, w, state)          the direction: SGD, Adam, RMSProp, ...
        c, b     <- R(sums over the layer)  the rule: trust ratio, percent delta, rotation, ...
        d = c*w + b*u                       the displacement, learning rate included
        w <- w - d                          or, with momentum: v <- momentum*v + (1 - dampening)*d;  w <- w - v

    ``p.grad`` is read and never written. After ``scaler.step(optimizer)`` of a `torch.amp.GradScaler` it is as backward
    left it, times the scale; to read or to clip gradients, call ``scaler.unscale_(optimizer)`` before, as with torch.

    Args:
        params: tensors, (name, tensor) pairs, or group dicts, as for any torch optimizer; or a module, for all of its
            parameters, named as the model inside of wrappers names them. A group may have values of its own for
            ``lr``, ``lr_multiplier``, ``weight_decay``, ``decoupled_weight_decay``, ``maximize``, ``momentum``,
            ``dampening``, ``nesterov`` and the direction's options, and an ``exclude`` (a bool too) and ``segments``
            (parts too). A group may also have a method of its own: ``direction`` and ``rule``, each an instance or a
            name, with their options beside them. Other keys are the user's, unless they are options of this optimizer's
            rule.
        direction: an instance such as ``layerpace.directions.RAdam()``, or a name.
        rule: an instance such as ``layerpace.rules.TrustRatio(clip=1.0)``, or a name.
        lr: learning rate, >= 0; its unit is the rule's. A number or a tensor with one element. Other numbers may be
            such tensors too, on the CPU. Numbers of numpy, Fraction and Decimal are kept as Python's own.
        weight_decay: lambda, >= 0.
        decoupled_weight_decay: decoupled, as in AdamW (True): the rule moves w by its share of lambda*w as well; or
            coupled (False): lambda*w is added to the gradient. None: decoupled where the rule can (identity and
            trust ratio), else coupled.
        momentum: mu of the velocity *after* the rule, in [0, 1); momentum before the rule is the direction's.
        dampening: in [0, 1]; None: equal to momentum, also while a schedule moves that: the velocity is an average,
            and lr keeps its meaning.
        nesterov: w <- w - (momentum*v + d); needs dampening 0, and momentum to begin with: a schedule may bring it to 0
            later, for steps without velocity.
        lr_in_velocity: d holds the lr of the step in which it was made, so that at a rate of 0 the weights move on by
            the velocity. Off: v is made of d/lr, and w <- w - lr*v, as in torch.optim.SGD; for the identity and the
            trust ratio. The two differ while lr changes.
        maximize: ascend.
        exclude: which tensors get neither rule nor weight decay: None or () for none, a glob or globs over parameter
            names, or a predicate of (name, tensor), such as `layerpace.layers.matching` where parameters come without
            names. "auto": the rule's default, which is tensors with at most one
            dimension for trust ratio and rotation, and none for the others.
        segments: {glob of names: parts}: cut a tensor along dimension 0 into layers of their own: a number of equal
            parts, their sizes, or "rows".
        min_rms: the root mean square, in units of the weights, that a layer's norm is never taken to be below: a
            tensor of zeros can start, and does not jump. 0: the papers' text.
        low_precision: "master" (a float32 copy), "stochastic" (rounding) or "plain" for float16 and bfloat16
            parameters; see `layerpace.engine.numerics.precision`. The arithmetic is float32 in all of them.
        state_dtype: what moments and the velocity are kept in: "fp32", or "bf16", which takes 2 bytes each instead of
            4: they are widened to float32 for a step and written back with stochastic rounding. float64 and
            complex128 weights keep float64 in both. Not for a centered RMSProp, which subtracts two averages.
        nonfinite: what a layer with inf or nan in its gradient does: "propagate" it, "skip" the step (the layer's
            weights, state and step count stay), or "raise" FloatingPointError before anything changes, which waits
            for the device.
        max_grad_norm: scale all gradients so that their joint L2 norm is at most this, inside the step.
        backend: "auto" (the fused step of the device), "cpu" or "triton" (an error where that is missing), or
            "reference" (plain torch, which defines the meaning). What the fused step cannot take (other strides than
            the weight's, a direction of your own) runs on the reference, tensor by tensor, and all of a step in
            which something lies in memory that it writes; the last bits of its sums depend on the number of threads.
        capturable: count steps on the device, so that a CUDA graph can hold the step; a learning rate that is to
            change from replay to replay must be a tensor on the device then. See docs/gpu.md.

    Raises:
        TypeError: an unknown keyword.
        ValueError: a value out of range, with the value, the range and, where a group has it, the group's number;
            duplicate parameters; a glob that matches no parameter.

    Example:
        >>> import torch, layerpace as lp
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = lp.Layerwise(
        ...     model.parameters(),
        ...     direction=lp.directions.RAdam(),
        ...     rule=lp.rules.TrustRatio(clip=(0.0, 1.0)),
        ...     lr=1e-2,
        ... )
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> optimizer.step()
    """

    _step_supports_amp_scaling = ForScalers()

    # Momentum after the rule; a method whose law it would break has none.
    _has_velocity = True

    @opaque
    def __init__(
        self,
        params: ParamsT | nn.Module,
        *,
        direction: str | Direction,
        rule: str | Rule,
        lr: float | Tensor,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool | None = None,
        momentum: float = 0.0,
        dampening: float | None = 0.0,
        nesterov: bool = False,
        lr_in_velocity: bool = True,
        maximize: bool = False,
        exclude: Exclude = "auto",
        segments: Mapping[str, Segments] | None = None,
        min_rms: float = 1e-3,
        low_precision: str = "master",
        state_dtype: str = "fp32",
        nonfinite: str = "propagate",
        max_grad_norm: float | None = None,
        backend: str = "auto",
        capturable: bool = False,
    ) -> None:
        self.direction = directions.get(direction)
        self.rule = rules.get(rule)
        min_rms = check_number("min_rms", min_rms, 0)
        check_choice("low_precision", low_precision, MODES)
        check_choice("state_dtype", state_dtype, STATE_DTYPES)
        check_choice("nonfinite", nonfinite, NONFINITE)
        if max_grad_norm is not None:
            max_grad_norm = check_number("max_grad_norm", max_grad_norm, 0, open_low=True)
        backends.check(backend)
        if segments is not None and not isinstance(segments, Mapping):
            raise TypeError(f"segments must map globs of parameter names to parts, got {segments!r}")
        self._lr_in_velocity = check_flag("lr_in_velocity", lr_in_velocity)
        capturable = check_flag("capturable", capturable)
        self._settings = Settings(min_rms, low_precision, state_dtype, nonfinite, max_grad_norm, backend, capturable)
        self._exclude = default_exclude(self.rule) if exclude == "auto" else exclude
        self._auto_exclude = isinstance(exclude, str) and exclude == "auto"  # of groups with a rule of their own, too
        self._segments = dict(segments) if segments is not None else None
        self._layers: dict[Tensor, ParameterLayers] = {}
        self._cache = PlanCache()

        defaults: dict[str, Any] = {
            "lr": lr,
            "lr_multiplier": 1.0,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": self.rule.decoupled if decoupled_weight_decay is None else decoupled_weight_decay,
            "maximize": maximize,
        }
        options = self.direction.options()
        if "momentum" not in options and self._has_velocity:
            defaults |= {"momentum": momentum, "dampening": dampening, "nesterov": nesterov}
            if not lr_in_velocity and not self.rule.decoupled:
                raise ValueError(f"lr_in_velocity=False has no meaning for the rule {type(self.rule).__name__}")
        elif momentum or dampening or nesterov or not lr_in_velocity:
            raise ValueError(
                f"momentum={momentum!r}, dampening={dampening!r}, nesterov={nesterov!r} and "
                f"lr_in_velocity={lr_in_velocity!r} are for momentum after the rule, and the direction "
                f"{type(self.direction).__name__} has momentum of its own before it: set that in the direction"
            )
        super().__init__(of_module(params), own_numbers(defaults | options))
        check_globs(self.param_groups, self._exclude, self._segments)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        name_options(cls)

    # Param groups and layers

    @opaque
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters; see `Layerwise` for its keys.

        Raises:
            ValueError: a value out of range, or parameters that are here already; nothing is added then.
        """
        if not isinstance(param_group, dict):
            raise TypeError(f"a param group must be a dict, got {type(param_group).__name__}")
        group = own_numbers(param_group)
        own = {key: group.pop(key) for key in ("exclude", "segments") if key in group}
        if own.get("exclude") == "auto":
            del own["exclude"]
        index = len(self.param_groups)
        try:
            take_method(group, self.direction, self.rule, self._has_velocity)
        except (ValueError, TypeError) as error:
            raise type(error)(f"{error} (parameter group {index})") from None
        if "rule" in group and "exclude" not in own and self._auto_exclude:
            own["exclude"] = default_exclude(group["rule"])
        self._check_group({**self.defaults, **group}, index)
        self._check_nesterov({**self.defaults, **group}, index)
        super().add_param_group(group)
        try:
            self._layers |= describe_group(self.param_groups[-1] | own, index, self._exclude, self._segments)
        except BaseException:
            self.param_groups.pop()
            raise
        self._cache.drop()

    def _check_group(self, group: Mapping[str, Any], index: int) -> None:
        """Raise for values out of range, and for options that a group cannot have; other keys are the user's."""
        refused = of_the_whole(self.rule) - self.defaults.keys() - {"direction", "rule"}
        refused -= set(option_names(direction_kind(group, self.direction)))
        if "direction" in group and self._has_velocity:
            refused -= VELOCITY.keys()
        for key in group:
            if key in refused:
                raise TypeError(
                    f"{key!r} cannot be set in parameter group {index}: it holds for the whole optimizer, or is no "
                    f"option of {type(self).__name__} with the direction {type(self.direction).__name__}"
                )
        self._checked(group, index)

    def _check_nesterov(self, group: Mapping[str, Any], index: int) -> None:
        """Raise for a group made without momentum; a schedule may bring it to 0 later."""
        if "nesterov" in self.defaults and check_flag("nesterov", group["nesterov"]):
            momentum = read_number("momentum", group["momentum"])
            if momentum == 0:
                raise ValueError(f"nesterov needs momentum > 0, got momentum={momentum!r} (parameter group {index})")

    def _checked(self, group: Mapping[str, Any], index: int) -> tuple[Direction, Velocity | None]:
        """The direction and the velocity of a group; a ValueError or TypeError has the number of the group."""
        try:
            return self._hyperparameters(group)
        except (ValueError, TypeError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"{error} (parameter group {index})") from None

    def _direction(self, group: Mapping[str, Any]) -> Direction:
        """The direction with the options of a group, checked."""
        kind = direction_kind(group, self.direction)
        names = option_names(kind)
        missing = [name for name in names if name not in group]
        if missing:
            raise ValueError(f"the group lacks {missing}, options of its direction {kind.__name__}")
        return direction_of(kind, {name: group[name] for name in names})

    def _rule(self, group: Mapping[str, Any]) -> Rule:
        """The rule of a group."""
        return rule_of(group, self.rule)

    def _hyperparameters(self, group: Mapping[str, Any]) -> tuple[Direction, Velocity | None]:
        """The direction and the velocity of a group, checked."""
        check_range("lr", group["lr"], 0)
        check_number("lr_multiplier", group["lr_multiplier"], 0)
        decay = check_number("weight_decay", group["weight_decay"], 0)
        check_flag("maximize", group["maximize"])
        rule = self._rule(group)
        if self._decouples(group) and not rule.decoupled and decay:
            raise ValueError(
                f"decoupled_weight_decay=True has no meaning for the rule {type(rule).__name__}: "
                "pass False to add weight_decay*w to the gradient"
            )
        direction = self._direction(group)
        if self._settings.state_dtype == "bf16" and isinstance(direction, directions.RMSProp) and direction.centered:
            raise ValueError(
                "state_dtype='bf16' cannot hold a centered RMSProp, whose variance is the small difference of two "
                "averages and would become negative: pass 'fp32'"
            )
        if not self._has_velocity or "momentum" not in group or "momentum" in direction.options():
            return direction, None
        momentum, nesterov = check_number("momentum", group["momentum"], 0, 1, open_high=True), group["nesterov"]
        dampening = momentum if group["dampening"] is None else check_number("dampening", group["dampening"], 0, 1)
        nesterov = check_flag("nesterov", nesterov)
        if nesterov and dampening != 0:
            raise ValueError(f"nesterov needs dampening = 0, got momentum={momentum!r}, dampening={dampening!r}")
        if momentum == 0 and dampening == 0:  # also for a step, where a schedule has brought it there: as in torch
            return direction, None
        if not self._lr_in_velocity and not rule.decoupled:
            raise ValueError(f"lr_in_velocity=False has no meaning for the rule {type(rule).__name__}")
        return direction, Velocity(float(momentum), float(dampening), nesterov, self._lr_in_velocity)

    def _decouples(self, group: Mapping[str, Any]) -> bool:
        """Whether the weight decay of a group is decoupled."""
        value = group["decoupled_weight_decay"]
        return self._rule(group).decoupled if value is None else check_flag("decoupled_weight_decay", value)

    @property
    def layers(self) -> dict[Tensor, ParameterLayers]:
        """How each parameter is cut into layers, in the order of the groups."""
        self._describe()
        return dict(self._layers)

    @property
    def observed(self) -> Observed:
        """What monitors read of this optimizer."""
        rules_here = [self._rule(group) for group in self.param_groups]
        return Observed(self._settings, rules_here, self._layers, self._cache.plan, self._cache.readers)

    def _describe(self) -> None:
        """Cut into layers what has been put into the groups by hand, or has another shape than it had."""
        if not all_described(self.param_groups, self._layers):
            groups: list[dict[str, Any]] = self.param_groups
            if self._auto_exclude:
                groups = [{**g, "exclude": default_exclude(self._rule(g))} if "rule" in g else g for g in groups]
            self._layers = describe_again(groups, self._layers, self._exclude, self._segments)

    # The step

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every parameter that has a gradient.

        Args:
            closure: evaluates the model and returns the loss; it runs with gradients enabled, before the step.

        Returns:
            What the closure returned, or None.

        Raises:
            ValueError: an option out of range (a scheduler may have set it), nothing has changed.
            RuntimeError: sparse gradients, parameters whose layers are not known (FSDP1) or not added up
                (`check_placements` of engine/sharding), state or a gradient that does not fit its parameter, a
                direction that cannot be had of shards (`layerpace.directions.Direction`), or a step within a step of
                the same optimizer; nothing has changed.
            FloatingPointError: see ``nonfinite``.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._cache.step(self, Scaling(getattr(self, "grad_scale", None), getattr(self, "found_inf", None)))
        return loss

    def _group_options(self, group: Mapping[str, Any], index: int) -> GroupOptions:
        """What a step needs of the options of a group, checked."""
        direction, velocity = self._checked(group, index)
        decay, decoupled = read_number("weight_decay", plain(group["weight_decay"])), self._decouples(group)
        return GroupOptions(
            lr=rate(group),
            weight_decay=decay if decoupled else 0.0,
            l2=0.0 if decoupled else decay,
            maximize=bool(read_number("maximize", group["maximize"])),
            direction=direction,
            rule=self._rule(group),
            velocity=velocity,
            undecayed=bool(decay == 0),
        )

    # State

    def _initial_state(
        self, param: Tensor, direction: Direction, rule: Rule, device: str | None = None
    ) -> dict[str, Tensor]:
        """The state before the first step: the step count, what the direction keeps, and what the rule keeps.

        ``device`` "meta" gives its shapes, dtypes and strides without memory, of a DTensor those of all of it.
        """
        dtype, layers = moment_dtype(param.dtype, self._settings.state_dtype), self._layers[param]
        if is_distributed(param) and device == "meta":
            w = torch.empty(real_shape(param), dtype=dtype, device=device)
        else:
            w = torch.empty_like(real(local(param)), dtype=dtype, device=device)
        shape = layers.broadcast_shape(real_shape(param))
        one = torch.ones(shape, dtype=torch.float64, device=w.device)
        step = torch.zeros(shape, dtype=torch.float32, device=device or step_device(layers, w, self._settings))
        moments = direction.init(w, one)
        if is_distributed(param) and device is None:
            held = self._cache.of(param, layers)
            by_layer = direction.layer_state
            moments = {
                name: x if name in by_layer or x.shape != w.shape else held.distribute(x) for name, x in moments.items()
            }
        return {"step": step, **moments, **layers.memory(rule.state_names, w.device)}

    @opaque
    def state_dict(self) -> dict[str, Any]:
        """The state, as torch has it: numbers in it are Python's own, whatever a scheduler has put into a group, and
        a group's own direction and rule are names and numbers.
        """
        return with_own_numbers(super().state_dict())

    @opaque
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned, also that of another dtype or device; moments keep their precision.

        Where both sides have names, each parameter gets the state of its name, and keeps the name that it has; where
        names differ, a warning says so, and the state goes by place, as in torch.

        Raises:
            ValueError: groups, shapes, names or values that do not fit; nothing has changed.
        """
        captured: dict[str, Any] = {}

        def before(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
            self._describe()
            state = by_names(self.param_groups, state)
            check_loadable(self, state)
            # What another optimizer's groups do not have, such as lr_multiplier, stays as it is here.
            pairs = zip(self.param_groups, state["param_groups"], strict=True)
            groups = [own_numbers(merge_saved(g, saved, self.direction, self.rule)) for g, saved in pairs]
            captured.update(state, param_groups=groups)
            return captured

        def after(optimizer: Optimizer) -> None:
            # torch casts all state to the parameter's dtype; float32 moments of a bfloat16 weight would be lost.
            cast_state(self, captured)

        handles = (
            self.register_load_state_dict_pre_hook(before),
            self.register_load_state_dict_post_hook(after, prepend=True),
        )
        kept = self.state, self.param_groups
        try:
            super().load_state_dict(state_dict)
        except BaseException:  # such as a lack of memory: torch has put new objects in the place of these
            self.state, self.param_groups = kept
            raise
        finally:
            for handle in handles:
                handle.remove()

    def __getstate__(self) -> dict[str, Any]:
        own = ("direction", "rule", "_settings", "_exclude", "_auto_exclude", "_segments", "_layers", "_lr_in_velocity")
        state = super().__getstate__()
        state |= {name: self.__dict__[name] for name in own}
        return state

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        # A lambda cannot be pickled, and has done its work: groups that are added to what is unpickled say their own.
        return without_lambda(super().__reduce_ex__(protocol), self.rule)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return deep_copy(self, memo)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._cache = PlanCache()
        for group in self.param_groups:
            for key in self.defaults.keys() - {"differentiable"}:  # which torch adds while unpickling
                group.setdefault(key, self.defaults[key])
