"""Verdicts on claims about several tasks at once: a claim holds if it does on every task of its figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..recipe import Claim, Data, Finding, Verdict
from ..statistics import Interval, difference, equal, every, interval, percent

MARGIN = 0.02  # accuracies within two points are on par: the paper's own, called so, are within 0.9


@dataclass(frozen=True)
class Part:
    """The verdict on one task, and its figures."""

    verdict: Verdict
    text: str


def finding(claim: Claim, parts: Sequence[Part]) -> Finding:
    return Finding(claim, every([part.verdict for part in parts]), "; ".join(part.text for part in parts))


def named(data: Data, task: Data, text: str) -> str:
    """The task's name before the figures, where there are several."""
    return f"{task['key']}: {text}" if len(data["tasks"]) > 1 else text


def compared(
    data: Data, a: str, b: str, test: Callable[[Interval], Verdict], field: str = "test", points: bool = True
) -> list[Part]:
    """The paired difference of a variant's field and another's, on every task that has both."""
    parts = []
    for task in data["tasks"]:
        variants = task["variants"]
        if a not in variants or b not in variants:
            continue
        one, other = variants[a], variants[b]
        found = difference(one[field], other[field])
        if points:
            text = f"{one['title']} {percent(one[field])}, {other['title']} {percent(other[field])}: "
            text += found.text(100, " points")
        else:
            text = f"{one['title']} {mean(one[field]):.3f}, {other['title']} {mean(other[field]):.3f}: "
            text += found.text(digits=3)
        parts.append(Part(test(found), named(data, task, text)))
    return parts


def at_least(data: Data, keys: Sequence[str], threshold: float, field: str = "train") -> list[Part]:
    """Whether a mean over the seeds is at least a threshold, for each of some variants on every task."""
    parts = []
    for task in data["tasks"]:
        for key in keys:
            if key in task["variants"]:
                variant = task["variants"][key]
                enough: Verdict = "holds" if mean(variant[field]) >= threshold else "does not hold"
                parts.append(Part(enough, named(data, task, f"{variant['title']} {percent(variant[field])}")))
    return parts


def on_par(found: Interval) -> Verdict:
    return equal(found, MARGIN)


def mean(values: Sequence[float]) -> float:
    return interval(values).mean
