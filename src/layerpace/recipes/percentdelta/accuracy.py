"""PercentDelta, figure 2: test accuracy of PercentDelta, AdaGrad, Adam and LARS on MNIST, and the claims on it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from ..recipe import Claim, Data, Finding, Recipe, Scale
from ..records import Record, Records
from ..statistics import Interval, above, difference, every, percent
from .common import CHANCE, rounded, score, test_accuracy
from .plan import MOMENTA, ROWS, Setting, beside, momenta, request, rows, runs, size, tuned
from .rows import draw

THINNED = 50  # points of a line that are kept of a tuning run

EARLY = Claim(
    key="early",
    where="section 5.2, figure 2",
    says="In early stages, MNIST test accuracy climbs up the fastest with PercentDelta.",
    paper="left column: the highest line",
    test="test accuracy, mean over steps 30, 50, 100 and 200, PercentDelta minus each other method at its best "
    "setting, paired by seed: 95% interval above 0 for all three",
)
HIGHEST = Claim(
    key="highest",
    where="section 5.2, figure 2",
    says="The final test accuracy of PercentDelta is higher than the others', after 5000 steps.",
    paper="last row: the highest line",
    test="accuracy on the whole test set at the end, PercentDelta minus each other method at its best setting, paired "
    "by seed: 95% interval above 0 for all three",
)


def measure(scale: Scale, records: Records) -> Data:
    found = size(scale)
    return {
        "scale": scale.name,
        "steps": {"tuning": found.tuning, "early": found.early, "whole": found.whole},
        "marks": list(found.marks),
        "momenta": {name: tried(scale, records, setting) for name, setting in zip(MOMENTA, momenta(), strict=True)},
        "slow_lars": [
            {"label": setting.label(found.whole), "lr": setting.lr, **tried(scale, records, setting)}
            for setting in beside(found)
        ],
        "rows": {name: row(scale, records, settings) for name, settings in rows(scale, records).items()},
    }


def tried(scale: Scale, records: Records, setting: Setting) -> dict[str, Any]:
    """Of one seed: validation accuracy at the end of the tuning run, and test accuracies of the early run."""
    early = records[request(scale, setting, "early")]
    validation = score(records[request(scale, setting, "tuning")])
    return {
        "validation": None if validation < 0 else round(validation, 4),
        "marks": rounded(accuracies(early, size(scale).marks)),
    }


def row(scale: Scale, records: Records, settings: list[Setting]) -> dict[str, Any]:
    """One row of the figure: a line for each setting, and the best one's seeds."""
    found = size(scale)
    place = tuned(scale, records, settings)
    if place is None:
        raise ValueError("a row is measured when its tuning runs are finished")
    lines = [
        {
            "label": setting.label(found.whole),
            "method": setting.method,
            "lr": setting.lr,
            **tried(scale, records, setting),
            "early": line(records[request(scale, setting, "early")]),
            "curve": line(records[request(scale, setting, "tuning")], THINNED),
        }
        for setting in settings
    ]
    early = [records[request(scale, settings[place], "early", seed)] for seed in range(found.early_seeds)]
    whole = [records[request(scale, settings[place], "whole", seed)] for seed in range(found.seeds)]
    return {
        "settings": lines,
        "best": place,
        "early": mean_line(early),
        "whole": mean_line(whole),
        "marks": [rounded(accuracies(record, found.marks)) for record in early],
        "end": rounded([test_accuracy(record) for record in whole], 5),
    }


def accuracies(record: Record, steps: Sequence[int]) -> list[float]:
    """Test accuracies at these steps; chance from where a run diverged."""
    known = {point["step"]: point["test_score"] for point in record.curve}
    return [known.get(step, CHANCE) for step in steps]


def line(record: Record, most: int | None = None) -> dict[str, list[Any]]:
    """The test accuracy's curve, with at most about ``most`` points."""
    points = record.curve
    stride = 1 if most is None else max(1, len(points) // most)
    points = points[::stride]
    return {"step": [p["step"] for p in points], "accuracy": rounded([p["test_score"] for p in points])}


def mean_line(records: list[Record]) -> dict[str, list[Any]]:
    """Mean, lowest and highest of the seeds."""
    steps = sorted({point["step"] for record in records for point in record.curve})
    columns = list(zip(*(accuracies(record, steps) for record in records), strict=True))
    return {
        "step": steps,
        "mean": rounded([statistics.fmean(values) for values in columns]),
        "low": rounded([min(values) for values in columns]),
        "high": rounded([max(values) for values in columns]),
    }


def judge(data: Data) -> list[Finding]:
    marks = {name: found["marks"] for name, found in data["rows"].items()}
    ends = {name: found["end"] for name, found in data["rows"].items()}
    climbed = {name: [statistics.fmean(values) for values in seeds] for name, seeds in marks.items()}
    early = {name: difference(climbed["PercentDelta"], climbed[name]) for name in ROWS[1:]}
    end = {name: difference(ends["PercentDelta"], ends[name]) for name in ROWS[1:]}
    levels = "; ".join(f"{name} {'/'.join(mean_at(seeds))}" for name, seeds in marks.items())
    chosen = data["rows"]["PercentDelta"]["settings"][data["rows"]["PercentDelta"]["best"]]
    used = next(name for name, method in MOMENTA.items() if method == chosen["method"])
    tried = "; ".join(f"{name}: {'/'.join(mean_at([one['marks']]))}" for name, one in data["momenta"].items())
    slow = max(data["slow_lars"], key=lambda one: one["validation"] or 0.0)
    where = "/".join(map(str, data["marks"]))
    return [
        Finding(
            EARLY,
            every([above(found) for found in early.values()]),
            f"PercentDelta minus {against(early)}; at steps {where}, %: {levels}. Momentum of the figure: {used} "
            f"(one seed, {tried})",
        ),
        Finding(
            HIGHEST,
            every([above(found) for found in end.values()]),
            f"{', '.join(f'{name} {percent(values)}' for name, values in ends.items())}; PercentDelta minus "
            f"{against(end)}. Validation after {data['steps']['tuning']} steps: PercentDelta "
            f"{shown(chosen['validation'])}, LARS with PercentDelta's decay instead of m = 0.01 "
            f"{shown(slow['validation'])} (one seed each)",
        ),
    ]


def mean_at(seeds: Sequence[Sequence[float]]) -> list[str]:
    """Mean over seeds at each of the marks, in percent."""
    return [f"{100 * statistics.fmean(values):.1f}" for values in zip(*seeds, strict=True)]


def against(differences: dict[str, Interval]) -> str:
    return ", ".join(f"{name} {found.text(100)}" for name, found in differences.items()) + " points"


def shown(validation: float | None) -> str:
    return "diverged" if validation is None else f"{100 * validation:.2f}%"


RECIPE = Recipe(
    name="percentdelta-figure-2",
    paper="percentdelta",
    shows=("figure 2",),
    title="Test accuracy on MNIST: PercentDelta, AdaGrad, Adam, LARS, a range of settings each",
    claims=(EARLY, HIGHEST),
    setup={
        "smoke": "scikit-learn's digits in MNIST's shape, digits-cnn, 6 steps.",
        "cpu": "MNIST, the paper's network, batch 500, bf16. Four settings a method: 1000 steps with a tenth held out, "
        "one seed, and 200 steps with an evaluation every 5. The best by validation: 3 seeds of 5000 steps, 5 seeds of "
        "200. PercentDelta: lr 0.03 and a range of m, given as m times the steps of the whole run, which tuning runs "
        "keep; its momentum is the best of three by validation (heavy ball at 0.9 would change tensors by 0.3 a step, "
        "and diverges). AdaGrad and Adam: constant rates. LARS: momentum 0.9, m = 0.01, trust coefficient 1.",
        "paper": "The same in float32 with 5000 steps for every setting, 5 seeds, an evaluation on the whole test set "
        "every 5 steps.",
    },
    runs=runs,
    measure=measure,
    judge=judge,
    draw=draw,
)
