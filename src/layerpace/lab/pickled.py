"""Arrays in pickle files, read without `pickle`: what these files may hold is numbers, and nothing is called.

    read(file) -> nested dicts, lists, tuples, numbers, text, bytes and `Array`s

Python's unpickler builds what a file asks for. Where only arrays are let through, a file may still give numpy a type
with objects in it and bytes of its own choice for their addresses. So this is a machine of its own, which knows the
opcodes that arrays, numbers and containers need. An array is three things, a type of a fixed list, a shape and as many
bytes as they say; all else is refused. What a file can make it allocate is limited by the file's own size.
"""

from __future__ import annotations

import codecs
import os
import struct
from collections.abc import Callable
from typing import IO, Any

TYPES = ("b1", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8")
OPERATIONS = 5_000_000  # of a file: a batch of 128,117 images has about 300,000
LINE = 4096  # bytes of an opcode's line of text
MARK = object()


class Refused(ValueError):
    """A pickle that is damaged, or holds something else than arrays and plain values; the message says which."""


class Global:
    """A name that stands for a function; it is never looked up."""

    def __init__(self, module: str, name: str) -> None:
        place = module.removeprefix("numpy.").removeprefix("_").removeprefix("core.")
        self.name = f"{place}.{name}" if module.startswith("numpy") else f"{module}.{name}"
        if self.name not in CALLS and self.name != "numpy.ndarray":
            raise Refused(f"refused: its pickle asks for {module}.{name}, which is no array")


class Type:
    """A number's type."""

    def __init__(self, code: str) -> None:
        if code not in TYPES:
            raise Refused(f"refused: an array of type {code!r}, not of {', '.join(TYPES)}")
        self.code, self.order = code, "<"

    def build(self, state: Any) -> None:
        plain = isinstance(state, tuple) and len(state) >= 5 and all(part is None for part in state[2:5])
        if not plain or text(state[1]) not in ("<", ">", "|", "="):
            raise Refused("refused: an array of a type that is no plain number")
        self.order = text(state[1])


class Array:
    """An array, as far as the file has told of it."""

    def __init__(self) -> None:
        self.parts: tuple[Any, Type, bool, Any] | None = None

    def build(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], Type):
            raise Refused("refused: an array that is not a shape, a type and bytes")
        _, shape, kind, fortran, raw = state
        self.parts = (shape, kind, bool(fortran), raw)

    def numbers(self) -> Any:
        """The numpy array.

        Raises:
            Refused: its bytes are more or fewer than its shape says.
        """
        import numpy as np

        if self.parts is None:
            raise Refused("refused: an array without content")
        shape, kind, fortran, raw = self.parts
        size = int(kind.code[1])
        sides = isinstance(shape, tuple) and len(shape) <= 8 and all(type(side) is int and side >= 0 for side in shape)
        if not sides or not isinstance(raw, bytes | bytearray):
            raise Refused("refused: an array that is not a shape, a type and bytes")
        for side in shape:
            size *= side
        if size != len(raw):
            raise Refused(f"refused: {len(raw)} bytes for an array of shape {shape} and type {kind.code}")
        found = np.frombuffer(raw, dtype=kind.order + kind.code)
        return (found if isinstance(raw, bytearray) else found.copy()).reshape(shape, order="F" if fortran else "C")


def text(value: Any) -> str:
    """Text, also of a string of Python 2, which is bytes."""
    if isinstance(value, bytes | bytearray):
        return value.decode("latin-1")
    if not isinstance(value, str):
        raise Refused(f"refused: {type(value).__name__} where its pickle should have text")
    return value


def encoded(value: Any, encoding: Any = "latin1") -> bytes:
    """How Python 3 writes bytes for Python 2."""
    if text(encoding) not in ("latin1", "latin-1"):
        raise Refused(f"refused: bytes written as {encoding!r}")
    return text(value).encode("latin-1")


def from_buffer(raw: Any, kind: Any, shape: Any, order: Any) -> Array:
    made = Array()
    made.build((1, shape, kind, text(order) == "F", raw))
    return made


def scalar(kind: Any, raw: Any) -> Any:
    made = Array()
    made.build((1, (), kind, False, encoded(raw) if isinstance(raw, str) else raw))
    return made.numbers()[()].item()


CALLS: dict[str, Callable[..., Any]] = {
    "multiarray._reconstruct": lambda *_: Array(),
    "multiarray.scalar": scalar,
    "numeric._frombuffer": from_buffer,
    "numpy.dtype": lambda code, *_: Type(text(code)),
    "_codecs.encode": encoded,
    "__builtin__.bytes": lambda: b"",
    "builtins.bytes": lambda: b"",
}


class Machine:
    """Reads one pickle."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        place = file.tell()
        self.left = file.seek(0, os.SEEK_END) - place
        file.seek(place)
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """What the pickle holds.

        Raises:
            Refused: see there.
        """
        for _ in range(OPERATIONS):
            code = bytes(self.take(1))
            if code == b".":
                return self.pop()
            do = OPCODES.get(code)
            if do is None:
                raise Refused(f"refused: its pickle has the opcode {code!r}, which no array needs")
            do(self)
        raise Refused(f"refused: a pickle of more than {OPERATIONS:,} operations")

    def take(self, number: int) -> bytes | bytearray:
        if number > self.left:
            raise Refused("its pickle is truncated")
        self.left -= number
        if number < 1 << 20:
            return self.file.read(number)
        found = bytearray(number)  # that numpy may use as it is
        self.file.readinto(found)  # type: ignore[attr-defined]
        return found

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> bytes:
        found = self.file.readline(min(self.left, LINE))
        self.left -= len(found)
        if not found.endswith(b"\n"):
            raise Refused("its pickle is truncated")
        return found[:-1].removesuffix(b"\r")

    def long_line(self) -> bytes:
        """Of text, which may be all of an array's bytes."""
        found = self.file.readline(self.left)
        self.left -= len(found)
        return found.rstrip(b"\r\n")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is MARK:
            raise Refused("its pickle is damaged: a value is missing")
        return self.stack.pop()

    def marked(self) -> list[Any]:
        """All that was pushed since the last mark."""
        for place in range(len(self.stack) - 1, -1, -1):
            if self.stack[place] is MARK:
                found = self.stack[place + 1 :]
                del self.stack[place:]
                return found
        raise Refused("its pickle is damaged: a mark is missing")

    def last(self, kind: type[Any]) -> Any:
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise Refused(f"its pickle is damaged: no {kind.__name__} where there should be one")
        return self.stack[-1]

    def tuple_of(self, number: int) -> None:
        self.push(tuple(reversed([self.pop() for _ in range(number)])))

    def set_items(self, items: list[Any]) -> None:
        table = self.last(dict)
        if len(items) % 2:
            raise Refused("its pickle is damaged: a key without a value")
        table.update({text(key): value for key, value in zip(items[::2], items[1::2], strict=True)})

    def new_dict(self) -> None:
        items = self.marked()
        self.push({})
        self.set_items(items)

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def remember(self, place: int) -> None:
        if not self.stack:
            raise Refused("its pickle is damaged: a value is missing")
        self.memo[place] = self.stack[-1]

    def recall(self, place: int) -> None:
        if place not in self.memo:
            raise Refused("its pickle is damaged: a value is missing")
        self.push(self.memo[place])

    def named(self) -> None:
        name, module = self.pop(), self.pop()
        self.push(Global(text(module), text(name)))

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Global) or not isinstance(arguments, tuple) or function.name not in CALLS:
            raise Refused("refused: its pickle calls what is no array")
        try:
            self.push(CALLS[function.name](*arguments))
        except TypeError:
            raise Refused("refused: an array that is not a shape, a type and bytes") from None

    def build(self) -> None:
        state, made = self.pop(), self.pop()
        if not isinstance(made, Type | Array):
            raise Refused("refused: its pickle fills what is no array")
        if isinstance(state, tuple) and isinstance(made, Array) and len(state) == 5 and isinstance(state[4], str):
            state = (*state[:4], encoded(state[4]))
        made.build(state)
        self.push(made)

    def whole(self, digits: bytes) -> int | bool:
        if digits in (b"00", b"01"):
            return digits == b"01"
        return int(digits.removesuffix(b"L"))

    def long(self, number: int) -> int:
        if not 0 <= number <= 16:
            raise Refused("refused: a number of more than 128 bits")
        return int.from_bytes(self.take(number), "little", signed=True)


def quoted(line: bytes) -> bytes:
    if len(line) < 2 or line[:1] not in b"'\"" or line[:1] != line[-1:]:
        raise Refused("its pickle is damaged: text without its quotes")
    return bytes(codecs.escape_decode(line[1:-1])[0])


OPCODES: dict[bytes, Callable[[Machine], Any]] = {
    b"\x80": lambda m: m.take(1),  # protocol
    b"\x95": lambda m: m.take(8),  # a frame's length
    b"(": lambda m: m.push(MARK),
    b"0": lambda m: m.pop(),
    b"1": lambda m: m.marked(),
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"I": lambda m: m.push(m.whole(m.line())),
    b"L": lambda m: m.push(m.whole(m.line())),
    b"J": lambda m: m.push(m.number("<i")),
    b"K": lambda m: m.push(m.number("<B")),
    b"M": lambda m: m.push(m.number("<H")),
    b"\x8a": lambda m: m.push(m.long(m.number("<B"))),
    b"\x8b": lambda m: m.push(m.long(m.number("<i"))),
    b"F": lambda m: m.push(float(m.line())),
    b"G": lambda m: m.push(m.number(">d")),
    b"S": lambda m: m.push(quoted(m.long_line())),
    b"T": lambda m: m.push(m.take(m.number("<I"))),
    b"U": lambda m: m.push(m.take(m.number("<B"))),
    b"V": lambda m: m.push(m.long_line().decode("raw-unicode-escape")),
    b"X": lambda m: m.push(m.take(m.number("<I")).decode("utf-8", "surrogatepass")),
    b"\x8c": lambda m: m.push(m.take(m.number("<B")).decode("utf-8", "surrogatepass")),
    b"\x8d": lambda m: m.push(m.take(m.number("<Q")).decode("utf-8", "surrogatepass")),
    b"B": lambda m: m.push(m.take(m.number("<I"))),
    b"C": lambda m: m.push(m.take(m.number("<B"))),
    b"\x8e": lambda m: m.push(m.take(m.number("<Q"))),
    b"\x96": lambda m: m.push(m.take(m.number("<Q"))),
    b"]": lambda m: m.push([]),
    b"l": lambda m: m.push(m.marked()),
    b"a": lambda m: (value := m.pop(), m.last(list).append(value)),
    b"e": lambda m: (values := m.marked(), m.last(list).extend(values)),
    b")": lambda m: m.push(()),
    b"t": lambda m: m.push(tuple(m.marked())),
    b"\x85": lambda m: m.tuple_of(1),
    b"\x86": lambda m: m.tuple_of(2),
    b"\x87": lambda m: m.tuple_of(3),
    b"}": lambda m: m.push({}),
    b"d": lambda m: m.new_dict(),
    b"s": lambda m: m.set_item(),
    b"u": lambda m: m.set_items(m.marked()),
    b"p": lambda m: m.remember(int(m.line())),
    b"q": lambda m: m.remember(m.number("<B")),
    b"r": lambda m: m.remember(m.number("<I")),
    b"\x94": lambda m: m.remember(len(m.memo)),
    b"g": lambda m: m.recall(int(m.line())),
    b"h": lambda m: m.recall(m.number("<B")),
    b"j": lambda m: m.recall(m.number("<I")),
    b"c": lambda m: m.push(Global(m.line().decode("utf-8"), m.line().decode("utf-8"))),
    b"\x93": lambda m: m.named(),
    b"R": lambda m: m.reduce(),
    b"b": lambda m: m.build(),
}


def read(file: IO[bytes]) -> Any:
    """What the pickle at the file's position holds.

    Raises:
        Refused: it is damaged, or no plain values and arrays of numbers.
    """
    try:
        return Machine(file).run()
    except (ValueError, OverflowError) as error:  # text and numbers that are none, too
        raise error if isinstance(error, Refused) else Refused(f"its pickle is damaged: {error}") from None
