"""A method per param group: the group's own direction and rule, as an optimizer keeps and saves them.

In ``param_groups`` the direction of such a group is a name (or a class that has none), and its options are keys of the
group, as they are for every optimizer of torch: schedulers write there. The rule is an instance, whose options do not
change from step to step. A state dict has names and numbers alone::

    {"params": [0, 1], "lr": 0.1, "direction": "adam", "betas": (0.9, 0.999), ..., "rule": {"name": "trust_ratio", ...}}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from layerpace import directions, rules
from layerpace.directions import Direction
from layerpace.engine.common.checks import plain
from layerpace.rules import Rule
from layerpace.rules.clips import CLIPS, ClipRule

VELOCITY = {"momentum": 0.0, "dampening": 0.0, "nesterov": False}
# What `LARS` and `LAMB` call options of the trust ratio.
OTHER_NAMES = {"trust_clip": "clip", "trust_coefficient": "coefficient"}


def option_names(kind: type[Any]) -> tuple[str, ...]:
    """The options of a direction or a rule."""
    return tuple(f.name for f in fields(kind))


def take_method(group: dict[str, Any], direction: Direction, rule: Rule, has_velocity: bool) -> None:
    """Bring a group's own "direction" and "rule", objects or names, into the form that groups have here, in place.

    Options of the direction and of the rule may stand in the group beside them; a name that both have is the
    direction's.

    Args:
        group: a param group that a user hands over.
        direction, rule: of the optimizer.
        has_velocity: whether the optimizer can have momentum after the rule.

    Raises:
        ValueError, TypeError: an unknown method, or an option out of range.
    """
    if group.get("direction") is None:
        group.pop("direction", None)
    else:
        own = directions.get(group["direction"])
        known = next((name for name, cls in directions.BY_NAME.items() if cls is type(own)), None)
        group["direction"] = type(own) if known is None else known
        for name, value in own.options().items():
            group.setdefault(name, value)
        if not has_velocity:
            for name in VELOCITY.keys() - own.options().keys() & group.keys():
                if value := group.pop(name):
                    raise ValueError(
                        f"{name}={value!r} after the rule is not for this optimizer, and the direction "
                        f"{type(own).__name__} has none of its own"
                    )
        if "momentum" not in own.options() and has_velocity and "momentum" in direction.options():
            for name, value in VELOCITY.items():  # else the group would take over what is the other direction's
                group.setdefault(name, value)
    if group.get("rule") is None:
        group.pop("rule", None)
    else:
        group["rule"] = rules.get(from_plain(group["rule"], rule))
        group.setdefault("decoupled_weight_decay", None)
        taken = option_names(direction_kind(group, direction))
        names = {name: name for name in option_names(type(group["rule"])) if name not in taken}
        names |= {other: name for other, name in OTHER_NAMES.items() if name in names}
        given = {name: group.pop(key) for key, name in names.items() if key in group}
        if given:
            group["rule"] = replace(group["rule"], **given)


def direction_kind(group: Mapping[str, Any], default: Direction) -> type[Direction]:
    """The class of the direction of a group, whose options are keys of the group.

    Raises:
        ValueError: an unknown name.
        TypeError: neither a name nor a class of directions.
    """
    own = group.get("direction")
    if own is None:
        return type(default)
    if isinstance(own, type) and issubclass(own, Direction):
        return own
    return type(directions.get(own))


def rule_of(group: Mapping[str, Any], default: Rule) -> Rule:
    """The rule of a group.

    Raises:
        ValueError: an unknown name.
        TypeError: neither a name nor a rule.
    """
    own = group.get("rule")
    return default if own is None else own if isinstance(own, Rule) else rules.get(own)


def to_plain(group: Mapping[str, Any]) -> dict[str, Any]:
    """A group as a state dict has it: names and numbers in the place of classes and rules."""
    found = dict(group)
    own = found.get("direction")
    if isinstance(own, type):
        found["direction"] = _path(own)
    if isinstance(found.get("rule"), Rule):
        found["rule"] = _plain_rule(found["rule"])
    return found


def _plain_rule(rule: Rule) -> dict[str, Any]:
    known = next((name for name, cls in rules.BY_NAME.items() if cls is type(rule)), None)
    values = {name: plain(getattr(rule, name)) for name in option_names(type(rule))}
    for name, value in values.items():
        if isinstance(value, ClipRule):
            inner = {key: plain(getattr(value, key)) for key in option_names(type(value))}
            values[name] = {"name": value.name if CLIPS.get(value.name) is type(value) else _path(type(value)), **inner}
    return {"name": known or _path(type(rule)), **values}


def from_plain(told: Any, known: Rule) -> Any:
    """The rule that a state dict tells of; anything else as it is.

    A class that has no name must be that of ``known``: a file does not choose what is imported.

    Raises:
        ValueError: another rule, or options that it does not have.
    """
    if not isinstance(told, Mapping) or "name" not in told:
        return told
    options = {key: value for key, value in told.items() if key != "name"}
    cls = rules.BY_NAME.get(told["name"]) or (type(known) if told["name"] == _path(type(known)) else None)
    if cls is None:
        raise ValueError(f"rule must be one of {', '.join(rules.BY_NAME)}, got {told['name']!r}")
    unknown = sorted(options.keys() - set(option_names(cls)))
    if unknown:
        raise ValueError(f"the rule {told['name']!r} has no option {unknown}; it has {list(option_names(cls))}")
    clip = options.get("clip")
    if isinstance(clip, Mapping) and "name" in clip:
        known_clip: Any = type(getattr(known, "clip", None))
        kind: type[ClipRule] | None = CLIPS.get(clip["name"])
        kind = known_clip if kind is None and clip["name"] == _path(known_clip) else kind
        if kind is None:
            raise ValueError(f"trust_clip must be one of {', '.join(CLIPS)}, got {clip['name']!r}")
        options["clip"] = kind(**{key: value for key, value in clip.items() if key != "name"})
    return cls(**options)


def merge_saved(group: Mapping[str, Any], saved: Mapping[str, Any], direction: Direction, rule: Rule) -> dict[str, Any]:
    """A group with the options of a saved one; methods that a file does not tell of (0.1.0's) stay.

    Raises:
        ValueError: the saved group has another method.
    """
    merged = {**group, **saved}
    own_rule = rule_of(group, rule)
    told = saved.get("rule")
    if told is not None:
        found = rules.get(from_plain(told, own_rule))
        if type(found) is not type(own_rule):
            raise ValueError(f"the rule is {_path(type(found))} in the state dict and {_path(type(own_rule))} here")
        merged["rule"] = found
    if saved.get("direction") is not None:
        here = direction_kind(group, direction)
        named = directions.BY_NAME.get(saved["direction"]) if isinstance(saved["direction"], str) else None
        if named is not here and saved["direction"] not in (_path(here), here):
            raise ValueError(f"the direction is {saved['direction']!r} in the state dict and {_path(here)} here")
        if "direction" in group:
            merged["direction"] = group["direction"]
        else:
            del merged["direction"]
    return merged


def _path(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"
