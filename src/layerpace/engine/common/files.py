"""Files that anybody may have written or damaged: read, or refused in one line that names file and field.

::

    part = read_json(folder / "run.json")
    names = [layer["name"].text() for layer in part["layers"].items()]   # "run.json, layers[3].name: must be ..."

Everything that layerpace reads back goes through here. So a folder that was cut short, that fell to bits on a disk, or
that somebody made to break its reader ends in a `FileError`, whatever is wrong with it.
"""

from __future__ import annotations

import json
import math
import os
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from layerpace.engine.common.printable import printable

LARGEST = 1 << 28  # bytes of a JSON file
DEEPEST = 64  # lists and objects within one another: what a program of layerpace writes has less than ten
WIDEST = 2**53  # whole numbers beyond it are not exact as floats
LATEST = 1e11  # seconds since the epoch, some time in 5138: what a calendar can name
SHOWN = 60  # characters of a wrong value


class FileError(ValueError):
    """A file cannot be read, or is not what it should be; the message is one printable line with its path."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


@dataclass(frozen=True)
class Part:
    """A value in a JSON file, and where it stands.

    Attributes:
        value: as JSON has it.
        where: the file, and the line if it has lines.
        field: such as ``layers[3].shape``; "": the whole file.
    """

    value: Any
    where: str
    field: str = ""

    def wrong(self, wanted: str) -> FileError:
        """The error for a value that is something else than what is wanted."""
        named = f"{self.where}, {printable(self.field)}" if self.field else self.where
        return FileError(f"{named}: must be {wanted}, got {shortened(self.value)}")

    def __getitem__(self, key: str) -> Part:
        """A field that must be there."""
        if key not in self.table():
            raise FileError(f"{self.where}: {printable(self._below(key))} is missing")
        return Part(self.value[key], self.where, self._below(key))

    def get(self, key: str) -> Part | None:
        """A field; None: it is absent, or null."""
        value = self.table().get(key)
        return None if value is None else Part(value, self.where, self._below(key))

    def items(self) -> Iterator[Part]:
        """The entries of a list."""
        if not isinstance(self.value, list):
            raise self.wrong("a list")
        return (Part(value, self.where, f"{self.field}[{place}]") for place, value in enumerate(self.value))

    def table(self) -> dict[str, Any]:
        """An object."""
        if not isinstance(self.value, dict):
            raise self.wrong("an object, {...}")
        return self.value

    def text(self) -> str:
        """A string; halves of a character that cannot be written become "?"."""
        if not isinstance(self.value, str):
            raise self.wrong("a string")
        return self.value.encode("utf-8", "replace").decode()

    def truth(self) -> bool:
        """true or false."""
        if not isinstance(self.value, bool):
            raise self.wrong("true or false")
        return self.value

    def whole(self, low: int = -WIDEST, high: int = WIDEST) -> int:
        """A whole number in a range."""
        if type(self.value) is not int or not low <= self.value <= high:
            raise self.wrong(f"a whole number from {low} to {high}")
        return self.value

    def number(self, low: float = -math.inf, high: float = math.inf) -> float:
        """A number that a float can be, in a range."""
        if type(self.value) not in (int, float):
            raise self.wrong("a number")
        try:
            value = float(self.value)
        except OverflowError:
            raise self.wrong("a number below 1.8e308") from None
        if (math.isfinite(low) or math.isfinite(high)) and not low <= value <= high:
            raise self.wrong(f"a number from {low:g} to {high:g}")
        return value

    def _below(self, key: str) -> str:
        return f"{self.field}.{key}" if self.field else key


def shortened(value: Any) -> str:
    """A value as an error shows it."""
    if isinstance(value, (dict, list)) and len(value) > SHOWN:
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    if isinstance(value, int) and abs(value) >= 10**SHOWN:
        return "a number of more than 60 digits"
    text = repr(value[: 2 * SHOWN] if isinstance(value, str) else value)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading.

    Raises:
        FileNotFoundError: there is none.
        FileError: a folder, a pipe or a device stands there (reading of those may never end), or it may not be read.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise FileError(f"{printable(path)} is {'a folder' if path.is_dir() else 'no regular file'}")
        return open(path, "rb")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FileError(f"{printable(path)} cannot be read: {error.strerror or error}") from None


def read_bytes(path: Path, largest: int = LARGEST) -> bytes:
    """The content of a file.

    Raises:
        FileNotFoundError: there is none.
        FileError: it cannot be read, or is larger than ``largest``.
    """
    with open_regular(path) as file:
        try:
            data = file.read(largest + 1)
        except OSError as error:
            raise FileError(f"{printable(path)} cannot be read: {error.strerror or error}") from None
    if len(data) > largest:
        raise FileError(f"{printable(path)} is larger than {largest / 1e6:.0f} MB, which no file of its kind is")
    return data


def read_json(path: Path, largest: int = LARGEST) -> Part:
    """The content of a JSON file.

    Raises:
        FileNotFoundError: there is none.
        FileError: it cannot be read or is not JSON; the message says at which line.
    """
    return parse_json(read_bytes(path, largest), printable(path))


def parse_json(data: bytes, where: str, lines: bool = True) -> Part:
    """A JSON text; ``where`` is what an error calls it, and ``lines`` that it has several.

    Raises:
        FileError: it is not JSON, or nested too deep to be handled safely.
    """
    try:
        content = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = f", line {data.count(bytes([10]), 0, error.start) + 1}" if lines else ""
        raise FileError(f"{where}{line}: not UTF-8 text") from None
    except json.JSONDecodeError as error:
        empty = "" if data.strip() else ": it is empty"
        line = f", line {error.lineno}" if lines else ""
        raise FileError(f"{where}{line}: not JSON{empty or f' ({error.msg.lower()})'}") from None
    except RecursionError:
        raise FileError(f"{where}: nested deeper than {DEEPEST} levels") from None
    except ValueError:  # a number of thousands of digits, which Python refuses to read
        raise FileError(f"{where}: a number of too many digits") from None
    if _deeper(content, DEEPEST):
        raise FileError(f"{where}: nested deeper than {DEEPEST} levels")
    return Part(content, where)


def _deeper(content: Any, levels: int) -> bool:
    """Whether lists and objects lie more than so many levels deep."""
    layer = [content] if isinstance(content, (dict, list)) else []
    for _ in range(levels):
        layer = [item for one in layer for item in _within(one)]
    return bool(layer)


def _within(one: Any) -> list[Any]:
    """The lists and objects right in one."""
    items = one.values() if isinstance(one, dict) else one
    return [item for item in items if isinstance(item, (dict, list))]


def load_saved(path: Path, map_location: Any = "cpu") -> Any:
    """What ``torch.save`` wrote, tensors and plain containers alone, byte for byte.

    torch.load does not look at the checksums that torch.save puts beside the bytes of tensors: a bit that a disk has
    turned would be a weight like another. They are checked first, unless torch has been told not to write them
    (`torch.serialization.set_crc32_options`).

    Raises:
        FileNotFoundError: there is none.
        FileError: it is damaged, cut short, or something else.
    """
    import torch

    with open_regular(path) as file:
        try:
            if torch.serialization.get_crc32_options():
                _check_sums(file)
            return torch.load(file, map_location=map_location, weights_only=True)
        except Exception as error:  # EOFError, RuntimeError, KeyError, UnpicklingError, ...: as the damage is
            what = printable(" ".join(str(error).split())[:SHOWN] or "it ends too early")
            raise FileError(
                f"{printable(path)} cannot be read: damaged or cut short ({type(error).__name__}: {what})"
            ) from None


def _check_sums(file: BinaryIO) -> None:
    """Raise ValueError where bytes of an archive are not those that its checksums are of."""
    if zipfile.is_zipfile(file):
        wrong = zipfile.ZipFile(file).testzip()
        if wrong is not None:
            raise ValueError(f"the checksum of {wrong} is wrong")
    file.seek(0)
