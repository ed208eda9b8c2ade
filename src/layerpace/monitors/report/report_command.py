"""`layerpace report`: from folders to the page."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ...engine.common.files import FileError, Part, read_json
from ..folder import find, load_some
from ..run import Run
from .page import write_report

PAGE = "report.html"
MOST_COMPARED = 24  # runs of a comparison that are shown whatever their learning rate
RECORDS = 20_000  # of each kind, of all runs together; what the page shows of them is thinner still
FEWEST_RECORDS = 1000  # of each kind and run, which is what a monitor writes
Warn = Callable[[str], None]


def warned(message: str) -> None:
    """Say it as a warning."""
    warnings.warn(message, stacklevel=3)


def report(paths: Sequence[Path], out: Path | None = None, title: str | None = None, warn: Warn = warned) -> Path:
    """Write the report of one or several run folders.

    What cannot be read of them is named in the page, and to ``warn``; the rest is shown.

    Args:
        paths: folders of runs, or folders with runs beneath, as that of ``layerpace compare``.
        out: the file; None: report.html in the folder, or, for several, here.
        title: of the page; None: made from the runs.
        warn: is told, in a line each, which run or which part of one is left out.

    Returns:
        the file.

    Raises:
        FileNotFoundError: no run in a folder, or no record in any of them.
        ValueError: a file cannot be read, or all that does not fit into one page.
    """
    with one_thread():
        return _report(paths, out, title, warn)


@contextmanager
def one_thread() -> Iterator[None]:
    """The tensors are small: on a machine that is busy training, threads would wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _report(paths: Sequence[Path], out: Path | None, title: str | None, warn: Warn) -> Path:
    results: dict[str, Any] | None = None
    runs, notes = opened(paths)
    if len(paths) == 1:
        try:
            results = compared(paths[0])
        except FileError as error:
            notes.append(f"the table of results is left out: {error}")
    notes += [f"{run.name}: {note}" for run in runs for note in run.notes]
    for note in notes:
        warn(note)
    with_records = [run for run in runs if len(run.history) or any(series.steps for series in run.scalars.values())]
    if not with_records:
        raise FileNotFoundError(f"no records yet in {', '.join(str(path) for path in paths)}")
    if results is not None:
        with_records = labelled(with_records, results)
        title = title or f"{results['config'].get('task', paths[0].name)}: {len(results['methods'])} methods compared"
    if out is None:
        out = (paths[0] if paths[0].is_dir() else paths[0].parent) / PAGE if len(paths) == 1 else Path(PAGE)
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder: give a file, such as {out / PAGE}")
    if out.exists() and not out.is_file():  # a pipe or a device, which the page would take the place of
        raise ValueError(f"--out {out} is no regular file")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"--out {out}: there is no folder {out.parent}")
    return write_report(with_records, out, title, results, notes)


def opened(paths: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """The runs of the folders, and of each that cannot be read a line that says why.

    Raises:
        FileNotFoundError: there is no run in a folder.
        FileError: no run can be read.
    """
    runs: list[Run] = []
    notes: list[str] = []
    most = max(FEWEST_RECORDS, RECORDS // max(1, sum(len(find(path)) for path in paths)))
    for path in paths:
        try:
            found, refused = load_some(path, most)
        except FileError as error:
            found, refused = [], [f"left out: {error}"]
        runs += found
        notes += refused
    if not runs:
        raise FileError(notes[0].removeprefix("left out: "))
    return runs, notes


def compared(path: Path) -> dict[str, Any] | None:
    """What a finished comparison found; None: the folder is something else.

    Raises:
        FileError: its results.json is not what `layerpace compare` writes; the message names the field.
    """
    try:
        results = read_json(path / "results.json")
    except FileNotFoundError:
        return None
    config = results.get("config")
    if results.get("methods") is None or config is None or config.table().get("kind") != "layerpace compare":
        return None
    for key in ("steps", "seeds"):
        config[key].whole(0)
    results["metric"].text()
    optional(results, "target")
    for row in results["methods"].items():
        row["label"].text()
        row["lr"].number()
        row["seeds"].whole(0)
        for folder in row["folders"].items():
            folder.text()
        for key in ("diverged", "steps_to_target"):
            list(row[key].items())
        for key in ("score_mean", "score_sd", "steps_to_target_mean", "step_ms", "optimizer_ms", "unevenness"):
            optional(row, key)
    return results.table()


def optional(part: Part, key: str) -> None:
    """The field is a number, or null."""
    value = part.get(key)
    if value is not None:
        value.number()


def labelled(runs: Sequence[Run], results: Mapping[str, Any]) -> list[Run]:
    """Runs named as in the table; of very many, those at each method's chosen rate."""
    names = {}
    for row in results["methods"]:
        for seed, folder in enumerate(row["folders"]):
            names[folder] = row["label"] if len(row["folders"]) == 1 else f"{row['label']} seed {seed}"
    made = []
    for run in runs:
        name = names.get(run.path.name if run.path is not None else "")
        if name is not None:
            made.append(dataclasses.replace(run, name=name))
        elif len(runs) <= MOST_COMPARED:
            made.append(run)
    return made or list(runs)
