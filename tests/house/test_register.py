"""Parts that users register; and the one table of numbers that reference, C++ and Triton share."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import layerpace as lp
from layerpace import cli
from layerpace.engine.backends import programs
from layerpace.engine.numerics.columns import COLUMNS, MEASURED, Operands

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "native/src"
TRITON = ROOT / "src/layerpace/engine/backends/triton/kernels"


# Registering


@dataclass(frozen=True)
class Lion(lp.directions.Direction):
    """u = sign(b1*m + (1 - b1)*g);  m <- b2*m + (1 - b2)*g."""

    betas: tuple[float, float] = (0.9, 0.99)
    names: ClassVar[tuple[str, ...]] = ("house_lion",)
    elementwise: ClassVar[bool] = True

    def state_names(self) -> tuple[str, ...]:
        return ("exp_avg",)

    def __call__(self, g: Any, w: Any, state: Any, t: Any) -> Any:
        m, (beta1, beta2) = state["exp_avg"], self.betas
        u = (m * beta1 + g * (1 - beta1)).sign()
        m.mul_(beta2).add_(g * (1 - beta2))
        return u


@dataclass(frozen=True)
class FourthRoot(lp.rules.Rule):
    """Every layer moves by lr in L4 norm."""

    names: ClassVar[tuple[str, ...]] = ("house_fourth",)

    def columns(self) -> tuple[str, ...]:
        return ("house_u_l4",)

    def __call__(self, row: Any, layers: Any, state: Any) -> Any:
        ratio = torch.where(row["house_u_l4"] == 0, 0.0, row["house_u_l4"] ** -0.25)
        return lp.rules.Coefficients(c=None, b=layers.lr * ratio, ratio=ratio)


def test_a_direction_a_rule_and_a_column_are_known_once_registered() -> None:
    with pytest.raises(ValueError, match=r"direction must be .*got 'house_lion'"):
        lp.Layerwise([torch.zeros(2, requires_grad=True)], direction="house_lion", rule="identity", lr=1.0)
    lp.directions.register(Lion)
    lp.rules.register(FourthRoot)
    lp.columns.register("house_u_l4")(lambda x: (x.wide_u**4).sum(1))
    w = torch.tensor([[1.0, -2.0], [0.5, 3.0]], requires_grad=True)
    optimizer = lp.Layerwise([w], direction="house_lion", rule="house_fourth", lr=0.1)
    assert optimizer.direction == Lion() and optimizer.rule == FourthRoot()
    start, m = w.detach().clone(), torch.zeros(2, 2)
    for _ in range(3):
        g = w.detach().sin()
        w.grad = g.clone()
        u = (0.9 * m + 0.1 * g).sign()
        m = 0.99 * m + 0.01 * g
        expected = w.detach() - 0.1 * u / (u**4).sum() ** 0.25
        optimizer.step()
        torch.testing.assert_close(w.detach(), expected)
    assert not torch.equal(w, start)
    other = lp.Layerwise([w], direction="house_lion", rule="house_fourth", lr=0.1)
    other.load_state_dict(optimizer.state_dict())
    torch.testing.assert_close(other.state[w]["exp_avg"], m)


def typed(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[Any, str, str]:
    """Exit status, standard output and standard error of ``layerpace ...``."""
    monkeypatch.setattr(sys, "argv", ["layerpace", *arguments])
    status: Any = 0
    try:
        cli.main()
    except SystemExit as end:
        status = end.code or 0
    out = capsys.readouterr()
    return status, out.out, out.err


def test_the_command_line_takes_what_the_file_of_a_task_registers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "import torch\n"
        "import layerpace as lp\n"
        "from layerpace.lab import Dataset, Task\n"
        "@lp.directions.register\n"
        "@dataclass(frozen=True)\n"
        "class Sign(lp.directions.Direction):\n"
        "    scale: float = 1.0\n"
        "    names = ('house_sign',)\n"
        "    elementwise = True\n"
        "    def __call__(self, g, w, state, t):\n"
        "        return g.sign() * self.scale\n"
        "def task():\n"
        "    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))\n"
        "    y = (x[:, 0] > 0).long()\n"
        "    data = Dataset(x, y, x, y, classes=2)\n"
        "    return Task('mine', data, lambda: torch.nn.Linear(4, 2), batch_size=16, steps=4, eval_every=2)\n"
    )
    monkeypatch.chdir(tmp_path)
    spec = "house_sign+trust_ratio:scale=2.0"
    train = ["train", "--method", spec, "--task", "mine.py:task", "--lr", "0.01", "--json"]
    compare = ["compare", "--methods", spec, "--seeds", "1", "--task", "mine.py:task", "--json"]
    for command in (train, compare):
        status, out, err = typed(command, monkeypatch, capsys)
        assert status == 0, err
        assert "house_sign" in json.dumps(json.loads(out))
    status, _, err = typed(["train", "--method", "house_sing+identity", "--task", "mine.py:task"], monkeypatch, capsys)
    assert status == 2 and "did you mean house_sign?" in err.replace("\n", " ")


def not_a_dataclass() -> None:
    class Bare(lp.directions.Direction):
        names = ("house_bare",)

    lp.directions.register(Bare)


def of_another_kind() -> None:
    lp.directions.register(lp.rules.Identity)  # type: ignore[type-var]


def without_names() -> None:
    @lp.rules.register
    @dataclass(frozen=True)
    class Nameless(lp.rules.TrustRatio):
        names: ClassVar[tuple[str, ...]] = ()


def with_a_name_that_is_taken() -> None:
    @lp.directions.register
    @dataclass(frozen=True)
    class Other(lp.directions.Direction):
        names: ClassVar[tuple[str, ...]] = ("house_other", "adam")


def with_a_name_that_inherits() -> None:
    @lp.directions.register
    @dataclass(frozen=True)
    class Child(lp.directions.Adam):
        pass


def a_column_that_is_no_sum() -> None:
    lp.columns.register("house_max")(lambda x: x.wide_u.abs().amax(1))


def a_column_of_a_norm() -> None:
    lp.columns.register("house_norm")(lambda x: x.wide_u.norm(dim=1))


def a_column_in_float32() -> None:
    lp.columns.register("house_single")(lambda x: x.u.float().sum(1))


def a_column_that_is_clipped_where_sums_are_large() -> None:
    lp.columns.register("house_clipped")(lambda x: x.wide_u.square().clamp(max=1e6).sum(1).clamp(max=1e8))


def a_column_that_exists() -> None:
    lp.columns.register("ww")(lambda x: x.wide_w.sum(1))


def a_column_without_a_name() -> None:
    lp.columns.register("two words")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (not_a_dataclass, "Bare must be a dataclass of its own"),
        (of_another_kind, "takes a subclass of Direction, got"),
        (without_names, r"Nameless.names must be a tuple of identifiers"),
        (with_a_name_that_is_taken, r"'adam' is layerpace.directions.adam.Adam already"),
        (with_a_name_that_inherits, r"Child.names must be a tuple of identifiers"),
        (a_column_that_is_no_sum, "'house_max' is not additive"),
        (a_column_of_a_norm, "'house_norm' is not additive"),
        (a_column_in_float32, r"float64 \[S\]; of two it gave \(2,\) torch.float32"),
        (a_column_that_is_clipped_where_sums_are_large, "'house_clipped' is not additive"),
        (a_column_that_exists, "the column 'ww' is layerpace.engine.numerics.columns.<lambda> already"),
        (a_column_without_a_name, "must be an identifier, got 'two words'"),
    ],
)
def test_what_cannot_be_registered(wrong: Callable[[], None], says: str) -> None:
    before = dict(lp.directions.BY_NAME), dict(lp.rules.BY_NAME), dict(COLUMNS)
    with pytest.raises((TypeError, ValueError), match=says):
        wrong()
    assert before == (dict(lp.directions.BY_NAME), dict(lp.rules.BY_NAME), dict(COLUMNS))


def test_a_class_that_is_defined_again_takes_the_place_of_the_former() -> None:
    def cell(scale: float) -> type[Any]:
        @lp.directions.register
        @dataclass(frozen=True)
        class Again(lp.directions.Direction):
            factor: float = scale
            names: ClassVar[tuple[str, ...]] = ("house_again",)

        return Again

    cell(1.0)
    second = cell(2.0)
    assert lp.directions.BY_NAME["house_again"] is second and lp.directions.get("house_again") == second()


def test_every_part_of_the_package_is_registered() -> None:
    assert lp.directions.BY_NAME.classes[: len(lp.directions.ALL)] == lp.directions.ALL
    assert lp.rules.BY_NAME.classes[: len(lp.rules.ALL)] == lp.rules.ALL


# What a direction is written with


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda x, y: x.sign(), lambda a, b: a.sign()),
        (lambda x, y: x.exp(), lambda a, b: a.exp()),
        (lambda x, y: x.abs().log(), lambda a, b: a.abs().log()),
        (lambda x, y: x.tanh(), lambda a, b: a.tanh()),
        (lambda x, y: x**2, lambda a, b: a**2),
        (lambda x, y: x.maximum(y), lambda a, b: torch.maximum(a, b)),
        (lambda x, y: x.maximum(0.5), lambda a, b: a.clamp(min=0.5)),
        (lambda x, y: x.minimum(y), lambda a, b: torch.minimum(a, b)),
        (lambda x, y: x.minimum(0.5), lambda a, b: a.clamp(max=0.5)),
        (lambda x, y: x.where(x > y, y), lambda a, b: torch.where(a > b, a, b)),
        (lambda x, y: x.where(x <= 0.0, -1.0), lambda a, b: torch.where(a <= 0, a, -1.0)),
        (lambda x, y: x.where(x >= y, 0.0), lambda a, b: torch.where(a >= b, a, 0.0)),
        (lambda x, y: x.where(x < 0.0, y), lambda a, b: torch.where(a < 0, a, b)),
    ],
)
def test_arithmetic_that_directions_are_written_with(ours: Any, theirs: Any) -> None:
    a = [torch.tensor([1.5, -2.0, torch.nan, 0.0]), torch.tensor([[0.25, -3.0]])]
    b = [torch.tensor([2.0, -2.0, 1.0, -0.0]), torch.tensor([[-1.0, 4.0]])]
    kept = [x.clone() for x in (*a, *b)]
    found = ours(lp.Tensors(a), lp.Tensors(b))
    assert isinstance(found, lp.Tensors)
    for x, y, z in zip(found, a, b, strict=True):
        torch.testing.assert_close(x, theirs(y, z), rtol=0, atol=0, equal_nan=True)
    for x, before in zip((*a, *b), kept, strict=True):
        torch.testing.assert_close(x, before, rtol=0, atol=0, equal_nan=True)


# One table of numbers


def enum_of(path: Path, name: str) -> list[str]:
    """The names of a C++ enum, without the k of constants and without those that count."""
    body = re.search(rf"enum (?:class )?{name} : \w+ \{{(.*?)\}}", path.read_text(), re.DOTALL)
    assert body is not None, f"{path} has no enum {name}"
    return [item.split("=")[0].strip() for item in body[1].split(",") if item.strip()]


def constants_of(path: Path) -> dict[str, int]:
    """The constants of a file of Triton kernels, read without Triton."""
    found = re.findall(r"^([A-Z0-9_]+) = tl\.constexpr\(([-\d< ]+)\)", path.read_text(), re.MULTILINE)
    return {name: eval(value, {}) for name, value in found}


def plain(name: str) -> str:
    return name.replace("_", "").lower()


def test_cpp_and_triton_number_directions_as_the_table_does() -> None:
    native = enum_of(NATIVE / "job.hpp", "DirectionId")
    assert [plain(name.removeprefix("k")) for name in native[:-1]] == [plain(name) for name in programs.DIRECTIONS]
    triton = constants_of(TRITON / "directions.py")
    assert triton == {name: number for number, name in enumerate(programs.DIRECTIONS)}


def test_cpp_and_triton_number_rules_norms_and_clips_as_the_table_does() -> None:
    names = [plain(kind.__name__) for kind in programs.RULES]
    native = [plain(name) for name in enum_of(NATIVE / "rules.hpp", "RuleId")]
    assert native[0] == "none" and native[1:] == names[: len(native) - 1]
    assert names[len(native) - 1 :] == ["limitednorm"]  # of the reference and of Triton alone
    triton = {plain(name): number for name, number in constants_of(TRITON / "rules.py").items()}
    expected = {name: number for number, name in enumerate(names)} | {"norule": -1}
    expected |= {plain(name) + "norm": number for number, name in enumerate(programs.NORMS[:2])}
    expected |= {"bounds": 1, "larc": 2}
    assert [kind and plain(kind.__name__) for kind in programs.CLIPS] == [None, "bounds", "larcclip"]
    assert triton == expected


def test_cpp_and_triton_number_columns_as_the_table_does() -> None:
    own = list(programs.COLUMN_NUMBERS)
    native = enum_of(NATIVE / "job.hpp", "Column")
    assert [plain(name) for name in native[:-1]] == [plain(name) for name in own]
    assert [plain(n.removeprefix("M_")) for n in enum_of(NATIVE / "job.hpp", "Measured")[:-1]] == list(
        map(plain, MEASURED)
    )
    triton = constants_of(TRITON / "sums.py")
    assert {name: triton[name.upper()] for name in own} == {name: 1 << number for number, name in enumerate(own)}
    assert triton["COLUMN_COUNT"] == len(own) and triton["MEASURED_COUNT"] == len(MEASURED)


def test_a_registered_column_is_computed_on_every_way_into_a_step() -> None:
    lp.columns.register("house_u_l4")(lambda x: (x.wide_u**4).sum(1))
    lp.rules.register(FourthRoot)
    found = []
    for backend in ("reference", "auto"):
        w = torch.linspace(-1, 1, 12).reshape(3, 4).requires_grad_()
        optimizer = lp.Layerwise([w], direction="adam", rule="house_fourth", lr=0.1, backend=backend, nonfinite="skip")
        for _ in range(3):
            w.grad = w.detach().cos()
            optimizer.step()
        found.append(w.detach().clone())
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_operands_are_what_the_docs_say() -> None:
    seen: list[Tensor] = []

    def note(x: Operands) -> Tensor:
        seen.append(x.wide_w)
        return x.wide_w.sum(1)

    lp.columns.register("house_note")(note)
    assert seen and all(x.dtype == torch.float64 and x.ndim == 2 for x in seen)
    assert import_module("layerpace.columns") is import_module("layerpace.engine.numerics.columns") is lp.columns
