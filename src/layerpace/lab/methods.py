"""Methods by name: "lamb:lr=0.01,clip=1" -> a `Method`, which builds the optimizer.

    NAME                     sgd, adam, lars, ... (`NAMED`), or DIRECTION+RULE: radam+trust_ratio
    NAME:option=value,...    options of that optimizer; `lr=1e-3/3e-3` gives several rates to try;
                             `schedule=linear` overrides the run's schedule for this method;
                             `alpha=-0.6` multiplies rates by depth (`layerpace.layers.prioritize`)

    METHOD; ROLE=METHOD;...  a method of their own for tensors of a role (`layerpace.layers.roles`), in one optimizer:
                             "layca:lr=0.03; rest=adamw:lr=3e-4"; "rest" is every role but hidden and expert

An option is a keyword of the optimizer, or a field of its direction or rule ("direction.eps", "rule.eps"
where both have one). RMSProp has an alpha of its own, its smoothing: there the other one is "layers.alpha".
Anything else is an error that lists the valid ones.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from layerpace import directions, layers, optim, rules

from .errors import UsageError, one_line
from .schedule import Schedule

SHORT = {"clip": "trust_clip", "wd": "weight_decay", "coefficient": "trust_coefficient"}
ALPHA = "layers.alpha"
ROLE = "role."  # before the name of a role, among a method's options
DEFAULT_METHODS = ("sgd", "adam", "lars", "lamb", "lambc", "percent-delta", "layca")


@dataclass(frozen=True)
class Named:
    """One name of the command line.

    Attributes:
        make: a layerpace optimizer class, or None for `optim.Layerwise(direction=..., rule=...)`.
        lr: the rate used when none is given: tuned on the digits task, see `DEFAULT_RATES` for others.
        options: what differs from the optimizer's own defaults.
    """

    title: str
    lr: float
    make: str | None = None
    direction: str = "sgd"
    rule: str = "identity"
    options: Mapping[str, Any] = field(default_factory=dict)


COUPLED = {"decoupled_weight_decay": False}

NAMED: dict[str, Named] = {
    "sgd": Named("SGD", 0.0003, direction="heavy_ball", options=COUPLED),
    "nesterov": Named("Nesterov", 0.0003, direction="nesterov", options=COUPLED),
    "adam": Named("Adam", 0.001, direction="adam", options=COUPLED),
    "adamw": Named("AdamW", 0.001, direction="adam", options={"weight_decay": 0.01}),
    "amsgrad": Named("AMSGrad", 0.001, direction="amsgrad", options=COUPLED),
    "adamax": Named("AdaMax", 0.001, direction="adamax", options=COUPLED),
    "nadam": Named("NAdam", 0.001, direction="nadam", options=COUPLED),
    "radam": Named("RAdam", 0.001, direction="radam", options=COUPLED),
    "adagrad": Named("AdaGrad", 0.003, direction="adagrad", options=COUPLED),
    "adadelta": Named("AdaDelta", 0.3, direction="adadelta", options=COUPLED),
    "rmsprop": Named("RMSProp", 0.0003, direction="rmsprop", options=COUPLED),
    # LARS's paper adapts biases too; left out of it, they would take the whole lr, here 1000 times too much
    "lars": Named("LARS", 10.0, make="LARS", options={"exclude": None}),
    "lamb": Named("LAMB", 0.01, make="LAMB"),
    "lambc": Named("LAMBC", 0.02, make="LAMBC"),
    "percent-delta": Named("PercentDelta", 0.2, make="PercentDelta"),
    "layca": Named("Layca", 3**-2.5, make="Layca"),
}

# Rates for networks other than digits-cnn, where they differ from `Named.lr`. percentdelta-cnn: best of three or
# four on held-out MNIST, batch 500, 100 steps. c10-cnn1-small: the layer rotation paper's, SGD's for momentum 0.9.
DEFAULT_RATES: dict[str, dict[str, float]] = {
    "percentdelta-cnn": {
        "sgd": 0.01,
        "nesterov": 0.01,
        "adagrad": 0.01,
        "lars": 5.0,
        "lamb": 0.005,
        "lambc": 0.01,
        "percent-delta": 0.12,
        "layca": 0.02,
    },
    "c10-cnn1-small": {
        "sgd": 0.03,
        "nesterov": 0.03,
        "adam": 3**-5,
        "adagrad": 3**-4,
        "rmsprop": 3**-6,
        "layca": 3**-3,
    },
}

COMPOSED_LR = {
    "identity": 0.001,
    "trust_ratio": 0.01,
    "percent_delta": 0.1,
    "relative_l1": 0.1,
    "rotation": 3**-2.5,
    "limited_norm": 3**-3,
}


@dataclass(frozen=True, eq=False)
class Method:
    """One row of the comparison: an optimizer with its options, and the rates to try.

    Attributes:
        spec: as written by the user.
        rates: learning rates given with the method; empty: the grid's, or the default.
        schedule: of the learning rate, None for the run's.
    """

    spec: str
    name: str
    title: str
    default_lr: float
    rates: tuple[float, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    schedule: str | None = None

    def multipliers(self, model: nn.Module, example: Callable[[], Any] | None = None) -> dict[str, float]:
        """The learning-rate multiplier of each parameter, by its name; {} without `alpha`.

        Args:
            model: as it is made, before processes share it.
            example: makes what the model's forward takes, which tells the order of the layers; None: that in which
                they were registered.

        Raises:
            ValueError: the model has no layers, or alpha is out of range.
        """
        if self.options.get(ALPHA) is None:
            return {}
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            groups = layers.prioritize(model, self.options[ALPHA], None if example is None else example())
        return {name: group["lr_multiplier"] for group in groups for name, _ in group["params"]}

    @property
    def role_specs(self) -> dict[str, str]:
        """{role: the method that its tensors have}, where that is another than this one."""
        return {key.removeprefix(ROLE): str(spec) for key, spec in self.options.items() if key.startswith(ROLE)}

    def roles(self, model: nn.Module, example: Callable[[], Any] | None = None) -> layers.Roles | None:
        """What each parameter is for; None: the method is the same for all of them. See ``multipliers``."""
        if not self.role_specs:
            return None
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            return layers.roles(model, None if example is None else example())

    def spec_of(self, role: str) -> str:
        """The method of the tensors of a role, as it is written."""
        rest = self.role_specs.get(layers.REST) if role not in ("hidden", "expert") else None
        return self.role_specs.get(role) or rest or self.spec.partition(";")[0].strip()

    def build(
        self,
        named: Iterable[tuple[str, Tensor]],
        lr: float,
        multipliers: Mapping[str, float] | None = None,
        roles: Mapping[str, layers.Role] | None = None,
    ) -> torch.optim.Optimizer:
        """The optimizer of named parameters, with their `multipliers` if the method has an alpha, and their `roles`.

        Raises:
            TypeError, ValueError: an option that the optimizer refuses.
        """
        make, direction, rule = parts(self.name)
        options = dict(named_entry(self.name).options)
        options.update(self.options)
        if options.pop(ALPHA, None) is not None and not multipliers:
            raise ValueError("alpha needs the multipliers of the model's layers: see Method.multipliers")
        for role in self.role_specs:
            del options[ROLE + role]
        if self.role_specs and roles is None:
            raise ValueError("a method by role needs the roles of the model's tensors: see Method.roles")
        params = grouped(list(named), multipliers or {})
        if self.role_specs:
            params = self._by_role(params, roles or {})
        if make is not None:
            return make(params, lr=lr, **options)
        own = {k: v for k, v in options.items() if "." not in k}
        inner: dict[str, dict[str, Any]] = {"direction": {}, "rule": {}}
        for key, value in options.items():
            if "." in key:
                place, option = key.split(".")
                inner[place][option] = value
        return optim.Layerwise(
            params, direction=direction(**inner["direction"]), rule=rule(**inner["rule"]), lr=lr, **own
        )

    def _by_role(self, params: list[Any], roles: Mapping[str, layers.Role]) -> list[dict[str, Any]]:
        """Groups that are parted by role, those of other methods with direction, rule and options of their own."""
        own = self.spec.partition(";")[0].strip()
        found: list[dict[str, Any]] = []
        for group in params if params and isinstance(params[0], dict) else [{"params": params}]:
            parted: dict[str, dict[str, Any]] = {}
            for name, param in group["params"]:
                role = roles[name]
                spec = self.spec_of(role.role)
                if spec not in parted:
                    parted[spec] = {**group, **({} if spec == own else group_options(spec)), "params": []}
                parted[spec]["params"].append((name, param))
                if role.experts > 1:
                    parted[spec].setdefault("segments", {})[name] = role.experts
            found += parted.values()
        return found

    def routing(self, roles: layers.Roles) -> str:
        """A table of the roles: how many tensors and entries, an example, and the method of each."""
        rows = [("role", "tensors", "entries", "method", "such as")]
        for role in layers.ROLES:
            of = roles.of(role)
            if of:
                doubt = f"; {doubtful} in doubt" if (doubtful := sum(not entry.sure for entry in of)) else ""
                entries = f"{sum(entry.parameter.numel() for entry in of):,}"
                rows.append((role, f"{len(of)}{doubt}", entries, self.spec_of(role), of[0].name))
        widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]) - 1)]
        cells = [[cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)] for row in rows]
        return "\n".join("  ".join(row).rstrip() for row in cells)

    def check(self, rates: Iterable[float], model: nn.Module, device: str = "cpu") -> None:
        """Raise a UsageError for any value that the optimizer itself refuses for this model.

        Some it refuses at its first step only: a backend that is not for this device, a number that no float32 holds.
        So on a CPU it makes one of the smallest matrix and the smallest vector, which changes these two.
        """
        for lr in rates:
            try:
                optimizer = self.build(model.named_parameters(), lr, self.multipliers(model), self.roles(model))
                if device == "cpu":
                    try_out(optimizer, model)
            except FloatingPointError:  # it refuses gradients
                continue
            except (TypeError, ValueError, ArithmeticError, RuntimeError, ImportError) as error:
                raise UsageError(f"--methods {self.spec}: {one_line(error)}") from None

    def rates_to_try(self, grid: tuple[float, ...]) -> tuple[float, ...]:
        return self.rates or grid or (self.default_lr,)


def try_out(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """A step with gradients of 0.001 for the smallest trainable matrix and the smallest vector alone."""
    params = sorted((p for p in model.parameters() if p.requires_grad and p.numel()), key=Tensor.numel)
    some = [p for p in params if p.ndim > 1][:1] + [p for p in params if p.ndim <= 1][:1]
    for param in some:
        param.grad = torch.full_like(param, 1e-3)
    with torch.random.fork_rng([]):  # rounding may draw from it
        optimizer.step()
    for param in some:
        param.grad = None


def group_options(spec: str) -> dict[str, Any]:
    """A method as the options of a param group."""
    method = parse_method(spec)
    made: Any = method.build(
        [("w", nn.Parameter(torch.ones(1, 1, device="cpu")))], (method.rates or (method.default_lr,))[0]
    )
    (group,) = made.param_groups
    options = {key: value for key, value in group.items() if key not in ("params", "param_names")}
    return {**options, "direction": made.direction, "rule": made.rule, "exclude": made._exclude}


def grouped(named: list[tuple[str, Tensor]], multipliers: Mapping[str, float]) -> list[Any]:
    """Parameters as an optimizer takes them: a group for each multiplier, where there are any."""
    if not multipliers:
        return named
    groups: dict[float, list[tuple[str, Tensor]]] = {}
    for name, param in named:
        groups.setdefault(multipliers[name], []).append((name, param))
    return [{"params": params, "lr_multiplier": value} for value, params in groups.items()]


def named_entry(name: str) -> Named:
    """The entry of a name, or one made for DIRECTION+RULE."""
    if name in NAMED:
        return NAMED[name]
    direction, _, rule = name.partition("+")
    if rule and direction in directions.BY_NAME and rule in rules.BY_NAME:
        rate = COMPOSED_LR.get(rules.BY_NAME[rule].names[0], 0.01)
        return Named(name, rate, direction=direction, rule=rule)
    raise UsageError(unknown(name, direction, rule))


def unknown(name: str, direction: str, rule: str) -> str:
    """The one line for a method that does not exist."""
    if rule:
        kind, word, known = "rule", rule, list(rules.BY_NAME)
        if direction not in directions.BY_NAME:
            kind, word, known = "direction", direction, list(directions.BY_NAME)
        return f"--methods: unknown {kind} {word!r} in {name!r}; choose from {', '.join(known)}{guess(word, known)}"
    return (
        f"--methods: unknown method {name!r}{guess(name, NAMED)}; choose from {', '.join(NAMED)}, "
        "or DIRECTION+RULE such as radam+trust_ratio"
    )


def guess(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def parts(name: str) -> tuple[Callable[..., torch.optim.Optimizer] | None, type[Any], type[Any]]:
    """(optimizer class or None, direction class, rule class) of a method's name."""
    entry = named_entry(name)
    make = getattr(optim, entry.make) if entry.make else None
    return make, directions.BY_NAME[entry.direction], rules.BY_NAME[entry.rule]


def keywords(function: Callable[..., Any]) -> list[str]:
    """Keyword names of a function; those of a **kwargs typed by Unpack[TypedDict] included."""
    names = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is not parameter.VAR_KEYWORD:
            names.append(parameter.name)
            continue
        # only this annotation is looked up: others may name what is imported for type checkers alone
        written = re.fullmatch(r"(?:\w+\.)*Unpack\[(\w+)\]", str(parameter.annotation))
        table = vars(sys.modules[function.__module__]).get(written[1]) if written else None
        names += sorted(getattr(table, "__required_keys__", ())) + sorted(getattr(table, "__optional_keys__", ()))
    return [name for name in names if name not in ("self", "params")]


def valid_options(name: str) -> list[str]:
    """Every option of a method, as it is written on the command line."""
    make, direction, rule = parts(name)
    if make is not None:
        return [*keywords(make), ALPHA]
    own = [key for key in keywords(optim.Layerwise) if key not in ("direction", "rule")]
    fields = [f"direction.{f.name}" for f in dataclasses.fields(direction)]
    fields += [f"rule.{f.name}" for f in dataclasses.fields(rule)]
    return [*own, *fields, ALPHA]


def resolve(key: str, valid: list[str]) -> str | None:
    """The full name of an option: itself, a field of the direction or else the rule, or a short name."""
    for candidate in (f"direction.{key}", f"rule.{key}", key, SHORT.get(key, key), f"layers.{key}"):
        if candidate in valid:
            return candidate
    return None


def parse_method(spec: str, rates: Mapping[str, float] | None = None) -> Method:
    """Parse one --methods argument; `rates` overrides default learning rates by name."""
    own, *others = split_outside_brackets(spec, ";") or [""]
    if others:
        return _with_roles(spec, parse_method(own.strip(), rates), [other.strip() for other in others])
    name, _, text = own.strip().partition(":")
    entry = named_entry(name)
    valid = valid_options(name)
    options: dict[str, Any] = {}
    given: tuple[float, ...] = ()
    schedule = None
    for item in split_outside_brackets(text):
        key, equals, value = item.partition("=")
        if not equals or not key or not value:
            raise UsageError(f"--methods {spec}: {item!r} is not option=value")
        if key == "lr":
            given = tuple(number(spec, part) for part in value.split("/"))
        elif key == "schedule":
            try:
                Schedule.of(value)
            except ValueError as error:
                raise UsageError(f"--methods {spec}: schedule {value!r}; {error}") from None
            schedule = value
        else:
            full = resolve(key, valid)
            if full is None:
                known = sorted({"lr", "schedule", *(option.split(".")[-1] for option in valid)})
                raise UsageError(
                    f"--methods {spec}: {name} has no option {key!r}{guess(key, known)}; it has {', '.join(known)}"
                )
            options[full] = literal(value)
    default = (rates or {}).get(name, entry.lr)
    options_text = text and "(" + ",".join(i for i in split_outside_brackets(text) if not i.startswith("lr=")) + ")"
    title = entry.title + (f" {options_text}" if options_text not in ("", "()") else "")
    return Method(spec, name, title, default, given, options, schedule)


def _with_roles(spec: str, own: Method, others: Iterable[str]) -> Method:
    """A method with those of other roles: "rest=adamw:lr=3e-4", ..."""
    known = (*layers.ROLES, layers.REST)
    options, titles = dict(own.options), []
    for other in others:
        role, equals, text = other.partition("=")
        role = role.strip()
        if not equals or role not in known:
            raise UsageError(
                f"--methods {spec}: {other!r} is not ROLE=METHOD{guess(role, known)}; roles are {', '.join(known)}"
            )
        if ROLE + role in options:
            raise UsageError(f"--methods {spec}: the role {role!r} is there twice")
        method = parse_method(text.strip())
        if len(method.rates) > 1 or method.schedule is not None or ALPHA in method.options:
            raise UsageError(
                f"--methods {spec}: {other!r}: rates to try, a schedule and alpha belong to the first method"
            )
        options[ROLE + role] = text.strip()
        titles.append(f"{role}: {method.title}")
    title = "; ".join([own.title, *titles])
    return dataclasses.replace(own, spec=spec, title=title, options=options)


def split_outside_brackets(text: str, separator: str = ",") -> list[str]:
    """Split at commas, or another separator, except where the next bracket after one closes."""
    parts, end, closes = [], len(text), False
    for place in range(len(text) - 1, -1, -1):  # from behind, in one pass: texts of users may be long
        letter = text[place]
        if letter in "([{)]}":
            closes = letter in ")]}"
        elif letter == separator and not closes:
            parts.append(text[place + 1 : end])
            end = place
    parts.append(text[:end])
    return [part for part in reversed(parts) if part]


def number(spec: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--methods {spec}: lr {text!r} is not a number") from None


def literal(text: str) -> Any:
    """A Python value: number, True, None, (a, b); a/b is a tuple too; any other word is a string."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # all that Python's parser may say of it
        pieces = text.split("/")
        return tuple(literal(piece) for piece in pieces) if len(pieces) > 1 and all(pieces) else text


def slug(text: str) -> str:
    """For folder names: lower case letters, digits, and single hyphens."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")
