"""Rows as a file for other programs: Parquet, CSV or JSON. It is written aside and takes its name when it is whole."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..extras import require
from ..records import to_json, without_nan
from ..records import write as replace_file

ENDINGS = (".parquet", ".csv", ".json")
# Of columns that are empty in one file and not in the next, or have whole numbers in one and others in the next.
FLOATS = ("lr", "target", "test_score", "test_loss", "train_loss", "validation_score", "validation_loss", "unevenness",
          "step_ms", "optimizer_ms", "seconds")  # fmt: skip
INTS = ("diverged_at", "step", "seed")


def check(path: Path) -> None:
    """Whether a table can be written there, before any work.

    Raises:
        UsageError: no ending that is known, or no such folder.
        LabError: pyarrow is missing.
    """
    if path.suffix not in ENDINGS:
        raise UsageError(f"--out {path}: the name must end in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}")
    if path.is_dir():
        raise UsageError(f"--out {path} is a folder: name a file in it")
    if path.exists() and not path.is_file():  # a pipe or a device, which the table would take the place of
        raise UsageError(f"--out {path} is no regular file")
    if not path.parent.is_dir():
        raise UsageError(f"--out {path}: there is no folder {path.parent}")
    if path.suffix == ".parquet":
        require(["pyarrow"], "a .parquet file", "parquet")


def write(rows: Sequence[Mapping[str, Any]], path: Path, columns: Sequence[str] | None = None) -> None:
    """Write rows with the same keys to a file.

    Parquet: whole numbers are int64, others double; lists are JSON text; what is missing is null. CSV: missing is "",
    true and false in small letters. JSON: a list of objects, lists as they are.

    Args:
        rows: of `collect` or `curves`.
        path: ends in .parquet, .csv or .json; its folder exists.
        columns: to write, in this order; None: all that the rows have.

    Raises:
        UsageError: another ending, or no such folder.
        LabError: pyarrow is missing.
    """
    check(path)
    names = list(columns if columns is not None else rows[0] if rows else ())
    rows = [{name: without_nan(row[name]) for name in names} for row in rows]
    if path.suffix == ".json":
        replace_file(path, to_json(rows, indent=1) + "\n")
    elif path.suffix == ".csv":
        replace_file(path, as_csv(rows, names))
    else:
        replace_file(path, as_parquet(rows, names))


def as_csv(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([cell(item) for item in row.values()] for row in rows)
    return text.getvalue()


def cell(item: Any) -> Any:
    """A float keeps all of its digits; lists and truth values are as in JSON."""
    return json.dumps(item) if isinstance(item, bool | list) else item


def as_parquet(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    kinds = {str: pyarrow.string(), bool: pyarrow.bool_(), int: pyarrow.int64(), float: pyarrow.float64()}
    columns = {}
    for name in names:
        kind, items = column(name, [row[name] for row in rows])
        columns[name] = pyarrow.array(items, kinds[kind])
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()


def column(name: str, items: Sequence[Any]) -> tuple[type, list[Any]]:
    """One type for all that a column holds: values of several become JSON text."""
    types = {type(item) for item in items if item is not None}
    small = all(-(2**63) <= item < 2**63 for item in items if isinstance(item, int))
    if types <= {int, float} and small:
        base = name.removeprefix("result.").removeprefix("config.")
        if float in types or base in FLOATS:
            return float, [None if item is None else float(item) for item in items]
        if types or base in INTS:
            return int, list(items)
    if types == {bool}:
        return bool, list(items)
    return str, [item if item is None or isinstance(item, str) else json.dumps(item) for item in items]
