"""Which state of a state dict is whose: by names, where both sides have them, else by place."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping, Sequence
from itertools import chain
from typing import Any

# Parts of names that DistributedDataParallel, torch.compile and their kind put in.
WRAPPERS = frozenset({"module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


def by_names(groups: Sequence[Mapping[str, Any]], state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict in the order of these groups, with their names.

    Where both sides have the same names, state goes by them, and so do the options of groups that hold the same
    parameters; else all goes by place, and names that differ are said in a warning.

    Raises:
        ValueError: not a state dict, or groups of other sizes.
    """
    saved = _checked_form(groups, state_dict)
    ours, theirs = _names(groups), _names(saved)
    if ours is None or theirs is None or ours == theirs:
        return dict(state_dict)
    keys = _by_name(ours, theirs, [list(group["params"]) for group in saved])
    if keys is None:
        _warn("parameters in other places than the optimizer, or under other names", "state is loaded", ours, theirs)
        pairs = zip(saved, ours, strict=True)
        return {**state_dict, "param_groups": [{**group, "param_names": names} for group, names in pairs]}
    of_members = {frozenset(group["params"]): group for group in saved}
    wanted = [[keys[name] for name in names] for names in ours]
    if all(frozenset(members) in of_members for members in wanted):
        saved = [of_members[frozenset(members)] for members in wanted]
    else:
        _warn("groups of other parameters than the optimizer", "the options of groups are loaded", ours, theirs)
    triples = zip(saved, ours, wanted, strict=True)
    return {
        **state_dict,
        "param_groups": [{**group, "param_names": names, "params": members} for group, names, members in triples],
    }


def _checked_form(groups: Sequence[Mapping[str, Any]], state_dict: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The saved groups, of as many parameters as ``groups``."""
    for key, kind in (("state", Mapping), ("param_groups", Sequence)):
        if key not in state_dict:
            raise ValueError(
                f"not an optimizer's state: {key!r} is missing, the keys are {sorted(map(str, state_dict))}"
            )
        if not isinstance(state_dict[key], kind):
            raise ValueError(f"not an optimizer's state: {key!r} is a {type(state_dict[key]).__name__}")
    saved = list(state_dict["param_groups"])
    for index, group in enumerate(saved):
        if not isinstance(group, Mapping) or not isinstance(group.get("params"), Sequence):
            raise ValueError(f"not an optimizer's state: parameter group {index} has no list of 'params'")
    members = [key for group in saved for key in group["params"]]
    if not all(isinstance(key, Hashable) for key in members) or len(set(members)) < len(members):
        raise ValueError("not an optimizer's state: its groups do not name each parameter once")
    here, there = [[len(group["params"]) for group in each] for each in (groups, saved)]
    if here != there:
        raise ValueError(f"the state dict has groups of {there} parameters, the optimizer has groups of {here}")
    return saved


def _names(groups: Sequence[Mapping[str, Any]]) -> list[list[str]] | None:
    """The names of each group's parameters; None: there are some without."""
    found = [group.get("param_names") for group in groups]
    if any(
        not isinstance(names, Sequence) or len(names) != len(group["params"]) or not all(type(n) is str for n in names)
        for names, group in zip(found, groups, strict=True)
    ):
        return None
    return [list(names) for names in found if names is not None]


def _by_name(ours: list[list[str]], theirs: list[list[str]], keys: list[list[Any]]) -> dict[str, Any] | None:
    """{name here: key of the saved state}; None: names are not unique, or not the same when wrappers' are left out."""
    here, there = list(chain(*ours)), list(chain(*theirs))
    for read in (str, _bare):
        of_name = {read(name): key for name, key in zip(there, chain(*keys), strict=True)}
        wanted = [read(name) for name in here]
        if len(of_name) == len(set(wanted)) == len(there) and of_name.keys() == set(wanted):
            return {name: of_name[read(name)] for name in here}
    return None


def _bare(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _warn(what: str, then: str, ours: list[list[str]], theirs: list[list[str]]) -> None:
    differing = [(a, b) for a, b in zip(chain(*ours), chain(*theirs), strict=True) if a != b]
    shown = ", ".join(f"{b!r} where {a!r} is here" for a, b in differing[:5])
    more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
    warnings.warn(f"the state dict has {what} ({shown}{more}): {then} by place", stacklevel=5)
