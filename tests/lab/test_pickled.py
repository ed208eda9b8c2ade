"""Arrays of pickle files without `pickle`: all protocols, and nothing but numbers."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layerpace.lab import imagenet64, pickled
from layerpace.lab.errors import LabError


def read(content: bytes) -> Any:
    return pickled.read(io.BytesIO(content))


def plain(value: Any) -> Any:
    if isinstance(value, pickled.Array):
        return value.numbers()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def test_what_a_batch_may_hold_is_read_in_every_protocol() -> None:
    arrays = [np.arange(6).astype(kind).reshape(2, 3) for kind in ("u1", "<i2", ">i4", "f4", "f8", "?")]
    arrays += [np.zeros((0, 4)), np.asfortranarray(arrays[0]), np.arange(300_000)[::3]]
    values = [1, -5, 2**40, -(2**100), True, False, None, 0.1, "ü\n'", b"", b"\x00\xff", (1,), (), [1, [2]], {"a": 1}]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for array in arrays:
            np.testing.assert_array_equal(read(pickle.dumps(array, protocol=protocol)).numbers(), array)
        for value in values:
            found = read(pickle.dumps(value, protocol=protocol))
            assert (found, type(found)) == (value, type(value)), protocol
        assert read(pickle.dumps(np.float32(2.5), protocol=protocol)) == 2.5
        labels = read(pickle.dumps({"labels": list(range(3000)), "mean": np.ones(3)}, protocol=protocol))
        assert labels["labels"] == list(range(3000)) and labels["mean"].numbers().tolist() == [1.0] * 3


TYPE = b"cnumpy\ndtype\n(%bI0\nI1\ntR"
OBJECTS = TYPE % b"S'O8'\n"


def array_of(kind: bytes, shape: bytes, raw: bytes) -> bytes:
    made = b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntC\x01btR"
    return made + b"(I1\n" + shape + kind + b"I0\nB" + struct.pack("<I", len(raw)) + raw + b"tb."


def test_strings_of_python_2_are_read(tmp_path: Path) -> None:
    """The older files hold arrays' bytes as such strings."""
    path = tmp_path / "train_data_batch_1"
    path.write_bytes(b"(dU\x06labels(lI5\nasU\x04dataU\x02\xff\x80s.")
    assert imagenet64.labels_of(path).tolist() == [4]
    assert imagenet64.entry(path, "data") == b"\xff\x80"
    raw = bytes(range(256))
    found = read(array_of(TYPE % b"U\x02u1", b"(I256\nt", raw).replace(b"I0\nB", b"I0\nT")).numbers()
    assert found.tobytes() == raw and found.dtype == np.uint8


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch harmed",)


def test_nothing_but_numbers_is_let_through() -> None:
    fields = b"(I3\nS'|'\n(S'O'\n(I8\ntt(S'a'\nt(dI8\nI8\nI27\ntb"  # a type that BUILD makes one of objects
    number = TYPE % b"S'u1'\n"
    for content in (
        pickle.dumps(Evil()), pickle.dumps({"mean": Evil()}), pickle.dumps(np.array([Evil()], dtype=object)),
        pickle.dumps(np.zeros(2, dtype="u1,O")), pickle.dumps(np.array(["a"])), pickle.dumps(np.datetime64("2020")),
        b"cbuiltins\neval\n.", b"cnumpy\nload\n.", b"cnumpy\nsave\n.", b"cnumpy.testing\nassert_equal\n.",
        b"cnumpy\ndtype\n(S'u1'\ntR(I3\n(lNNNtb.", b"(S'x'\ncos\nsystem\no.", b"(ios\nsystem\n.", b"\x82\x01.",
        array_of(OBJECTS, b"(I1\nt", b"AAAAAAAA"), array_of(number + fields, b"(I8\nt", b"AAAAAAAA"),
        array_of(TYPE % b"S'V8'\n", b"(I1\nt", b"AAAAAAAA"),
        b"cnumpy\nndarray\n(I3\ntR.", b"(cnumpy\nndarray\n(I3\nt\x81.",
    ):  # fmt: skip
        with pytest.raises(pickled.Refused, match="refused"):
            read(content)
    for shape, raw in ((b"(I9\nt", b"1234"), (b"(I-4\nt", b"1234"), (b"(L99999999999999999999L\nt", b""), (b"N", b"")):
        with pytest.raises(pickled.Refused, match="refused"):
            read(array_of(number, shape, raw)).numbers()
    assert not Path("harmed").exists()


def test_damaged_bytes_are_refused_and_nothing_else_happens() -> None:
    draw, refused = random.Random(7), 0
    for protocol in range(6):
        good = pickle.dumps({"data": np.arange(24, dtype=np.uint8).reshape(2, 12), "labels": [1, 2]}, protocol=protocol)
        for _ in range(400):
            bad = bytearray(good)
            for _ in range(draw.randrange(1, 5)):
                bad[draw.randrange(len(bad))] = draw.randrange(256)
            try:
                found = read(bytes(bad[: draw.randrange(len(bad))] if draw.random() < 0.2 else bad))
                for item in found.values() if isinstance(found, dict) else ():
                    plain(item)
            except pickled.Refused:
                refused += 1
    assert refused > 1000


def test_what_a_file_expands_to_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagenet64, "SMALL", 1 << 20)
    monkeypatch.setattr(pickled, "OPERATIONS", 10_000)
    path = tmp_path / "train_data_batch_1.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("data.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (128, 16384)})
        for _ in range(2):
            file.write(bytes(1 << 20))
    with pytest.raises(LabError, match=r"train_data_batch_1.npz: .*would expand from .* which no images do"):
        imagenet64.entry(path, "data")
    with zipfile.ZipFile(path, "w") as archive, archive.open("data.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (10**12,)})
    with pytest.raises(LabError, match=r"data.npy says uint8 \(1000000000000,\), and has 128 bytes"):
        imagenet64.entry(path, "data")
    nested: Any = list(range(10))
    for _ in range(12):  # 10^13 numbers, if it were spread out
        nested = [nested] * 10
    path.write_bytes(pickle.dumps({"labels": nested}))
    with pytest.raises(LabError, match="not a list of whole numbers"):
        imagenet64.labels_of(path)
    for content in (b"\x8e" + struct.pack("<Q", 1 << 60), b"B\xff\xff\xff\xffx", b"(" * 20_000):
        with pytest.raises(pickled.Refused, match=r"truncated|more than 10,000 operations"):
            read(content)
