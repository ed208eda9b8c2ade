"""Part "steps": a whole optimizer step of every method on every parameter set, as ratios to torch's fused Adam."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from . import memory
from .machine import cache_bytes
from .measure import Effort, Race
from .methods import BY_NAME, UNIT, Method
from .progress import Bars
from .shapes import ParameterSet

REFERENCE_ROUNDS = 5  # defines the meaning, and is not the fast one


def measure_set(
    key: str,
    chosen: ParameterSet,
    methods: Sequence[Method],
    effort: Effort,
    budget: int,
    ceiling: dict[str, Any],
    bars: Bars,
) -> dict[str, Any]:
    """Figures of one parameter set.

    Returns:
        "methods": name -> figures, bytes an entry, achieved GB/s (least traffic over time) and its share of the
        ceiling for updates; "skipped": name -> reason; "groups": which methods shared a run, and the unit's ms in it.
    """
    result: dict[str, Any] = {
        "title": chosen.title, "tensors": len(chosen.shapes), "entries": chosen.entries,
        "methods": {}, "skipped": {}, "groups": [],
    }  # fmt: skip
    runs: list[tuple[list[Method], Effort]] = []
    slow = [method for method in methods if method.sets is not None]
    result["skipped"] |= {m.name: f"only on {', '.join(m.sets)}" for m in slow if m.sets and key not in m.sets}
    for members, how in (
        ([method for method in methods if method.sets is None], effort),
        ([m for m in slow if m.sets and key in m.sets], Effort(min(effort.rounds, REFERENCE_ROUNDS), effort.warmup)),
    ):
        if members:
            packed, too_large = memory.groups(members, chosen.entries, budget)
            runs += [(group, how) for group in packed]
            result["skipped"] |= too_large
    bar = bars.add(f"{key} {chosen.title}", sum(how.warmup + how.rounds for _, how in runs))
    for group, how in runs:
        race = Race(chosen.shapes, group)
        found = race.run(how, lambda done, certain: bars.advance(bar))
        result["skipped"] |= race.skipped
        result["groups"].append({"methods": list(found), "unit_ms": found[UNIT].ms, "rounds": how.rounds})
        for name, figure in found.items():
            if name not in result["methods"]:  # the unit stands for itself once, and in "groups" every time
                bytes_per_entry = BY_NAME[name].traffic.per_entry(chosen.sizes, cache_bytes())
                rate = bytes_per_entry * chosen.entries / 1e6 / figure.ms
                result["methods"][name] = asdict(figure) | {
                    "bytes_per_entry": bytes_per_entry,
                    "gb_per_s": rate,
                    "share_of_ceiling": rate / ceiling["update"],
                }
        del race
        gc.collect()  # the states of a group, before the next one's are made
    return result


def table(key: str, result: dict[str, Any]) -> Table:
    """The printed table of what was measured on one parameter set, in the order of the list of methods."""
    title = f"{key} {result['title']}: {result['tensors']} tensors, {result['entries'] / 1e6:.3g}M entries"
    printed = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    printed.add_column("method")
    for heading in ("ms", "quartiles", "ratio", "by round", "B/entry", "GB/s", "of ceiling"):
        printed.add_column(heading, justify="right")
    for name in BY_NAME:
        if name in result["methods"]:
            row = result["methods"][name]
            printed.add_row(
                name, f"{row['ms']:.3g}", f"{row['q1']:.3g}-{row['q3']:.3g}", f"{row['ratio']:.2f}",
                f"{row['ratio_by_round']:.2f}", f"{row['bytes_per_entry']:.1f}", f"{row['gb_per_s']:.1f}",
                f"{row['share_of_ceiling']:.0%}",
            )  # fmt: skip
    return printed
