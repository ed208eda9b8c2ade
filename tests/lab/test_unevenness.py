from __future__ import annotations

import math

import pytest
import torch

from layerpace.lab.unevenness import matrices, unevenness
from layerpace.monitors.history import History
from layerpace.monitors.run import LayerInfo

NAMES = ["layer0", "layer1", "layer2"]
MISSING = math.nan  # not measured


def history(*records: tuple[float, ...]) -> History:
    """Relative updates of the layers, a tuple a record."""
    made = History(NAMES)
    for step, values in enumerate(records, 1):
        row = torch.tensor([*values, *[MISSING] * (len(NAMES) - len(values))])
        made.append(step, 0.0, {"relative_update_l1": row})
    return made


def test_unevenness_is_the_spread_of_decades() -> None:
    assert unevenness(history((0.1, 0.1, 0.1)), NAMES) == pytest.approx(0)
    assert unevenness(history((1e-1, 1e-3)), NAMES) == pytest.approx(1)  # each one decade from the middle
    assert unevenness(history((1e-1, 1e-3), (0.1, 0.1)), NAMES) == pytest.approx(0.5)
    assert unevenness(history((1e-1, 1e-3, 1e-9)), NAMES[:2]) == pytest.approx(1)
    assert unevenness(history((1e-3, 1e-9, 1e-1)), ["layer2", "layer0"]) == pytest.approx(1)


def test_a_layer_that_does_not_move_counts_and_one_without_a_figure_does_not() -> None:
    assert unevenness(history((1e-2, 0.0)), NAMES) == pytest.approx(5)
    assert unevenness(history((1e-1, math.inf, 1e-3)), NAMES) == pytest.approx(1)
    assert unevenness(history((1e-1, MISSING)), NAMES) is None
    assert unevenness(history((1e-1, MISSING), (1e-1, 1e-3)), NAMES) == pytest.approx(1)
    assert unevenness(history((1e-1, 1e-3)), NAMES[:1]) is None
    assert unevenness(history((1e-1, 1e-3)), []) is None
    assert unevenness(history(), NAMES) is None


def test_layers_are_the_trained_ones_of_two_dimensions_and_more() -> None:
    layers = [
        LayerInfo("conv", (4, 1, 3, 3)),
        LayerInfo("bias", (4,)),
        LayerInfo("frozen", (4, 4), trained=False),
        LayerInfo("fc", (2, 4), excluded=True),
    ]
    assert matrices(layers) == ["conv", "fc"]
