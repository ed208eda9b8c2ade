"""The silhouette score of what a layer gets back."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import layerpace as lp
from layerpace.monitors.feedback import silhouette


def by_hand(points: Tensor, classes: Tensor) -> float:
    """Rousseeuw's definition, one example at a time."""
    unit = points.double() / points.double().norm(dim=1, keepdim=True)
    distance = 1 - unit @ unit.T
    scores = []
    for i, own in enumerate(classes):
        alike = classes == own
        if alike.sum() == 1:
            scores.append(0.0)
            continue
        a = distance[i, alike].sum() / (alike.sum() - 1)
        b = min(distance[i, classes == other].mean() for other in classes.unique() if other != own)
        scores.append(float((b - a) / max(a, b)))
    return sum(scores) / len(scores)


def test_the_score_is_that_of_its_definition() -> None:
    torch.manual_seed(0)
    points, classes = torch.randn(40, 7), torch.arange(40) % 3
    points += torch.eye(7)[classes]
    assert silhouette(points, classes) == pytest.approx(by_hand(points, classes), abs=1e-6)
    assert silhouette(torch.eye(7)[classes] + 1e-3 * points, classes) > 0.99


def test_examples_without_gradient_do_not_count() -> None:
    torch.manual_seed(0)
    points, classes = torch.randn(20, 5), torch.arange(20) % 2
    more = torch.cat([points, torch.zeros(4, 5), torch.full((1, 5), torch.nan)])
    assert silhouette(more, torch.cat([classes, torch.tensor([0, 1, 0, 1, 0])])) == silhouette(points, classes)
    assert math.isnan(silhouette(points, torch.zeros(20)))
    assert math.isnan(silhouette(points, torch.arange(20)))
    with pytest.raises(ValueError, match="one number an example"):
        silhouette(points, classes[:-1])


def test_a_record_of_the_gradients_by_each_layers_output() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(3 * 16, 8), nn.ReLU(), nn.Linear(8, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = lp.Monitor(model, optimizer, every=1, out=None)
    inputs, classes = torch.randn(32, 1, 6, 6), torch.arange(32) % 4
    for step in range(2):
        optimizer.zero_grad()
        model[3].inplace = False
        outputs: list[Tensor] = []
        hook = model[2].register_forward_hook(lambda module, args, out, outputs=outputs: outputs.append(out))
        [grad] = torch.autograd.grad(nn.functional.cross_entropy(model(inputs), classes), outputs)
        hook.remove()
        model[3].inplace = True  # which must not show in what layer 2 gets back
        with monitor.feedback(classes):
            nn.functional.cross_entropy(model(inputs), classes).backward()
        optimizer.step()
        latest = monitor.latest()
        assert latest["2.weight"]["silhouette"] == pytest.approx(by_hand(grad, classes), abs=1e-5)
        assert latest["2.weight"]["grad_norm"] > 0
        told = [name for name, quantities in latest.items() if "silhouette" in quantities]
        assert told == ["0.weight", "2.weight", "4.weight"]
        assert monitor.history.series("silhouette", "0.weight")[0] == list(range(1, step + 2))
    assert not any(module._forward_hooks for module in model.modules())


def test_chosen_layers() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    monitor = lp.Monitor(model, torch.optim.SGD(model.parameters()), out=None)
    for chosen in ("1", "1.weight", model[1]):
        with monitor.feedback(torch.arange(8) % 2, [chosen]):
            nn.functional.cross_entropy(model(torch.randn(8, 3)), torch.arange(8) % 2).backward()
        assert list(monitor.latest()) == ["1.weight"]
    with pytest.raises(ValueError, match="'2' is no module with parameters of its own; there are 0, 1"):
        monitor.feedback(torch.arange(8), ["2"])
    alone = nn.Linear(3, 2)
    with (
        pytest.raises(ValueError, match=r"there are the model itself$"),
        lp.Monitor(alone, torch.optim.SGD(alone.parameters()), out=None) as watched,
    ):
        watched.feedback(torch.arange(8), ["foo"])
