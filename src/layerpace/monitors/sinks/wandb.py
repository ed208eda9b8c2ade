"""Numbers for Weights & Biases."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from layerpace.monitors.sinks.protocol import Owner, missing

STEP = "optimizer_step"


class WandB(Owner):
    """Logs to a run of Weights & Biases.

    Charts have the optimizer step as their horizontal axis, under the name "optimizer_step". W&B's own step, which
    must not go back, is left to the calls of the training itself, so both may log to one run in any order.

    Args:
        run: a run that was made elsewhere; it is not finished here. None: the active run, else a new one.
        **options: of ``wandb.init``, such as ``project`` and ``name``, for a new run.

    Raises:
        ImportError: wandb is not installed.
        TypeError: a run and options for a new one.
    """

    def __init__(self, run: Any = None, **options: Any) -> None:
        if run is not None and options:
            raise TypeError(f"WandB takes a run or the options of a new one, got a run and {', '.join(options)}")
        self._own = False
        if run is None:
            try:
                import wandb
            except ImportError:
                raise missing("WandB", "wandb") from None
            run = None if options else wandb.run
            if run is None:
                run, self._own = wandb.init(**{"project": "layerpace", **options}), True
        self.run = run
        self._defined: set[str] = set()

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Take numbers; nan is left out."""
        known = {key: value for key, value in values.items() if not math.isnan(value)}
        if not known:
            return
        if not self._defined:
            self.run.define_metric(STEP, hidden=True)
        # One definition serves all layers of a quantity.
        for name in {f"{key.split('/')[0]}/*" if "/" in key else key for key in known} - self._defined:
            self.run.define_metric(name, step_metric=STEP)
            self._defined.add(name)
        self.run.log({STEP: step, **known})

    def close(self) -> None:
        """Finish the run unless it was made elsewhere."""
        if self._own:
            self.run.finish()
