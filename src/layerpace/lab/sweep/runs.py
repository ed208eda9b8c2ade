"""The runs of a sweep, and what their folders say of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ...engine.common.files import FileError, read_json
from ...engine.common.printable import printable
from ..errors import LabError
from ..records import DONE
from .protocol import REQUEST, Request, Result
from .runner import Resolved, Runner, resolve

Status = Literal["waiting", "running", "done", "before", "failed"]


@dataclass
class Run:
    """One run of the sweep.

    Attributes:
        folder: absolute.
        requests: those that ask for it; more than one where they mean the same.
        status: "before": an earlier process finished it.
        result: what DONE holds.
        error: the last line of the traceback, or why its workers were lost.
        seconds: from its first worker's start to its end, here; None: it was not made here.
    """

    made: Resolved
    folder: Path
    requests: list[Request]
    status: Status = "waiting"
    attempt: int = 0
    threads: int = 1
    result: Result | None = None
    error: str = ""
    started: float = field(default=0.0, repr=False)
    seconds: float | None = None

    @property
    def ended(self) -> bool:
        return self.status in ("done", "before", "failed")


class Runs:
    """The runs of a sweep by their folders, in the order in which they were asked for."""

    def __init__(self, out: Path, runner: Runner) -> None:
        self.out, self.runner = out.resolve(), runner
        self.by_folder: dict[Path, Run] = {}

    def add(self, request: Request) -> tuple[Run, bool]:
        """The run of a request, checked in full, and whether it is new."""
        made = resolve(self.runner, request)
        folder = self.out / "runs" / made.name
        known = self.by_folder.get(folder)
        if known is not None:
            known.requests.append(request)
            return known, False
        run = self.by_folder[folder] = Run(made, folder, [request])
        return run, True

    def __iter__(self) -> Iterator[Run]:
        return iter(self.by_folder.values())

    def __len__(self) -> int:
        return len(self.by_folder)

    def earlier(self) -> Iterator[tuple[Request, Path]]:
        """The requests of the folders that are there already, where they still mean the same run."""
        for path in sorted(self.out.glob(f"runs/*/{REQUEST}")):
            request = read(path)
            try:
                if request and resolve(self.runner, request).name == path.parent.name:
                    yield request, path.parent
            except (OSError, ValueError, LabError):  # half a copy of a folder, or an option that there is no more
                continue


def result_of(folder: Path) -> Result | None:
    """What DONE holds; None: the run is not finished.

    Raises:
        LabError: DONE is there and cannot be read, so nobody may say whether the run is finished.
    """
    path = folder / DONE
    try:
        result = read_json(path).value
    except FileNotFoundError:
        return None
    except FileError as error:
        reason = str(error).removeprefix(printable(path)).lstrip(",: ")
        raise LabError(f"{printable(path)} cannot be read ({reason}): delete it to make the run again") from None
    return result if isinstance(result, Mapping) else {"result": result}


def read(path: Path) -> dict[str, Any]:
    """A JSON object; {} where there is none."""
    try:
        found = read_json(path).value
    except (OSError, FileError):
        return {}
    return found if isinstance(found, dict) else {}
