"""Verdicts on claims about several tasks at once: a claim holds if it does on every task of its figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..recipe import Claim, Data, Finding, Verdict
from ..statistics import Interval, difference, equal, every, interval, percent

# Accuracies within two points are on par. The paper's own, called so, differ by up to 1.65 points; one by 0.95 with the
# 92.33% that its text gives Layca on C10-CNN2, where its authors' code has 93.40%.
MARGIN = 0.02


TINY = 1e-12


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
    data: Data,
    a: str,
    b: str,
    test: Callable[[Interval], Verdict],
    field: str = "test",
    points: bool = True,
    relative: bool = False,
) -> list[Part]:
    """The paired difference of a variant's field and another's, on every task and seed that has both.

    Args:
        points: the field is an accuracy.
        relative: a/b - 1 instead of a - b.
    """
    parts = []
    for task in data["tasks"]:
        variants = task["variants"]
        if a not in variants or b not in variants:
            continue
        one, other = variants[a], variants[b]
        pairs = list(zip(one[field], other[field], strict=False))  # value i of both is seed i's
        ours, theirs = ([pair[side] for pair in pairs] for side in (0, 1))
        if relative:
            found = interval([x / max(y, TINY) - 1 for x, y in pairs])
        else:
            found = difference(ours, theirs)
        if points:
            text = f"{scored(one, ours)}, {scored(other, theirs)}: {found.text(100, ' points')}"
        else:
            text = f"{one['title']} {mean(ours):.3f}{noted(one)}, {other['title']} {mean(theirs):.3f}{noted(other)}: "
            text += found.text(100, "%", 1) if relative else found.text(digits=3)
        parts.append(Part(test(found), named(data, task, text)))
    return parts


def scored(variant: Data, test: Sequence[float]) -> str:
    """ "SGD 62.10 ± 0.35% (training 71.2 ± 0.4%; rate 0.333 is the highest tried)": in brackets what is known."""
    train = variant.get("train", [])[: len(test)]
    return f"{variant['title']} {percent(test)}" + noted(variant, *([f"training {percent(train, 1)}"] if train else []))


def noted(variant: Data, *notes: str) -> str:
    """ " (...)" with notes, among them that the rate is at an end of those tried; "" where there are none."""
    end = at_end(variant)
    shown = [*notes, f"rate {variant['rate']:.3g} is the {end} tried"] if end else notes
    return f" ({'; '.join(shown)})" if shown else ""


def at_end(variant: Data) -> str:
    """ "lowest" or "highest" where a rate that was searched for is at an end of those tried; else ""."""
    tried = [float(rate) for rate in variant.get("tried", {})]
    if len(tried) < 2:
        return ""
    rate = float(f"{variant['rate']:.4g}")  # as they are written
    return "lowest" if rate <= min(tried) else "highest" if rate >= max(tried) else ""


def at_least(data: Data, keys: Sequence[str], threshold: float) -> list[Part]:
    """Whether training accuracy, mean of the seeds, is at least a threshold for each of some variants on every task."""
    parts = []
    for task in data["tasks"]:
        for key in keys:
            if key in task["variants"]:
                variant = task["variants"][key]
                enough: Verdict = "holds" if mean(variant["train"]) >= threshold else "does not hold"
                parts.append(
                    Part(enough, named(data, task, f"{variant['title']} {percent(variant['train'])}{noted(variant)}"))
                )
    return parts


def on_par(found: Interval) -> Verdict:
    return equal(found, MARGIN)


def mean(values: Sequence[float]) -> float:
    return interval(values).mean
