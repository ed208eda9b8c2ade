"""`layerpace report`: from folders to the page."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..folder import load
from ..run import Run
from .page import write_report

PAGE = "report.html"
MOST_COMPARED = 24  # runs of a comparison that are shown whatever their learning rate


def report(paths: Sequence[Path], out: Path | None = None, title: str | None = None) -> Path:
    """Write the report of one or several run folders.

    Args:
        paths: folders of runs, or folders with runs beneath, as that of ``layerpace compare``.
        out: the file; None: report.html in the folder, or, for several, here.
        title: of the page; None: made from the runs.

    Returns:
        the file.

    Raises:
        FileNotFoundError: no run in a folder, or no record in any of them.
        ValueError: a file cannot be read, or all that does not fit into one page.
    """
    with one_thread():
        return _report(paths, out, title)


@contextmanager
def one_thread() -> Iterator[None]:
    """The tensors are small: on a machine that is busy training, threads would wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _report(paths: Sequence[Path], out: Path | None, title: str | None) -> Path:
    results = compared(paths[0]) if len(paths) == 1 else None
    runs = [run for path in paths for run in load(path)]
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
    if not out.parent.is_dir():
        raise FileNotFoundError(f"--out {out}: there is no folder {out.parent}")
    return write_report(with_records, out, title, results)


def compared(path: Path) -> dict[str, Any] | None:
    """What a finished comparison found; None: the folder is something else."""
    try:
        results = json.loads((path / "results.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    known = isinstance(results, dict) and "methods" in results
    return results if known and results.get("config", {}).get("kind") == "layerpace compare" else None


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
