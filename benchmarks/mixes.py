"""A method per role against its parts: ``python -m benchmarks.mixes``.

One optimizer with two or three methods, and an optimizer per method on the same tensors of GPT-2 small, in turns, in
one run. The mix is as fast as its parts if its time is their sum; prints each time, the sum and the ratio.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from typing import Any

from torch.nn import Parameter

import layerpace as lp

from . import traffic
from .measure import Effort, Race
from .methods import BY_NAME, UNIT, Method
from .shapes import SETS

ADAMW = {"direction": "adam", "rule": "identity", "weight_decay": 0.01}
LAMB = {"direction": "adam", "rule": "trust_ratio", "weight_decay": 0.01}
LAYCA = {"direction": "sgd", "rule": "rotation"}
# (hidden matrices, embeddings, vectors)
MIXES: dict[str, tuple[dict[str, Any], ...]] = {
    "LAMB and AdamW": (LAMB, ADAMW, ADAMW),
    "Layca and AdamW": (LAYCA, ADAMW, ADAMW),
    "LAMB, Layca and AdamW": (LAMB, LAYCA, ADAMW),
}
LR = 1e-6


def dealt(params: Sequence[Parameter]) -> list[list[Parameter]]:
    """Hidden matrices, the two embeddings, vectors."""
    wide = [p for p in params if p.ndim > 1]
    return [wide[2:], wide[:2], [p for p in params if p.ndim == 1]]


def make_mix(methods: Sequence[dict[str, Any]], params: Sequence[Parameter]) -> lp.Layerwise:
    pairs = zip(dealt(params), methods, strict=True)
    groups = [{"params": own, **method} for own, method in pairs]
    return lp.Layerwise(groups, direction="adam", rule="identity", lr=LR)


def make_part(method: dict[str, Any], methods: Sequence[dict[str, Any]], params: Sequence[Parameter]) -> lp.Layerwise:
    pairs = zip(dealt(params), methods, strict=True)
    return lp.Layerwise([p for own, m in pairs if m is method for p in own], lr=LR, **method)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    worst = 0.0
    for title, methods in MIXES.items():
        parts: list[dict[str, Any]] = []
        for method in methods:
            if not any(method is other for other in parts):
                parts.append(method)
        race = [BY_NAME[UNIT], Method(title, lambda p, m=methods: make_mix(m, p), traffic.LAMB, 8)]
        race += [
            Method(f"part {k}", lambda p, m=method, ms=methods: make_part(m, ms, p), traffic.LAMB, 8)
            for k, method in enumerate(parts)
        ]
        found = Race(SETS["S2"].shapes, race).run(Effort(rounds, 3))
        alone = [found[f"part {k}"].ms for k in range(len(parts))]
        ratio = found[title].ms / math.fsum(alone)
        worst = max(worst, ratio)
        listed = " + ".join(f"{ms:.1f}" for ms in alone)
        print(
            f"{title:24s} {found[title].ms:7.1f} ms; its parts {listed} = {math.fsum(alone):.1f} ms; ratio {ratio:.3f}",
            flush=True,
        )
    return int(worst > 1.1)


if __name__ == "__main__":
    sys.exit(main())
