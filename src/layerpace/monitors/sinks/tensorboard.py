"""Numbers for TensorBoard."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layerpace.monitors.sinks.protocol import Owner, missing


class TensorBoard(Owner):
    """Writes scalars to TensorBoard's event files, with the time at which they were measured.

    Args:
        log_dir: folder of the event files; None: that of the monitor's run, or where it has none TensorBoard's own
            choice, runs/DATE_HOST.
        writer: a SummaryWriter to use instead; it is not closed.

    Raises:
        ImportError: TensorBoard is not installed.
    """

    timed = True

    def __init__(self, log_dir: str | Path | None = None, *, writer: Any = None) -> None:
        self._own, self._folder, self._writer = writer is None, log_dir, writer
        self._summary: Any = None
        try:
            from tensorboard.compat.proto.summary_pb2 import Summary
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            if self._own:
                raise missing("TensorBoard", "tensorboard") from None
        else:
            self._make = SummaryWriter
            if self._own or isinstance(writer, SummaryWriter):
                self._summary = Summary

    def settle(self, folder: Path) -> None:
        """Write into the run's folder, unless there is another one already."""
        if self._own and self._writer is None and self._folder is None:
            self._folder = folder

    @property
    def writer(self) -> Any:
        """The SummaryWriter; it is made when it is first needed."""
        if self._writer is None:
            self._writer = self._make(self._folder)
        return self._writer

    def log(self, values: Mapping[str, float], step: int, time: float | None = None) -> None:
        """Take numbers; nan is left out, infinity is drawn as such."""
        known = {key: float(value) for key, value in values.items() if not math.isnan(value)}
        if self._summary is None:  # a writer of another library
            for key, value in known.items():
                self.writer.add_scalar(key, value, step, time)
        elif known:
            # What add_scalar writes for each number, in one event: 30 times faster for a thousand of them.
            scalars = [self._summary.Value(tag=key, simple_value=value) for key, value in known.items()]
            self.writer.file_writer.add_summary(self._summary(value=scalars), step, time)

    def flush(self) -> None:
        """Write what waits."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Write what waits, and close the writer unless it was given."""
        if self._own and self._writer is not None:
            self._writer.close()
        else:
            self.flush()
