"""Section 6.1's three settings: their runs, what is measured of them, and how the claims are decided.

Every method has its rate tuned on validation: four rates a factor of three apart, and further ones while the best is at
an end. With it, it trains on seeds of its own, with the whole training set. All have the linear decay. How fast a
tensor trains is the median over the run of its relative update, |dW|_1 / |W|_1; a group of tensors has the geometric
mean of theirs.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..recipe import Claim, Data, Finding, Request, Scale
from ..records import Record, Records
from ..statistics import Interval, above, difference, equal, every, interval
from .common import TUNING_SEED, best, further, rounded
from .made_tasks import reference

SPECS = {"PercentDelta": "percent-delta", "SGD": "sgd", "Adam": "adam", "LARS": "lars:trust_coefficient=1"}
RATES = {
    "PercentDelta": (0.01, 0.03, 0.1, 0.3),
    "PercentDelta, rows": (0.1, 0.3, 1.0, 3.0),
    "SGD": (0.03, 0.1, 0.3, 1.0),
    "Adam": (0.001, 0.003, 0.01, 0.03),
    "LARS": (0.001, 0.003, 0.01, 0.03),
}
MOST_RATES = 7
ALIKE = 0.5  # decades: a factor of 3.2
POINTS = 20  # evaluations of a run, and records of its tensors


@dataclass(frozen=True)
class Setting:
    """One of the three.

    Attributes:
        task: function of `made_tasks`.
        arguments: of it, by scale.
        group: title of the tensors that the paper expects to be fast, and what their names begin with.
        rest: title of the others.
        squared: the metric is minus a squared error, and its root is what is shown: lower is better.
        worst: the figure that a diverged run counts with, in units of what is shown.
        specs: methods.
        batch, steps: by scale.
        proportion, useful, lars: the claims.
    """

    task: str
    arguments: Mapping[str, Mapping[str, Any]]
    group: str
    names: tuple[str, ...]
    rest: str
    metric: str
    squared: bool
    worst: float
    batch: Mapping[str, int]
    steps: Mapping[str, int]
    proportion: Claim
    useful: Claim
    lars: Claim
    specs: Mapping[str, str] = field(default_factory=lambda: SPECS)

    @property
    def claims(self) -> tuple[Claim, ...]:
        return self.proportion, self.useful, self.lars

    def shown(self, score: float | None) -> float:
        """The figure of a score: a root mean squared error, or the score itself."""
        if score is None:
            return self.worst
        return math.sqrt(max(-score, 0.0)) if self.squared else score

    def fast(self, tensor: str) -> bool:
        return tensor.startswith(self.names)


def request(setting: Setting, scale: Scale, name: str, rate: float, seed: int, tuning: bool) -> Request:
    steps = setting.steps[scale.name]
    often = max(1, steps // POINTS)
    return {
        "task": reference(setting.task, **setting.arguments[scale.name]),
        "method": setting.specs[name],
        "lr": rate,
        "seed": seed,
        "steps": steps,
        "batch_size": setting.batch[scale.name],
        "schedule": "linear",
        "eval_every": steps if tuning else often,
        "eval_size": 2000,
        "record_every": steps if tuning else often,
        "device": scale.device,
        "threads": scale.pick(1, 1, None),
        **({"validation": 0.1} if tuning else {}),
    }


def tuning_seeds(scale: Scale) -> range:
    return range(TUNING_SEED, TUNING_SEED + scale.pick(1, 2, 2))


def seeds(scale: Scale) -> range:
    return scale.seeds(2, 5, 5)


def tuned(setting: Setting, scale: Scale, records: Records, name: str) -> tuple[dict[float, float | None], bool]:
    """(rates to try, with their mean validation scores as far as they are known; whether the search is over)."""
    rates = list(RATES[name])[: scale.pick(2, 4, 4)]
    while True:
        found = {rate: validation(setting, scale, records, name, rate) for rate in sorted(rates)}
        if None in found.values():
            return found, False
        place = best([score for score in found.values() if score is not None])
        inside = 0 < place < len(rates) - 1
        if inside or scale.name == "smoke" or len(rates) >= MOST_RATES:
            return found, True
        rates.append(further(max(rates), up=True) if place else further(min(rates), up=False))


def validation(setting: Setting, scale: Scale, records: Records, name: str, rate: float) -> float | None:
    """Mean over the tuning seeds; None: not all are finished; -inf: one has diverged."""
    requests = [request(setting, scale, name, rate, seed, True) for seed in tuning_seeds(scale)]
    if not records.have(requests):
        return None
    found = records.of(requests)
    if any(record.diverged for record in found):
        return -math.inf
    return statistics.fmean(record.result["validation_score"] for record in found)


def chosen(found: Mapping[float, float | None]) -> float:
    """The rate with the best score."""
    return max(found, key=lambda rate: -math.inf if found[rate] is None else found[rate])  # type: ignore[arg-type,return-value]


def runs(setting: Setting, scale: Scale, records: Records) -> list[Request]:
    wanted: list[Request] = []
    for name in setting.specs:
        found, over = tuned(setting, scale, records, name)
        wanted += [request(setting, scale, name, rate, seed, True) for rate in found for seed in tuning_seeds(scale)]
        if over:
            wanted += [request(setting, scale, name, chosen(found), seed, False) for seed in seeds(scale)]
    return wanted


def measure(setting: Setting, scale: Scale, records: Records) -> Data:
    methods = {}
    for name in setting.specs:
        found, _ = tuned(setting, scale, records, name)
        rate = chosen(found)
        own = records.of([request(setting, scale, name, rate, seed, False) for seed in seeds(scale)])
        speeds = [relative_updates(record) for record in own]
        test, train = (
            [None if record.diverged else record.result[f"{part}_score"] for record in own]
            for part in ("test", "train")
        )
        steps, values = curve(setting, own)
        methods[name] = {
            "lr": rate,
            "tuning": [[lr, None if score in (None, -math.inf) else rounded([setting.shown(score)])[0]]
                       for lr, score in found.items()],
            "test": rounded([setting.shown(score) for score in test], 5),
            "train": rounded([setting.shown(score) for score in train], 5),
            "steps": steps,
            "curve": values,
            "updates": {
                tensor: float(f"{geometric([speed[tensor] for speed in speeds]):.3g}") for tensor in speeds[0]
            },
            "ratio": rounded([ratio(setting, speed) for speed in speeds]),
        }  # fmt: skip
    return {"scale": scale.name, "methods": methods}


def relative_updates(record: Record) -> dict[str, float]:
    """Of each tensor, the median over the run but for its first step. A tensor in rows has the rows' mean."""
    found: dict[str, list[float]] = {}
    for layer in record.history.layers:
        values = [value for value in record.series("relative_update_l1", layer)[1][1:] if math.isfinite(value)]
        found.setdefault(layer.partition("[")[0].removesuffix(".weight"), []).append(
            statistics.median(values) if values else 0.0
        )
    return {tensor: statistics.fmean(values) for tensor, values in found.items()}


def geometric(values: list[float]) -> float:
    return math.exp(statistics.fmean(math.log(max(value, 1e-12)) for value in values))


def ratio(setting: Setting, speeds: Mapping[str, float]) -> float:
    """log10 of the relative update of the group over that of the rest."""
    group = geometric([speed for tensor, speed in speeds.items() if setting.fast(tensor)])
    return math.log10(group / geometric([speed for tensor, speed in speeds.items() if not setting.fast(tensor)]))


def curve(setting: Setting, records: list[Record]) -> tuple[list[int], list[float]]:
    """(steps, mean over the seeds of what is shown)."""
    points = [{point["step"]: setting.shown(point["test_score"]) for point in record.curve} for record in records]
    steps = sorted(set.union(*(set(known) for known in points)))
    return steps, rounded([statistics.fmean(known.get(step, setting.worst) for known in points) for step in steps])


def judge(setting: Setting, data: Data) -> list[Finding]:
    methods = data["methods"]
    sign = -1.0 if setting.squared else 1.0
    unit, factor = ("", 1.0) if setting.squared else (" points", 100.0)

    def gain(name: str) -> Interval:
        return difference([sign * x for x in methods[name]["test"]], [sign * x for x in methods["SGD"]["test"]])

    own = interval(methods["PercentDelta"]["ratio"])
    more = difference([abs(x) for x in methods["SGD"]["ratio"]], [abs(x) for x in methods["PercentDelta"]["ratio"]])
    ratios = ", ".join(f"{name} {interval(found['ratio']).text()}" for name, found in methods.items())
    digits = 4 if setting.squared else 2
    means = ", ".join(
        f"{name} {factor * statistics.fmean(found['test']):.{digits}f}" for name, found in methods.items()
    )
    title = f"{setting.metric}{'' if setting.squared else ', %'}: {means}"
    return [
        Finding(
            setting.proportion,
            every([equal(own, ALIKE), above(more)]),
            f"log10 of {setting.group} over {setting.rest}: {ratios}; SGD's distance from 0 minus PercentDelta's "
            f"{more.text()}",
        ),
        *(
            Finding(
                claim, above(gain(name)), f"{name} better than SGD by {gain(name).text(factor, unit, digits)}; {title}"
            )
            for claim, name in ((setting.useful, "PercentDelta"), (setting.lars, "LARS"))
        ),
    ]
