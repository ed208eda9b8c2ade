"""Tables and the picture of `python -m benchmarks.gpu`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from .goals import LEAST_SHARE
from .methods import OTHERS, OURS

MODES = {"eager": "by calls", "graph": "by replays of a CUDA graph"}
COLOURS = {"eager": "#E69F00", "graph": "#0072B2"}  # of Okabe and Ito, which colour-blind readers tell apart
MARKERS = {"eager": "s", "graph": "o"}


def headline(results: Mapping[str, Any]) -> str:
    """Two lines: where this was measured, and what the ceiling is."""
    gpu, versions, ceiling = results["machine"]["gpu"], results["versions"], results["ceiling"]
    known = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    return (
        f"{gpu['name']}; {known}; {results['clock']}\n"
        f"copy: {ceiling['gb_per_s']:.4g} GB/s read and written (best {ceiling['best']:.4g}), "
        f"{ceiling['gib']:.3g} GiB; L2 {gpu['l2_bytes'] / 2**20:.3g} MiB\n"
    )


def wrong(found: Mapping[str, Any]) -> Iterator[str]:
    """A line for each method that is wrong."""
    for way in ("eager", "graph"):
        for name, verdict in found[way].items():
            if not verdict["right"]:
                what = verdict["why"] or f"{verdict['error']:.2e} of the way off; allowed: {verdict['tolerance']:.0e}"
                yield f"WRONG: {name}, {MODES[way]}: {what}"


def set_table(key: str, found: Mapping[str, Any], mode: str) -> Table:
    """What was measured on one set, in one way."""
    heading = (
        f"{key} {found['title']}: {found['tensors']} tensors, {found['entries'] / 1e6:.4g}M entries, {MODES[mode]}"
    )
    printed = _table(heading, "us", "quartiles", "ratio", "by round", "B/entry", "GB/s", "of copy", "extra MiB")
    rows = found["modes"][mode]["methods"]
    for name in (*OURS, *OTHERS):
        if name in rows:
            row = rows[name]
            extra = "" if row["beyond_bytes"] is None else f"{row['beyond_bytes'] / 2**20:.1f}"
            printed.add_row(
                name, f"{row['us']:.5g}", f"{row['q1']:.5g}-{row['q3']:.5g}", f"{row['ratio']:.2f}",
                f"{row['ratio_by_round']:.2f}", f"{row['bytes_per_entry']:.1f}", f"{row['gb_per_s']:.0f}",
                f"{row['share_of_ceiling']:.0%}", extra,
            )  # fmt: skip
    return printed


def launch_table(counted: Mapping[str, Mapping[str, Mapping[str, int]]]) -> Table:
    """Kernels + fills + copies of a step of each method; a column for each set and way."""
    printed = _table("launches of a step: kernels + fills + copies", *counted)
    for name in OURS:
        cells = [counts.get(name) for counts in counted.values()]
        if any(cells):
            printed.add_row(
                name, *(f"{c['kernels']} + {c['memsets']} + {c['memcpys']}" if c is not None else "" for c in cells)
            )
    return printed


def compiled_table(found: Mapping[str, Any]) -> Table:
    heading = f"{found['set']}: compiled in {found['compiling_s']} s, into {found['graphs']} graphs"
    printed = _table(heading, "us", "quartiles", "ratio")
    for name, row in found["methods"].items():
        printed.add_row(name, f"{row['us']:.5g}", f"{row['q1']:.5g}-{row['q3']:.5g}", f"{row['ratio']:.2f}")
    return printed


def goal_table(goals: list[dict[str, Any]]) -> Table:
    """A line for each goal: how many of its methods and places meet it, and those that do not."""
    printed = _table("goals", "met", "not met, or not measured")
    for kind in dict.fromkeys(goal["kind"] for goal in goals):
        own = [goal for goal in goals if goal["kind"] == kind]
        lines = [
            f"{goal['method']} ({goal['where']}): {_number(goal['value'])}, goal {_number(goal['limit'])}"
            for goal in own
            if goal["met"] is False
        ]
        unknown = [f"{goal['method']} ({goal['where']})" for goal in own if goal["met"] is None]
        lines += [f"not measured: {', '.join(unknown)}"] if unknown else []
        printed.add_row(kind, f"{sum(bool(goal['met']) for goal in own)} of {len(own)}", "\n".join(lines) or "none")
    return printed


def draw(results: Mapping[str, Any], path: Path) -> str | None:
    """Write the picture: each method's share of the copy's bandwidth, a panel a set; why not, if there is none."""
    sets = {key: found for key, found in results["sets"].items() if any(m["methods"] for m in found["modes"].values())}
    if not sets:
        return "nothing was measured"
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "matplotlib is not installed: pip install matplotlib"
    names = [n for n in (*OURS, *OTHERS) if any(n in m["methods"] for s in sets.values() for m in s["modes"].values())]
    figure = Figure(figsize=(2.2 + 2.9 * len(sets), 1.9 + 0.27 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(sets), squeeze=False, sharey=True)[0]
    for axes, (key, found) in zip(panels, sets.items(), strict=True):
        right = 1.0
        for mode, measured in found["modes"].items():
            shares = {name: row["share_of_ceiling"] for name, row in measured["methods"].items() if name in names}
            heights = [names.index(name) for name in shares]
            axes.plot(
                list(shares.values()), heights, MARKERS[mode], color=COLOURS[mode], markersize=6, alpha=0.9,
                label=MODES[mode], clip_on=False, zorder=3,
            )  # fmt: skip
            right = max([right, *shares.values()])
        axes.axvline(1.0, color="#000000", linewidth=1)
        axes.axvline(LEAST_SHARE, color="#000000", linewidth=1, linestyle=(0, (4, 3)))
        axes.set_xlim(0, 1.05 * right)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(f"{key} {found['title']}\n{found['entries'] / 1e6:.4g}M entries", fontsize=10)
        axes.tick_params(labelsize=9)
    handles = {label: h for p in panels for h, label in zip(*p.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    dry = "DRY RUN: NO MEASUREMENT; " if results["settings"]["dry_run"] else ""
    about = f"{dry}{results['machine']['gpu']['name']}, torch {results['versions']['torch']}, {results['date'][:10]}"
    figure.suptitle(
        f"Bandwidth of the least traffic of a step, as a share of a copy's (line; goal: dashed)\n{about}", fontsize=10
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return None


def _table(heading: str, *columns: str) -> Table:
    printed = Table(title=heading, title_justify="left", title_style="bold", box=None, pad_edge=False)
    printed.add_column("" if heading == "goals" else "method")
    for column in columns:
        printed.add_column(column, justify="left" if heading == "goals" else "right")
    return printed


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
