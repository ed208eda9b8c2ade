"""A run as lines of text that fit the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..names import short_names
from .characters import FIGURE_WIDTH, Characters, clean, cut, duration, figure, sparkline
from .snapshot import SEVERITIES, Row, Snapshot, arranged

if TYPE_CHECKING:
    from rich.text import Text

    from ..diagnose import Finding

LETTERS = dict(zip(SEVERITIES, "EWN", strict=True))
COLOURS = dict(zip(SEVERITIES, ("bold red", "yellow", "cyan"), strict=True))
HEADINGS = ("update", "angle", "cosine", "trust")  # of `snapshot.SHOWN`
LEAST_NAME, LEAST_SPARK, MOST_SPARK = 12, 8, 60
KIND_WIDTH, KIND_FROM = 18, 100  # the kind of a finding stands in the row of terminals as wide as that
LIVE_FINDINGS, ALL_FINDINGS = 3, 12


def page(
    shot: Snapshot,
    *,
    width: int,
    height: int | None,
    now: float,
    characters: Characters,
    sort: str = "layer",
    others: Sequence[str] = (),
    refused: Sequence[str] = (),
) -> list[Text]:
    """Header, a row a layer, and findings.

    Args:
        shot: what to show.
        width, height: of the terminal in characters; no line is wider, and with a height there are no more lines.
        now: seconds since the epoch.
        characters: that the terminal has.
        sort: of the rows.
        others: names of further runs in the folder.
        refused: of runs in it that cannot be read, why.
    """
    from rich.text import Text

    head = header(shot, width, now, characters, others)
    for line in (*refused, *shot.run.notes):
        head.append(Text(cut(f"! {clean(line, characters)}", width, characters.ellipsis), style="bold yellow"))
    if shot.step is None:
        return fitting([*head, Text("waiting for the first record", style="dim")], width, height)
    most = ALL_FINDINGS if height is None else LIVE_FINDINGS if height >= 16 else 0
    told = [finding_line(finding, width, characters) for finding in shot.findings[:most]]
    if len(shot.findings) > len(told) > 0:
        told.append(Text(f"... {len(shot.findings) - len(told)} more findings", style="dim"))
    units = cut("update |dW|/|W| (L1), angle in radians, cosine from start", width, characters.ellipsis)
    foot = [Text(units, style="dim"), *told]
    room = None if height is None else max(1, height - len(head) - 1 - len(foot))
    shown = arranged(shot.rows, sort, room)
    if room is not None and len(shown) < len(shot.rows):  # one line says how many are missing
        shown = arranged(shot.rows, sort, room - 1)
    lines = [*head, *rows(shot, shown, width, characters)]
    if len(shown) < len(shot.rows):
        lines.append(Text(f"... {len(shot.rows) - len(shown)} more layers", style="dim"))
    lines += foot
    return fitting(lines, width, height)


def fitting(lines: Sequence[Text], width: int, height: int | None) -> list[Text]:
    """What is left of the lines on a terminal that is too small even for its least page."""
    for line in lines:
        line.truncate(width)
    return list(lines[:height])


def header(shot: Snapshot, width: int, now: float, characters: Characters, others: Sequence[str]) -> list[Text]:
    """Name and state, pace, the last scalars, and the other runs of the folder."""
    from rich.text import Text

    run, between = shot.run, characters.between
    late, silent = shot.stale(now), 0.0 if shot.time is None else now - shot.time
    state = "finished" if run.finished else "silent" if late else "running" if shot.time is not None else "starting"
    name = cut(clean(run.name, characters), max(8, width - len(state) - 2), characters.ellipsis, middle=True)
    lines = [Text.assemble((name, "bold"), "  ", (state, "bold yellow" if late else "green"))]
    if shot.step is not None:
        said = [f"step {shot.step}"]
        said += [] if shot.pace is None else [f"{shot.pace:.3g} steps/s"]
        if not run.finished:
            said.append(f"last record {duration(silent)} ago")
        said += [f"{len(run.history)} records", f"{len(run.layers)} layers"]
        while len(said) > 1 and len(between.join(said)) > width:
            said.pop()
        lines.append(Text(cut(between.join(said), width, characters.ellipsis)))
    if late:
        usual = "" if shot.gap is None else f"; usually {duration(shot.gap)}"
        warning = f"! no record for {duration(silent)}{usual}: has the training stopped?"
        lines.append(Text(cut(warning, width, characters.ellipsis), style="bold yellow"))
    scalars = [
        f"{clean(name, characters)} {series.values[-1]:.4g}"
        + f" (step {series.steps[-1]})" * (series.steps[-1] != shot.step)
        for name, series in run.scalars.items()
        if series.steps
    ]
    if scalars:
        lines.append(fitted(scalars, between, width, ""))
    if others:
        more = fitted(
            [clean(other, characters) for other in others], ", ", width - len("  (--run NAME)"), "also here: "
        )
        more.append("  (--run NAME)")
        more.stylize("dim")
        lines.append(more)
    return lines


def fitted(parts: Sequence[str], between: str, width: int, start: str) -> Text:
    """The first parts that fit one line, and how many do not."""
    from rich.cells import cell_len
    from rich.text import Text

    def line(count: int) -> str:
        left = len(parts) - count
        return start + between.join([*parts[:count], *([f"{left} more"] if left else [])])

    count = len(parts)
    while count and cell_len(line(count)) > width:
        count -= 1
    return Text(cut(line(count), max(0, width), "~"))


def rows(shot: Snapshot, shown: Sequence[Row], width: int, characters: Characters) -> list[Text]:
    """Headings, then a line a layer; the narrower the terminal, the fewer columns."""
    from rich.cells import cell_len
    from rich.text import Text

    columns = [k for k in range(len(HEADINGS)) if any(row.last[k] == row.last[k] for row in shot.rows)] or [0]
    flag = KIND_WIDTH if width >= KIND_FROM else 1
    while len(columns) > 1 and width - flag - 1 - len(columns) * (FIGURE_WIDTH + 1) < LEAST_NAME + LEAST_SPARK + 1:
        columns.pop()
    room = max(2, width - flag - 1 - len(columns) * (FIGURE_WIDTH + 1) - 1)
    most = max(LEAST_NAME, room * 11 // 20)
    every = short_names([clean(name, characters) for name in shot.run.history.layers], most)
    names = {row.name: every[row.place] for row in shown}
    longest = max([len("layer"), *map(cell_len, names.values())])
    name_width = min(longest, most, max(1, room - 1))
    spark_width = min(MOST_SPARK, room - name_width)
    low, high = (f"{10**end:.0e}" for end in shot.ends)
    spark_head = next(head for head in (f"{low} to {high}", f"{low}..{high}", low, "") if len(head) <= spark_width)
    heading = f"{'layer':{name_width}.{name_width}} {spark_head:{spark_width}}"
    heading += "".join(f" {HEADINGS[k]:>{FIGURE_WIDTH}}" for k in columns)
    lines = [Text(heading[:width], style="bold")]
    for row in shown:
        name = cut(names[row.name], name_width, characters.ellipsis, middle=True)
        line = Text(name + " " * (name_width - cell_len(name) + 1))
        line.append(f"{sparkline(row.updates, spark_width, shot.ends, characters):{spark_width}}", style="blue")
        for k in columns:
            line.append(f" {figure(row.last[k]):>{FIGURE_WIDTH}}")
        if row.finding is not None:
            mark = f"{LETTERS[row.finding.severity]} {clean(row.finding.kind, characters)}"
            mark = cut(mark, flag, characters.ellipsis) if flag > 1 else mark[0]
            line.append(f" {mark}", style=COLOURS[row.finding.severity])
        lines.append(line)
    return lines


def finding_line(finding: Finding, width: int, characters: Characters) -> Text:
    """A finding on one line: its letter, and what is wrong."""
    from rich.text import Text

    text = clean(" ".join(finding.message.split()), characters)
    letter = LETTERS[finding.severity]
    return Text.assemble((letter, COLOURS[finding.severity]), " ", cut(text, max(1, width - 2), characters.ellipsis))
