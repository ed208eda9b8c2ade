"""Recipe batch-size-scaling: steps to a target accuracy against the batch size, each method at its best rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...lab.recording import steps_to
from ...monitors.plots.style import METHOD_COLOURS, new_figure, tidy
from ..recipe import Claim, Data, Finding, Recipe, Request, Scale
from ..records import Records
from ..statistics import Interval, above, below, equal, every, interval
from ..tasks import reference
from .quadratic import draw_curves
from .quadratic_model import Rule, tuned
from .scaling_curve import SLACK, extent, perfect
from .scaling_search import Search

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# title: (method, rate at which the search starts at the smallest batch)
METHODS = {
    "SGD": ("sgd:momentum=0", 0.3),
    "momentum": ("sgd", 0.03),
    "Adam": ("adam", 0.001),
    "LARS": ("lars", 3.0),
    "LAMB": ("lamb", 0.003),
    "LAMBC": ("lambc", 0.003),
    "PercentDelta": ("percent-delta", 0.03),
    "Layca": ("layca", 0.01),
}
LAYERWISE = ("LARS", "LAMB", "LAMBC", "PercentDelta", "Layca")
MODEL = {  # of `quadratic_model`: the prediction beside it
    "SGD": Rule(),
    "momentum 0.9": Rule(momentum=0.9),
    "preconditioned, p = 1/2": Rule(power=0.5),
}
SEARCH_SEED = 1000

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
        "slope of log rate to log batch from the smallest batch to the end of SGD's perfect scaling: in 1 ± 0.35",
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


def search(scale: Scale) -> Search:
    data = scale.pick("digits-as-mnist", "mnist", "mnist")
    options = scale.pick({"width": 16, "depth": 1}, {"width": 64, "depth": 2}, {"width": 256, "depth": 3})
    target = scale.pick(0.15, 0.93, 0.97)

    def make(method: str, batch: int, lr: float, seed: int, steps: int) -> Request:
        return {
            "task": reference("images", data=data, model="mlp", options=options),
            "method": method, "lr": lr, "seed": seed, "batch_size": batch, "steps": steps,
            "schedule": "constant", "validation": 0.1, "eval_every": max(1, steps // 60), "eval_size": 2000,
            "record_every": steps, "threads": scale.pick(1, 1, None), "device": scale.device,
        }  # fmt: skip

    return Search(
        make,
        batches=scale.pick([64, 512], [2**place for place in range(5, 15)], [2**place for place in range(5, 16)]),
        first=scale.pick(24, 1000, 8000),
        least=scale.pick(3, 12, 12),
        target=target,
        seed=SEARCH_SEED,
        seeds=scale.seeds(2, 5, 5),
        further=scale.pick(0, 4, 4),
    )


def methods(scale: Scale) -> dict[str, tuple[str, float]]:
    few = ("SGD", "momentum", "LARS") if scale.name == "smoke" else tuple(METHODS)
    return {name: METHODS[name] for name in few}


def runs(scale: Scale, records: Records) -> Sequence[Request]:
    searched = search(scale)
    return [request for method, lr in methods(scale).values() for request in searched.walk(records, method, lr)[0]]


def measure(scale: Scale, records: Records) -> Data:
    """{"batches", "target", "methods": {title: rows a batch, each with lr, tried, steps of each seed}, "model"}."""
    searched = search(scale)
    found: dict[str, Any] = {}
    for name, (method, lr) in methods(scale).items():
        rows = []
        for stage in searched.walk(records, method, lr)[1]:
            curves = [None if record.diverged else record.curve for record in records.of(stage.tests)]
            steps = [None if curve is None else steps_to(curve, "test_score", searched.target) for curve in curves]
            tried = {f"{rate:g}": None if math.isinf(count) else count for rate, count in sorted(stage.tried.items())}
            row = {"batch": stage.batch, "lr": stage.lr, "edge": stage.edge, "tried": tried}
            rows.append({**row, "steps": steps or [None] * len(searched.seeds)})
        found[name] = rows
    sizes = [2.0**place for place in (range(0, 12, 2) if scale.name == "smoke" else range(2, 14))]
    dimensions, target = scale.pick((20, 0.1), (300, 0.05), (300, 0.05))
    model = {
        name: [row["steps"] for row in tuned(rule, sizes, dimensions, target, count=24, most=2**15)]
        for name, rule in MODEL.items()
    }
    return {
        "batches": list(searched.batches),
        "target": searched.target,
        "data": scale.pick("digits", "MNIST", "MNIST"),
        "methods": found,
        "model": {"batches": sizes, "dimensions": dimensions, "target": target, "steps": model},
    }


def by_seed(data: Data, name: str) -> list[list[float | None]]:
    """For each seed its steps at every batch size; None: the target was not reached."""
    return [list(values) for values in zip(*(row["steps"] for row in data["methods"][name]), strict=True)]


def mean_steps(row: dict[str, Any]) -> float | None:
    """Geometric mean over the seeds that reached the target, if at least half of them did."""
    logs = [math.log(value) for value in row["steps"] if value is not None]
    return math.exp(sum(logs) / len(logs)) if 2 * len(logs) >= len(row["steps"]) and logs else None


def ratio(data: Data, a: tuple[str, int], b: tuple[str, int], factor: float = 1.0) -> Interval | None:
    """Log of steps at (method, place of the batch) a over those at b times a factor, paired by seed.

    Seeds that did not reach the target at one of them are left out; None: all of them, or a method that was not run.
    """
    if not {a[0], b[0]} <= set(data["methods"]):
        return None
    pairs = [
        (first[a[1]], second[b[1]]) for first, second in zip(by_seed(data, a[0]), by_seed(data, b[0]), strict=True)
    ]
    logs = [math.log(x / (y * factor)) for x, y in pairs if x is not None and y is not None]
    return interval(logs) if logs else None


def extents(data: Data, name: str) -> list[float]:
    """Log2 of where perfect scaling ends, of each seed; nan: it does not reach the target at the smallest batch."""
    return [math.log2(extent(data["batches"], steps)) for steps in by_seed(data, name)]


def extends(data: Data, claim: Claim, name: str, other: str) -> Finding:
    """Whether perfect scaling of a method ends later than another's."""
    if not {name, other} <= set(data["methods"]):
        return Finding(claim, "not decided", "not run at this scale")
    both = zip(extents(data, name), extents(data, other), strict=True)
    pairs = [(x, y) for x, y in both if math.isfinite(x - y)]
    if not pairs:
        return Finding(claim, "not decided", "the target was not reached")
    found = interval([x - y for x, y in pairs])
    ends = [2 ** (sum(values) / len(values)) for values in zip(*pairs, strict=True)]
    text = f"{found.text()} octaves: {name} to batch {ends[0]:.0f}, {other} to {ends[1]:.0f}"
    return Finding(claim, above(found), text)


def factor(found: Interval | None) -> str:
    """The interval of a log, as a factor."""
    if found is None:
        return "target not reached, or not run at this scale"
    low, high = (math.exp(end) if math.isfinite(end) else end for end in (found.low, found.high))
    return f"{math.exp(found.mean):.2f} [{max(low, 0):.2f}, {high:.2f}]"


def judge(data: Data) -> list[Finding]:
    claims = {claim.key: claim for claim in CLAIMS}
    names = list(data["methods"])
    last = len(data["batches"]) - 1
    early = min(2, last)
    findings = []

    grown = data["batches"][early] / data["batches"][0]
    start = {name: ratio(data, (name, early), (name, 0), 1 / grown) for name in names}
    late = next(place for place, batch in enumerate(data["batches"]) if 4 * batch >= data["batches"][last])
    end = {name: ratio(data, (name, last), (name, late)) for name in names}
    said = {key: "; ".join(f"{name} {factor(found)}" for name, found in row.items()) for key, row in
            (("perfect", start), ("ends", end))}  # fmt: skip
    verdicts = [equal(found, math.log(1.5)) if found else "not decided" for found in start.values()]
    findings.append(Finding(claims["perfect"], every(verdicts), said["perfect"]))
    verdicts = [above(found, math.log(0.5)) if found else "not decided" for found in end.values()]
    findings.append(Finding(claims["ends"], every(verdicts), said["ends"]))

    small = ratio(data, ("momentum", 0), ("SGD", 0))
    findings.append(
        Finding(claims["momentum-small"], equal(small, math.log(1.3)) if small else "not decided", factor(small))
    )
    findings.append(extends(data, claims["momentum-extends"], "momentum", "SGD"))
    adam = ratio(data, ("Adam", last), ("momentum", last))
    findings.append(Finding(claims["adaptive"], below(adam) if adam else "not decided", factor(adam)))
    findings.append(rate_follows(data, claims["rate"]))
    findings += [extends(data, claims[f"{name.lower()}-extends"], name, "momentum") for name in ("LARS", "LAMB")]
    findings.append(as_modelled(data, claims["model"], last))
    return findings


def rate_follows(data: Data, claim: Claim) -> Finding:
    """Whether SGD's best rate is proportional to the batch, as far as its scaling is perfect."""
    rows = data["methods"]["SGD"]
    ends = [value for value in extents(data, "SGD") if math.isfinite(value)]
    edge = 2 ** (sum(ends) / len(ends)) if ends else 0
    within = [row for row in rows if row["batch"] <= max(edge, data["batches"][1]) and row["lr"]]
    if len(within) < 2:
        return Finding(claim, "not decided", "the target was not reached")
    first, final = within[0], within[-1]
    slope = math.log(final["lr"] / first["lr"]) / math.log(final["batch"] / first["batch"])
    text = f"slope {slope:.2f}: {first['lr']:g} at batch {first['batch']}, {final['lr']:g} at {final['batch']}"
    return Finding(claim, "holds" if abs(slope - 1) <= 0.35 else "does not hold", text)


def as_modelled(data: Data, claim: Claim, last: int) -> Finding:
    model = data["model"]["steps"]
    both = zip(model["SGD"], model["momentum 0.9"], strict=True)
    pairs = zip(by_seed(data, "SGD"), by_seed(data, "momentum"), strict=True)
    ends = [(a[last], b[last], a[0], b[0]) for a, b in pairs]
    grows = [math.log(a / b) - math.log(c / d) for a, b, c, d in ends if a and b and c and d]
    known = [(a, b) for a, b in both if a is not None and b is not None]
    if not grows or len(known) < 2:
        return Finding(claim, "not decided", "the target was not reached")
    (sgd_small, momentum_small), (sgd_large, momentum_large) = known[0], known[-1]
    predicted = math.log(sgd_large / momentum_large) - math.log(sgd_small / momentum_small)
    found = interval(grows)
    verdict = above(found) if predicted > 0 else "does not hold"
    return Finding(claim, verdict, f"by a factor of {factor(found)}; the model: {math.exp(predicted):.2f}")


def draw(data: Data) -> Figure:
    """Steps against the batch beside the model's prediction, and the best rates (Shallue et al., figures 1 and 8)."""
    figure = new_figure(13, 5)
    left, middle, right = figure.subplots(1, 3)
    sizes = data["batches"]
    for axes in (left, right):
        tidy(axes)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("batch size")
    ideal: list[tuple[float, float]] = []
    for number, (name, rows) in enumerate(data["methods"].items()):
        colour = METHOD_COLOURS[number % len(METHOD_COLOURS)]
        how: dict[str, Any] = {"color": colour, "linestyle": "-" if number < len(METHOD_COLOURS) else "--"}
        steps = [mean_steps(row) for row in rows]
        shown = [math.nan if value is None else value for value in steps]
        left.plot(sizes[: len(shown)], shown, marker="o", markersize=4, linewidth=1.5, label=name, **how)
        for row in rows:
            known = [value for value in row["steps"] if value is not None]
            left.plot([row["batch"]] * len(known), known, ".", color=colour, markersize=2.5, alpha=0.5)
        if name == "momentum" and any(value is not None for value in steps):
            ideal = list(zip(sizes, perfect(sizes, steps), strict=False))
        rates = [(row["batch"], row["lr"]) for row in rows if row["lr"] and mean_steps(row) is not None]
        if rates:
            right.plot([b for b, _ in rates], [lr / rates[0][1] for _, lr in rates], marker="o", markersize=4, **how)
    bottom = min((s for rows in data["methods"].values() for row in rows for s in row["steps"] if s), default=1)
    inside = [(b, value) for b, value in ideal if value >= bottom]
    if inside:
        left.plot(*zip(*inside, strict=True), color="0.5", linestyle=":", linewidth=1.2, label="perfect scaling")
    left.set_ylabel("steps to the target")
    left.set_title(f"trained: test accuracy {100 * data['target']:g}%", fontsize=10)
    model = data["model"]
    draw_curves(middle, model["batches"], model["steps"])
    middle.set_title("noisy quadratic model", fontsize=10)
    middle.set_xlabel("batch size (noise of one example = curvature)")
    middle.legend(frameon=False, fontsize=8)
    linear = [batch / sizes[0] for batch in sizes]
    right.plot(sizes, linear, color="0.5", linestyle=":", linewidth=1.2)
    right.set_ylabel("best rate / best rate at the smallest batch")
    right.set_title("best rate (dotted: proportional to the batch)", fontsize=10)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=9, frameon=False, fontsize=9)
    seeds = max((len(row["steps"]) for rows in data["methods"].values() for row in rows), default=0)
    figure.suptitle(f"Steps to a target against the batch size: {data['data']}, MLP, {seeds} seeds", fontsize=11)
    return figure


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
            "each batch with its own seed; 5 seeds at the best. Shallue et al. tune momentum and schedule as well.",
            "paper": "The same with three hidden layers of 256, to 97%, batch 32 to 32,768.",
        },
        runs=runs,
        measure=measure,
        judge=judge,
        draw=draw,
    ),
)
