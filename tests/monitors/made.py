"""Runs made up of smooth figures, for what draws and shows them."""

from __future__ import annotations

import torch
from torch import Tensor

from layerpace.monitors.history import History
from layerpace.monitors.quantities import QUANTITIES
from layerpace.monitors.run import LayerInfo, Run, Series

START = 1.7e9  # seconds since the epoch


def layer_infos(count: int) -> list[LayerInfo]:
    """A network of blocks: a matrix, then its bias, and so on; excluded biases."""
    parts = ("attn.qkv", "attn.out", "mlp.up", "mlp.down")
    layers = []
    for k in range(count):
        place, bias = divmod(k, 2)
        block, part = divmod(place, len(parts))
        name = f"encoder.blocks.{block}.{parts[part]}.{'bias' if bias else 'weight'}"
        layers.append(LayerInfo(name, (64,) if bias else (64, 64), excluded=bool(bias)))
    return layers


def figures(layers: list[LayerInfo], share: float) -> dict[str, Tensor]:
    """All quantities of a record, `share` of the way through the training, in (0, 1]."""
    count = len(layers)
    depth = torch.linspace(0, 1, count, dtype=torch.float64)
    vector = torch.tensor([float(len(layer.shape) < 2) for layer in layers], dtype=torch.float64)
    wobble = 1 + 0.2 * torch.sin(40 * share + 9 * torch.arange(count, dtype=torch.float64))
    update = 10 ** (-2 - 1.5 * depth - 1.2 * share + 0.7 * vector) * wobble
    raw = 10 ** (0.8 - 1.4 * depth - 0.5 * share) * wobble
    nowhere = torch.full((count,), torch.nan, dtype=torch.float64)
    middle = 10 ** (-5 - 2 * depth - share) * wobble
    values = {
        "relative_update_l1": update,
        "relative_update_l2": 1.2 * update,
        "rotation_angle": 0.9 * update,
        "cosine_distance": (1 - torch.exp(-share * (3 - 2.4 * depth))) * (1 - 0.5 * vector),
        "trust_ratio": torch.where(vector > 0, nowhere, raw.clamp(max=1.0)),
        "trust_ratio_unclipped": torch.where(vector > 0, nowhere, raw),
        "weight_norm": (4 + 3 * depth) * (1 + 0.4 * share) * (1 - 0.9 * vector),
        "grad_norm": 10 ** (-1 - depth - share) * wobble,
        "update_norm": 5 * update,
        "second_moment_p10": middle / 8,
        "second_moment_p50": middle,
        "second_moment_p90": middle * 9,
        "silhouette": 0.6 * share * depth - 0.1,
        "learning_rate": torch.full((count,), 0.01 * (1.01 - share), dtype=torch.float64),
    }
    assert set(values) == set(QUANTITIES)
    return values


def made_run(count: int = 5, records: int = 40, every: int = 10, name: str = "made", finished: bool = False) -> Run:
    """A run of `count` layers, a record every `every` steps from step 1, two seconds apart."""
    layers = layer_infos(count)
    history = History([layer.name for layer in layers])
    steps = [1 + every * k for k in range(records)]
    for k, step in enumerate(steps):
        history.append(step, START + 2.0 * k, figures(layers, (k + 1) / records))
    scalars = {
        "loss": Series(steps, [2.3 * 0.97**k + 0.05 for k in range(records)]),
        "test_accuracy": Series(steps[::4], [1 - 0.9 * 0.9**k for k in range(len(steps[::4]))]),
    }
    return Run(name, {"optimizer": "LAMB", "every": every}, layers, history, scalars, finished=finished)


def records_of(history: History) -> list[tuple[int, float, dict[str, Tensor]]]:
    """(step, time, [layers] by quantity) of each record; nan where it has none."""
    tables = {quantity: history[quantity] for quantity in QUANTITIES if quantity in history}
    return [
        (step, time, {quantity: table[k].clone() for quantity, table in tables.items()})
        for k, (step, time) in enumerate(zip(history.steps, history.times, strict=True))
    ]


def altered(run: Run, quantity: str, layer: int, records: slice, value: float) -> Run:
    """The run with one figure of a layer replaced in some records."""
    history = History(run.history.layers)
    wanted = set(range(len(run.history))[records])
    for k, (step, time, row) in enumerate(records_of(run.history)):
        if k in wanted:
            row[quantity][layer] = value
        history.append(step, time, row)
    return Run(run.name, run.settings, run.layers, history, run.scalars, run.path, run.finished)
