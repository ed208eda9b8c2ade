"""The order of the tasks of a launch, and how layers are cut: what keeps a launch from standing still."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from tests.fused.cases import DIRECTIONS, optimizer, train
from tests.gpu_step import DEVICE, needs_triton
from tests.gpu_step.cases import assert_same
from torch import Tensor

pytestmark = needs_triton

Sizes = list[int]


def arrangement(sizes: Sizes, excluded: list[bool] | None = None) -> Any:
    """The tables of vectors of these sizes, some of them excluded from the rule."""
    params = {f"{k}": torch.zeros(n, 1, device=DEVICE).requires_grad_() for k, n in enumerate(sizes)}
    left_out = [name for name, out in zip(params, excluded or [False] * len(sizes), strict=True) if out]
    method: Any = optimizer("triton", params, DIRECTIONS["sgd"], "trust ratio", exclude=left_out or None)
    for p in params.values():
        p.grad = torch.zeros_like(p)
    method.step()
    (work,) = method._cache.plan.parts[0].works
    return work.kernel.arrangement


@settings(max_examples=15, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([0, 1, 4095, 4096, 4097, 9000, 3_000_000]), min_size=1, max_size=6),
    out=st.lists(st.booleans(), min_size=6, max_size=6),
    ahead=st.sampled_from([1, 3, 1000]),
    measure=st.booleans(),
    keep=st.booleans(),
    passes=st.sampled_from([(True, True), (True, False), (False, True)]),
)
def test_no_task_needs_a_later_one(
    sizes: Sizes, out: list[bool], ahead: int, measure: bool, keep: bool, passes: tuple[bool, bool]
) -> None:
    """Each chunk has its passes once, sums follow all of them, and the second pass follows the coefficients."""
    from layerpace.engine.backends.triton import tables
    from layerpace.engine.backends.triton.kernels import tables as at

    first, second = passes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "programs_at_once", lambda device: ahead)
        patch.setattr(tables.Arrangement, "__init__", lambda self, *args: None)
        made = tables.Arrangement(*[None] * 4)  # type: ignore[arg-type]
        made.device, made.excluded = torch.device("cpu"), out[: len(sizes)]
        made.cut, chunks = [], 0
        for k, n in enumerate(sizes):
            size = tables.chunk_size(n)
            made.cut.append(tables.Layer(k, 0, n, 1, 0, 0, size, range(chunks, chunks - (-n // size))))
            chunks = made.cut[-1].chunks.stop
        tasks = made._order(first, second, True, False, measure, keep)
    layer_of = {chunk: k for k, layer in enumerate(made.cut) for chunk in layer.chunks}
    of_layer = at.REDUCE.value | at.MEASURE.value | at.KEEP_COUNTS.value
    done: dict[str, list[set[int]]] = {name: [set() for _ in sizes] for name in ("first", "second")}
    decided, measured, counted = set(), set(), set()
    for what, number in tasks:
        layer = number if what & of_layer == what else layer_of[number]
        chunk = None if what & of_layer == what else number
        whole = set(made.cut[layer].chunks)
        if what & at.KEEP_COUNTS.value:
            assert layer not in counted
            counted.add(layer)
        if what & at.FIRST.value or what & at.BOTH.value:
            assert chunk not in done["first"][layer]
            done["first"][layer].add(chunk)  # type: ignore[arg-type]
        if what & at.BOTH.value:
            assert first and second and out[layer]
            done["second"][layer].add(chunk)  # type: ignore[arg-type]
        if what & at.REDUCE.value:
            assert done["first"][layer] == whole and layer not in decided
            decided.add(layer)
        if what & at.SECOND.value:
            assert layer in decided or not first
            assert chunk not in done["second"][layer]
            done["second"][layer].add(chunk)  # type: ignore[arg-type]
        if what & at.MEASURE.value:
            assert done["second"][layer] == whole
            measured.add(layer)
    every = [set(layer.chunks) for layer in made.cut]
    assert done["first"] == (every if first else [set() for _ in sizes])
    assert done["second"] == (every if second else [set() for _ in sizes])
    assert decided == (set(range(len(sizes))) if first else set())
    assert counted == (set(range(len(sizes))) if first and keep else set())
    assert measured == (set(range(len(sizes))) if second and measure else set())


@given(st.integers(0, 1 << 40))
def test_chunks_are_few_and_of_a_power_of_two(entries: int) -> None:
    from layerpace.engine.backends.triton.tables import BLOCK, MOST, SMALL, chunk_size

    size = chunk_size(entries)
    assert size & (size - 1) == 0 and BLOCK <= size <= MOST
    assert size == MOST or entries <= 1024 * max(size, SMALL)


def test_layers_are_the_rows_of_the_table() -> None:
    made = arrangement([5, 9000, 0, 4097], [False, True, False, False])
    assert [layer.entries for layer in made.cut] == [5, 9000, 0, 4097]
    assert [len(layer.chunks) for layer in made.cut] == [1, 5, 0, 3]
    assert made.layer_of_chunk.tolist() == [0, 1, 1, 1, 1, 1, 3, 3, 3]


def test_the_order_of_tasks_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers that are larger than a cache, and second passes that come early or late."""
    from layerpace.engine.backends.triton import tables

    shapes = {"a": (4099, 1), "b": (9001, 1), "c": (5, 2), "d": (4500, 1)}

    def play(backend: str, params: dict[str, Tensor]) -> torch.optim.Optimizer:
        method = optimizer(backend, params, DIRECTIONS["heavy ball"], "trust ratio")
        train(method, params, 2)
        return method

    for ahead, large in ((1, 5000), (100, 1)):
        monkeypatch.setattr(tables, "programs_at_once", lambda device, ahead=ahead: ahead)
        monkeypatch.setattr(tables, "LARGE", large)
        assert_same(play, shapes=shapes)


def test_gradients_that_begin_at_any_address() -> None:
    """Wide loads need an alignment that a view into a flat buffer does not have."""

    def play(backend: str, params: dict[str, Tensor]) -> torch.optim.Optimizer:
        method: Any = optimizer(backend, params, DIRECTIONS["adam"], "trust ratio")
        flat = torch.linspace(-1, 1, 2 * 70 * 80 + 3, dtype=torch.float64, device=DEVICE)
        for _ in range(2):
            params["a"].grad = flat[1 : 1 + 70 * 80].view(70, 80)
            params["b"].grad = flat[-6:-1]
            method.step()
        if backend == "triton":
            assert not method._cache.plan.parts[0].works[0].kernel.aligned
        return method

    assert_same(play, shapes={"a": (70, 80), "b": (5,)})


@pytest.mark.parametrize(("state_dtype", "aligned"), [("fp32", True), ("bf16", False)])
def test_segments_that_begin_where_wide_loads_cannot(state_dtype: str, aligned: bool) -> None:
    """Rows of 4100 entries: 16,400 bytes of float32 are a multiple of 16, 8200 of bfloat16 are not."""
    w = torch.zeros(3, 4100, device=DEVICE).requires_grad_()
    method: Any = optimizer(
        "triton", {"rows": w}, DIRECTIONS["ema"], "identity", state_dtype=state_dtype, segments={"rows": "rows"}
    )
    w.grad = torch.zeros_like(w)
    method.step()
    assert method._cache.plan.parts[0].works[0].kernel.arrangement.aligned is aligned


def test_numbers_are_sent_when_they_have_changed() -> None:
    from layerpace.engine.backends.triton.tables import Sent

    sent = Sent(3, torch.device("cpu"))
    assert sent.send([1, 2, 3]) and sent.there.tolist() == [1, 2, 3]
    sent.there.zero_()
    assert not sent.send([1, 2, 3]) and sent.there.tolist() == [0, 0, 0]
    assert sent.send([7, 8]) and sent.there.tolist() == [7, 8, 0]


def test_a_capture_sends_from_memory_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was known, and a few times; later steps send again, since a replay may have written in between."""
    from layerpace.engine.backends.triton.tables import Sent

    sent = Sent(2, torch.device("cpu"))
    sent.send([1, 2])
    sent._pins = True
    sent._spares = [torch.zeros(2, dtype=torch.int64) for _ in range(sent.SPARES)]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    for k in range(sent.SPARES):
        assert sent.send([1, 2 + k % 2])
    assert [host.tolist() for host in sent.captured] == [[1, 2], [1, 3], [1, 2], [1, 3]]
    with pytest.raises(RuntimeError, match="outside of them"):
        sent.send([1, 2])
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    sent._pins = False
    assert sent.send([1, 2]) and sent.send([1, 2])


def test_tables_are_not_made_in_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    from layerpace.engine.backends.triton import tables

    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="before the capture"):
        tables._table([1, 2], torch.int64, torch.device("cuda"))
