"""No name steers a terminal: what is printed anywhere goes through one function."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.table import Table
from tests.hostile import NAUGHTY, controls

import layerpace
from layerpace.commands import complain
from layerpace.engine.common.consoles import SafeConsole
from layerpace.engine.common.printable import printable, printable_lines

SOURCE = Path(layerpace.__file__).parent


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("encoder.0.weight", "encoder.0.weight"),
        ("Größe 重み λ", "Größe 重み λ"),
        ("a\x1b[31mb\nc\x07\td", "a?[31mb?c??d"),
        ("exe\u202etxt\u200b\u2066\x9b\x7f\ud800", "exe?txt?????"),
        ("1\xa0000\u3000x", "1 000 x"),
    ],
)
def test_what_has_no_shape_becomes_a_question_mark(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(printable(text)) == shown
    assert printable_lines(f"{text}\n").replace("\n", "?").replace("\t", "?") == f"{shown}?"


def test_a_console_lets_nothing_through_but_its_own_colours() -> None:
    table = Table(title=NAUGHTY)
    table.add_column(NAUGHTY)
    table.add_row(NAUGHTY)
    file = io.StringIO()
    plain = SafeConsole(file=file, width=60)
    plain.print(table)
    plain.print(NAUGHTY, markup=False, soft_wrap=True)
    plain.print(NAUGHTY, style="red")
    assert not controls(file.getvalue())
    SafeConsole(file=file, width=60, force_terminal=True, color_system="standard").print(NAUGHTY, style="bold red")
    coloured = file.getvalue()
    assert "\x1b[1;31m" in coloured
    assert not controls(re.sub(r"\x1b\[[0-9;]*m", "", coloured))
    assert "]0;title" in coloured  # shown, not obeyed


def test_an_error_of_the_command_line_is_one_harmless_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        complain(f"no run {NAUGHTY}", 2)
    err = capsys.readouterr().err
    assert not controls(err)
    assert len(err.splitlines()) == 1


def test_nothing_prints_past_them() -> None:
    """rich's own Console, and print() of what is not made safe, are in no other file."""
    pattern, example = (
        r"(?<![\w.])(?:Console\(\S*|print\((?!\w*printable).*)",
        re.compile(r"^ *(?:>>>|\.\.\.) .*$", re.M),
    )
    plain = {
        str(path.relative_to(SOURCE)): found
        for path in SOURCE.rglob("*.py")
        if (found := re.findall(pattern, example.sub("", path.read_text("utf-8"))))
    }
    plain.pop("engine/common/consoles.py", None)
    plain.pop("monitors/diagnose.py", None)  # in a docstring
    plain = {name: found for name, found in plain.items() if not all("printable(" in one for one in found)}
    assert not plain
