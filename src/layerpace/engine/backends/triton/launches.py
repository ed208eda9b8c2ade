"""The three launches: a bucket's tables and options as arguments of a kernel."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from torch import Tensor

from layerpace.engine.backends.programs import COLUMN_NUMBERS, rule_options
from layerpace.engine.backends.protocol import Gate, Work
from layerpace.engine.backends.triton.bucket import Bucket, Look, Shared
from layerpace.engine.backends.triton.kernels import directions, look, passes, prepare
from layerpace.engine.backends.triton.kernels.rules import IDENTITY, NO_RULE
from layerpace.engine.backends.triton.tables import BLOCK
from layerpace.engine.numerics.tensors import Tensors
from layerpace.rules import Rule

# As compiled: no fused multiply-add, so that the second pass makes the u of the first, to the bit.
_COMPILED: dict[str, Any] = {"num_warps": 4, "enable_fp_fusion": False}
_LAYERS_AT_ONCE = 64

# Of a rule that Python works out.
NO_CHOICES: dict[str, Any] = {"RULE": NO_RULE.value, "NORM": 0, "CLIP": 0, "ADAPTS_ALL": True, "HAS_ZERO": False}


def look_at_gradients(
    bucket: Bucket, columns: tuple[str, ...], gate: Gate, kinds: int = 0, shared: Shared | None = None
) -> tuple[Look, Shared]:
    """Launch a look at the gradients; ``shared``: what the buckets before have found."""
    own = bucket.looks.get(columns)
    if own is None:
        own = bucket.looks[columns] = Look(bucket, columns)
    own.counters.zero_()
    together = own.shared if shared is None else shared
    bits, order = _columns(columns)
    look.look_at_gradients[(len(own.tasks),)](
        own.tasks, bucket.arrangement.layer_of_chunk, bucket.arrangement.layers, bucket.gradients.there,
        bucket.kinds.there, own.counters, bucket.partial, own.table, together.moves, gate.scale, together.squares,
        together.clip, len(bucket.arrangement), kinds,
        COLUMNS=bits, ORDER=order, WIDTH=max(1, len(columns)), MOVES=gate.phantom,
        ONLY_MOVES=gate.phantom and not columns, SCALE=_scaling(gate), CLIPS=gate.max_norm is not None,
        SKIPS=gate.skips, FROM_OTHERS=shared is not None,
        G_ALIGNED=bucket.aligned, STORED=bucket.stored, COMPUTE=bucket.compute, BLOCK=BLOCK, **_COMPILED,
    )  # fmt: skip
    return own, together


def prepare_step(bucket: Bucket, work: Work, gate: Gate, rates: int, fixed: bool, t_L: Tensor | None) -> None:
    """Launch what comes before the passes."""
    look_, shared = bucket.looked or (None, None)
    clip = None if shared is None or gate.max_norm is None else shared.clip
    layers = len(bucket.arrangement)
    prepare.prepare_step[(-(-layers // _LAYERS_AT_ONCE),)](
        bucket.arrangement.layers, bucket.kinds.there, bucket.numbers, bucket.scalars, bucket.counters,
        bucket.lr_L, bucket.c_L, bucket.b_L, bucket.ratio_L,
        layers, rates, 0 if isinstance(work.t, Tensors) else int(work.t), t_L, gate.ok_L, gate.found_inf,
        None if look_ is None or not gate.skips else look_.nonfinite,
        None if shared is None or not gate.phantom else shared.moves,
        gate.scale, clip,
        DIRECTION=bucket.program.number,
        RATE_AFTER=rates > 0 and getattr(work.direction, "bias_correction", None) == "after",
        COUNT=(prepare.FROM_STATE if bucket.counts(work) else
               prepare.FROM_HOST if t_L is None else prepare.FROM_VECTOR).value,
        HAS_RATES=rates > 0, FIXED=fixed, HAS_OK=gate.ok_L is not None, HAS_FOUND_INF=gate.found_inf is not None,
        SKIPS=gate.skips, PHANTOM=gate.phantom, NONFINITE_WIDTH=1 if look_ is None else look_.table.shape[1],
        SCALE=_scaling(gate), HAS_CLIP=clip is not None, BLOCK=_LAYERS_AT_ONCE, **_COMPILED,
    )  # fmt: skip


def run_tasks(
    bucket: Bucket, work: Work, columns: Sequence[str], choices: dict[str, Any], *,
    first: bool, second: bool, ticket: int, has_c: bool, gated: bool,
    c_L: Tensor | None = None, b_L: Tensor | None = None, lr_L: Tensor | None = None,
) -> None:  # fmt: skip
    """Launch the passes."""
    traits = directions.TRAITS[bucket.program.number]
    reads, fixed = bool(columns), choices["RULE"] == IDENTITY.value
    keep = bucket.counts(work) or bool(bucket.program.memory)
    tasks, kinds = bucket.arrangement.tasks(
        first=first, second=second, reads=reads, fixed=fixed, measure=work.measure, keep=keep
    )
    if not len(tasks):
        return
    bits, order = _columns(columns)
    velocity = work.velocity
    passes.run_tasks[(len(tasks),)](
        tasks, bucket.arrangement.layer_of_chunk, bucket.arrangement.layers, bucket.arrangement.tensors,
        bucket.gradients.there, bucket.kinds.there, bucket.numbers, bucket.scalars, bucket.counters,
        bucket.partial, bucket.measured_partial, bucket.table,
        bucket.measured, bucket.lr_L if lr_L is None else lr_L, bucket.c_L if c_L is None else c_L,
        bucket.b_L if b_L is None else b_L, bucket.ratio_L,
        TICKET=ticket, DOES=kinds, SPLIT=not (first and second),
        HAS_C=has_c, LR_OUTSIDE=velocity is not None and not velocity.lr_inside,
        ALIGNED=bucket.arrangement.aligned, G_ALIGNED=bucket.aligned,
        ORDER=order, WIDTH=len(columns), COUNTS=bucket.counts(work),
        DIRECTION=bucket.program.number, STATES=traits.states, AGAIN_GRADIENT=traits.gradient,
        AGAIN_READS=traits.reads, AGAIN_WRITES=traits.writes, COLUMNS=bits,
        UPDATE=0 if velocity is None else 2 if velocity.nesterov else 1, LOW_PRECISION=bucket.mode,
        HAS_L2=work.l2 != 0, MEASURES=work.measure, GATED=gated, DRAWS=bucket.draws,
        LATE=bucket.kept != bucket.compute and traits.states > 0,
        STORED=bucket.stored, MOMENTS=bucket.kept, COMPUTE=bucket.compute, BLOCK=BLOCK, **choices, **_COMPILED,
    )  # fmt: skip


@lru_cache(maxsize=256)
def rule_choices(rule: Rule) -> tuple[tuple[float, ...], dict[str, Any]]:
    """The numbers of a rule, and its choices, which kernels are compiled for."""
    known = rule_options(rule, 0.0)
    choices = {
        "RULE": known["id"],
        "NORM": known.get("norm", 0),
        "CLIP": known.get("clip", 0),
        "ADAPTS_ALL": known.get("always_adapt", True),
        "HAS_ZERO": known.get("has_zero_ratio", False),
    }
    first = known.get("parallel", known.get("growth", known.get("coefficient", 0.0)))
    return (first, *(known.get(name, 0.0) for name in ("eps", "lower", "upper", "zero_ratio"))), choices


def _scaling(gate: Gate) -> int:
    return 0 if gate.scale is None else prepare.DIVIDES.value if gate.divides else prepare.MULTIPLIES.value


def _columns(columns: Sequence[str]) -> tuple[int, int]:
    """The set of columns as the kernels know it, and the place of each in the table."""
    bits = sum(1 << COLUMN_NUMBERS[name] for name in columns)
    return bits, sum(place << (4 * COLUMN_NUMBERS[name]) for place, name in enumerate(columns))
