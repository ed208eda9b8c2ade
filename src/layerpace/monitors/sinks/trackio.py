"""Numbers for trackio."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from layerpace.monitors.sinks.protocol import Owner, missing


class Trackio(Owner):
    """Logs to a run of trackio, which keeps its figures on this machine.

    Args:
        project: of a new run.
        run: a run that was made elsewhere, instead; it is not finished here.
        **options: of ``trackio.init``, such as ``name``, for a new run.

    Raises:
        ImportError: trackio is not installed.
        TypeError: a run and options for a new one.
    """

    def __init__(self, project: str = "layerpace", run: Any = None, **options: Any) -> None:
        if run is not None and options:
            raise TypeError(f"Trackio takes a run or the options of a new one, got a run and {', '.join(options)}")
        self._own = run is None
        if run is None:
            try:
                import trackio
            except ImportError:
                raise missing("Trackio", "trackio") from None
            run = trackio.init(project, **options)
        self.run = run

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Take numbers; nan is left out."""
        known = {key: value for key, value in values.items() if not math.isnan(value)}
        if known:
            self.run.log(known, step=step)

    def close(self) -> None:
        """Finish the run unless it was made elsewhere."""
        if self._own:
            self.run.finish()
