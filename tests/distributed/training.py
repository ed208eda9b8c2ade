"""Trainings of a laid-out model with gradients that every process knows of its own entries.

A gradient is a function of the step and of the entry's own weight, computed entry by entry, so that no way to lay a
model out changes a bit of it. What is left to differ between trainings are the sums over the layers.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
import torch.distributed as dist
from tests.distributed.layouts import Laid, lay_out, local
from tests.methods import METHODS
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

import layerpace as lp

STEPS = 50

# Parts whose borders lie within shards, parts of a row, and parts that no shard has whole; vectors too.
SEGMENTS: dict[str, Any] = {
    "blocks.*.qkv.weight": 3,
    "blocks.*.qkv.bias": (5, 12, 1),
    "blocks.*.down.weight": (3, 4, 1),
    "embedding.weight": "rows",
    "conv.weight": (1, 4),
    "head.weight": (1, 2),
}
CUT = {"segments": SEGMENTS, "exclude": None}
GROUPS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (("*.norm.*", "scale"), {"weight_decay": 0.0, "lr": 0.005}),
    (("blocks.0.*",), {"lr_multiplier": 0.25, "betas": (0.8, 0.95), "exclude": ("*.bias",)}),
    (("embedding.*",), {"maximize": True, "segments": 13}),
)


@functools.cache
def _numbers(name: str, what: str, shape: torch.Size) -> Tensor:
    """Gaussian numbers, float64, the same ones in every process."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{name} {what}".encode()))
    return torch.randn(shape, generator=generator, dtype=torch.float64).reshape(-1)


def _size(name: str) -> float:
    """Orders of magnitude between layers are what layer-wise methods are for."""
    return (0.05, 1.0, 4.0)[zlib.crc32(name.encode()) % 3]


def weights(name: str, shape: torch.Size) -> Tensor:
    """First weights, flat, float64; away from zero, where a quotient by a weight would magnify rounding."""
    x = _numbers(name, "weight", shape)
    return x.sign() * (1 + x.abs() / 2) * _size(name)


class Gradients:
    """The gradients at the entries that a process has, which its weights pull back to where they began::

        factor * (slope * (w - first weights) / size + noise of the step)

    All entries of all shards stand in one vector, in the order of ``laid``.
    """

    def __init__(self, laid: Laid) -> None:
        self._shapes = list(zip(laid.names, [p.shape for p in laid.params], laid.places, strict=True))
        self.sizes = [places.numel() for places in laid.places]
        self._start = self._joined(weights)
        size = self._joined(lambda name, shape: torch.full((shape.numel(),), _size(name), dtype=torch.float64))
        self._per_size, self._factor = 1 / size, 1.5 - size / 4
        self._noise: dict[int, Tensor] = {}

    def _joined(self, values: Callable[[str, torch.Size], Tensor]) -> Tensor:
        return torch.cat([values(name, shape)[places].reshape(-1) for name, shape, places in self._shapes])

    def at(self, shards: Sequence[Tensor], step: int, slope: float) -> Tensor:
        """float64 [entries]"""
        if step not in self._noise:
            self._noise[step] = self._joined(lambda name, shape: _numbers(name, f"gradient {step}", shape))
        w = torch.cat([shard.reshape(-1) for shard in shards])
        return (slope * self._per_size * (w - self._start) + self._noise[step]) * self._factor


@functools.cache
def _gradients(layout: str, blocks: int, world: int) -> Gradients:
    return Gradients(lay_out(layout, blocks=blocks))


@dataclass
class Job:
    """What to train, in words that can be sent to a process.

    Attributes:
        layout: of `LAYOUTS`.
        method: of `tests.methods.METHODS`, or "torch Adam", to try these tests without ours.
        options: of the method.
        groups: (globs over names, options) of each parameter group; the rest is a last group without options of its
            own. Empty: one group.
        blocks: of the model.
        slope: how strongly gradients depend on the weights.
        lr_factor: on every learning rate after each step.
        zeros: globs of names whose first weights are zero.
        absent: {step: globs of names that have no gradient}.
        recounted: {step: (globs of names, step count that their state gets before it)}.
        broken: {step: (name of a parameter, place of an entry, what its gradient is)}.
        scale: on all gradients, as the scale of an AMP scaler.
        found_inf: {step: what each rank found}, as an AMP scaler would tell the optimizer; None: there is no scaler.
    """

    layout: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    groups: Sequence[tuple[Sequence[str], Mapping[str, Any]]] = ()
    dtype: torch.dtype = torch.float32
    steps: int = STEPS
    blocks: int = 2
    slope: float = 0.5
    lr_factor: float = 1.0
    zeros: Sequence[str] = ()
    absent: Mapping[int, Sequence[str]] = field(default_factory=dict)
    recounted: Mapping[int, tuple[Sequence[str], float]] = field(default_factory=dict)
    broken: Mapping[int, tuple[str, int, float]] = field(default_factory=dict)
    scale: float = 1.0
    found_inf: Mapping[int, Sequence[float]] | None = None


@dataclass
class Part:
    """What a training leaves in one process.

    Attributes:
        places: where the entries of a shard stand in the whole tensor.
        weights: the shard of each parameter.
        state: the shard of what is a DTensor, else all of it.
        sharded: "key of name" of the former.
        coefficients: a digest of the bits of c, b and the ratio of all steps; "" where the method has none.
        last: c, b and ratio of the last step, of all layers.
        written: names of parameters whose gradient a step changed.
    """

    places: dict[str, Tensor]
    weights: dict[str, Tensor]
    state: dict[str, dict[str, Tensor]]
    sharded: set[str]
    coefficients: str
    last: dict[str, Tensor]
    written: list[str]


class Training:
    """One process's part of the training of a job."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.laid = lay_out(job.layout, job.dtype, job.blocks)
        laid = zip(self.laid.names, self.laid.params, self.laid.shards, self.laid.places, strict=True)
        with torch.no_grad():
            for name, p, shard, places in laid:
                if not _any(job.zeros, name):
                    shard.copy_(weights(name, p.shape)[places])
        self.optimizer = optimizer(job, self.laid)
        self._gradients = _gradients(job.layout, job.blocks, dist.get_world_size() if dist.is_initialized() else 1)
        self._grads = [torch.zeros_like(p.detach()) for p in self.laid.params]
        self._grad_shards = [local(grad) for grad in self._grads]
        self._digest = hashlib.sha256()
        self._written: set[str] = set()

    @torch.no_grad()
    def set_gradients(self, step: int) -> list[Tensor]:
        """Set p.grad of all parameters; what each of them should be after the step, too."""
        job, laid = self.job, self.laid
        values = (self._gradients.at(laid.shards, step, job.slope) * job.scale).to(job.dtype)
        pieces = [
            piece.reshape(shard.shape)
            for piece, shard in zip(values.split(self._gradients.sizes), laid.shards, strict=True)
        ]
        if step in job.broken:
            name, place, value = job.broken[step]
            k = laid.names.index(name)
            pieces[k][laid.places[k] == place] = value
        torch._foreach_copy_(self._grad_shards, pieces)
        absent = job.absent.get(step, ())
        for name, p, grad in zip(laid.names, laid.params, self._grads, strict=True):
            p.grad = None if _any(absent, name) else grad
        return pieces

    def step(self, step: int) -> None:
        """One step, number ``step`` from 0."""
        pieces = self.set_gradients(step)
        globs, count = self.job.recounted.get(step, ((), 0.0))
        for name, p in zip(self.laid.names, self.laid.params, strict=True):
            if _any(globs, name):
                self.optimizer.state[p]["step"].fill_(count)
        grads = [p.grad for p in self.laid.params]
        if self.job.found_inf is not None:
            found, rank = self.job.found_inf.get(step), dist.get_rank() if dist.is_initialized() else 0
            self.optimizer.found_inf = torch.tensor(0.0 if found is None else found[rank])  # type: ignore[attr-defined]
            self.optimizer.grad_scale = torch.tensor(self.job.scale)  # type: ignore[attr-defined]
        self.optimizer.step()
        for name, p, grad, shard, piece in zip(
            self.laid.names, self.laid.params, grads, self._grad_shards, pieces, strict=True
        ):
            if p.grad is not grad or not _same_bits(shard, piece):
                self._written.add(name)
        for values in self.coefficients().values():
            self._digest.update(values.numpy().tobytes())
        for group in self.optimizer.param_groups:
            group["lr"] *= self.job.lr_factor

    def run(self, steps: int, first: int = 0) -> Training:
        for step in range(first, first + steps):
            self.step(step)
        return self

    def coefficients(self) -> dict[str, Tensor]:
        """c, b and ratio of the last step, of all layers of the model."""
        optimizer: Any = self.optimizer
        plan = optimizer.observed.plan if hasattr(optimizer, "observed") else None
        if plan is None:
            return {}
        found = plan.coefficients
        return {"c": torch.zeros_like(found.b) if found.c is None else found.c, "b": found.b, "ratio": found.ratio}

    def part(self) -> Part:
        """What this process has now."""
        laid = self.laid
        state = {
            name: {key: value for key, value in self.optimizer.state.get(p, {}).items() if isinstance(value, Tensor)}
            for name, p in zip(laid.names, laid.params, strict=True)
        }
        coefficients = self.coefficients()
        return Part(
            dict(zip(laid.names, laid.places, strict=True)),
            {name: local(p).clone() for name, p in zip(laid.names, laid.params, strict=True)},
            {name: {key: local(value).clone() for key, value in found.items()} for name, found in state.items()},
            {f"{key} of {name}" for name, found in state.items() for key in found if isinstance(found[key], DTensor)},
            self._digest.hexdigest() if coefficients else "",
            {key: values.clone() for key, values in coefficients.items()},
            sorted(self._written),
        )


def optimizer(job: Job, laid: Laid) -> Optimizer:
    """The optimizer of a job."""
    named = list(zip(laid.names, laid.params, strict=True))
    params: list[Any] = named
    if job.groups:
        taken: set[str] = set()
        params = []
        for globs, options in job.groups:
            members = [(n, p) for n, p in named if n not in taken and _any(globs, n)]
            taken |= {name for name, _ in members}
            params.append({"params": members, **options})
        params.append({"params": [(n, p) for n, p in named if n not in taken]})
    if job.method == "torch Adam":
        return torch.optim.Adam(params, lr=0.02, **job.options)
    made = METHODS[job.method](params, **copy.deepcopy(dict(job.options)))  # a tensor among them changes
    if isinstance(made, lp.Wrapped):
        made.observed.ask(made)  # so that it keeps what it did
    return made


def train(job: Job) -> Part:
    """Train in this process, as a rank or alone."""
    return Training(job).run(job.steps).part()


def _any(globs: Sequence[str], name: str) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))
