"""PercentDelta, figure 2: test accuracy of PercentDelta, AdaGrad, Adam and LARS on MNIST, and the claims on it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from ..recipe import Claim, Data, Finding, Recipe, Scale
from ..records import Record, Records
from ..statistics import Interval, above, difference, every, percent
from .common import CHANCE, rounded, score, test_accuracy
from .figure_2_picture import draw
from .figure_2_runs import MOMENTA, ROWS, SLOW_LARS, Setting, at_end, momenta, request, rows, runs, size, tuned

THINNED = 25  # points of a line that are kept of a tuning run

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
        "momenta": {
            name: {label: validation(scale, records, setting) for label, setting in momenta(name).items()}
            for name in MOMENTA
        },
        "slow_lars": validation(scale, records, SLOW_LARS),
        "rows": {name: row(scale, records, settings) for name, settings in rows(scale, records).items()},
    }


def validation(scale: Scale, records: Records, setting: Setting) -> float | None:
    """Accuracy at the end of the tuning run, of one seed; None: it diverged."""
    found = score(records[request(scale, setting, "tuning")])
    return None if found < 0 else round(found, 4)


def row(scale: Scale, records: Records, settings: list[Setting]) -> dict[str, Any]:
    """One row of the figure: the lines of the settings that are not the best, and the best one's seeds."""
    found = size(scale)
    place = tuned(scale, records, settings)
    if place is None:
        raise ValueError("a row is measured when its tuning runs are finished")
    lines: list[dict[str, Any]] = []
    for setting in settings:
        own = validation(scale, records, setting)
        lines.append({"label": setting.label(found.whole), "method": setting.method, "validation": own})
        if setting is not settings[place]:
            lines[-1]["early"] = curve(records[request(scale, setting, "early")])
            lines[-1]["curve"] = curve(records[request(scale, setting, "tuning")], THINNED)
    early = [records[request(scale, settings[place], "early", seed)] for seed in range(found.early_seeds)]
    whole = [records[request(scale, settings[place], "whole", seed)] for seed in range(found.seeds)]
    return {
        "settings": lines,
        "best": place,
        "at_end": at_end(settings, place),
        "early": mean_line(early),
        "whole": mean_line(whole),
        "marks": [rounded(accuracies(record, found.marks)) for record in early],
        "end": rounded([test_accuracy(record) for record in whole], 5),
    }


def accuracies(record: Record, steps: Sequence[int]) -> list[float]:
    """Test accuracies at these steps; chance from where a run diverged."""
    known = {point["step"]: point["test_score"] for point in record.curve}
    return [known.get(step, CHANCE) for step in steps]


def curve(record: Record, most: int | None = None) -> dict[str, list[Any]]:
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
    where = "/".join(map(str, data["marks"]))
    return [
        Finding(
            EARLY,
            every([above(found) for found in early.values()]),
            f"PercentDelta minus {against(early)}; at steps {where}, %: {levels}. {chosen(data)}",
        ),
        Finding(
            HIGHEST,
            every([above(found) for found in end.values()]),
            f"{', '.join(f'{name} {percent(values)}' for name, values in ends.items())}; PercentDelta minus "
            f"{against(end)}. LARS with PercentDelta's decay instead of m = 0.01: {shown(data['slow_lars'])} in "
            "validation",
        ),
    ]


def chosen(data: Data) -> str:
    """What validation chose: momenta and settings, and which of them are at an end of their range."""
    parts = []
    for name, row in data["rows"].items():
        best = row["settings"][row["best"]]
        end = ", at an end of its range" if row["at_end"] else ""
        parts.append(f"{name} {best['label']}{end} ({shown(best['validation'])})")
    momenta = []
    for name, tried in data["momenta"].items():
        method = data["rows"][name]["settings"][0]["method"]
        used = next(label for label, other in MOMENTA[name].items() if other == method)
        scores = ", ".join(f"{label} {shown(value)}" for label, value in tried.items())
        momenta.append(f"{name}'s momentum: {used} (of {scores})")
    return f"By validation after {data['steps']['tuning']} steps, one seed: {', '.join(parts)}; {'; '.join(momenta)}"


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
        "cpu": "MNIST, the paper's network, batch 500, bf16. Four settings a method, and up to two more while the best "
        "is at an end of the range: 1000 steps with a tenth held out, one seed, and 200 steps with an evaluation every "
        "5. The best by validation: 3 seeds of 5000 steps, 5 seeds of 200. PercentDelta: lr 0.03 and a range of m; its "
        "momentum is the best of three by validation (heavy ball at 0.9 would change tensors by 0.3 a step, and "
        "diverges). AdaGrad and Adam: constant rates. LARS: m = 0.01, trust coefficient 1, heavy ball of 0.9, 0.5 or 0 "
        "by validation at lr 0.01. Not quite alike: in tuning, PercentDelta's decay is squeezed into the 1000 steps, "
        "so that it goes as far as in 5000; AdaGrad's and Adam's rates are chosen after 1000 constant steps and judged "
        "at 5000; LARS keeps m = 0.01, by which it has all but stopped after 100 steps.",
        "paper": "The same in float32 with 5000 steps for every setting, 5 seeds, an evaluation on the whole test set "
        "every 5 steps.",
    },
    runs=runs,
    measure=measure,
    judge=judge,
    draw=draw,
)
