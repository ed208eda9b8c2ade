"""The compiled module refuses what it cannot be sure of: wrong kinds, sizes, devices and memory are errors.

Under `make sanitize` an access beyond a tensor ends these tests at once.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from tests.fused import needs_kernels
from torch import Tensor, nn

from layerpace.engine.backends.cpu import native

pytestmark = [needs_kernels, pytest.mark.filterwarnings("ignore")]  # of torch and nanobind, about odd things

FUNCTIONS = {
    "Watch", "Job", "Rule", "Request", "Bucket", "use_exchange_api", "sum_moves", "copy_tensors", "sum_squares",
    "format_numbers", "instruction_sets", "instruction_set", "use_instruction_set", "bandwidth",
    "keep_apart",
}  # fmt: skip
METHODS = {
    "Watch": ("check", "release", "grads", "count"),
    "Bucket": ("set_job", "set_rule", "gradient_sums", "accumulate", "apply", "step"),
}
VECTORS = {  # of a request: columns of numbers for each layer
    "t_L": 1, "lr_L": 1, "weight_decay_L": 1, "ok_L": 1, "undecayed_L": 1, "excluded_L": 1, "c_L": 1, "b_L": 1,
    "ratio_L": 1, "table_LC": 8, "measured_LM": 6,
}  # fmt: skip
FLAGS = ("ok_L", "undecayed_L", "excluded_L")


@pytest.fixture(scope="module")
def module() -> ModuleType:
    found = native()
    assert found is not None
    return found


@pytest.fixture(autouse=True)
def _as_before(module: ModuleType) -> Iterator[None]:
    name = module.instruction_set()
    yield
    module.use_instruction_set(name)
    module.use_exchange_api(True)


class Own(nn.Parameter):
    pass


def freed(n: int = 6, dtype: torch.dtype = torch.float32) -> Tensor:
    x = torch.ones(n, dtype=dtype)
    x.untyped_storage().resize_(0)
    return x


def odd_tensors() -> list[Any]:
    """Of every kind that is not six float32 numbers in a row."""
    dtypes = (torch.float64, torch.bfloat16, torch.float16, torch.complex64, torch.int64, torch.bool, torch.uint8)
    return [
        *(torch.ones(6).to(dtype) for dtype in dtypes),
        torch.ones(()), torch.empty(0), torch.ones(5), torch.ones(7), torch.ones(2, 3), torch.ones(3, 2).T,
        torch.ones(1).expand(6), torch.ones(12)[::2], torch.ones(6, device="meta"), freed(),
        torch.ones(6).to_sparse(), torch.ones(6, dtype=torch.complex64).conj(), torch.ones(6)._neg_view(),
        torch.empty(2**40, 2**20, device="meta"), Own(torch.ones(6)), torch.ones(6, requires_grad=True) * 1,
        torch.quantize_per_tensor(torch.ones(6), 0.1, 0, torch.quint8),
    ]  # fmt: skip


def anything() -> list[Any]:
    return [
        None, True, -1, 0, 1, 2, 3, 7, 1000, 2**31 - 1, 2**31, 2**63, 2**64, -(2**63), 0.5, 1e308, float("nan"),
        float("inf"), "", "step", "avx2", "\ud800", b"x", [], (), {}, [None], ["a"], [0], [-1, 2**40], [[1], [2]],
        object(), torch.float32, nn.Linear(2, 2), *odd_tensors(), [torch.ones(6)], [torch.ones(6, device="meta")],
        [freed()],
    ]  # fmt: skip


class Sample:
    """A bucket of tensors that lie between numbers which nobody may change."""

    def __init__(self, module: ModuleType, choose: random.Random | None = None) -> None:
        self.module, self.guarded = module, []
        self.shapes = [(6,), (3, 5), (0, 4), (9000, 4)]
        self.params = [nn.Parameter(self.tensor(shape)) for shape in self.shapes]
        names = ("exp_avg", "exp_avg_sq", "velocity")
        self.states: list[dict[str, Tensor]] = []
        for p in self.params:
            p.grad = self.tensor(p.shape)
            state = {name: self.tensor(p.shape) for name in names}
            numbers = {name: torch.ones((), dtype=torch.float64) for name in ("initial_norm", "mu_product")}
            self.states.append({"step": torch.zeros(()), **state, **numbers})
        self.names = ["step", *names, "initial_norm", "mu_product"]

    def tensor(self, shape: Any) -> Tensor:
        n = torch.Size(shape).numel()
        self.guarded.append((torch.full((n + 64,), 7.0), n))
        return self.guarded[-1][0][32 : 32 + n].fill_(0.5).view(shape)

    def assert_untouched(self) -> None:
        for memory, n in self.guarded:
            assert (memory[:32] == 7).all()
            assert (memory[32 + n :] == 7).all()

    def watch(self) -> Any:
        return self.module.Watch(self.params, [p.grad for p in self.params], self.states, self.names)

    def bucket(self, watch: Any = None, sizes: Any = None) -> Any:
        moments = ["exp_avg", "exp_avg_sq"]
        sizes = [[], [1, 2], [], []] if sizes is None else sizes
        return self.module.Bucket(self.watch() if watch is None else watch, moments, "", "", sizes)

    def vectors(self, layers: int = 5) -> dict[str, Tensor]:
        dtype = {name: torch.bool if name in FLAGS else torch.float64 for name in VECTORS}
        return {name: torch.ones(layers, n, dtype=dtype[name]).squeeze(1) for name, n in VECTORS.items()}

    def request(self, **changes: Any) -> Any:
        options: dict[str, Any] = {"options": [0.9, 0.99, 1e-8, 1, 1, 0], "columns": list(range(8)), "measure": True}
        return self.module.Request(**{**options, **self.vectors(), **changes})

    def job(self, **changes: Any) -> Any:
        options = {"direction": 10, "gradient_factor": 1.0, "l2": 0.0, "update": 1, "momentum": 0.9, "keep": 1.0}
        return self.module.Job(**{**options, "low_precision": 0, "eps": 0.0, "floor": 0.0, **changes})

    def rule(self, **changes: Any) -> Any:
        return self.module.Rule(**{"id": 1, "min_rms": 1e-3, **changes})


def refused(call: Callable[[], Any], *errors: type[Exception]) -> None:
    with pytest.raises(errors or (TypeError, ValueError, RuntimeError, OverflowError)):
        call()


def test_all_functions_are_known_here(module: ModuleType) -> None:
    """One that is added must be tried here."""
    found = {name for name in dir(module) if not name.startswith("_")}
    assert found <= FUNCTIONS
    for name, methods in METHODS.items():
        assert {m for m in dir(getattr(module, name)) if not m.startswith("_")} == set(methods)


@pytest.mark.parametrize("exchange", [True, False])
def test_anything_is_an_error_or_an_answer(module: ModuleType, exchange: bool) -> None:
    """Calls with whatever there is, from a fixed seed."""
    choose = random.Random(0)
    sample = Sample(module)
    module.use_exchange_api(exchange)
    watch = sample.watch()
    objects = {"Watch": watch, "Bucket": sample.bucket(watch)}
    calls = [
        getattr(module, name) for name in sorted(FUNCTIONS - {"bandwidth", "use_exchange_api"}) if hasattr(module, name)
    ]
    calls += [getattr(objects[name], method) for name, methods in METHODS.items() for method in methods]
    for call in calls:
        pool = [*anything(), objects["Watch"], objects["Bucket"], sample.job(), sample.rule(), sample.request()]
        for _ in range(60):
            given = [choose.choice(pool) for _ in range(choose.randrange(6))]
            try:
                call(*given)
            except Exception:  # whatever it is
                continue
    for name in ("Job", "Rule", "Request"):
        keys = {"Job": list(vars_of(sample.job)), "Rule": list(vars_of(sample.rule)), "Request": list(VECTORS)}[name]
        pool = anything()
        for _ in range(100):
            try:
                made = getattr(module, name)(**{key: choose.choice(pool) for key in keys if choose.random() < 0.6})
                objects["Bucket"].step(made)
            except Exception:
                continue
    sample.assert_untouched()


def vars_of(make: Callable[..., Any]) -> tuple[str, ...]:
    if make.__name__ == "job":
        return "direction", "gradient_factor", "l2", "update", "momentum", "keep", "low_precision", "eps", "floor"
    return "id", "min_rms", "coefficient", "eps", "norm", "clip", "lower", "upper", "zero_ratio", "parallel"


def test_a_step_of_the_sample(module: ModuleType) -> None:
    """What the tests below spoil works as it is."""
    sample = Sample(module)
    watch = sample.watch()
    bucket = sample.bucket(watch)
    bucket.set_job(sample.job())
    bucket.set_rule(sample.rule())
    bucket.gradient_sums(sample.request())
    bucket.accumulate(sample.request())
    bucket.apply(sample.request())
    watch.release()
    assert watch.check()
    bucket.step(sample.request(threads=10**9))
    assert watch.count() == 1.0
    assert all((p != 0.5).all() for p in sample.params if p.numel())
    sample.assert_untouched()


def test_tensors_of_other_kinds(module: ModuleType) -> None:
    """In the place of a parameter, a gradient, a moment: refused, or taken for what it is."""
    for place in ("param", "grad", "exp_avg", "velocity", "initial_norm", "step"):
        for exchange in (True, False):
            module.use_exchange_api(exchange)
            for k, odd in enumerate(odd_tensors()):
                sample = Sample(module)
                grads: list[Any] = [p.grad for p in sample.params]
                params: list[Any] = list(sample.params)
                if place == "param":
                    params[0] = odd
                elif place == "grad":
                    grads[0] = odd
                else:
                    sample.states[0][place] = odd
                try:
                    watch = module.Watch(params, grads, sample.states, sample.names)
                    bucket = module.Bucket(watch, ["exp_avg", "exp_avg_sq"], "", "initial_norm", [[], [], [], []])
                except ValueError:
                    continue
                fits = isinstance(odd, Tensor) and odd.numel() == 6 and odd.dtype == torch.float32
                assert fits or place in ("step", "initial_norm"), f"{place}, {k}: {type(odd)}"
                bucket.set_job(sample.job())
                bucket.set_rule(sample.rule())
                for call in (lambda w=watch: w.count(), lambda b=bucket, s=sample: b.step(s.request(**s.vectors(4)))):
                    try:
                        call()
                    except (ValueError, RuntimeError):
                        continue
                sample.assert_untouched()


def test_steps_of_what_has_not_been_looked_at(module: ModuleType) -> None:
    sample = Sample(module)
    watch = sample.watch()
    bucket = sample.bucket(watch)
    bucket.set_job(sample.job())
    bucket.set_rule(sample.rule())
    calls = [
        lambda name=name: getattr(bucket, name)(sample.request()) for name in ("gradient_sums", "accumulate", "step")
    ]
    refused(lambda: bucket.apply(sample.request()), RuntimeError)  # nothing has been accumulated
    watch.release()
    for call in [*calls, watch.count, lambda: bucket.set_job(sample.job()), lambda: sample.bucket(watch)]:
        refused(call, RuntimeError)
    spoilt: list[Callable[[], Any]] = [
        lambda: sample.params[0].untyped_storage().resize_(0),
        lambda: setattr(sample.params[3], "grad", None),
        lambda: sample.params[1].grad.untyped_storage().resize_(0),  # type: ignore[union-attr]
        lambda: sample.states[0].clear(),
    ]
    for spoil in spoilt:
        sample = Sample(module)
        watch = sample.watch()
        bucket = sample.bucket(watch)
        bucket.set_rule(sample.rule())
        watch.release()
        spoil()
        assert not watch.check()
        refused(lambda b=bucket, s=sample: b.step(s.request()), RuntimeError)


def test_requests_that_do_not_fit(module: ModuleType) -> None:
    sample = Sample(module)
    bucket = sample.bucket()
    bucket.set_job(sample.job())
    bucket.set_rule(sample.rule())
    for name, columns in VECTORS.items():
        wrong = [
            torch.ones(4 * columns),
            torch.ones(5 * columns),
            torch.ones(1).double().expand(5),
            freed(5, torch.float64),
        ]
        wrong += [torch.ones(6 * columns, dtype=torch.float64), torch.ones(5 * columns, device="meta"), "x", 5, []]
        for x in wrong:
            for call in ("gradient_sums", "accumulate", "step"):
                refused(lambda c=call, n=name, x=x: getattr(bucket, c)(sample.request(**{n: x})))
    for name in ("lr_L", "weight_decay_L", "c_L", "b_L", "ratio_L"):
        refused(lambda n=name: bucket.step(sample.request(**{n: None})), ValueError)
    refused(lambda: bucket.step(sample.request(measure=False)), ValueError)
    for columns in ([-1], [8], [10**9]):
        refused(lambda c=columns: sample.request(columns=c), ValueError)
    x = torch.ones(5, dtype=torch.float64)
    request = sample.request(lr_L=x)
    x.untyped_storage().resize_(0)  # after the request has been made
    refused(lambda: bucket.step(request), ValueError)
    sample.assert_untouched()


def test_jobs_and_rules_without_what_they_need(module: ModuleType) -> None:
    sample = Sample(module)
    bucket = sample.bucket()
    bucket.set_rule(sample.rule())
    for direction in range(15):
        bucket.set_job(sample.job(direction=direction))
        if direction in (5, 7, 8, 10, 12, 14):  # two moments, and no number a layer
            bucket.step(sample.request())
        else:
            refused(lambda: bucket.step(sample.request()), ValueError)
    for wrong in ({"direction": -1}, {"direction": 15}, {"update": 3}, {"update": -1}, {"low_precision": 3}):
        refused(lambda w=wrong: sample.job(**w), ValueError)
    for wrong in ({"id": -1}, {"id": 5}, {"norm": 3}, {"clip": -1}):
        refused(lambda w=wrong: sample.rule(**w), ValueError)
    bucket.set_job(sample.job())
    bucket.set_rule(sample.rule(id=4, parallel=1e-12))
    refused(lambda: bucket.step(sample.request()), ValueError)  # Layca without the norm that it keeps
    fresh = sample.bucket()
    fresh.set_job(sample.job())
    refused(lambda: fresh.step(sample.request()), ValueError)  # no rule
    sample.assert_untouched()


def test_layers_that_are_not_all_of_a_parameter(module: ModuleType) -> None:
    sample = Sample(module)
    cuts: list[Any] = [[1, 1], [4], [1, 2, 1], [-1, 4], [2**62, 2**62, 3], [2**63 - 1], [0, 0], [0, 3, -1, 1]]
    for cut in cuts:
        refused(lambda c=cut: sample.bucket(sizes=[[], c, [], []]), ValueError)
    for sizes in ([], [[]], [[]] * 5, [[], [], [4], []], None, [None], "x"):
        if sizes is not None:
            refused(lambda s=sizes: sample.bucket(sizes=s))
    for names in (["exp_avg"] * 4, ["nothing"], [""]):
        refused(lambda n=names: module.Bucket(sample.watch(), n, "", "", [[]] * 4), ValueError)
    refused(lambda: module.Bucket(sample.watch(), ["exp_avg"], "step", "", [[]] * 4), ValueError)
    for other in (None, 3, sample.job(), module.Watch.__new__(module.Watch)):
        refused(lambda o=other: module.Bucket(o, [], "", "", []))
    sample.assert_untouched()


def test_sums_and_copies_of_tensors_that_do_not_fit(module: ModuleType) -> None:
    table = torch.full((64,), 7.0, dtype=torch.float64)
    x, y = torch.ones(6), torch.ones(6)
    for odd in (*odd_tensors(), None, 3, "x"):
        fits = isinstance(odd, Tensor) and odd.dtype == torch.float32 and odd.shape == x.shape
        for a, b in (([x], [odd]), ([odd], [y]), ([x, odd], [y, y])):
            if not fits:
                refused(lambda a=a, b=b: module.copy_tensors(a, b, 1))
                halves = isinstance(odd, Tensor) and odd.dtype in (torch.bfloat16, torch.float16) and len(a) == 1
                if not halves and not (isinstance(odd, Tensor) and odd.shape == (2, 3)):
                    refused(lambda a=a, b=b: module.sum_moves(a, b, 1, table[: 5 * len(a)]))
    for out in (None, table[:4], table[:6], table[:10:2], torch.ones(5), torch.ones(5, device="meta")):
        refused(lambda o=out: module.sum_moves([x], [y], 1, o))
    for out in (None, table[:2], torch.ones(1)):
        refused(lambda o=out: module.sum_squares([x], 1, o))
    for lists in (([x], []), ([], [x]), (None, None), (x, y)):
        refused(lambda a=lists: module.copy_tensors(*a, 1))
        refused(lambda a=lists: module.sum_moves(*a, 1, table[:5]))
    refused(lambda: module.copy_tensors([x], [x], 1), ValueError)
    refused(lambda: module.copy_tensors([table[:32]], [table[16:48]], 1), ValueError)
    for odd in (None, 3, torch.ones(3), freed(3, torch.float64), torch.ones(3, dtype=torch.float64, device="meta")):
        refused(lambda o=odd: module.format_numbers(o))
    assert (table == 7).all()
    module.sum_moves([], [], 10**9, table[:0])
    module.sum_squares([x, x], -(10**9), table[:2])
    assert table[:3].tolist() == [6, 6, 7]


def test_watches_that_are_none(module: ModuleType) -> None:
    watch = Sample(module).watch()
    for wrong in ([None], [watch, None], [3], None, watch):
        refused(lambda w=wrong: module.keep_apart(w, [], []))
    for spans in ([(1,)], [(-1, 2)], [(2**64, 1)], None, [None], [("a", "b")]):
        refused(lambda s=spans: module.keep_apart([watch], s, []))
    module.keep_apart([watch, watch], [(5, 1), (2**64 - 1, 0)], [(2**64 - 1, 2**64 - 1)])


def test_numbers_that_are_none(module: ModuleType) -> None:
    for n, threads, repetitions in ((-1, 1, 1), (0, 1, 1), (2**62, 1, 1), (1, 0, 1), (1, 1, 0), (1, -5, -5)):
        refused(lambda a=(n, threads, repetitions): module.bandwidth(*a), ValueError)
    module.bandwidth(100, 10**9, 1)
    refused(lambda: module.use_instruction_set("none"), ValueError)


def test_objects_made_twice(module: ModuleType) -> None:
    """__init__ may be called by anybody, and __new__ without it."""
    sample = Sample(module)
    for name in (*METHODS, "Job", "Rule", "Request"):
        bare = getattr(module, name).__new__(getattr(module, name))
        for method in METHODS.get(name, ()):
            refused(lambda b=bare, m=method: getattr(b, m)())
    watch = sample.watch()
    with contextlib.suppress(TypeError, RuntimeError):
        watch.__init__([], [], [], [])
    sample.assert_untouched()
