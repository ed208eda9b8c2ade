"""A segment is a layer: the same tensor split into parameters of their own trains the same way."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from tests.oracles import common

import layerpace as lp

ROWS, COLUMNS = 6, 5
STEPS = 12

METHODS: dict[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]] = {
    "lars": (lp.LARS, {"lr": 2.0, "weight_decay": 0.1}),
    "lars_nesterov": (lp.LARS, {"lr": 2.0, "nesterov": True, "trust_clip": (1e-4, 3e-3)}),
    "lars_lr_outside": (lp.LARS.preset("timm"), {"lr": 2.0, "momentum": 0.9, "weight_decay": 0.1}),
    "lamb": (lp.LAMB, {"lr": 0.01, "weight_decay": 0.1}),
    "lamb_correction_after": (lp.LAMB.preset("deepspeed"), {"lr": 0.01, "weight_decay": 0.1}),
    "lambc": (lp.LAMBC, {"lr": 0.01, "trust_clip": (0.02, 0.5)}),
    "percent_delta": (lp.PercentDelta, {"lr": 0.005, "weight_decay": 0.1}),
    "layca": (lp.Layca, {"lr": 0.03}),
    "layca_adam": (lp.Layca, {"lr": 0.03, "direction": "adam"}),
    "relative_l1": (functools.partial(lp.Layerwise, direction="sgd", rule="relative_l1"), {"lr": 0.01}),
    "rotation_velocity": (
        functools.partial(lp.Layerwise, direction="sgd", rule="rotation", momentum=0.5),
        {"lr": 0.03},
    ),
}
# what `segments` may be for a tensor of six rows, and the sizes that it means
FORMS: dict[str, tuple[Any, list[int]]] = {
    "parts": (3, [2, 2, 2]),
    "sizes": ([1, 2, 3], [1, 2, 3]),
    "tuple": ((4, 2), [4, 2]),
    "rows": ("rows", [1] * 6),
    "one": (1, [6]),
}


def weights_and_gradients(sizes: Sequence[int]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Segments that differ by orders of magnitude, so that one ratio for all of them shows at once."""
    generator = torch.Generator().manual_seed(6)
    scale = torch.repeat_interleave(10.0 ** -torch.arange(len(sizes), dtype=torch.float64), torch.tensor(sizes))

    def draw() -> torch.Tensor:
        return torch.randn(ROWS, COLUMNS, generator=generator, dtype=torch.float64)

    return draw() * scale[:, None], [draw() / scale.sqrt()[:, None] for _ in range(STEPS)]


def train(
    params: Sequence[torch.nn.Parameter],
    grads: Sequence[Sequence[torch.Tensor]],
    optimizer: torch.optim.Optimizer,
) -> list[torch.Tensor]:
    history = []
    for of_step in grads:
        for p, g in zip(params, of_step, strict=True):
            p.grad = g.clone()
        optimizer.step()
        history.append(torch.cat([p.detach().clone() for p in params]))
    return history


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", METHODS)
def test_segments_are_separate_parameters(method: str, form: str) -> None:
    build, keywords = METHODS[method]
    segments, sizes = FORMS[form]
    w, grads = weights_and_gradients(sizes)

    whole = torch.nn.Parameter(w.clone())
    optimizer = build([("experts", whole)], segments={"experts": segments}, **keywords)
    got = train([whole], [[g] for g in grads], optimizer)

    parts = [torch.nn.Parameter(part.clone()) for part in torch.split(w, sizes)]
    split_grads = [list(torch.split(g, sizes)) for g in grads]
    expected = train(parts, split_grads, build([(f"p{i}", p) for i, p in enumerate(parts)], **keywords))

    common.assert_same([{"w": x} for x in got], [{"w": x} for x in expected], 1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_segments_change_the_trajectory(method: str) -> None:
    build, keywords = METHODS[method]
    w, grads = weights_and_gradients([2, 2, 2])
    ends = []
    for segments in (None, {"experts": 3}):
        whole = torch.nn.Parameter(w.clone())
        optimizer = build([("experts", whole)], segments=segments, **keywords)
        ends.append(train([whole], [[g] for g in grads], optimizer)[-1])
    assert common.norm(ends[0] - ends[1]) > 1e-4 * common.norm(w)


@pytest.mark.parametrize("form", FORMS)
def test_segments_of_a_group(form: str) -> None:
    segments, sizes = FORMS[form]
    w, grads = weights_and_gradients(sizes)
    histories = []
    for arguments, keywords in (
        ([{"params": [torch.nn.Parameter(w.clone())], "segments": segments}], {}),
        ([("experts", torch.nn.Parameter(w.clone()))], {"segments": {"exp*": segments}}),
    ):
        optimizer = lp.LAMB(arguments, lr=0.01, **keywords)
        histories.append(train(optimizer.param_groups[0]["params"], [[g] for g in grads], optimizer))
    assert all(torch.equal(one, other) for one, other in zip(*histories, strict=True))


def test_segments_of_a_group_leave_other_groups_alone() -> None:
    w, grads = weights_and_gradients([2, 2, 2])
    a, b = torch.nn.Parameter(w.clone()), torch.nn.Parameter(w.clone())
    optimizer = lp.LAMB([{"params": [a], "segments": 3}, {"params": [b]}], lr=0.01)
    train([a, b], [[g, g] for g in grads], optimizer)
    alone = torch.nn.Parameter(w.clone())
    train([alone], [[g] for g in grads], lp.LAMB([alone], lr=0.01))
    assert torch.equal(b, alone)
    assert not torch.equal(a, alone)


def test_three_dimensions_and_a_view() -> None:
    """Stacked experts, and a parameter whose memory is not contiguous."""
    generator = torch.Generator().manual_seed(7)
    w = torch.randn(4, 3, 2, generator=generator, dtype=torch.float64)
    g = torch.randn(4, 3, 2, generator=generator, dtype=torch.float64)
    ends = []
    for contiguous in (True, False):
        memory = w.clone() if contiguous else w.permute(2, 1, 0).contiguous().permute(2, 1, 0)
        assert memory.is_contiguous() is contiguous
        whole = torch.nn.Parameter(memory)
        optimizer = lp.Layca([("experts", whole)], lr=0.1, segments={"experts": 2})
        ends.append(train([whole], [[g]] * 3, optimizer)[-1])
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-13, atol=0)
    parts = [torch.nn.Parameter(part.clone()) for part in torch.split(w, 2)]
    expected = train(parts, [list(torch.split(g, 2))] * 3, lp.Layca(parts, lr=0.1))[-1]
    torch.testing.assert_close(ends[0], expected, rtol=1e-12, atol=0)


def test_segments_survive_a_checkpoint() -> None:
    w, grads = weights_and_gradients([2, 2, 2])
    whole = torch.nn.Parameter(w.clone())
    optimizer = lp.Layca([("experts", whole)], lr=0.03, direction="adam", segments={"experts": 3})
    train([whole], [[g] for g in grads[:4]], optimizer)
    resumed = torch.nn.Parameter(whole.detach().clone())
    second = lp.Layca([("experts", resumed)], lr=0.03, direction="adam", segments={"experts": 3})
    second.load_state_dict(optimizer.state_dict())
    got = train([resumed], [[g] for g in grads[4:]], second)
    expected = train([whole], [[g] for g in grads[4:]], optimizer)
    assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))


@pytest.mark.parametrize(
    ("segments", "word"),
    [
        ({"experts": 4}, "6"),  # does not divide six rows
        ({"experts": [2, 3]}, "6"),  # sums to five
        ({"experts": 0}, "0"),
        ({"experts": [6, 0, -1]}, "-1"),
        ({"experts": "columns"}, "columns"),
    ],
)
def test_impossible_segments(segments: Any, word: str) -> None:
    p = torch.nn.Parameter(torch.ones(ROWS, COLUMNS))
    with pytest.raises(ValueError, match=word) as caught:
        lp.LAMB([("experts", p)], segments=segments)
    assert "experts" in str(caught.value)


def test_segments_of_a_scalar_are_refused() -> None:
    with pytest.raises(ValueError, match="gain"):
        lp.LAMB([("gain", torch.nn.Parameter(torch.tensor(1.0)))], segments={"gain": 1})


def test_segments_that_match_no_parameter_are_refused() -> None:
    """A misspelt name would otherwise train the fused tensor as one layer, in silence."""
    p = torch.nn.Parameter(torch.ones(ROWS, COLUMNS))
    with pytest.raises(ValueError, match="expert_"):
        lp.LAMB([("experts", p)], segments={"expert_": 3})


def test_segments_by_name_need_names() -> None:
    p = torch.nn.Parameter(torch.ones(ROWS, COLUMNS))
    with pytest.raises(ValueError, match=r"(?i)name"):
        lp.LAMB([p], segments={"experts": 3})
