"""Parameters -> buckets: those that share a backend, a dtype and every option, so that one kernel serves each."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from layerpace.directions import Direction
from layerpace.engine import backends
from layerpace.engine.backends import Backend, Velocity, Watch, Work
from layerpace.engine.backends.cpu import native
from layerpace.engine.backends.watch import PythonWatch
from layerpace.engine.common.fake import has_values
from layerpace.engine.entries import Entry, GroupOptions, Settings
from layerpace.engine.numerics.precision import SEED, compute_dtype, moment_dtype
from layerpace.rules import Rule

_PLAIN = (Tensor, torch.nn.Parameter)


@dataclass(frozen=True)
class Signature:
    """The options that the parameters of a bucket have in common."""

    direction: Direction
    rule: Rule = field(hash=False)  # a user's may have no hash
    l2: float
    maximize: bool
    velocity: Velocity | None

    @property
    def structure(self) -> Hashable:
        """What no bucket can change: the state that it needs, and the choices that a kernel is built for."""
        direction, rule = self.direction, self.rule
        choices = tuple(value for part in (direction, rule) for value in vars(part).values() if _is_choice(value))
        names = direction.state_names(), rule.state_names, rule.columns()
        return type(direction), type(rule), names, choices, self.velocity is None


def _is_choice(value: object) -> bool:
    """Whether an option is one of several ways, not a number."""
    return isinstance(value, (bool, str)) or value is None


class OptionSets:
    """The kinds of parameters: pairs of a group and whether a parameter is excluded, which settle its options.

    A scheduler may write other numbers into the options: buckets stay what they are as long as the kinds that
    share one, and only those, go on having equal options.

    Attributes:
        keys: (group, excluded) of each kind.
        of: the kind of each entry.
        signatures: of each kind.
        rules: for each kind the first one that has an equal rule.
    """

    def __init__(self, entries: Iterable[Entry], options: Sequence[GroupOptions]) -> None:
        numbers: dict[tuple[int, bool], int] = {}
        self.of = [numbers.setdefault((entry.group, entry.layers.excluded), len(numbers)) for entry in entries]
        self.keys = list(numbers)
        self.options = options
        self.signatures = self._signatures(options)
        self.pattern = _pattern(self.signatures)
        self.rules = _rules(self.signatures)

    def _signatures(self, options: Sequence[GroupOptions]) -> list[Signature]:
        groups = [(options[index], left_out) for index, left_out in self.keys]
        return [Signature(g.direction, g.rule, 0.0 if out else g.l2, g.maximize, g.velocity) for g, out in groups]

    def renew(self, options: Sequence[GroupOptions]) -> bool:
        """Take over other options; False, and nothing done: buckets would be others."""
        signatures = self._signatures(options)
        if signatures == self.signatures:  # only rates have changed, as in most steps of most schedules
            self.options = options
            return True
        if _pattern(signatures) != self.pattern or _rules(signatures) != self.rules:
            return False
        if any(new.structure != old.structure for new, old in zip(signatures, self.signatures, strict=True)):
            return False
        self.options, self.signatures = options, signatures
        return True

    @property
    def rates(self) -> tuple[float | Tensor, ...]:
        """The learning rate of each kind."""
        return tuple(self.options[index].lr for index, _ in self.keys)

    @property
    def decays(self) -> tuple[float, ...]:
        """The decoupled weight decay of each kind."""
        return tuple(0.0 if left_out else self.options[index].weight_decay for index, left_out in self.keys)

    @property
    def undecayed(self) -> tuple[bool, ...]:
        """Whether the group of each kind has no decay."""
        return tuple(self.options[index].undecayed for index, _ in self.keys)


def _pattern(signatures: Iterable[Signature]) -> list[int]:
    """The same number for equal signatures, in the order of their first appearance."""
    seen: dict[Signature, int] = {}
    return [seen.setdefault(signature, len(seen)) for signature in signatures]


def _rules(signatures: Sequence[Signature]) -> list[int]:
    """For each signature the place of the first one that has an equal rule."""
    found: list[int] = []
    for place, signature in enumerate(signatures):
        found.append(next((k for k in found if signatures[k].rule == signature.rule), place))
    return found


@dataclass
class Bucket:
    """Parameters with a backend, a dtype and options in common; ``kinds`` has a number for each of them."""

    backend: Backend
    uniform: bool
    entries: list[Entry] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)

    def work(self, signature: Signature, settings: Settings) -> Work:
        """The bucket as a backend takes it."""
        dtype = self.entries[0].param.dtype
        names = ["step", *signature.direction.state_names(), *signature.rule.state_names]
        names += ["velocity"] * (signature.velocity is not None)
        names += ["master"] * _has_master(dtype, settings)
        watch = _watch(self.entries, names)
        work = Work(
            backend=backends.reference if watch is None else self.backend,
            params=[entry.param for entry in self.entries],
            grads=[entry.grad for entry in self.entries],
            grad_is_scratch=self.entries[0].owner is None,
            state=[entry.state for entry in self.entries],
            layers=[entry.layers for entry in self.entries],
            direction=signature.direction,
            rule=signature.rule,
            l2=signature.l2,
            maximize=signature.maximize,
            velocity=signature.velocity,
            low_precision=settings.low_precision,
            moment_dtype=moment_dtype(dtype, settings.state_dtype),
            t=0.0,
            uniform=self.uniform,
            watch=watch,
        )
        if work.backend is backends.triton and not backends.triton.takes_together(work):
            work.backend = backends.reference
        return work


def cut(entries: Sequence[Entry], kinds: OptionSets, settings: Settings, gated: bool) -> list[Bucket]:
    """The buckets of parameters on one device; creates the state that comes with options.

    Args:
        entries: the parameters.
        kinds: of ``entries``.
        settings: of the optimizer.
        gated: the device decides which layers step: step counts live there, and need not agree in a bucket.
    """
    name = settings.backend
    buckets: dict[Hashable, Bucket] = {}
    masters = {dtype: _has_master(dtype, settings) for dtype in {entry.param.dtype for entry in entries}}
    for entry, kind in zip(entries, kinds.of, strict=True):
        param, state, layers = entry.param, entry.state, entry.layers
        dtype, signature = param.dtype, kinds.signatures[kind]
        if signature.velocity is not None and "velocity" not in state:
            state["velocity"] = torch.zeros_like(param, dtype=moment_dtype(dtype, settings.state_dtype))
        if masters[dtype] and "master" not in state:
            state["master"] = param.to(compute_dtype(dtype))
        if layers.count == 0:  # other processes hold all segments
            continue
        step = state["step"]
        t = None
        if gated or settings.capturable:
            state["step"] = step.to(param.device, torch.float32, non_blocking=True)
        elif layers.sizes is None and step.is_cpu and has_values(step):
            t = float(step)
        backend = backends.select(name, param, entry.grad, state, signature.direction, layers)
        if backend is not backends.reference and not _is_plain(entry):
            backend = backends.reference
        if backend is backends.triton and _rounds_at_random(dtype, settings):
            _seed(entry)
        key = (kinds.pattern[kind], dtype, t, id(backend))
        bucket = buckets.get(key)
        if bucket is None:
            bucket = buckets[key] = Bucket(backend, t is not None)
        bucket.entries.append(entry)
        bucket.kinds.append(kind)
    return list(buckets.values())


def _is_plain(entry: Entry) -> bool:
    """Whether the owner and its gradient are what their memory says: no subclass, no sign flipped when it is read."""
    owner = entry.owner
    if owner is None:
        return has_values(entry.param) and has_values(entry.grad)
    grad = owner.grad
    if grad is None or type(owner) not in _PLAIN or type(grad) not in _PLAIN:
        return False
    return not (grad.is_neg() or grad.is_conj())


def _has_master(dtype: torch.dtype, settings: Settings) -> bool:
    return settings.low_precision == "master" and dtype != compute_dtype(dtype)


def _rounds_at_random(dtype: torch.dtype, settings: Settings) -> bool:
    working = compute_dtype(dtype)
    if moment_dtype(dtype, settings.state_dtype) != working:
        return True
    return settings.low_precision == "stochastic" and dtype != working


def _seed(entry: Entry) -> None:
    """Give a parameter the seed of its random numbers, from torch's default generator; it is saved with the state."""
    if SEED not in entry.saved:
        entry.saved[SEED] = torch.empty((), dtype=torch.int64, device="cpu").random_()
    seed = entry.saved[SEED]
    if entry.held is not None and entry.held.split:
        # The entries of a shard are counted from zero: each shard needs numbers of its own, and its replicas the same.
        mixed = 0
        for first in entry.held.place:
            mixed = (mixed * 0x9E3779B97F4A7C15 + first + 1) & (1 << 62) - 1
        seed = seed ^ mixed
    entry.state[SEED] = seed


def _watch(entries: Sequence[Entry], names: Sequence[str]) -> Watch | None:
    """What describes the tensors of a bucket; None: there is no compiled module, or they are not plain tensors."""
    param = entries[0].param
    if torch.compiler.is_compiling() or not (param.is_cpu or param.is_cuda):
        return None
    compiled = native()
    if compiled is None and param.is_cpu:
        return None
    owners = [entry.param if entry.owner is None else entry.owner for entry in entries]
    grads = [entry.grad if entry.owner is None else entry.owner.grad for entry in entries]
    states = [entry.state for entry in entries]
    if compiled is None:
        plain = all(_is_plain(entry) for entry in entries)
        return PythonWatch(owners, [g for g in grads if g is not None], states, names) if plain else None
    try:
        watch: Watch = compiled.Watch(owners, grads, states, list(names))
    except ValueError:
        return None
    return watch
