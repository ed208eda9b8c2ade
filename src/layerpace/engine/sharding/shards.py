"""What a process holds of a DTensor: its shard, which rows of which layers that is, its state, and its gradient.

A weight of 6 rows with the segments (2, 4), on two processes that hold 3 rows each::

    row         0    1    2    3    4    5
    segment     0    0    1    1    1    1
    process     0    0    0    1    1    1

    process 0: rows [0, 3), present (0, 1), cut (2, 1)        absent: rows [3, 6), present (1,), cut (3,)
    process 1: rows [3, 6), present (1,),   cut (3,)          absent: rows [0, 3), present (0, 1), cut (2, 1)

Segment 1 lies on both: its sums are added up, and both move their own rows of it by the same c and b. What a layer has
one number of per row (step counts) is whole on every process, so the absent rows of it advance here too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layerpace.engine.sharding.collectives import add_up, is_distributed, local
from layerpace.layers.base import ParameterLayers

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@dataclass(frozen=True, slots=True)
class Range:
    """A range of rows of dimension 0, as layers.

    Attributes:
        first, last: the rows are first, ..., last - 1.
        layers: how they are cut.
        present: which layers of the parameter those are.
    """

    first: int
    last: int
    layers: ParameterLayers
    present: tuple[int, ...]


def range_of(whole: ParameterLayers, first: int, last: int) -> Range:
    """The layers that rows first, ..., last - 1 belong to; segments that a border cuts are in both ranges."""
    if whole.sizes is None:
        return Range(first, last, whole, (0,))
    ends = list(accumulate(whole.sizes))
    # The rows that the range and each segment [end - size, end) have in common; negative where they lie apart.
    shares = [min(end, last) - max(end - size, first) for end, size in zip(ends, whole.sizes, strict=True)]
    present = tuple(k for k, share in enumerate(shares) if share > 0)
    sizes = tuple(shares[k] for k in present)
    cut = whole if sizes == whole.sizes else ParameterLayers(whole.name, whole.excluded, sizes)
    return Range(first, last, cut, present)


class Shard:
    """What this process holds of a DTensor.

    Attributes:
        param: the DTensor.
        tensor: its local shard, a plain tensor that shares the memory of the parameter.
        groups: the process groups over which sums of the local shards are added, those of one process left out.
        whole: how the parameter is cut into layers.
        rows: of dimension 0, those that are here.
        absent: those that are not, at most two ranges; none unless the parameter has segments.
    """

    def __init__(self, param: Any, whole: ParameterLayers) -> None:
        self.param, self.whole = param, whole
        self._seen = local(param)
        self.tensor = self._seen.detach()
        mesh, self._placements = param.device_mesh, param.placements
        self._mesh = mesh
        sharding = [k for k, placement in enumerate(self._placements) if _is_shard(placement)]
        self.groups: tuple[ProcessGroup, ...] = tuple(mesh.get_group(k) for k in sharding if mesh.size(k) > 1)
        self._ranges = self._find_ranges()
        first, last = self._ranges[0] if self._ranges else (0, 1)
        self.rows = range_of(whole, first, last)
        ends = ((0, first), (last, param.shape[0])) if whole.sizes is not None else ()
        self.absent = tuple(range_of(whole, *end) for end in ends if end[0] < end[1])
        self._grad: Tensor | None = None  # that ``tensor.grad`` is the shard of

    def _find_ranges(self) -> list[tuple[int, int]]:
        """(first, last) of the indices of each dimension that are here."""
        mesh, shape = self._mesh, self.param.shape
        place = mesh.get_coordinate()
        if place is None:
            raise RuntimeError(f"{self.whole.name} is a DTensor of a mesh that this process is not in: {mesh}")
        found = [(0, size) for size in shape]
        numbers = range(len(self._placements))
        plain = [k for k in numbers if _is_shard(self._placements[k]) and not _is_strided(self._placements[k])]
        # Each mesh dimension that shards dimension `dim` cuts what the ones before it have left. A strided shard (FSDP2
        # over tensor parallelism) is a part of what the mesh dimensions on its right have cut already, so those come
        # first: plain shards from left to right, then strided ones from right to left.
        for k in plain + [k for k in reversed(numbers) if _is_strided(self._placements[k])]:
            dim = self._placements[k].dim % len(shape)
            first, last = found[dim]
            width = -(-(last - first) // mesh.size(k))  # as torch.chunk cuts
            found[dim] = min(first + place[k] * width, last), min(first + (place[k] + 1) * width, last)
        sizes = tuple(last - first for first, last in found)
        if sizes != tuple(self.tensor.shape):
            raise RuntimeError(
                f"{self.whole.name} is a DTensor of shape {tuple(shape)} with the placements {self._placements} on "
                f"{mesh}; the part of this process should have shape {sizes} and has {tuple(self.tensor.shape)}"
            )
        return found

    @property
    def place(self) -> tuple[int, ...]:
        """Where the part of this process begins; that of a replica is the same."""
        return tuple(first for first, _ in self._ranges)

    @property
    def split(self) -> bool:
        """Whether other processes hold other parts."""
        return bool(self.groups)

    def same(self, param: Tensor) -> bool:
        """Whether the parameter's shard is still the tensor that it was."""
        return self.param is param and local(param) is self._seen and self._seen.data_ptr() == self.tensor.data_ptr()

    def shard(self, value: Tensor) -> Tensor:
        """What this process holds of a value of the parameter's whole shape (of a complex one, of its real view).

        Args:
            value: a plain tensor, of which every process has all; or a DTensor, which takes communication unless it
                is placed like the parameter.
        """
        if is_distributed(value):
            placed: Any = value
            if placed.device_mesh == self._mesh and tuple(placed.placements) == tuple(self._placements):
                return local(value)
            value = placed.full_tensor()
        for dim, (first, last) in enumerate(self._ranges):
            value = value.narrow(dim, first, last - first)
        return value

    def distribute(self, shard: Tensor) -> Tensor:
        """A DTensor like the parameter, of local shards with its shape (a complex one's have two numbers more)."""
        from torch.distributed.tensor import DTensor

        shape = torch.Size((*self.param.shape, *shard.shape[self.param.ndim :]))
        stride = torch.empty(shape, device="meta").stride()
        made: Tensor = DTensor.from_local(
            shard, self._mesh, self._placements, run_check=False, shape=shape, stride=stride
        )
        return made

    def local_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state as plain tensors: shards of moments, and of what has one number a row the rows that are here."""
        by_row = self.whole.broadcast_shape((*self.param.shape, *[2] * self.param.is_complex()))
        first, size = self.rows.first, self.rows.last - self.rows.first
        return {
            name: local(x) if is_distributed(x) else x.narrow(0, first, size) if by_row and x.shape == by_row else x
            for name, x in state.items()
        }

    def publish(self, found: Mapping[str, Tensor], state: dict[str, Any]) -> None:
        """Put what a step has added to the local state, or moved to another device, into the optimizer's."""
        for name, value in found.items():
            known = state.get(name)
            if known is None:
                state[name] = self.distribute(value)
            elif not is_distributed(known) and known.device != value.device:
                state[name] = value

    def release(self) -> None:
        """Let go of the gradient."""
        self._grad = self.tensor.grad = None


def shard_of(known: dict[Tensor, Shard], param: Tensor, whole: ParameterLayers) -> Shard:
    """What this process holds of a DTensor: as it is known, or, if it has changed, anew."""
    held = known.get(param)
    if held is None or held.whole is not whole or not held.same(param):
        held = known[param] = Shard(param, whole)
    return held


def take_gradients(held: Iterable[Shard]) -> None:
    """Make ``held.tensor.grad`` the shard of the parameter's gradient, once a step.

    A gradient that is still to be added up over a dimension of the mesh (a norm's under sequence parallelism) is, all
    of a process group in one all-reduce; the parameter's own ``grad`` stays as it is.
    """
    partial: dict[Any, list[tuple[Shard, Tensor]]] = {}
    for item in held:
        grad = item.param.grad
        if grad is None or grad is item._grad:
            continue
        item._grad = grad
        if not is_distributed(grad) or tuple(grad.placements) == tuple(item._placements):
            item.tensor.grad = local(grad)
        elif (pending := _pending(grad, item)) is not None:
            partial.setdefault((*pending, grad.dtype), []).append((item, local(grad)))
        else:
            item.tensor.grad = local(grad.redistribute(item._mesh, item._placements))
    for (op, group, _), members in partial.items():
        _add_up(op, group, members)


def _pending(grad: Any, item: Shard) -> tuple[str, ProcessGroup] | None:
    """(reduction, process group) of a gradient that is pending over one replicated dimension of the mesh alone."""
    if grad.device_mesh != item._mesh:
        return None
    differing = [k for k, pair in enumerate(zip(grad.placements, item._placements, strict=True)) if pair[0] != pair[1]]
    if len(differing) != 1 or not item._placements[differing[0]].is_replicate():
        return None
    placement = grad.placements[differing[0]]
    op = getattr(placement, "reduce_op", None)
    return (op, item._mesh.get_group(differing[0])) if placement.is_partial() and op in ("sum", "avg") else None


def _add_up(op: str, group: ProcessGroup, members: Sequence[tuple[Shard, Tensor]]) -> None:
    from torch import distributed

    flat = torch.cat([grad.reshape(-1) for _, grad in members])
    add_up(flat, group)
    if op == "avg":
        flat /= distributed.get_world_size(group)
    for (item, grad), whole in zip(members, torch.split(flat, [grad.numel() for _, grad in members]), strict=True):
        item.tensor.grad = whole.view(grad.shape)


def _is_shard(placement: Any) -> bool:
    return hasattr(placement, "dim")  # _StridedShard has one, too, and is no Shard in every version


def _is_strided(placement: Any) -> bool:
    return hasattr(placement, "split_factor")
