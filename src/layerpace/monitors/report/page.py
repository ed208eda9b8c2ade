"""The page: text parts and curves put into the template, with nothing left to fetch."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from ..run import Run, run_of
from . import content
from .charts import Chart, charts_of, in_words
from .payload import POINTS, layer_names, payload

if TYPE_CHECKING:
    from ..monitor import Monitor

SCRIPTS = (
    "data.js",
    "colours.js",
    "axes.js",
    "heat.js",
    "plot.js",
    "pointer.js",
    "keyboard.js",
    "panels.js",
    "page.js",
)
SEED = re.compile(r"[-_ ,]*\b(?:s|seed)[-_ =]?\d+(?:-[0-9a-f]{6,})?$")  # sgd-s0-7fff5760 and "sgd seed 1" are sgd


def write_report(
    runs: Sequence[Run | Monitor],
    path: Path,
    title: str | None = None,
    results: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Write one self-contained HTML file about recorded runs.

    It fetches nothing and works from disk. Curves are thinned to what a screen can show, with their extremes; the file
    stays below 8 MB.

    Args:
        runs: at least one, or monitors of some.
        path: of the file; written aside and renamed.
        title: None: made from the names of the runs.
        results: what `layerpace compare` writes to results.json; None: the table shows the runs' scalars.
        notes: of what the page is without; None of them is empty.

    Returns:
        path.

    Raises:
        ValueError: no run, or so many that they do not fit.
    """
    path = Path(path)
    text = make_page([run_of(run) for run in runs], title, results, notes)
    aside = path.with_name(path.name + ".part")
    aside.write_text(text, encoding="utf-8", errors="replace")
    os.replace(aside, path)
    return path


def make_page(
    runs: Sequence[Run],
    title: str | None = None,
    results: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> str:
    """The HTML text; see `write_report`."""
    if not runs:
        raise ValueError("a report needs at least one run")
    names = distinct([run.name for run in runs])
    charts = charts_of(runs)
    data, points = payload(runs, names, groups(names), charts)
    package = files(__package__)
    script = "(() => {\n'use strict';\n" + "\n".join((package / name).read_text("utf-8") for name in SCRIPTS) + "})();"
    style = (package / "report.css").read_text("utf-8")
    places = {name: place for place, name in enumerate(layer_names(runs))}
    whole = title or (names[0] if len(runs) == 1 else f"{len(runs)} runs: {_few(names)}")
    note = "" if points >= POINTS else " So that the file stays small, this page keeps fewer of them than usual."
    page = Template((package / "template.html").read_text("utf-8")).substitute(
        policy=f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; base-uri 'none'; "
        "form-action 'none'",
        title=escape(whole),
        style=style,
        script=script,
        data=data,
        about=content.about(runs),
        notes=content.notes(notes),
        settings=content.settings_of(runs, names),
        results=content.results_of(runs, names, results),
        findings=content.findings_of(runs, names, places),
        figures="".join(_figure(chart, runs, names) for chart in charts),
        points=points,
        thinned=note,
        made=f"{datetime.now():%Y-%m-%d %H:%M}",
        many="several" if len(runs) > 1 else "single",
    )
    return page


def distinct(names: Sequence[str]) -> list[str]:
    """The names, with a number where one would come twice."""
    taken: dict[str, int] = {}
    made = []
    for name in names:
        taken[name] = taken.get(name, 0) + 1
        made.append(name if taken[name] == 1 else f"{name} ({taken[name]})")
    return made


def groups(names: Sequence[str]) -> list[int]:
    """A number for each run, the same for seeds of one method."""
    without = [SEED.sub("", name) for name in names]
    order = {name: place for place, name in enumerate(dict.fromkeys(without))}
    return [order[name] for name in without]


def _figure(chart: Chart, runs: Sequence[Run], names: Sequence[str]) -> str:
    """A chart without its drawing: heading, explanation and words; the script adds the rest."""
    words = "".join(
        f"<p>{'' if len(runs) == 1 else f'<b>{escape(name)}</b>: '}{escape(in_words(chart, run))}</p>"
        for run, name in zip(runs, names, strict=True)
    )
    if len(runs) > 2:
        words = f"<details><summary>In words, for each run</summary>{words}</details>"
    return (
        f'<figure class="chart" data-quantity="{chart.quantity}"><figcaption><h3>{escape(chart.title)} '
        f"<small>{escape(chart.unit)}</small></h3><p>{escape(chart.meaning)}</p></figcaption>"
        f'<div class="words">{words}</div></figure>'
    )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
