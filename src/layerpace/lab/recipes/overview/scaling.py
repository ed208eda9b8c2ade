"""Recipe batch-size-scaling: steps to a target accuracy against the batch size, each method at its best rate."""

from __future__ import annotations

import math
from functools import partial
from statistics import linear_regression

from ..recipe import Claim, Data, Finding, Recipe
from ..statistics import above, below, equal, every, interval
from .scaling_curve import SLACK
from .scaling_measures import compared, log_ratios, mean_extent, octaves, ratio, said_extent
from .scaling_pictures import draw
from .scaling_runs import measure, runs
from .scaling_search import PATIENCE

CLAIMS = (
    Claim(
        "perfect", "Shallue et al., section 4.1", "At small batches, doubling the batch halves the steps.",
        "steps(4 B0) / (steps(B0) / 4), mean of logs over seeds, each method: 95% interval within a factor of 1.5",
    ),
    Claim(
        "ends", "Shallue et al., section 4.1", "At large batches, a larger batch saves hardly any steps.",
        "steps at the largest batch / steps at a quarter of it, mean of logs over seeds, each method: 95% interval "
        "above 0.5 (perfect scaling: 0.25)",
    ),
    Claim(
        "momentum-small", "Shallue et al., section 4.2", "At the smallest batch momentum needs as many steps as SGD.",
        "log of steps of momentum / steps of SGD, paired by seed: 95% interval within a factor of 1.3",
    ),
    Claim(
        "momentum-extends", "overview, slide Momentum Pros/Cons", "Momentum extends perfect scaling to larger batches.",
        f"log2 of the batch where steps exceed {SLACK} times perfect scaling's, momentum - SGD, paired by seed: 95% "
        "interval above 0",
    ),
    Claim(
        "adaptive", "Zhang et al., section 4", "Adam needs fewer steps than momentum at the largest batch.",
        "log of steps of Adam / steps of momentum, paired by seed: 95% interval below 0",
    ),
    Claim(
        "rate", "overview, slide Other Optimization Methods",
        "As the batch doubles within perfect scaling, SGD's best rate doubles.",
        "slope of log rate to log batch (least squares) from the smallest batch to the end of SGD's perfect scaling: "
        "in 1 ± 0.35; a point estimate of the search's one seed, without an interval",
    ),
    *(
        Claim(
            f"{name.lower()}-extends", "overview, slide Other Optimization Methods",
            f"{name} scales to larger batches than momentum does.",
            f"log2 of the batch where steps exceed {SLACK} times perfect scaling's, {name} - momentum, paired by seed: "
            "95% interval above 0",
        )
        for name in ("LARS", "LAMB")
    ),
    Claim(
        "model", "Zhang et al., section 4",
        "The noisy quadratic model predicts that momentum's advantage over SGD grows with the batch.",
        "log of steps of SGD / steps of momentum, at the largest batch - at the smallest, paired by seed: 95% interval "
        "above 0, and the model's above 0",
    ),
)  # fmt: skip


def judge(data: Data) -> list[Finding]:
    """Claim by claim; one with a seed that missed the target is not decided."""
    found = {claim.key: claim for claim in CLAIMS}
    last = len(data["batches"]) - 1
    small = ratio(data, ("momentum", 0), ("SGD", 0))
    adam = ratio(data, ("Adam", last), ("momentum", last))
    return [
        at_small_batches(data, found["perfect"]),
        at_large_batches(data, found["ends"]),
        Finding(found["momentum-small"], small.verdict(partial(equal, margin=math.log(1.3))), small.text),
        extends(data, found["momentum-extends"], "momentum", "SGD"),
        Finding(found["adaptive"], adam.verdict(below), adam.text),
        rate_follows(data, found["rate"]),
        extends(data, found["lars-extends"], "LARS", "momentum"),
        extends(data, found["lamb-extends"], "LAMB", "momentum"),
        as_modelled(data, found["model"]),
    ]


def at_small_batches(data: Data, claim: Claim) -> Finding:
    """Whether steps halve as the batch doubles twice."""
    sizes = data["batches"]
    early = min(2, len(sizes) - 1)
    found = {name: ratio(data, (name, early), (name, 0), sizes[early] / sizes[0]) for name in data["methods"]}
    verdicts = [one.verdict(partial(equal, margin=math.log(1.5))) for one in found.values()]
    return Finding(claim, every(verdicts), "; ".join(f"{name} {one.text}" for name, one in found.items()))


def at_large_batches(data: Data, claim: Claim) -> Finding:
    """Whether steps hardly fall from a quarter of the largest batch on; and where perfect scaling ends."""
    sizes = data["batches"]
    late = next(place for place, batch in enumerate(sizes) if 4 * batch >= sizes[-1])
    found = {name: ratio(data, (name, len(sizes) - 1), (name, late)) for name in data["methods"]}
    verdicts = [one.verdict(partial(above, threshold=math.log(0.5))) for one in found.values()]
    said = "; ".join(f"{name} {one.text}" for name, one in found.items())
    where = ", ".join(f"{name} {said_extent(ends)}" for name, ends in data["extents"].items())
    return Finding(claim, every(verdicts), f"{said}. Perfect scaling ends at batch: {where}")


def extends(data: Data, claim: Claim, name: str, other: str) -> Finding:
    """Whether perfect scaling of a method ends later than another's; where an end is open, in every case."""
    if not {name, other} <= set(data["methods"]):
        return Finding(claim, "not decided", "not run at this scale")
    mine, theirs = data["extents"][name], data["extents"][other]
    where = f"{name} to batch {said_extent(mine)}, {other} to {said_extent(theirs)}"
    found = octaves(mine, theirs)
    if found is None:
        return Finding(claim, "not decided", where)
    least, most = found
    if least == most:
        known = interval(least)
        return Finding(claim, above(known), f"{known.text()} octaves: {where}")
    if all(map(math.isfinite, least)) and above(interval(least)) == "holds":
        return Finding(claim, "holds", f"at least {interval(least).text()} octaves: {where}")
    if all(map(math.isfinite, most)) and above(interval(most)) == "does not hold":
        return Finding(claim, "does not hold", f"at most {interval(most).text()} octaves: {where}")
    return Finding(claim, "not decided", where)


def rate_follows(data: Data, claim: Claim) -> Finding:
    """Whether SGD's best rate is proportional to the batch, as far as its scaling is perfect."""
    end = mean_extent(data["extents"]["SGD"])
    if end is None:
        return Finding(claim, "not decided", "the target was not reached by every seed at the smallest batch")
    rows = [row for row in data["methods"]["SGD"] if row["batch"] <= max(end, data["batches"][1]) and row["lr"]]
    if len(rows) < 2:
        return Finding(claim, "not decided", "the target was not reached")
    slope = linear_regression([math.log(row["batch"]) for row in rows], [math.log(row["lr"]) for row in rows]).slope
    first, final = rows[0], rows[-1]
    text = f"slope {slope:.2f} over {len(rows)} batches, one seed: {first['lr']:g} at batch {first['batch']}, "
    text += f"{final['lr']:g} at {final['batch']}"
    return Finding(claim, "holds" if abs(slope - 1) <= 0.35 else "does not hold", text)


def as_modelled(data: Data, claim: Claim) -> Finding:
    """Whether momentum's advantage grows with the batch, here and in the model."""
    model = data["model"]["steps"]
    both = zip(model["SGD"], model["momentum 0.9"], strict=True)
    known = [math.log(a / b) for a, b in both if a is not None and b is not None]
    small, large = (log_ratios(data, ("SGD", at), ("momentum", at)) for at in (0, -1))
    grows = compared([None if a is None or b is None else b - a for a, b in zip(small, large, strict=True)])
    if len(known) < 2:
        return Finding(claim, "not decided", "the model does not reach its target")
    predicted = known[-1] - known[0]
    verdict = grows.verdict(above) if predicted > 0 else "does not hold"
    return Finding(claim, verdict, f"by a factor of {grows.text}; the model: {math.exp(predicted):.2f}")


RECIPES = (
    Recipe(
        name="batch-size-scaling",
        paper="overview",
        shows=("slides Momentum Pros/Cons and Other Optimization Methods", "Shallue et al. 2019", "Zhang et al. 2019"),
        title="Steps to a target accuracy against the batch size, each method at its best rate",
        claims=CLAIMS,
        setup={
            "smoke": "Digits, one hidden layer of 16, batches of 64 and 512, three methods, 2 seeds.",
            "cpu": "MNIST (54,000 examples; 6,000 held out for the rates), two hidden layers of 64, batch 32 to "
            "16,384, constant rate, to 93% test accuracy (2000 images); rates in factors of the root of 3, searched at "
            "each batch with its own seed; 5 seeds at the best, of which one that misses the target "
            f"in {PATIENCE:g} times the search's steps leaves its claims undecided. Shallue et al. tune momentum and "
            "schedule as well.",
            "paper": "The same with three hidden layers of 256, to 97%, batch 32 to 32,768.",
        },
        runs=runs,
        measure=measure,
        judge=judge,
        draw=draw,
    ),
)
