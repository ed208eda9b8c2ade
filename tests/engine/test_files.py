"""Files that anybody may have written: read, or refused in one line that says which and what."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest
import torch
from tests.hostile import NAUGHTY, controls

from layerpace.engine.common.files import DEEPEST, FileError, Part, load_saved, read_bytes, read_json, shortened


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", ", line 1: not JSON: it is empty"),
        (b'{"a": 1,\n"b" 2}', ", line 2: not JSON (expecting ':' delimiter)"),
        (b'{"a": 1,\n"b": "\xff"}', ", line 2: not UTF-8 text"),
        ('{"a": 1}'.encode("utf-16"), ", line 1: not UTF-8 text"),
        (b"[" * 100_000, ": nested deeper than 64 levels"),
        (b"[" * 70 + b"]" * 70, ": nested deeper than 64 levels"),
        (b'{"a":' * 70 + b"1" + b"}" * 70, ": nested deeper than 64 levels"),
        (b"[" + b"9" * 5000 + b"]", ": a number of too many digits"),
    ],
)
def test_what_is_no_json(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(FileError, match=f"^{re.escape(f'{path}{what}')}$"):
        read_json(path)


def test_json_as_deep_as_allowed_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("[" * DEEPEST + "]" * DEEPEST)
    assert isinstance(read_json(path).value, list)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "endless").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    begun = time.monotonic()
    for name, what in (("pipe", "no regular file"), ("loop", "symbolic links"), ("endless", "no regular file"),
                       ("folder", "is a folder")):  # fmt: skip
        with pytest.raises(FileError, match=what):
            read_bytes(tmp_path / name)
        with pytest.raises(FileError, match=what):
            load_saved(tmp_path / name)
    assert time.monotonic() - begun < 1
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "none")
    (tmp_path / "large").write_bytes(bytes(11))
    with pytest.raises(FileError, match="larger than"):
        read_bytes(tmp_path / "large", 10)


def test_a_field_is_named_with_what_it_must_be() -> None:
    part = Part(json.loads('{"layers": [{"name": "a", "shape": [3, -1]}, {"name": null}], "x": 1e999}'), "run.json")
    first, second = part["layers"].items()
    assert first["name"].text() == "a"
    for read, what in (
        (lambda: [size.whole(0) for size in first["shape"].items()],
         "run.json, layers[0].shape[1]: must be a whole number from 0 to 9007199254740992, got -1"),
        (lambda: second["name"].text(), "run.json, layers[1].name: must be a string, got None"),
        (lambda: second["shape"], "run.json: layers[1].shape is missing"),
        (lambda: part["layers"].table(), "run.json, layers: must be an object, {...}, got [{'name': 'a', "),
        (lambda: part["layers"].number(), "run.json, layers: must be a number, got"),
        (lambda: part["x"].number(0, 1), "run.json, x: must be a number from 0 to 1, got inf"),
        (lambda: Part(True, "f").number(), "f: must be a number, got True"),
        (lambda: Part(10**400, "f").number(), "f: must be a number below 1.8e308, got a number of more than 60"),
        (lambda: Part(1.0, "f").whole(), "f: must be a whole number"),
        (lambda: Part({NAUGHTY: 1}, "f")[NAUGHTY].text(), "f, ?[31mred"),
    ):  # fmt: skip
        with pytest.raises(FileError) as caught:
            read()
        assert str(caught.value).startswith(what)
        assert not controls(str(caught.value))
    assert part["x"].number() == float("inf")
    assert part.get("y") is None and second.get("name") is None
    assert Part("a\ud800", "f").text() == "a?"


def test_a_wrong_value_is_shown_in_few_characters() -> None:
    for value in ("x" * 10**6, list(range(10**5)), {str(k): k for k in range(1000)}, 10**5000, [["y" * 1000] * 9]):
        assert len(shortened(value)) <= 60


def test_a_saved_file_that_is_damaged_is_named(tmp_path: Path) -> None:
    path = tmp_path / "initial.pt"
    torch.save({"w": torch.ones(100)}, path)
    assert load_saved(path)["w"].sum() == 100
    whole = path.read_bytes()
    for damaged in (b"", whole[:1], whole[:100], whole[: len(whole) // 2], whole[:-30], b"x" * 500):
        path.write_bytes(damaged)
        with pytest.raises(FileError) as caught:
            load_saved(path)
        assert str(caught.value).startswith(f"{path} cannot be read: damaged or cut short (")
        assert len(str(caught.value).splitlines()) == 1


def test_a_bit_of_a_tensor_that_a_disk_has_turned_is_noticed(tmp_path: Path) -> None:
    path, values = tmp_path / "initial.pt", torch.arange(1000.0)
    torch.save({"w": values}, path)
    whole = path.read_bytes()
    place = whole.index(values[500:504].numpy().tobytes())
    for bit in (0, 5):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << bit)]) + whole[place + 1 :])
        assert not torch.equal(torch.load(path)["w"], values)  # torch takes it
        with pytest.raises(FileError, match=r"checksum of .*data/0 is wrong"):
            load_saved(path)
    torch.save({"w": values}, path, _use_new_zipfile_serialization=False)  # no archive, and no checksums
    assert torch.equal(load_saved(path)["w"], values)
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": values}, path)
        assert torch.equal(load_saved(path)["w"], values)
    finally:
        torch.serialization.set_crc32_options(True)
