"""A run on disk, read as it grows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layerpace.monitors.replay import Replay
from layerpace.monitors.run import LayerInfo, Run

RUN, RECORDS, DONE = "run.json", "records.jsonl", "DONE"
KIND, VERSION = "layerpace run", 1


class Follower:
    """Reads a run's folder, and later what has been added to it.

    Args:
        path: of the folder.

    Raises:
        FileNotFoundError: there is no run in it.
        ValueError: a file of it cannot be read; the message has its path.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not (self.path / RUN).exists() and not (self.path / RECORDS).exists():
            raise FileNotFoundError(f"{path} holds no run: looked for {RUN} and {RECORDS}")
        self._settings: Mapping[str, Any] = {}
        self._stamp: tuple[int, ...] = ()
        self._finished = False
        self._forget()
        self.update()

    def _forget(self) -> None:
        self._replay = Replay(layers_of(self._settings))
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
            name=str(self._settings.get("name", self.path.resolve().name)),
            settings=self._settings.get("settings", {}),
            layers=list(self._replay.layers),
            history=self._replay.history,
            scalars=dict(self._replay.scalars),
            path=self.path,
            finished=self._finished,
        )

    def _read_settings(self) -> bool:
        try:
            stat = (self.path / RUN).stat()
        except FileNotFoundError:
            return False
        stamp = stat.st_ino, stat.st_mtime_ns, stat.st_size
        if stamp == self._stamp:
            return False
        self._settings, self._stamp = read_settings(self.path / RUN), stamp
        layers, known = layers_of(self._settings), self._replay.layers
        if [layer.name for layer in layers[: len(known)]] == [layer.name for layer in known]:
            self._replay.add_layers(layers)
        else:
            self._forget()
        return True

    def _read_records(self) -> bool:
        try:
            file = open(self.path / RECORDS, "rb")  # noqa: SIM115  (closed below)
        except FileNotFoundError:
            return False
        with file:
            file.seek(self._offset - len(self._last))
            same = file.read(len(self._last)) == self._last
            if not same:
                self._forget()
                file.seek(0)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        if not whole:
            return not same
        self._offset += len(whole)
        self._last = whole[whole.rfind(b"\n", 0, -1) + 1 :]
        try:
            self._replay.feed(whole[:-1].split(b"\n"))
        except ValueError as error:
            raise ValueError(f"{self.path / RECORDS}: {error}") from None
        return True


def read_settings(path: Path) -> dict[str, Any]:
    """The content of a run.json.

    Raises:
        ValueError: it is something else.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kind, version = content["kind"], content["version"]
        layers_of(content)
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is not the {RUN} of a run") from None
    if (kind, version) != (KIND, VERSION):
        raise ValueError(f"{path} is of kind {kind!r} and version {version!r}, must be {KIND!r} and {VERSION}")
    return content


def layers_of(settings: Mapping[str, Any]) -> list[LayerInfo]:
    """The layers that a run.json lists."""
    return [
        LayerInfo(layer["name"], tuple(layer["shape"]), bool(layer["excluded"]), bool(layer["trained"]))
        for layer in settings.get("layers", ())
    ]
