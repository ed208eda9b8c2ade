"""The table at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..engine.common.printable import printable
from .progress import score_text

UNEVENNESS = (
    "unevenness: sd over layers of log10(|dW|_1 / |W|_1), mean over recorded steps; "
    "0: all layers change by the same share, 1: typically a factor of ten apart"
)


def number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def score_cell(row: Mapping[str, Any], metric: str) -> str:
    """mean ± sd, and what diverged."""
    diverged: Sequence[Sequence[int]] = row["diverged"]
    if row["score_mean"] is None:
        return f"diverged\nat step {min(step for _, step in diverged)}"
    text = score_text(row["score_mean"], metric)
    if row["score_sd"] is not None:
        sd = row["score_sd"]
        text += f" ± {100 * sd:.1f}" if metric == "accuracy" else f" ± {sd:.2g}"
    if diverged:
        steps = ", ".join(str(step) for _, step in diverged)
        text += f"\n({len(diverged)} of {row['seeds']} diverged,\nat step {steps})"
    return text


def steps_cell(row: Mapping[str, Any], last: int) -> str:
    reached = len(row["steps_to_target"])
    if not reached:
        return f"> {last}"
    text = f"{row['steps_to_target_mean']:.0f}"
    return text if reached == row["seeds"] else f"{text} ({reached} of {row['seeds']})"


def table(results: Mapping[str, Any]) -> Table:
    """One row a method, best score first."""
    metric, target = results["metric"], results["target"]
    several = any(len(row["tried"]) > 1 for row in results["methods"])
    config = results["config"]
    seeds = f"{config['seeds']} seed" + "s" * (config["seeds"] != 1)
    title = f"{printable(config['task'])}: {config['steps']} steps of batch {config['batch_size']}, {seeds}"
    made = Table(title=Text(title), box=SIMPLE_HEAD, pad_edge=False)
    headings = ["best lr" if several else "lr", f"test\n{metric}"]
    if target is not None:
        headings.append(f"steps to\n{score_text(target, metric)}")
    made.add_column("method", min_width=12, overflow="fold")
    for heading in (*headings, "ms a\nstep", "of it\noptimizer", "uneven-\nness"):
        made.add_column(heading, justify="right", no_wrap=True)
    ordered = sorted(
        results["methods"], key=lambda row: -(row["score_mean"] if row["score_mean"] is not None else -1e9)
    )
    for row in ordered:
        cells: list[str | Text] = [Text(printable(row["label"])), f"{row['lr']:.3g}", score_cell(row, metric)]
        if target is not None:
            cells.append(steps_cell(row, config["steps"]))
        cells += [number(row["step_ms"], ".2f"), number(row["optimizer_ms"], ".2f"), number(row["unevenness"], ".2f")]
        made.add_row(*cells)
    return made


def show(console: Console, results: Mapping[str, Any]) -> None:
    console.print(table(results))
    console.print(UNEVENNESS, style="dim", highlight=False)
    tried = [row for row in results["methods"] if len(row["tried"]) > 1]
    if tried:
        key = "fewest steps to the target" if results["config"]["choose"] == "steps" else "highest mean score"
        console.print(
            f"best lr: {key}, mean over seeds, on {results['config']['validation']} held-out training examples",
            style="dim",
            highlight=False,
        )
    for row in tried:
        at_end = row["lr"] in (min(t["lr"] for t in row["tried"]), max(t["lr"] for t in row["tried"]))
        if at_end:
            console.print(
                f"note: {printable(row['label'])}: the best lr {row['lr']:.3g} is at an end of those tried",
                style="yellow",
                highlight=False,
            )
    for path in results["plots"]:
        console.print(f"plot: {printable(path)}", soft_wrap=True, highlight=False)
    console.print(f"all files: {printable(results['out'])}", soft_wrap=True, highlight=False)
