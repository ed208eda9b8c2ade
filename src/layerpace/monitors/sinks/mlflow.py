"""Numbers for MLflow."""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Mapping
from time import time as now

from layerpace.monitors.sinks.protocol import Owner, missing

BATCH = 1000  # metrics that MLflow takes at once
LONGEST = 250  # characters of a name


class MLflow(Owner):
    """Logs to a run of MLflow.

    MLflow allows letters, digits and ``_ - . / `` and space in names (and ":" but on Windows), at most 250, and no
    name that would be another one as a path: anything else becomes "_", so "qkv.weight[0]" is "qkv.weight_0_".

    Args:
        run_id: of a run that was made elsewhere; it is not ended here. None: the active run, else a new one.
        experiment: name of the new run's experiment; made if need be.
        run_name: of the new run.
        tracking_uri: where the figures are kept; None: as MLflow is set up.

    Raises:
        ImportError: MLflow is not installed.
    """

    timed = True

    def __init__(
        self,
        run_id: str | None = None,
        *,
        experiment: str = "layerpace",
        run_name: str | None = None,
        tracking_uri: str | None = None,
    ) -> None:
        try:
            import mlflow
            from mlflow.entities import Metric
        except ImportError:
            raise missing("MLflow", "mlflow") from None
        self._metric = Metric
        self.client = mlflow.MlflowClient(tracking_uri)
        active = mlflow.active_run() if run_id is None and tracking_uri is None and run_name is None else None
        self._own = run_id is None and active is None
        if active is not None:
            run_id = active.info.run_id
        if run_id is None:
            found = self.client.get_experiment_by_name(experiment)
            number = self.client.create_experiment(experiment) if found is None else found.experiment_id
            run_id = self.client.create_run(number, run_name=run_name).info.run_id
        self.run_id = run_id
        self._names: dict[str, str] = {}

    def log(self, values: Mapping[str, float], step: int, time: float | None = None) -> None:
        """Take numbers; nan is left out, infinity is kept as the largest number."""
        stamp = int(1000 * (now() if time is None else time))
        metrics = [
            self._metric(self._name(key), float(value), stamp, step)
            for key, value in values.items()
            if not math.isnan(value)
        ]
        for start in range(0, len(metrics), BATCH):
            self.client.log_batch(self.run_id, metrics[start : start + BATCH])

    def close(self) -> None:
        """End the run unless it was made elsewhere."""
        if self._own:
            self.client.set_terminated(self.run_id)

    def _name(self, key: str) -> str:
        if key not in self._names:
            name, number, taken = allowed(key), 1, set(self._names.values())
            while name in taken:
                number += 1
                name = f"{allowed(key)[: LONGEST - 8]}_{number}"
            self._names[key] = name
        return self._names[key]


def allowed(key: str) -> str:
    """The key as MLflow takes it."""
    name = re.sub(r"[^/\w.\- ]", "_", key)
    if len(name) > LONGEST:  # both ends tell layers apart
        name = f"{name[:100]}...{name[-147:]}"
    if posixpath.normpath(name) != name or name.startswith((".", "/")):
        name = "/".join(part if part.strip(".") else "_" for part in name.split("/"))
    return f"_{name}" if name.startswith("..") else name
