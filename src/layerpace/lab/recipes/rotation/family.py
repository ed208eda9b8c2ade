"""The runs that most figures of the layer rotation paper share, and what is measured of them.

The learning rate of a `Variant` is searched for by the accuracy on held-out training examples and the first seed.
`plan` asks for the search, and once it is over for the other seeds at the best rate; `measured` says what came of them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...sweep.cells import Cells, key
from ...sweep.objective import Objective
from ...sweep.rates import Rates, at
from ...sweep.rates import Settings as Search
from ..recipe import Data, Request, Scale
from ..records import Record, Records
from .trainings import Setting
from .variants import ADAPTIVE, Variant

LR = "lr"


def searcher(records: Records, cells: Sequence[Request], search: Search) -> tuple[Rates, list[Request]]:
    """The search of appendix B.2 over requests without a rate, told all that the records hold, and what it wants."""
    made = Rates(search, Objective(), Cells(cells, (LR,)))
    told: set[str] = set()
    while True:
        wanted = [run for cell in made.cells for rate in made.wanted(cell) for run in cell.runs(at(rate))]
        fresh = [dict(run) for run in wanted if run in records and key(run) not in told]
        if not fresh:
            return made, [dict(run) for run in wanted]
        for run in fresh:
            told.add(key(run))
            made.tell(run, records[run].result)


def without_rate(variant: Variant, scale: Scale, setting: Setting, seed: int) -> Request:
    found = variant.request(scale, setting, 1.0, seed)
    del found[LR]
    return found


def tuned(
    scale: Scale, records: Records, setting: Setting, variant: Variant
) -> tuple[list[Request], float | None, dict[float, float | None]]:
    """The runs of a variant's search, its best rate (None: not known yet), and the validation score at each rate."""
    made, wanted = searcher(records, [without_rate(variant, scale, setting, 0)], variant.search(scale, setting))
    if not records.have(wanted):
        return wanted, None, {}
    scores = {run[LR]: records[run].result.get("validation_score") for run in wanted}
    return wanted, made.best()[0][1], scores


def plan(
    scale: Scale, records: Records, settings: Sequence[Setting], variants: Sequence[Variant], seeds: int | None = None
) -> list[Request]:
    """Searches, and as they end the seeds at their best rates."""
    asked: dict[str, Request] = {}
    for setting in settings:
        for variant in (variant for variant in variants if variant.on(setting)):
            wanted, best, _ = tuned(scale, records, setting, variant)
            if best is not None:
                wanted = wanted + runs(scale, setting, variant, best, seeds)
            asked.update((key(run), run) for run in wanted)
    return list(asked.values())


def seeds_of(scale: Scale, variant: Variant, seeds: int | None = None) -> range:
    return range(seeds) if seeds is not None else scale.seeds(2, variant.seeds, 5)


def runs(scale: Scale, setting: Setting, variant: Variant, lr: float, seeds: int | None = None) -> list[Request]:
    return [variant.request(scale, setting, lr, seed) for seed in seeds_of(scale, variant, seeds)]


# Measures of one run, by name; each gives something JSON-like.
Measure = Callable[[Record], Any]


def rounded(values: Sequence[float | None], digits: int = 4) -> list[float | None]:
    return [None if value is None else float(f"{value:.{digits}g}") for value in values]


def rotation(record: Record) -> dict[str, Any]:
    """Layer rotation curves: cosine distance to the initial weights."""
    return curves(record, "cosine_distance")


def curves(record: Record, quantity: str) -> dict[str, Any]:
    """{"steps", "layers": {name: values}}."""
    found: dict[str, Any] = {"steps": [], "layers": {}}
    for layer in record.layers:
        steps, values = record.series(quantity, layer)
        found["steps"] = steps
        found["layers"][layer.removesuffix(".weight")] = rounded(values)
    return found


def learning(record: Record) -> dict[str, list[Any]]:
    """Loss and accuracy at the evaluations."""
    return {
        name: rounded([row.get(name) for row in record.curve])
        if name != "step"
        else [row[name] for row in record.curve]
        for name in ("step", "train_loss", "test_score")
    }


def turned(record: Record) -> tuple[float, float]:
    """The layers' final cosine distances: their median, and their standard deviation over their mean.

    A run that diverged counts with what it recorded last; both are 0 where that is nothing.
    """
    series = [record.series("cosine_distance", layer)[1] for layer in record.layers]
    last = [values[-1] for values in series if values and math.isfinite(values[-1])]
    if not last:
        return 0.0, 0.0
    mean = statistics.fmean(last)
    return round(statistics.median(last), 4), round(statistics.pstdev(last) / max(mean, 1e-12), 4)


def measured(
    scale: Scale,
    records: Records,
    setting: Setting,
    variant: Variant,
    first: Mapping[str, Measure] | None = None,
    each: Mapping[str, Measure] | None = None,
    seeds: int | None = None,
) -> Data:
    """What came of a variant: scores of every seed, how far its layers turned, and how alike.

    Args:
        first: measured of the first seed's run alone.
        each: measured of every run; a list, seed by seed.

    Returns:
        title; rate: the learning rate; tried: {rate: validation score of the search}; test, train: scores seed by seed
        (0 where it diverged); height: the median layer's final cosine distance to the initial weights; spread: the
        layers' standard deviation over their mean; and `first` and `each` by their names.
    """
    _, best, scores = tuned(scale, records, setting, variant)
    if best is None:
        raise ValueError(f"{setting.key}, {variant.key}: its search is not over")
    return measured_at(scale, records, setting, variant, best, scores, first, each, seeds)


def measured_at(
    scale: Scale,
    records: Records,
    setting: Setting,
    variant: Variant,
    best: float,
    scores: Mapping[float, float | None],
    first: Mapping[str, Measure] | None = None,
    each: Mapping[str, Measure] | None = None,
    seeds: int | None = None,
) -> Data:
    """As `measured`, at a learning rate that is given, with the validation score of each that was tried."""
    found = records.of(runs(scale, setting, variant, best, seeds))
    title = setting.adaptive[2] if variant is ADAPTIVE else variant.title
    data: Data = {
        "title": title,
        "rate": best,
        "tried": {f"{rate:.4g}": score for rate, score in sorted(scores.items())},
        "test": [record.result.get("test_score") or 0.0 for record in found],
        "train": [record.result.get("train_score") or 0.0 for record in found],
        "height": [],
        "spread": [],
    }
    for record in found:
        height, spread = turned(record)
        data["height"].append(height)
        data["spread"].append(spread)
    for name, measure in (first or {}).items():
        data[name] = measure(found[0])
    for name, measure in (each or {}).items():
        data[name] = [measure(record) for record in found]
    return data


def table(
    scale: Scale,
    records: Records,
    settings: Sequence[Setting],
    variants: Sequence[Variant],
    **options: Any,
) -> Data:
    """{"scale", "tasks": [{"key", "title", "epoch": steps of one, "variants": {key: see `measured`}}]}."""
    rows = []
    for setting in settings:
        found = {
            variant.key: measured(scale, records, setting, variant, **options)
            for variant in variants
            if variant.on(setting)
        }
        rows.append({"key": setting.key, "title": setting.title, "epoch": setting.epoch(), "variants": found})
    return {"scale": scale.name, "tasks": rows}
