"""The parts of the page that are text: settings, results, findings. Everything from outside is escaped here."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence, Sized
from datetime import datetime
from html import escape
from typing import Any

import torch

from ...engine.common.printable import printable
from ..diagnose import SEVERITIES, diagnose
from ..findings.finding import Finding
from ..run import Run
from .charts import digits, ends

FINDINGS_OPEN = 6  # the rest is folded
MOST_RUNS = 12  # whose settings stand open
WHERE = ("hardware", "machine", "device", "versions", "torch", "python", "layerpace")  # settings that the head shows
LESS_IS_BETTER = ("loss", "error", "perplexity", "nll", "mse", "mae")
MORE_IS_BETTER = ("acc", "score", "f1", "auc", "precision", "recall", "bleu", "rouge", "iou", "reward")


def flat(settings: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Nested settings as {"optimizer.lr": "0.001", ...}; a list of several mappings has 1, 2, ... in between."""
    made = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            made.update(flat(value, f"{before}{key}."))
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            for place, item in enumerate(value, 1):
                made.update(flat(item, f"{before}{key}." if len(value) == 1 else f"{before}{key}.{place}."))
        else:
            made[f"{before}{key}"] = value if isinstance(value, str) else json.dumps(value, default=str)
    return made


def table(head: Sequence[str], rows: Iterable[Sequence[str | tuple[str, float]]], caption: str, sort: int = -1) -> str:
    """A table that the page's script makes sortable.

    Args:
        head: of the columns.
        rows: cells; (text, value) sorts by the value.
        caption: for those who do not see it.
        sort: the column that it is sorted by already, highest first; -1: none.
    """
    rows = list(rows)
    columns = "".join(
        f'<th scope="col"{" class=number" if any(isinstance(row[place], tuple) for row in rows) else ""}'
        f"{' aria-sort=descending' if place == sort else ''}>{escape(name)}</th>"
        for place, name in enumerate(head)
    )
    body = []
    for row in rows:
        cells = []
        for place, cell in enumerate(row):
            text, value = cell if isinstance(cell, tuple) else (cell, None)
            if place == 0:
                cells.append(f'<th scope="row">{escape(text)}</th>')
            elif value is None:
                cells.append(f"<td>{escape(text)}</td>")
            else:
                cells.append(f'<td class="number" data-value="{value!r}">{escape(text)}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table class="sortable">'
        f"<caption>{escape(caption)}</caption><thead><tr>{columns}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def about(runs: Sequence[Run]) -> str:
    """One paragraph: when, how long, how large, on what."""
    starts = [run.history.times[0] for run in runs if len(run.history)]
    ends = [run.history.times[-1] for run in runs if len(run.history)]
    steps = [run.history.steps[-1] for run in runs if len(run.history)]
    said = []
    if starts:
        begun = datetime.fromtimestamp(min(starts))
        said.append(f"started {begun:%Y-%m-%d %H:%M}")
        said.append(f"{_range(steps)} steps" + (f" in {_duration(ends[0] - starts[0])}" if len(runs) == 1 else ""))
    said.append(f"{_range([len(run.layers) for run in runs])} layers")
    weights = [sum(layer.entries for layer in run.layers) for run in runs]
    said.append(f"{_range(weights)} weights")
    going = sum(not run.finished for run in runs)
    if going:
        said.append("not finished yet" if len(runs) == 1 else f"{going} of {len(runs)} runs not finished yet")
    common = shared([flat(run.settings) for run in runs])
    said += [f"{key.rpartition('.')[2]} {value}" for key, value in common.items() if key.partition(".")[0] in WHERE]
    return " · ".join(escape(x) for x in said)


def notes(lines: Sequence[str]) -> str:
    """What the page is without; "" where it has all."""
    return "".join(f"<p class=note>Not shown: {escape(line)}</p>\n" for line in lines)


def with_rates(run: Run) -> Mapping[str, Any]:
    """A run's settings, with the range in the place of a group's learning rate where a schedule changed it.

    The settings are those of the first step, which is the lowest of a warm-up. Layers belong to a group whose rate was
    theirs at first.
    """
    optimizers = run.settings.get("optimizers") if isinstance(run.settings, Mapping) else None
    if not isinstance(optimizers, list) or "learning_rate" not in run.history:
        return run.settings
    rates = run.history["learning_rate"].double()
    first = ends(rates)["first"].double()

    def ranged(group: Any) -> Any:
        if not isinstance(group, Mapping):
            return group
        lr, factor = group.get("lr"), group.get("lr_multiplier", 1.0)
        if not isinstance(lr, (int, float)) or not isinstance(factor, (int, float)) or factor == 0:
            return group
        own = rates[:, torch.isclose(first, torch.full_like(first, lr * factor), rtol=1e-6, atol=0.0)]
        own = own[own.isfinite()] / factor
        if not len(own) or float(own.max()) <= float(own.min()) * (1 + 1e-6):
            return group
        return {**group, "lr": f"{float(own.min()):.4g} to {float(own.max()):.4g}"}

    made = [
        {**one, "groups": [ranged(group) for group in one["groups"]]}
        if isinstance(one, Mapping) and isinstance(one.get("groups"), list)
        else one
        for one in optimizers
    ]
    return {**run.settings, "optimizers": made}


def shared(settings: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Those that all runs have alike."""
    return {key: value for key, value in settings[0].items() if all(other.get(key) == value for other in settings)}


def settings_of(runs: Sequence[Run], names: Sequence[str]) -> str:
    """The settings that differ between runs, then, folded, all others."""
    each = [flat(with_rates(run)) for run in runs]
    common = shared(each)
    parts = []
    keys = list(dict.fromkeys(key for one in each for key in one if key not in common))
    everywhere = [key for key in keys if all(key in one for one in each)]
    # Whoever names methods and rates says in short what the optimizers' options say at length.
    brief = [key for key in everywhere if key.partition(".")[0] != "optimizers"] or everywhere
    some = [key for key in keys if key not in brief]
    if brief:
        listed = _differing(brief, each, names, "Settings that differ")
        parts.append(_folded("Settings that differ", brief, listed) if len(runs) > MOST_RUNS else listed)
    if some:
        label = "Other settings that differ"
        parts.append(_folded(label, some, _differing(some, each, names, label)))
    if common:
        label = "Settings" if len(runs) == 1 else "Settings that all runs share"
        items = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in common.items())
        parts.append(_folded(label, common, f"<dl>{items}</dl>"))
    return "".join(parts)


def _folded(label: str, keys: Sized, inner: str) -> str:
    return f"<details><summary>{label} ({len(keys)})</summary>{inner}</details>"


def _differing(keys: Sequence[str], each: Sequence[Mapping[str, str]], names: Sequence[str], caption: str) -> str:
    """The longer side of the table goes down the page."""
    if len(keys) > len(each):
        return table(["setting", *names], [[key, *(one.get(key, "–") for one in each)] for key in keys], caption)
    rows = [[name, *(one.get(key, "–") for key in keys)] for name, one in zip(names, each, strict=True)]
    return table(["run", *keys], rows, caption)


def results_of(runs: Sequence[Run], names: Sequence[str], results: Mapping[str, Any] | None) -> str:
    """The result table: that of a comparison, or else the last and the best of each scalar."""
    if results is not None:
        return _compared(results)
    scalars = list(dict.fromkeys(name for run in runs for name, series in run.scalars.items() if series.values))
    if not scalars:
        return "<p>No scalars were logged (loss, accuracy, ...).</p>"
    head = ["run"]
    for scalar in scalars:
        best = _best(scalar)
        head += [scalar] if best is None else [scalar, f"{best.__name__}. {scalar}"]
    rows: list[list[str | tuple[str, float]]] = []
    for run, name in zip(runs, names, strict=True):
        row: list[str | tuple[str, float]] = [name]
        for scalar in scalars:
            values = [math.nan if x is None else x for x in run.scalars[scalar].values] if scalar in run.scalars else []
            best = _best(scalar)
            row.append(_number(values[-1] if values else None))
            if best is not None:
                row.append(_number(best((x for x in values if math.isfinite(x)), default=None)))
        rows.append(row)
    return table(head, rows, "Last and best value of each scalar")


def _compared(results: Mapping[str, Any]) -> str:
    metric, target, last = results.get("metric", "score"), results.get("target"), results["config"].get("steps")
    accuracy = metric == "accuracy"

    def score(x: float | None, form: str = ".1f") -> str:
        return "–" if x is None else f"{100 * x:{form}}%" if accuracy else digits(x)

    rows: list[list[str | tuple[str, float]]] = []
    for row in sorted(
        results["methods"], key=lambda row: -math.inf if row["score_mean"] is None else row["score_mean"]
    )[::-1]:
        text = "diverged" if row["score_mean"] is None else score(row["score_mean"])
        if row["score_sd"] is not None:
            text += f" ± {score(row['score_sd'])}"
        if row["diverged"] and row["score_mean"] is not None:
            text += f" ({len(row['diverged'])} of {row['seeds']} diverged)"
        cells: list[str | tuple[str, float]] = [row["label"], _number(row["lr"])]
        cells.append((text, -1e300 if row["score_mean"] is None else row["score_mean"]))
        if target is not None:
            reached, mean = len(row["steps_to_target"]), row["steps_to_target_mean"]
            some = "" if reached in (0, row["seeds"]) else f" ({reached} of {row['seeds']})"
            cells.append((f"> {last}", 1e300) if mean is None else (f"{mean:.0f}{some}", mean))
        cells += [_number(row[name], ".3g") for name in ("step_ms", "optimizer_ms", "unevenness")]
        rows.append(cells)
    head = ["method", "lr", f"test {metric}", *([f"steps to {score(target, '.0f')}"] if target is not None else [])]
    config = results["config"]
    caption = f"{config.get('task', 'comparison')}: best score first"
    if config.get("seeds", 1) > 1:
        caption += f"; {config['seeds']} seeds, mean ± sd"
    note = (
        "<p class=note>Unevenness: spread over layers of log10 of the relative update; 0 when all layers change by the "
        "same share in a step, 1 when they are typically a factor of ten apart.</p>"
    )
    return table([*head, "ms a step", "of it optimizer", "unevenness"], rows, caption, sort=2) + note


def findings_of(runs: Sequence[Run], names: Sequence[str], places: Mapping[str, int]) -> str:
    """What diagnose says of each run, worst first."""
    found = [(finding, place) for place, run in enumerate(runs) for finding in diagnose(run)]
    found.sort(key=lambda pair: SEVERITIES.index(pair[0].severity))
    if not found:
        return (
            '<p class="fine">Nothing found: no layer stopped, ran away or fell out of step; all values are finite.</p>'
        )
    items = [_finding(finding, place, names[place] if len(runs) > 1 else None, places) for finding, place in found]
    counts = ", ".join(
        f"{n} {severity}{'s' * (n != 1)}"
        for severity in SEVERITIES
        if (n := sum(finding.severity == severity for finding, _ in found))
    )
    shown, folded = (
        f"<ul class=findings>{''.join(some)}</ul>" for some in (items[:FINDINGS_OPEN], items[FINDINGS_OPEN:])
    )
    if len(items) > FINDINGS_OPEN:
        shown += f"<details><summary>{len(items) - FINDINGS_OPEN} more findings</summary>{folded}</details>"
    return f"<p>{counts}</p>{shown}"


def _finding(finding: Finding, place: int, name: str | None, places: Mapping[str, int]) -> str:
    shown = [layer for layer in finding.layers if layer in places]
    aim = {"run": place, "layers": [places[layer] for layer in shown], "steps": finding.steps, "kind": finding.kind}
    run = "" if name is None else f'<span class="of-run">{escape(name)}:</span> '
    listed = ", ".join(shown[:4]) + (f" and {len(shown) - 4} more" if len(shown) > 4 else "")
    parts = [
        f'<span class="badge">{escape(finding.severity)}</span> {run}{_code(finding.message)}',
        "" if not shown or printable(shown[0]) in finding.message else f"<code>{escape(listed)}</code>",
        _code(finding.evidence),
        f"<b>Try:</b> {_code(finding.suggestion)}",
    ]
    kinds = ("message", "layers", "evidence", "try")
    text = "".join(f'<p class="{kind}">{part}</p>' for kind, part in zip(kinds, parts, strict=True) if part)
    if shown:
        aimed = escape(json.dumps(aim))
        hidden = f'<span class="hidden">: {escape(listed)}</span>'
        text += f'<button type="button" class="show" data-aim="{aimed}">Show in charts{hidden}</button>'
    return f'<li class="finding is-{finding.severity}">{text}</li>'


def _code(text: str) -> str:
    """Escaped, with what stands between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _best(scalar: str) -> Any:
    """min or max, as the name of a scalar says; None: unknown."""
    name = scalar.lower()
    if any(word in name for word in LESS_IS_BETTER):
        return min
    return max if any(word in name for word in MORE_IS_BETTER) else None


def _number(x: float | None, form: str = ".4g") -> str | tuple[str, float]:
    return "–" if x is None or math.isnan(x) else (f"{x:{form}}" if math.isfinite(x) else "not finite", float(x))


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
