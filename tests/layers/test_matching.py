"""Globs where parameters come without names, as trainers hand them over."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import layerpace as lp
from layerpace.layers import matching


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def left_out(optimizer: Any) -> list[bool]:
    return [cut.excluded for cut in optimizer.layers.values()]


@pytest.mark.parametrize("wrapped", [False, True])
def test_it_is_globs_over_named_parameters(wrapped: bool) -> None:
    weights = []
    for named in (False, True):
        model = network()
        exclude: Any = ["2.*", "0.bias"] if named else matching(model, ["2.*", "0.bias"])
        params: Any = model.named_parameters() if named else model.parameters()
        make = torch.optim.SGD if wrapped else lp.LARS
        optimizer = make(params, lr=0.1, **({} if wrapped else {"exclude": exclude}))
        if wrapped:
            optimizer = lp.wrap(optimizer, "rotation", exclude=exclude)
        assert left_out(optimizer) == [False, True, True, True]
        model(torch.ones(2, 3)).square().sum().backward()
        optimizer.step()
        weights.append([p.detach() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_groups_that_a_trainer_makes() -> None:
    model = network()
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    assert left_out(lp.LAMB(groups, exclude=matching(model, "2.*"))) == [False, True, False, True]


def test_copies_and_pickles_go_with_their_parameters() -> None:
    model = network()
    model[1].act = lambda x: x  # type: ignore[assignment]  # what no pickle takes
    optimizer = lp.LAMB(model.parameters(), exclude=matching(model, "2.*"))
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer)), copy.copy(optimizer)):
        assert left_out(twin) == [False, False, True, True]
        of_twin = twin.param_groups[0]["params"]
        assert (of_twin[0] is model[0].weight) == (twin.param_groups is optimizer.param_groups)
        for param, excluded in zip(of_twin, [False, False, True, True], strict=True):
            assert twin._exclude("", param) == excluded
    plain = network()
    model_too, both = copy.deepcopy((plain, matching(plain, "2.*")))
    assert both("", model_too[2].weight) and not both("", model_too[0].weight)
    alone = copy.deepcopy(matching(model, "2.*"))  # as scikit-learn copies the settings of an estimator
    assert alone("", model[2].bias) and not alone("", model[0].bias)


def test_tied_and_exchanged_parameters_are_known() -> None:
    model = network()
    model.tied = model[0]
    exclude = matching(model, "tied.weight")
    assert exclude("", model[0].weight) and not exclude("", model[0].bias)
    model[0].weight = nn.Parameter(torch.ones(4, 3))
    assert exclude("", model[0].weight)


def test_what_fits_nothing_is_told() -> None:
    model = network()
    with pytest.raises(
        ValueError, match=r"'\*norm\*' matches no parameter of the Sequential; the names are '0.weight'"
    ):
        matching(model, ["*.bias", "*norm*"])
    with pytest.raises(ValueError, match=r"shape \(4, 3\) that its model does not have"):
        lp.LAMB(network().parameters(), exclude=matching(model, "*.bias"))
    with pytest.raises(TypeError, match=r"needs a torch\.nn\.Module, got list"):
        matching([], "*")  # type: ignore[arg-type]
    for wrong in ([], [3], None):
        with pytest.raises(TypeError, match="a glob or a list of globs"):
            matching(model, wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"layerpace\.layers\.matching"):
        lp.LAMB(model.parameters(), exclude="*.bias")
