"""`layerpace watch`: a run in the terminal while it trains, from its files alone."""

from __future__ import annotations

import importlib.util
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...engine.common.checks import check_choice, check_range
from ...engine.common.extras import how_to_install
from ...engine.common.files import FileError, read_json
from .characters import Characters, characters_for
from .snapshot import SORTS, Snapshot, WatchError, take
from .table import page

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from ..diagnose import Finding
    from ..folder import Follower

TERMINATED = 128 + signal.SIGTERM  # exit status
POLL = 0.05  # seconds until a signal is noticed

MOST_RECORDS = 10_000  # of each kind: more than a terminal shows, and few enough to be read every second
DIAGNOSE_SECONDS = 5.0  # between two looks for findings, and
DIAGNOSE_SHARE = 0.1  # the most of the time that they may take


class View:
    """What is shown of a run folder, or of the run in a folder of runs that was written last.

    Args:
        path: a run folder, or one of `layerpace compare`, or any folder with run folders in it.
        run: name of the run to show; None: the one written last.
        layers: see `layerpace.monitors.terminal.snapshot.take`.
        sort: one of ``SORTS``.

    Raises:
        WatchError: no run there, or none of that name.
        ValueError: no such order.
    """

    def __init__(self, path: Path, run: str | None = None, layers: str | None = None, sort: str = "layer") -> None:
        check_choice("sort", sort, SORTS)
        self.path, self.wanted, self.layers, self.sort = path, run, layers, sort
        self.folder: Path | None = None
        self.names: dict[Path, str] = {}  # of the runs in the folder
        self.others: list[str] = []
        self.refused: list[str] = []  # runs of the folder that cannot be read, with the reason
        self.shot: Snapshot | None = None
        self.follower: Follower | None = None
        self.findings: list[Finding] = []
        self.diagnosed, self.took = 0.0, 0.0
        self.refresh()

    def refresh(self) -> None:
        """Read what is new."""
        folders = self.choose()
        if not folders:
            return
        self.refused = []
        for folder in folders:
            try:
                changed = self._read(folder)
                break
            except FileError as error:
                self.refused.append(str(error))
        else:
            raise WatchError(self.refused[0])
        self.others = [name for other, name in self.names.items() if other != folder]
        if not changed or self.follower is None:
            return
        run = self.follower.run
        now = time.monotonic()
        if (
            not self.diagnosed
            or run.finished
            or now - self.diagnosed > max(DIAGNOSE_SECONDS, self.took / DIAGNOSE_SHARE)
        ):
            from ..diagnose import diagnose

            self.findings = diagnose(run) if len(run.history) else []
            self.diagnosed = time.monotonic()
            self.took = self.diagnosed - now
        self.shot = take(run, self.findings, self.layers)

    def _read(self, folder: Path) -> bool:
        """Read what is new in a folder; whether there was anything.

        Raises:
            FileError: a file of it cannot be read.
        """
        from ..folder import Follower

        if folder == self.folder and self.follower is not None:
            return self.follower.update()
        follower = Follower(folder, MOST_RECORDS)
        self.folder, self.follower, self.shot = folder, follower, None
        self.findings, self.diagnosed = [], 0.0
        return True

    def choose(self) -> list[Path]:
        """The folder to show, and those to show where it cannot be read; none: a comparison has not started a run."""
        from ..folder import find

        folders = labelled(find(self.path), self.path)
        if not folders and self.wanted is None:
            if compares(self.path):
                return []
            raise WatchError(f"no recorded run in {self.path}: looked for run.json in it and in the folders beneath")
        if self.wanted is not None and self.wanted not in folders:
            raise WatchError(f"no run {self.wanted!r} in {self.path}; there is: {', '.join(folders) or 'none'}")
        if self.wanted is not None:
            chosen = [folders[self.wanted]]
        else:
            chosen = sorted(folders.values(), key=written, reverse=True)
        self.names = {folder: name for name, folder in folders.items()}
        return chosen

    @property
    def ended(self) -> bool:
        """Nothing more will come: the run is finished, and so is the comparison that it belongs to."""
        if self.shot is None or not self.shot.run.finished:
            return False
        return self.wanted is not None or not compares(self.path) or (self.path / "results.json").exists()

    def lines(self, width: int, height: int | None, characters: Characters) -> list[Text]:
        """The page, no wider and no longer than asked for."""
        from rich.text import Text

        if self.shot is None:
            return [Text("waiting for the first run"[:width], style="dim")]
        return page(
            self.shot, width=width, height=height, now=time.time(), characters=characters, sort=self.sort,
            others=self.others, refused=self.refused,
        )  # fmt: skip


def labelled(folders: Sequence[Path], root: Path) -> dict[str, Path]:
    """Run folders by name, or where two have the same one by their path below the root."""
    names = [folder.name for folder in folders]
    return {
        str(folder.relative_to(root)) if names.count(folder.name) > 1 else folder.name: folder for folder in folders
    }


def compares(path: Path) -> bool:
    """Whether `layerpace compare` made the folder."""
    try:
        config = read_json(path / "config.json").value
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("kind") == "layerpace compare"


def written(folder: Path) -> tuple[float, str]:
    """When a run was written last."""
    times = [file.stat().st_mtime for name in ("run.json", "records.jsonl") if (file := folder / name).exists()]
    return max(times, default=0.0), folder.name


def watch(
    path: Path,
    *,
    every: float = 1.0,
    once: bool = False,
    layers: str | None = None,
    sort: str = "layer",
    run: str | None = None,
    console: Console | None = None,
) -> None:
    """Show a run until it is finished, or until Ctrl-C.

    Args:
        path: a run folder, or one that holds several.
        every: seconds between two looks at the files, >= 0.1.
        once: print one table and return. That is done, too, where the output is no terminal.
        layers: globs or parts of names, commas between them; None: all layers.
        sort: "layer", "relative-update" or "findings".
        run: name of the run to show; None: the one written last.
        console: of rich; None: one for stdout.

    Raises:
        WatchError: no run there, none of that name, or no layer like that.
        ValueError: another bad argument.
        ImportError: rich is missing.
    """
    if importlib.util.find_spec("rich") is None:
        raise ImportError(f"layerpace watch needs rich: {how_to_install('report')}")
    from ...engine.common.consoles import SafeConsole

    check_range("every", every, 0.1, 3600)
    if not path.is_dir():
        raise WatchError(f"{path} is {'not a folder' if path.exists() else 'not there'}")
    view = View(path, run, layers, sort)
    console = SafeConsole(highlight=False) if console is None else console
    characters = characters_for(console.encoding)
    followed = not once and console.is_terminal and not console.is_dumb_terminal
    if followed:
        live(view, every, console, characters)
    for line in view.lines(console.width, console.height - 1 if followed else None, characters):
        console.print(line, no_wrap=True, overflow="crop", crop=True)


def live(view: View, every: float, console: Console, characters: Characters) -> None:
    """Look and draw, again and again; on the terminal's second screen, so that the first one stays as it was."""
    from rich.console import Group
    from rich.live import Live

    def drawn() -> Group:
        return Group(*view.lines(console.width, console.height, characters))

    with Ending() as ending:
        try:
            with Live(drawn(), console=console, screen=True, auto_refresh=False) as screen:
                while not view.ended and not ending.wait(every):
                    view.refresh()
                    screen.update(drawn(), refresh=True)
        except KeyboardInterrupt:  # a second Ctrl-C, while much is read
            return
    if ending.signum == signal.SIGTERM:
        raise SystemExit(TERMINATED)


class Ending:
    """Notes SIGINT (Ctrl-C, the usual end of watching) and SIGTERM, so that the terminal gets its first screen back.

    An exception out of a handler may come while rich or an iterator is at work, and be swallowed there. So the handler
    only notes the signal, and the loop asks for it; the second one is a KeyboardInterrupt. In another thread than the
    main one nothing is noted.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._before: dict[int, Any] = {}

    def _note(self, signum: int, frame: object) -> None:
        if self.signum is not None:
            raise KeyboardInterrupt
        self.signum = signum

    def wait(self, seconds: float) -> bool:
        """Wait, and say whether a signal has come."""
        end = time.monotonic() + seconds
        while self.signum is None and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, POLL))
        return self.signum is not None

    def __enter__(self) -> Ending:
        if threading.current_thread() is threading.main_thread():
            self._before = {signum: signal.signal(signum, self._note) for signum in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
