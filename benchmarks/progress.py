"""Bars on stderr that draw between the rounds: a thread that redraws would take time from what is measured."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class Bars:
    """A bar for each part under way, counted in rounds; without a terminal, a line for each part."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            auto_refresh=False,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def add(self, label: str, total: int) -> TaskID:
        if self.progress.disable:
            self.console.print(f"{label} ...", highlight=False)
        return self.progress.add_task(label, total=total)

    def advance(self, bar: TaskID) -> None:
        self.progress.advance(bar)
        self.progress.refresh()
