"""A run on disk, read as it grows.

What its files must be is said here: of run.json by `read_settings`, of the lines of records by
`layerpace.monitors.replay`. Whoever reads a run does so through a `Follower`, and need not check again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from layerpace.engine.common.files import LATEST, WIDEST, FileError, Part, open_regular, read_json, shortened
from layerpace.monitors.replay import Replay
from layerpace.monitors.run import LayerInfo, Run

RUN, RECORDS, DONE = "run.json", "records.jsonl", "DONE"
KIND, VERSION = "layerpace run", 1
DIMENSIONS = 64  # of a tensor, which is what torch allows
LONGEST = 1 << 26  # bytes of a line


class Follower:
    """Reads a run's folder, and later what has been added to it.

    Args:
        path: of the folder.
        max_records: of each set of keys that are kept; beyond it every second one goes. None: all.

    Raises:
        FileNotFoundError: there is no run in it.
        FileError: a file of it cannot be read; the message has its path.
    """

    def __init__(self, path: str | Path, max_records: int | None = None) -> None:
        self.path, self.max_records = Path(path), max_records
        if not (self.path / RUN).exists() and not (self.path / RECORDS).exists():
            raise FileNotFoundError(f"{path} holds no run: looked for {RUN} and {RECORDS}")
        self._described = Described()
        self._stamp: tuple[int, ...] = ()
        self._finished = False
        self._forget()
        self.update()

    def _forget(self) -> None:
        self._replay = Replay(list(self._described.layers), self.max_records)
        # What was read last. A record is never written twice, so as long as this line is where it was, so is all before
        # it: where records go, those after them move to the front.
        self._offset, self._last = 0, b""

    def update(self) -> bool:
        """Read what is new, or all again where the file has been thinned or cut; whether there was anything."""
        settings = self._read_settings()
        records = self._read_records()
        finished = (self.path / DONE).exists()
        changed = finished != self._finished
        self._finished = finished
        return settings or records or changed

    @property
    def run(self) -> Run:
        """The run as it was at the last update."""
        return Run(
            name=self.path.resolve().name if self._described.name is None else self._described.name,
            settings=self._described.settings,
            layers=list(self._replay.layers),
            history=self._replay.history,
            scalars=dict(self._replay.scalars),
            path=self.path,
            finished=self._finished,
            notes=tuple(self._notes()),
        )

    def _notes(self) -> Iterator[str]:
        """What the run is without."""
        replay = self._replay
        if replay.damaged:
            yield (
                f"{RECORDS}: {replay.damaged} of {replay.lines} lines are damaged and left out, the first is "
                f"{replay.reason}"
            )
        if replay.stride > 1:
            yield f"{RECORDS} has {replay.lines} lines: of its records every {ordinal(replay.stride)} is read"

    def _read_settings(self) -> bool:
        try:
            stat = (self.path / RUN).stat()
        except FileNotFoundError:
            return False
        stamp = stat.st_ino, stat.st_mtime_ns, stat.st_size
        if stamp == self._stamp:
            return False
        self._described, self._stamp = read_settings(self.path / RUN), stamp
        layers, known = self._described.layers, self._replay.layers
        if [layer.name for layer in layers[: len(known)]] == [layer.name for layer in known]:
            self._replay.add_layers(layers)
        else:
            self._forget()
        return True

    def _read_records(self) -> bool:
        try:
            file = open_regular(self.path / RECORDS)
        except FileNotFoundError:
            return False
        with file:
            file.seek(self._offset - len(self._last))
            same = file.read(len(self._last)) == self._last
            if not same:
                self._forget()
                file.seek(0)
            before = self._replay.lines
            try:
                self._replay.feed(self._lines(file))
            except (FileError, OSError) as error:
                raise FileError(f"{self.path / RECORDS}: {error}") from None
        replay = self._replay
        if 0 < replay.lines == replay.damaged:
            raise FileError(f"{self.path / RECORDS}: none of its {replay.lines} lines can be read; {replay.reason}")
        return replay.lines > before or not same

    def _lines(self, file: BinaryIO) -> Iterator[bytes]:
        """The whole lines from here, without their ends; one that is being written is none yet."""
        while (line := file.readline(LONGEST)).endswith(b"\n"):
            self._offset += len(line)
            self._last = line
            yield line[:-1].removesuffix(b"\r")  # git and editors write such ends on Windows
        if len(line) == LONGEST:
            raise FileError(f"line {self._replay.lines + 1} is longer than {LONGEST / 1e6:.0f} MB")


@dataclass(frozen=True)
class Described:
    """What a run.json says.

    Attributes:
        name: of the run; None: that of its folder.
        settings: JSON-like.
        layers: from input to output.
        started: seconds since the epoch; None: not known.
    """

    name: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    layers: tuple[LayerInfo, ...] = ()
    started: float | None = None


def ordinal(number: int) -> str:
    """2nd, 4th, 8th, ..."""
    ends = {1: "st", 2: "nd", 3: "rd"}
    return f"{number}{'th' if number % 100 in (11, 12, 13) else ends.get(number % 10, 'th')}"


def read_settings(path: Path) -> Described:
    """The content of a run.json.

    Raises:
        FileNotFoundError: there is none.
        FileError: it is something else; the message names the field.
    """
    content = read_json(path)
    kind, version = content["kind"].value, content["version"].value
    if (kind, version) != (KIND, VERSION):
        got = f"{shortened(kind)} and version {shortened(version)}"
        raise FileError(f"{path} is of kind {got}, must be {KIND!r} and {VERSION}")
    name, settings, started = content.get("name"), content.get("settings"), content.get("started")
    return Described(
        None if name is None else name.text(),
        {} if settings is None else settings.table(),
        tuple(_layers(content)),
        None if started is None else started.number(-LATEST, LATEST),
    )


def _layers(content: Part) -> Iterator[LayerInfo]:
    known: set[str] = set()
    for layer in content["layers"].items():
        name, shape = layer["name"].text(), layer["shape"]
        if name in known:
            raise layer["name"].wrong("a name that no layer before it has")
        known.add(name)
        sizes = tuple(size.whole(0, WIDEST) for size in shape.items())
        if len(sizes) > DIMENSIONS or math.prod(sizes) > WIDEST:
            raise shape.wrong(f"at most {DIMENSIONS} sizes, of {WIDEST} entries together")
        yield LayerInfo(name, sizes, layer["excluded"].truth(), layer["trained"].truth())
