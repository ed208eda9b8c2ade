"""Any experiment as a sweep: a function makes a run, another one names the runs.

    layerpace sweep docs/examples/own_sweep.py:sweep

How far does each method come down a narrow valley, x^2 + 100 y^2, in 100 steps? Each run is a process; stop the sweep
and start it again, and it makes what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import layerpace as lp


def sweep() -> dict[str, Any]:
    """The same as a TOML file would say."""
    return {
        "name": "valley",
        "runner": f"{__file__}:run",
        "objective": "loss",
        "mode": "min",
        "grid": {"method": ["LAMB", "LARS"], "lr": [0.01, 0.1]},
    }


def run(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Make one run; what it returns is written to DONE in its folder."""
    weight = torch.nn.Parameter(torch.tensor([[3.0, 1.0]]))
    optimizer = getattr(lp, config["method"])([weight], lr=config["lr"])
    for _ in range(100):
        loss = (weight.square() * torch.tensor([1.0, 100.0])).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {"loss": loss.item()}
